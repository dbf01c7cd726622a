"""What every peer does in its own process: open a model once, then encode what it is told to, and say how long it took.

Reads one JSON request a line, answers one JSON line on stdout: {"texts": FILE, "batch": 32} -> {"seconds": 1.23}, and
with "save": FILE writes the vectors there.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path


def answer(open_model, *packages):
    """`open_model()` returns encode(texts, batch size) -> vectors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; stdout is for answers alone
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
