"""FAISS on a GPU, for faster builds.

This code has not run on a GPU, because the project's machines have had none. The tests pass a fake FAISS library to the
constructor. They check which calls are made and in which order, not the results of a GPU.
"""

from __future__ import annotations

import threading
from typing import Any

from embedship.codes import Vectors
from embedship.errors import UsageError, install
from embedship.serve.index.faiss_library import faiss

# FAISS reserves 1.5 GB of scratch memory per StandardGpuResources by default. That is too much next to a model, and
# each thread has its own resources.
SCRATCH_BYTES = 256 * 2**20


class GpuResources:
    """Thread-safe: each thread has its own FAISS GPU resources, which are not thread-safe even for reading."""

    def __init__(self, library: Any = faiss, device: int = 0) -> None:
        """Raises UsageError if this FAISS has no GPU support, or the machine has no GPU of that number."""
        if not hasattr(library, "StandardGpuResources"):
            raise UsageError(f"this FAISS was built without GPU support: replace [cpu] with [gpu]: {install('gpu')}")
        if device >= (count := library.get_num_gpus()):
            raise UsageError(f"there is no GPU {device}: FAISS finds {count} GPUs")
        self._faiss = library
        self._device = device
        self._own = threading.local()

    def _resources(self) -> Any:
        if not hasattr(self._own, "resources"):
            self._own.resources = self._faiss.StandardGpuResources()
            self._own.resources.setTempMemory(SCRATCH_BYTES)
        return self._own.resources

    def train_lists(self, index: Any, rows: Vectors) -> None:
        """Train an inverted file. The slow part, clustering, runs on the GPU; the codes are trained on the CPU.

        So this also works for codes that no GPU index has, such as RaBitQ.
        """
        lists = self._faiss.extract_index_ivf(index)
        flat = self._faiss.IndexFlatL2(lists.d)
        lists.clustering_index = self._faiss.index_cpu_to_gpu(self._resources(), self._device, flat)
        index.train(rows)
        lists.clustering_index = None

    def graph(self, rows: Vectors, empty: Any) -> Any:
        """Build a CAGRA graph of (n, dim) rows with as many links as the `empty` HNSW index, and export it for CPUs."""
        links = empty.hnsw.nb_neighbors(1)
        config = self._faiss.GpuIndexCagraConfig()
        config.device, config.graph_degree, config.intermediate_graph_degree = self._device, 2 * links, 4 * links
        built = self._faiss.GpuIndexCagra(self._resources(), rows.shape[1], self._faiss.METRIC_L2, config)
        built.train(rows)
        exported = self._faiss.IndexHNSWCagra(rows.shape[1], links, self._faiss.METRIC_L2)
        built.copyTo(exported)
        return exported
