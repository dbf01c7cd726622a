"""Golden manifests: rendered manifests as files, so that a review shows the effect of a chart change.

    python -P -m tests.helm.golden

`default.yaml` is complete. The other files contain the difference from it: new or changed objects, and the names of
removed ones. Rules and dashboard are omitted because they have their own files, keys because they are random.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from .manifests import ANYBODY, CANARY, EVERYTHING, FETCHED, render

FOLDER = Path(__file__).parent / "golden"
ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["search.example"]}
SECRET = {"auth": {"existingSecret": "keys"}}

SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpu": {"gpu": {"enabled": True}, "server": {"devices": "cuda:0"}},
    "canary": {**CANARY, "auth": ANYBODY, "ingress": {}},
    "fetch": {"fetch": EVERYTHING["fetch"], "bundle": {"pvc": {"claimName": "models"}, "path": "minilm-1"}},
    "pull": FETCHED,
    "http-route": {"httpRoute": ROUTE, **SECRET},
    "ingress": {"ingress": {"enabled": True, "host": "search.example", "tlsSecret": "tls"}, **SECRET},
    "load-balancer": {
        "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
        "networkPolicy": {"serviceFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        **SECRET,
    },
    "keda": {"autoscaling": EVERYTHING["autoscaling"]},
    "hpa": {"autoscaling": {"enabled": True}},
    "writable": {
        "index": {"enabled": True, "claimName": "index", "path": "v1"},
        "server": {"writable": True},
        "replicas": 1,
        "auth": {"write": {"existingSecret": "write-keys"}},
    },
    "signature": {
        "signature": {"configMap": "our-key"},
        "index": {"enabled": True, "claimName": "index"},
        "server": {"digests": f"sha256:{'0' * 64},sha256:{'1' * 64}"},
    },
    "openshift": {"user": None},
    "bulk-ray": {"bulkRay": EVERYTHING["bulkRay"]},
    "backup": {"backup": EVERYTHING["backup"]},
    "monitoring": {"metrics": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}}},
    "scale-to-zero": {
        "autoscaling": {"enabled": True, "kind": "http", "http": {"hosts": ["search.example"]}},
        "httpRoute": ROUTE,
        **SECRET,
    },
    "inference-pool": {
        "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}},
        "httpRoute": ROUTE,
        **SECRET,
    },
    "one-route": {"bundles": {"legal": {}, "medical": {}}, "httpRoute": {**ROUTE, "combine": True}, **SECRET},
    "exclusive-cpus": {"exclusiveCpus": True},
    "pod-monitor": {"metrics": {"podMonitor": {"enabled": True}}},
    "bundles": {"bundles": {"legal": {"bundle": {"pvc": {"claimName": "legal"}}}}},
}

Objects = dict[str, dict[str, Any]]


def objects(helm: Path, values: dict[str, Any]) -> Objects:
    """Return the rendered objects by kind and name, with the rules replaced by a reference to their file."""
    found = {f"{each['kind']} {each['metadata']['name']}": each for each in render(helm, values)}
    for name, each in found.items():
        if name.startswith("PrometheusRule"):
            each["spec"] = "files/rules.yaml"
    return dict(sorted(found.items()))


def golden(helm: Path) -> dict[str, str]:
    """Return the content of each golden file by file name."""
    default = objects(helm, {})
    found = {"default.yaml": _text(default)}
    for name, values in SCENARIOS.items():
        if name != "default":
            made = objects(helm, values)
            changed = {key: each for key, each in made.items() if each != default.get(key)}
            gone = sorted(default.keys() - made.keys())
            found[f"{name}.yaml"] = "".join(f"# gone: {key}\n" for key in gone) + _text(changed)
    return found


def _text(found: Objects) -> str:
    return "".join(f"--- # {key}\n{yaml.safe_dump(each, width=100)}" for key, each in found.items())


if __name__ == "__main__":
    fetch = [sys.executable, "-P", "tools/fetch.py", "helm"]
    program = Path(subprocess.run(fetch, capture_output=True, text=True, check=True).stdout.strip())
    FOLDER.mkdir(exist_ok=True)
    for file, text in golden(program).items():
        (FOLDER / file).write_text(text)
