"""What a web page may make a browser send to a server that has no API keys: nothing.

A page of any site can send requests to http://127.0.0.1, and with a name of its own that it binds to that address it
reads the answers, too (DNS rebinding). Where there are API keys a page would need one, and nothing is checked.

Programs are not concerned: they send neither Origin nor Sec-Fetch-Site, and name the address they connect to. The type
of a body is no criterion: `curl --data` sends that of a form, which a page may send as well.
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
    """Refuses requests of pages of other sites, and requests that name a host that this server is not known by.

    `hosts` are names in lower case, besides localhost and every IP address: a page cannot bind an address anew.
    """

    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, given: str | None) -> Self:
        """From names with commas between them. Raises UsageError for what is no name of a host."""
        if given is None:
            return cls()
        hosts = [each.strip().lower() for each in given.split(",")]
        for each in hosts:
            if each != _ANY and not _NAME.fullmatch(each):
                raise UsageError(f"{each!r} is not the name of a host: give names without scheme and port, or *")
        return cls(frozenset(hosts))

    def check(self, scope: Mapping[str, Any]) -> None:
        """Raise Forbidden for a request that only a browser on behalf of another site would send: `scope` is ASGI's."""
        if _ANY in self.hosts:
            return
        named = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        host, origin, site = (named.get(name) for name in _HEADERS)
        if host is not None and (self.hosts or _is_loopback(scope)) and not self._knows(host):
            raise _forbidden(f"This server is not known as {host!r}", _named(host))
        if origin is not None and not self._is_own(origin, host):
            raise _forbidden(f"The request is one of a web page of another origin ({origin!r})", _named(origin))
        if origin is None and site not in (None, "same-origin", "none"):
            raise _forbidden(f"The request is one of a web page of another site (Sec-Fetch-Site: {site!r})", "NAME")

    def _knows(self, host: str) -> bool:
        name = _named(host)
        return name in self.hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name)

    def _is_own(self, origin: str, host: str | None) -> bool:
        _, scheme, authority = origin.partition("://")
        return bool(scheme) and (authority == host or _named(origin) in self.hosts)


_HEADERS = (b"host", b"origin", b"sec-fetch-site")


def _forbidden(why: str, name: str) -> Forbidden:
    return Forbidden(
        f"{why}, and it has no API keys: start it with --api-key-file FILE, or with --allowed-hosts {name} if that is "
        "a name of yours."
    )


def _named(authority: str) -> str:
    """The name of a Host or an Origin, in lower case, without scheme, port and brackets; '' if there is none."""
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
    """Whether the connection came to an address that only this machine reaches, as a page's browser does."""
    server: Sequence[object] | None = scope.get("server")
    name = str(server[0]) if server else ""
    return _is_address(name) and ip_address(name).is_loopback
