"""Browser guard: stops web pages from making a browser send requests to a server that has no API keys.

A page of any site can send requests to http://127.0.0.1. With a host name of its own that resolves to that address, it
can also read the responses (DNS rebinding). With API keys a page would need a key, so nothing is checked.

Other programs are not affected: they send neither Origin nor Sec-Fetch-Site, and their Host header is the address that
they connect to. The content type cannot be used as a criterion, because `curl --data` sends the content type of a form,
and a page can send the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from embedship.errors import UsageError
from embedship.serve.errors import Forbidden

_NAME = re.compile(r"(?i)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_ANY = "*"


class BrowserGuard(NamedTuple):
    """Rejects requests of pages of other sites, and requests for a host name that is not one of this server's.

    `hosts` are lower-case names that are accepted in addition to localhost and every IP address. IP addresses are safe,
    because a page cannot make one resolve to another address.
    """

    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, names: str | None) -> Self:
        """Return the guard for comma-separated host names. Raises UsageError for an invalid name."""
        if names is None:
            return cls()
        hosts = [each.strip().lower() for each in names.split(",")]
        for each in hosts:
            if each != _ANY and not _NAME.fullmatch(each):
                raise UsageError(f"{each!r} is not a host name: give names without scheme and port, or *")
        return cls(frozenset(hosts))

    def check(self, scope: Mapping[str, Any]) -> None:
        """Raise Forbidden for a request that only a browser on behalf of another site sends. `scope` is ASGI's."""
        if _ANY in self.hosts:
            return
        values = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        host, origin, site = (values.get(name) for name in _HEADERS)
        if host is not None and (self.hosts or _is_loopback(scope)) and not self._accepts(host):
            raise _forbidden(f"The host name {host!r} is not one of this server's", _host_name(host))
        if origin is not None and not self._is_own(origin, host):
            raise _forbidden(f"A web page of another origin ({origin!r}) sent this request", _host_name(origin))
        if origin is None and site not in (None, "same-origin", "none"):
            raise _forbidden(f"A web page of another site (Sec-Fetch-Site: {site!r}) sent this request", "NAME")

    def _accepts(self, host: str) -> bool:
        name = _host_name(host)
        return name in self.hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name)

    def _is_own(self, origin: str, host: str | None) -> bool:
        _, scheme, authority = origin.partition("://")
        return bool(scheme) and (authority == host or _host_name(origin) in self.hosts)


_HEADERS = (b"host", b"origin", b"sec-fetch-site")


def _forbidden(problem: str, name: str) -> Forbidden:
    return Forbidden(
        f"{problem}, and this server has no API keys: start it with --api-key-file FILE, or with "
        f"--allowed-hosts {name} if you trust that name."
    )


def _host_name(authority: str) -> str:
    """Return the name in a Host or Origin header, in lower case, without scheme, port and brackets; '' if none."""
    try:
        return urlsplit(authority if "://" in authority else f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(scope: Mapping[str, Any]) -> bool:
    """Return whether the client connected to a loopback address, which only programs on this machine can reach."""
    server: Sequence[object] | None = scope.get("server")
    name = str(server[0]) if server else ""
    return _is_address(name) and ip_address(name).is_loopback
