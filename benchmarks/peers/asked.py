"""Main loop of every peer process: opens a model once, then encodes texts on request and reports the time.

Reads one JSON request per line and prints one JSON response per line: {"texts": FILE, "batch": 32} ->
{"seconds": 1.23}. With "save": FILE it writes the vectors to that file.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path


def answer(open_model, *packages):
    """Serve requests. `open_model()` returns a function encode(texts, batch size) -> vectors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout, which is reserved for responses
    encode = open_model()
    print(json.dumps({"versions": {package: version(package) for package in packages}}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        texts = json.loads(Path(request["texts"]).read_text())
        started = time.perf_counter()
        vectors = encode(texts, request["batch"])
        seconds = time.perf_counter() - started
        if "save" in request:
            import numpy as np

            np.save(request["save"], np.asarray(vectors, dtype=np.float32))
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
