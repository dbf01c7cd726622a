"""FAISS on a GPU: faster builds.

Nothing here has run on a GPU: the machines of this project have had none. The tests drive it through its constructor
with a stand-in for FAISS and check which calls are made, and in which order, not what a GPU answers.
"""

from __future__ import annotations

import threading
from typing import Any

from embedship.codes import Vectors
from embedship.errors import UsageError, install
from embedship.serve.index.faiss_library import faiss

# FAISS takes 1.5 GB of scratch a StandardGpuResources unless it is told: too much beside a model, for each thread.
SCRATCH_BYTES = 256 * 2**20


class GpuResources:
    """Thread-safe: GPU resources are not, not even for reading, so each thread has its own. Untested on a GPU."""

    def __init__(self, library: Any = faiss, device: int = 0) -> None:
        """Raises UsageError where this FAISS knows no GPU, or the machine has none of that number."""
        if not hasattr(library, "StandardGpuResources"):
            raise UsageError(f"this FAISS was built without GPUs: in place of [cpu], {install('gpu')}")
        if device >= (count := library.get_num_gpus()):
            raise UsageError(f"there is no GPU {device}: FAISS sees {count}")
        self._faiss = library
        self._device = device
        self._own = threading.local()

    def _resources(self) -> Any:
        if not hasattr(self._own, "resources"):
            self._own.resources = self._faiss.StandardGpuResources()
            self._own.resources.setTempMemory(SCRATCH_BYTES)
        return self._own.resources

    def train_lists(self, index: Any, rows: Vectors) -> None:
        """Train an inverted file whose centres are placed on the GPU, the slow part; its codes are trained on the CPU.

        So it serves codes that no GPU index has, such as RaBitQ.
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
