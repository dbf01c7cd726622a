"""Search libraries as peers: one process per library and setting, controlled by stdin to interleave rounds.

Arguments: a backend and the .npy files of documents and queries. One JSON request and one response per line:
{"do": "build"} -> {"seconds", "bytes"}; {"do": "search", "effort": 64, "save": FILE} -> {"seconds"};
{"do": "single", "queries": 100} -> {"seconds"}.
"""

import json
import os
import sys
import time
from importlib.metadata import version

import numpy as np

K = 10


def main():
    backend, documents, queries = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])
    documents, queries = documents.astype(np.float32), queries.astype(np.float32)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout, which is reserved for responses
    package, build = BACKENDS[backend]

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    say({"versions": {package: version(package)}})
    search = None
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        if request["do"] == "build":
            search, size = build(documents)
            say({"seconds": time.perf_counter() - started, "bytes": size})
        elif request["do"] == "single":
            for place in range(request["queries"]):
                search(queries[place : place + 1], request.get("effort"))
            say({"seconds": time.perf_counter() - started})
        else:
            found = search(queries, request.get("effort"))
            seconds = time.perf_counter() - started
            np.save(request["save"], np.asarray(found, dtype=np.int64))
            say({"seconds": seconds})


def _faiss_flat(documents):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    return lambda queries, _: index.search(queries, K)[1], faiss.serialize_index(index).nbytes


def _faiss_hnsw(documents):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(documents.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.add(documents)

    def search(queries, effort):
        return index.search(queries, K, params=faiss.SearchParametersHNSW(efSearch=effort))[1]

    return search, faiss.serialize_index(index).nbytes


def _hnswlib(documents):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=documents.shape[1])
    index.init_index(max_elements=len(documents), M=16, ef_construction=200, random_seed=1)
    index.set_num_threads(1)
    index.add_items(documents)

    def search(queries, effort):
        index.set_ef(effort)
        return index.knn_query(queries, k=K, num_threads=1)[0]

    return search, index.index_file_size()


def _usearch(documents):
    from usearch.index import Index

    index = Index(ndim=documents.shape[1], metric="cos", dtype="i8", connectivity=16)
    index.add(np.arange(len(documents)), documents, threads=1)

    def search(queries, effort):
        index.expansion_search = effort
        return np.atleast_2d(index.search(queries, K, threads=1).keys)

    return search, index.memory_usage


def _semantic_search(documents):
    import torch
    from sentence_transformers.util import semantic_search

    torch.set_num_threads(1)
    corpus = torch.from_numpy(documents)

    def search(queries, _):
        found = semantic_search(torch.from_numpy(queries), corpus, top_k=K)
        return [[hit["corpus_id"] for hit in hits] for hits in found]

    return search, documents.nbytes


def _semantic_search_faiss(documents):
    """ubinary with rescoring. `effort` is its rescore_multiplier; a negative one searches without rescoring."""
    import faiss
    from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

    faiss.omp_set_num_threads(1)
    codes = quantize_embeddings(documents, precision="ubinary")
    index = faiss.IndexBinaryFlat(documents.shape[1])
    index.add(codes)

    def search(queries, effort):
        rescore = effort > 0
        wanted = K if rescore else K * -effort
        found, _ = semantic_search_faiss(
            queries, corpus_index=index, corpus_precision="ubinary", top_k=wanted, rescore=rescore,
            rescore_multiplier=abs(effort), exact=True,
        )  # fmt: skip
        return [[hit["corpus_id"] for hit in hits[:K]] for hits in found]

    return search, codes.nbytes


BACKENDS = {
    "faiss-flat": ("faiss-cpu", _faiss_flat),
    "faiss-hnsw": ("faiss-cpu", _faiss_hnsw),
    "hnswlib": ("hnswlib", _hnswlib),
    "usearch-i8": ("usearch", _usearch),
    "semantic-search": ("sentence-transformers", _semantic_search),
    "semantic-search-faiss": ("sentence-transformers", _semantic_search_faiss),
}

main()
