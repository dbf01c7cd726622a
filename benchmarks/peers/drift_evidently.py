"""Evidently's embedding drift methods with their defaults: one JSON request a line, one answer a line."""

import json
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

warnings.simplefilter("ignore")


def main(name):
    method = getattr(methods, name)()
    print(
        json.dumps({"versions": {each: version(each) for each in ("evidently", "numpy", "scikit-learn")}}), flush=True
    )
    for line in sys.stdin:
        request = json.loads(line)
        reference, windows = np.load(request["reference"]), np.load(request["windows"])
        scores, drift = [], []
        started = time.perf_counter()
        for window in windows:
            score, found, _ = method(_frame(window), _frame(reference))
            scores.append(float(score))
            drift.append(bool(found))
        seconds = (time.perf_counter() - started) / len(windows)
        print(json.dumps({"scores": scores, "drift": drift, "seconds": seconds}), flush=True)


def _frame(vectors):
    return pd.DataFrame(vectors, columns=[f"d{i}" for i in range(vectors.shape[1])])


if __name__ == "__main__":
    main(sys.argv[1])
