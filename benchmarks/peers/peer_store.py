"""Document stores with vectors, controlled by stdin: ours, LanceDB, sqlite-vec.

Arguments: NAME WORK BUNDLE SIZE. WORK contains texts.json and vectors.npy. The first SIZE rows are in the store at the
start, the others are written on request. A write gets its response when the store reports that it is durable.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

K = 10


def main():
    name, work, bundle, size = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    texts, vectors = json.loads((work / "texts.json").read_text()), np.load(work / "vectors.npy")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout, which is reserved for responses
    state = work / f"{name}-next"
    store = None

    def say(**answer):
        print(json.dumps(answer), file=answers, flush=True)

    def write(count):
        first = int(state.read_text()) if state.exists() else size
        rows = range(first, first + count)
        draft = state.with_suffix(".draft")
        draft.write_text(str(first + count))
        draft.replace(state)  # atomic: after a kill the file has the old or the new number
        store.write([str(row) for row in rows], [texts[row] for row in rows], vectors[first : first + count])
        return str(first + count - 1)

    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        match request["do"]:
            case "open":
                fresh = not (work / name).exists()
                if fresh:
                    state.unlink(missing_ok=True)
                store = STORES[name](work / name, bundle, texts[:size], vectors[:size], fresh)
                say(build_seconds=time.perf_counter() - began, bytes=_bytes(work / name))
            case "write":
                write(request["count"])
                say(seconds=time.perf_counter() - began)
            case "write_forever":
                while True:
                    say(id=write(1))
            case "search":
                for row in range(request["queries"]):
                    store.search(vectors[row * 7 % size])
                say(seconds=time.perf_counter() - began)
            case "recall":
                alive = int(state.read_text()) if state.exists() else size
                rows = np.linspace(0, size - 1, request["queries"]).astype(int)
                exact = np.argsort(-vectors[rows] @ vectors[:alive].T, axis=1)[:, :K]
                shares = [
                    len(set(store.search(vectors[row])) & {str(each) for each in best}) / K
                    for row, best in zip(rows, exact, strict=True)
                ]
                say(recall=float(np.mean(shares)), bytes_after=_bytes(work / name))
            case "missing":
                say(missing=sum(not store.holds(each) for each in request["ids"]))


def _bytes(folder):
    folders = [folder, folder.with_name(f"{folder.name}.live")]
    return sum(path.stat().st_size for each in folders for path in each.rglob("*") if path.is_file())


class SqliteVec:
    def __init__(self, folder, _, texts, vectors, fresh):
        import pysqlite3  # the sqlite3 of some Pythons cannot load extensions
        import sqlite_vec

        folder.mkdir(exist_ok=True)
        self._database = pysqlite3.connect(folder / "store.sqlite", isolation_level=None)
        self._database.enable_load_extension(True)
        sqlite_vec.load(self._database)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if fresh:
            self._database.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT)")
            self._database.execute(
                f"CREATE VIRTUAL TABLE v USING vec0(vector float[{vectors.shape[1]}] distance_metric=cosine)"
            )
            self.write([str(row) for row in range(len(texts))], texts, vectors)

    def write(self, ids, texts, vectors):
        self._database.execute("BEGIN IMMEDIATE")
        for id, text, vector in zip(ids, texts, vectors, strict=True):
            row = self._database.execute("INSERT INTO documents (id, text) VALUES (?, ?)", (id, text)).lastrowid
            self._database.execute("INSERT INTO v (rowid, vector) VALUES (?, ?)", (row, vector.tobytes()))
        self._database.execute("COMMIT")

    def search(self, query):
        found = self._database.execute(
            "SELECT id, text FROM (SELECT rowid, distance FROM v WHERE vector MATCH ? AND k = ?) "
            "JOIN documents ON row = rowid ORDER BY distance",
            (query.tobytes(), K),
        )
        return [id for id, _ in found]

    def holds(self, id):
        return self._database.execute("SELECT 1 FROM documents WHERE id = ?", (id,)).fetchone() is not None


class LanceDb:
    def __init__(self, folder, _, texts, vectors, fresh):
        import lancedb

        database = lancedb.connect(folder)
        rows = [{"id": str(row), "text": texts[row], "vector": vectors[row]} for row in range(len(texts))]
        self._table = database.create_table("documents", rows) if fresh else database.open_table("documents")

    def write(self, ids, texts, vectors):
        rows = zip(ids, texts, vectors, strict=True)
        self._table.add([{"id": id, "text": text, "vector": vector} for id, text, vector in rows])

    def search(self, query):
        found = self._table.search(query).distance_type("cosine").limit(K).select(["id", "text"]).to_list()
        return [row["id"] for row in found]

    def holds(self, id):
        return self._table.count_rows(f"id = '{id}'") > 0


class Ours:
    def __init__(self, folder, bundle, texts, vectors, fresh):
        from embedship import variant_choice
        from embedship.bundle import Bundle
        from embedship.encoder import Encoder
        from embedship.serve.documents.changes import ChunkedDocuments
        from embedship.serve.documents.store import Document
        from embedship.serve.indexing.build import IndexOptions, build
        from embedship.serve.live.backend import FolderBackend
        from embedship.serve.live.index import MutableIndex
        from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS
        from embedship.serve.service.collection import Collection

        self._document, self._chunked, self._params = Document, ChunkedDocuments, DEFAULT_SEARCH_PARAMS
        opened = Bundle.open(bundle)
        if fresh:
            lines = folder.with_suffix(".jsonl")
            rows = ({"id": str(row), "text": text} for row, text in enumerate(texts))
            lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
            with Encoder.open(opened) as encoder:
                variant = variant_choice.variant(opened).name
                build(encoder, variant, lines, folder, IndexOptions(), lambda *_: None)
        self._live = MutableIndex.open(folder, opened, writable=True)
        self._collection = Collection(FolderBackend(self._live.share()), "", vectors[:1])

    def write(self, ids, texts, vectors):
        documents = [self._document(id, text) for id, text in zip(ids, texts, strict=True)]
        self._live.write([*self._chunked.from_documents(documents, None).puts(vectors)])

    def search(self, query):
        found = self._collection.backend.find(query[None], K, self._params)
        return [hit.document.id for hit in found.hits[0]]

    def holds(self, id):
        with self._live.read_view() as now:
            return id in now.documents.ids()


STORES = {"sqlite-vec": SqliteVec, "lancedb": LanceDb, "ours": Ours}


if __name__ == "__main__":
    main()
