"""Builds with a stand-in for the GPU part of FAISS, whose indexes are real CPU indexes. It records the calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.serve.index.faiss_library import faiss
from embedship.serve.index.gpu import SCRATCH_BYTES, GpuResources


class Resources:
    made: list[Resources]

    def __init__(self) -> None:
        self.scratch = 0
        Resources.made.append(self)

    def setTempMemory(self, size: int) -> None:
        self.scratch = size


@pytest.fixture
def library() -> Any:
    Resources.made = []

    return SimpleNamespace(
        StandardGpuResources=Resources,
        get_num_gpus=lambda: 1,
        extract_index_ivf=faiss.extract_index_ivf,
        IndexFlatL2=faiss.IndexFlatL2,
        index_cpu_to_gpu=lambda resources, device, index: index,
    )


def test_lists_are_placed_on_the_gpu_and_searched_on_the_cpu(library: Any, clustered: Vectors) -> None:
    index = faiss.index_factory(64, "IVF16,RaBitQfs")
    GpuResources(library).train_lists(index, clustered)
    assert index.is_trained
    assert faiss.extract_index_ivf(index).clustering_index is None
    assert [each.scratch for each in Resources.made] == [SCRATCH_BYTES]


class Cagra:
    """Records the input of a graph. Its export is an empty index of the type that FAISS would return."""

    config: Any

    def __init__(self, resources: Resources, dimension: int, metric: int, config: Any) -> None:
        Cagra.config = config
        self.rows = 0

    def train(self, rows: Vectors) -> None:
        self.rows = len(rows)

    def copyTo(self, exported: Any) -> None:
        exported.add(np.zeros((self.rows, exported.d), np.float32))


def test_a_graph_is_built_on_the_gpu_and_exported(library: Any, clustered: Vectors) -> None:
    library.GpuIndexCagra, library.GpuIndexCagraConfig = Cagra, SimpleNamespace
    library.IndexHNSWCagra = faiss.IndexHNSWFlat
    library.METRIC_L2 = faiss.METRIC_L2
    built = GpuResources(library).graph(clustered[:50], faiss.index_factory(64, "HNSW16,Flat"))
    assert (built.ntotal, built.d) == (50, 64)
    assert (Cagra.config.graph_degree, Cagra.config.intermediate_graph_degree) == (32, 64)


def test_without_a_gpu() -> None:
    with pytest.raises(
        UsageError, match=r"built without GPU support: replace \[cpu\] with \[gpu\]: pip install .* '\.\[gpu\]'"
    ):
        GpuResources()


def test_a_gpu_number_that_does_not_exist(library: Any) -> None:
    with pytest.raises(UsageError, match="there is no GPU 1: FAISS finds 1 GPUs"):
        GpuResources(library, 1)
