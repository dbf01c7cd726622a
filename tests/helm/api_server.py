"""In-memory Kubernetes API server on loopback: the part of the API that Helm uses, from install to uninstall.

It validates, defaults and schedules nothing. It passes each created pod to `run`, whose result ends the pod.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
Run = Callable[[Object], bool]

# Resource, kind, and the group and version that serves it.
_RESOURCES = {
    ("secrets", "Secret", "v1"), ("services", "Service", "v1"), ("serviceaccounts", "ServiceAccount", "v1"),
    ("pods", "Pod", "v1"), ("configmaps", "ConfigMap", "v1"), ("namespaces", "Namespace", "v1"),
    ("deployments", "Deployment", "apps/v1"), ("statefulsets", "StatefulSet", "apps/v1"),
    ("poddisruptionbudgets", "PodDisruptionBudget", "policy/v1"), ("cronjobs", "CronJob", "batch/v1"),
    ("networkpolicies", "NetworkPolicy", "networking.k8s.io/v1"), ("ingresses", "Ingress", "networking.k8s.io/v1"),
    ("horizontalpodautoscalers", "HorizontalPodAutoscaler", "autoscaling/v2"),
    ("httproutes", "HTTPRoute", "gateway.networking.k8s.io/v1"),
    ("servicemonitors", "ServiceMonitor", "monitoring.coreos.com/v1"),
    ("prometheusrules", "PrometheusRule", "monitoring.coreos.com/v1"),
}  # fmt: skip
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))/(?:namespaces/(?P<namespace>[^/]+)/)?(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/status)?$"
)


class Cluster:
    """Objects by path. Every change has a number, which serves as the resource version."""

    def __init__(self, run: Run = lambda pod: True) -> None:
        self.objects: dict[str, Object] = {}
        self.changes: list[tuple[str, str, Object]] = []
        self.changed = Condition()
        self._run = run
        self.url = ""
        self.closed = False

    def put(self, path: str, value: Object) -> Object:
        with self.changed:
            kind = "MODIFIED" if path in self.objects else "ADDED"
            meta = value.setdefault("metadata", {})
            meta |= {"resourceVersion": str(len(self.changes) + 1), "uid": path, "generation": 1}
            meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            self._note(kind, path, value)
            self.objects[path] = value
        if value.get("kind") == "Pod" and kind == "ADDED":
            Thread(target=self._end, args=(path, copy.deepcopy(value))).start()
        return value

    def _end(self, path: str, pod: Object) -> None:
        pod["status"] = {"phase": "Succeeded" if self._run(pod) else "Failed"}
        self.put(path, pod)

    def remove(self, path: str) -> Object | None:
        with self.changed:
            value = self.objects.pop(path, None)
            if value:
                self._note("DELETED", path, value)
            return value

    def _note(self, kind: str, path: str, value: Object) -> None:
        self.changes.append((kind, path, copy.deepcopy(value)))
        self.changed.notify_all()

    def since(self, version: int) -> list[tuple[str, str, Object]]:
        """Return the changes after a version. Waits up to one second for the first change."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.changes) > version, timeout=1)
            return self.changes[version:]

    def listed(self, folder: str, query: dict[str, list[str]]) -> list[Object]:
        found = [value for path, value in self.objects.items() if path.rsplit("/", 1)[0] == folder]
        return [value for value in found if _selected(value, query)]

    def objects_of_kind(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by name."""
        return {each["metadata"]["name"]: each for each in self.objects.values() if each["kind"] == kind}

    @contextmanager
    def serving(self) -> Iterator[None]:
        handler = type("Bound", (_Answer,), {"cluster": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                yield
            finally:
                self.closed = True
                server.shutdown()
                thread.join()

    def kubeconfig(self, file: Path) -> Path:
        named = {"clusters": ("cluster", {"server": self.url}), "users": ("user", {}), "contexts": ("context", {})}
        named["contexts"][1].update(cluster="memory", user="memory")
        config = {key: [{"name": "memory", field: value}] for key, (field, value) in named.items()}
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "memory", **config}))
        return file


def _selected(value: Object, query: dict[str, list[str]]) -> bool:
    labels = value["metadata"].get("labels", {})
    fields = {"metadata.name": value["metadata"]["name"]}
    wanted = [(labels, query.get("labelSelector", [""])[0]), (fields, query.get("fieldSelector", [""])[0])]
    return all(
        have.get(term.split("=")[0]) == term.split("=")[-1]
        for have, terms in wanted
        for term in terms.split(",")
        if term
    )


class _Answer(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if address.path == "/openapi/v2":
            return self._send(200, b"")  # an empty OpenAPI document as protobuf, so Helm validates nothing against it
        if (known := _discovery(address.path)) is not None:
            return self._say(200, known)
        match = _PATH.fullmatch(address.path)
        if match is None:
            return self._missing()
        if match["name"]:
            value = self.cluster.objects.get(address.path)
            return self._say(200, value) if value else self._missing()
        if "watch" in query:
            return self._watch(address.path, query)
        items = self.cluster.listed(address.path, query)
        kind, version = _kind(match)
        meta = {"resourceVersion": str(len(self.cluster.changes))}
        return self._say(200, {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": items})

    def do_POST(self) -> None:
        value = self._body()
        path = f"{urlsplit(self.path).path}/{value['metadata']['name']}"
        if path in self.cluster.objects:
            return self._say(409, _status("AlreadyExists", 409))
        return self._say(201, self.cluster.put(path, self._named(value)))

    def do_PUT(self) -> None:
        self._say(200, self.cluster.put(urlsplit(self.path).path, self._named(self._body())))

    def do_PATCH(self) -> None:
        path, patch = urlsplit(self.path).path, self._body()
        apply = "apply-patch" in self.headers["content-type"]
        if path not in self.cluster.objects and not apply:
            return self._missing()
        old = self.cluster.objects.get(path, {})
        new = {**patch, "metadata": {**old.get("metadata", {}), **patch["metadata"]}} if apply else merged(old, patch)
        return self._say(200 if old else 201, self.cluster.put(path, self._named(new)))

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))  # delete options, which this server ignores
        value = self.cluster.remove(urlsplit(self.path).path)
        self._say(200, value) if value else self._missing()

    def _named(self, value: Object) -> Object:
        """Add kind and version, which Helm's typed client omits."""
        match = _PATH.match(urlsplit(self.path).path)
        assert match
        kind, version = _kind(match)
        return {"kind": kind, "apiVersion": version, **{k: v for k, v in value.items() if v}}

    def _body(self) -> Object:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if raw.startswith(b"k8s\0"):
            return _secret(raw[4:])
        found: Object = yaml.safe_load(raw) if raw else {}
        return found

    def _watch(self, folder: str, query: dict[str, list[str]]) -> None:
        """Stream changes since a version until the client disconnects; on request, first the existing objects."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        kind, version = _kind(_PATH.fullmatch(folder))
        seen = int(query.get("resourceVersion", ["0"])[0] or 0)
        if query.get("sendInitialEvents") == ["true"]:
            seen = len(self.cluster.changes)
            for each in self.cluster.listed(folder, query):
                self._event("ADDED", each)
            ended = {"resourceVersion": str(seen), "annotations": {"k8s.io/initial-events-end": "true"}}
            self._event("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": ended})
        try:
            while not self.cluster.closed:
                news = self.cluster.since(seen)
                seen += len(news)
                for change, path, value in news:
                    if path.rsplit("/", 1)[0] == folder and _selected(value, query):
                        self._event(change, value)
                self.wfile.flush()
        except OSError:
            return

    def _event(self, kind: str, value: Object) -> None:
        self.wfile.write(json.dumps({"type": kind, "object": value}).encode() + b"\n")

    def _missing(self) -> None:
        self._say(404, _status("NotFound", 404))

    def _say(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


def merged(old: Any, patch: Any) -> Any:
    """Return a strategic merge: objects by key, lists of named items by name; null removes."""
    if isinstance(patch, dict) and isinstance(old, dict):
        new = {**old}
        for key, value in patch.items():
            if key.startswith("$"):
                continue
            if value is None:
                new.pop(key, None)
            else:
                new[key] = merged(old.get(key), value)
        return new
    if isinstance(patch, list) and isinstance(old, list) and all(isinstance(e, dict) and "name" in e for e in patch):
        by = {each["name"]: each for each in old}
        for each in patch:
            by[each["name"]] = merged(by.get(each["name"]), each)
            if each.get("$patch") == "delete":
                del by[each["name"]]
        return list(by.values())
    return patch


def _status(reason: str, code: int) -> Object:
    failure = {"status": "Failure", "reason": reason, "code": code, "message": reason}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **failure}


def _kind(match: Any) -> tuple[str, str]:
    version = match["core"] or match["group"]
    return next((kind, v) for resource, kind, v in _RESOURCES if (resource, v) == (match["resource"], version))


def _discovery(path: str) -> Object | None:
    """Return the discovery documents, which Helm requests first."""
    versions = sorted({version for _, _, version in _RESOURCES} - {"v1"})
    match path.rstrip("/").split("/"):
        case ["", "version"]:
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        case ["", "api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["", "apis"]:
            groups = [_group(version) for version in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["", "api" | "apis", *version] if (name := "/".join(version)) in {*versions, "v1"}:
            verbs = ["get", "list", "watch", "create", "update", "patch", "delete"]
            resources = [
                {"name": resource, "singularName": "", "namespaced": kind != "Namespace", "kind": kind, "verbs": verbs}
                for resource, kind, served in sorted(_RESOURCES) if served == name
            ]  # fmt: skip
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}
    return None


def _group(version: str) -> Object:
    served = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [served], "preferredVersion": served}


def _secret(raw: bytes) -> Object:
    """Parse a protobuf Secret (k8s.io/api/core/v1/generated.proto) from Helm 4: field 2 of runtime.Unknown."""
    body = dict(_fields(raw))[2]
    fields = dict(_fields(body))
    meta = list(_fields(fields[1]))
    found: Object = {"name": dict(meta)[1].decode(), "labels": {}}
    for number, value in meta:
        if number == 11:
            entry = dict(_fields(value))
            found["labels"][entry[1].decode()] = entry.get(2, b"").decode()
    data = {}
    for number, value in _fields(body):
        if number == 2:
            entry = dict(_fields(value))
            data[entry[1].decode()] = base64.b64encode(entry[2]).decode()
    return {"metadata": found, "data": data, "type": fields[3].decode()}


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Yield field numbers and values (bytes or integers) of one protobuf message."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(raw):
        key = number()
        value: Any = number()
        if key & 7 == 2:
            value, at = raw[at : at + value], at + value
        yield key >> 3, value
