"""Evidently's embedding drift methods with their defaults: one JSON request and one response per line."""

import json
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

warnings.simplefilter("ignore")


METHODS = {
    "mmd": methods.mmd,
    # The default quantile_probability of mmd is 0.05, but 0.95 for distance and model. With a bootstrap, mmd reports
    # drift for every value above the lowest 5% of values without drift.
    "mmd_bootstrap": lambda: methods.mmd(bootstrap=True),
    "model": methods.model,
    "distance": methods.distance,
    "ratio": methods.ratio,
}


def main(name):
    method = METHODS[name]()
    scorer = methods.mmd() if name == "mmd_bootstrap" else method  # same score; the threshold takes one second
    print(
        json.dumps({"versions": {each: version(each) for each in ("evidently", "numpy", "scikit-learn")}}), flush=True
    )
    for line in sys.stdin:
        request = json.loads(line)
        reference, windows = np.load(request["reference"]), np.load(request["windows"])
        verdicts = request["verdicts"]
        started = time.perf_counter()
        found = [method(_frame(window), _frame(reference)) for window in windows[:verdicts]]
        seconds = (time.perf_counter() - started) / verdicts
        found += [scorer(_frame(window), _frame(reference)) for window in windows[verdicts:]]
        scores = [float(score) for score, _, _ in found]
        drift = [bool(drifted) for _, drifted, _ in found[:verdicts]]
        print(json.dumps({"scores": scores, "drift": drift, "seconds": seconds}), flush=True)


def _frame(vectors):
    return pd.DataFrame(vectors, columns=[f"d{i}" for i in range(vectors.shape[1])])


if __name__ == "__main__":
    main(sys.argv[1])
