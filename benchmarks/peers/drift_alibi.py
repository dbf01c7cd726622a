"""Alibi Detect's detectors with their defaults at p < 0.05: one JSON request a line, one answer a line."""

import json
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
from alibi_detect.cd import KSDrift, LSDDDrift, MMDDrift

warnings.simplefilter("ignore")

DETECTORS = {
    "ks": lambda reference, permutations: KSDrift(reference, p_val=0.05),
    "mmd": lambda reference, permutations: MMDDrift(reference, "pytorch", 0.05, n_permutations=permutations),
    "lsdd": lambda reference, permutations: LSDDDrift(reference, "pytorch", 0.05, n_permutations=permutations),
}


def main(name):
    print(json.dumps({"versions": {each: version(each) for each in ("alibi-detect", "numpy", "torch")}}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        detector = DETECTORS[name](np.load(request["reference"]), request["permutations"])
        scores, drift = [], []
        windows = np.load(request["windows"])
        started = time.perf_counter()
        for window in windows:
            found = detector.predict(window)["data"]
            scores.append(float(np.max(found["distance"])))
            drift.append(bool(found["is_drift"]))
        seconds = (time.perf_counter() - started) / len(windows)
        print(json.dumps({"scores": scores, "drift": drift, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
