"""Alibi Detect's detectors with their defaults at p < 0.05: one JSON request and one response per line."""

import json
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
import torch
from alibi_detect.cd import KSDrift, LSDDDrift, MMDDrift

warnings.simplefilter("ignore")

DETECTORS = {
    "ks": lambda reference, permutations: KSDrift(reference, p_val=0.05),
    "mmd": lambda reference, permutations: MMDDrift(reference, "pytorch", 0.05, n_permutations=permutations),
    "lsdd": lambda reference, permutations: LSDDDrift(reference, "pytorch", 0.05, n_permutations=permutations),
}
PERMUTATIONS = 100
# With few permutations mmd has the same distance. lsdd has not, because they determine its regularisation.
FEW = {"ks": PERMUTATIONS, "mmd": 2, "lsdd": PERMUTATIONS}


def main(name):
    torch.manual_seed(0)
    print(json.dumps({"versions": {each: version(each) for each in ("alibi-detect", "numpy", "torch")}}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reference, windows = np.load(request["reference"]), np.load(request["windows"])
        detector = DETECTORS[name](reference, PERMUTATIONS)
        verdicts = request["verdicts"]
        started = time.perf_counter()
        found = [detector.predict(window)["data"] for window in windows[:verdicts]]
        seconds = (time.perf_counter() - started) / verdicts
        if FEW[name] != PERMUTATIONS:
            detector = DETECTORS[name](reference, FEW[name])
        rest = [detector.predict(window)["data"] for window in windows[verdicts:]]
        scores = [float(np.max(each["distance"])) for each in found + rest]
        drift = [bool(each["is_drift"]) for each in found]
        print(json.dumps({"scores": scores, "drift": drift, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
