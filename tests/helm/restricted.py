"""Checks of the Pod Security profile `restricted` (Kubernetes's Pod Security Standards) and of our additional rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .manifests import pods

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")


def violations(objects: list[dict[str, Any]], *, assigned_user: bool = False) -> list[str]:
    """`assigned_user`: the cluster sets the user of each pod (`user: null`), so that pods may be without one."""
    return [
        f"{name}: {fault}" for name, pod in pods(objects) for fault in _pod(pod, (0,) if assigned_user else (None, 0))
    ]


def _pod(pod: dict[str, Any], refused_users: tuple[int | None, ...]) -> Iterator[str]:
    security = pod.get("securityContext", {})
    yield from (f"{key} is set" for key in _HOST if key in pod)
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") in refused_users:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a token is mounted"
    for volume in pod.get("volumes", ()):
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is {kinds}"
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield f"volume {volume['name']} has no limit"
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        yield from (f"{container['name']}: {fault}" for fault in _container(container))


def _container(container: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("privileged") or security.get("procMount", "Default") != "Default":
        yield "is privileged"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if security.get("runAsNonRoot") is False or security.get("runAsUser") == 0:
        yield "runs as root"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "has a port of the host"
