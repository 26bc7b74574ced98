"""The address a request came from: the trusted hop, and apart from it what nobody vouches for.

``X-Forwarded-For`` and ``Forwarded`` are lists to which each proxy appends the address it saw. Only the right end was
written by our own proxies; everything left of the first address they did not vouch for is whatever the client sent. So
addresses are counted from the right, and only when the peer itself is a proxy we trust. Default: no proxy is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal

from ..context import clean
from ..errors import ConfigError
from ..protocols import Scope

__all__ = ["ClientAddress"]

Network = IPv4Network | IPv6Network
Headers = Sequence[tuple[bytes, bytes]]
Header = Literal["x-forwarded-for", "forwarded"]

_NAMES: dict[bytes, Header] = {b"x-forwarded-for": "x-forwarded-for", b"forwarded": "forwarded"}
FORWARDING = frozenset(_NAMES)
"""The headers that are read."""

_MAX_LINE, _MAX_UNTRUSTED, _MAX_ENTRY = 8192, 16, 256
_NOTHING_CLAIMED: dict[str, Any] = {"untrusted": [], "header": None}  # shared: nobody changes it
_PORT = re.compile(r"(?:\[([^\]]*)\]|([0-9.]+))(?::[0-9A-Za-z._-]*)?")
_FOR = re.compile(r"""(?:^|;)\s*for\s*=\s*(?:"([^"\\]*)"|([^\s";]*))\s*(?=;|$)""", re.IGNORECASE)


class ClientAddress:
    """Finds the initiator of a request behind known proxies.

    Args:
        trusted: addresses and networks of the proxies in front (``10.0.3.7``, ``2001:db8::/64``); ``unix`` stands for a
            peer without an address (a Unix socket). Name the proxies, not the network they share with clients.
        depth: instead of ``trusted``, the number of proxies between the clients and this process. Only for a service
            that cannot be reached around them: whoever does reach it directly chooses the address it is logged with.
        header: the header those proxies write. The other one is then never believed.
    """

    def __init__(
        self, trusted: Sequence[str] = (), *, depth: int | None = None, header: Header = "x-forwarded-for"
    ) -> None:
        if isinstance(trusted, str):
            raise ConfigError("trusted proxies must be a list of addresses and networks, not one text")
        if header not in _NAMES.values():
            raise ConfigError(f"trusted proxies: header must be x-forwarded-for or forwarded, not {header!r}")
        if depth is not None and (trusted or depth < 1):
            raise ConfigError("trusted proxies: depth must be at least 1, and excludes a list of addresses")
        self._networks = tuple(_network(text) for text in trusted if text != "unix")
        self._unix = "unix" in trusted
        self._depth = depth
        self._header: Header = header
        # Proxies are few and clients come back: parsing an address costs microseconds, the cache a tenth of one.
        self._trusts: Callable[[str], bool] = lru_cache(4096)(self._in_networks)

    def of(self, scope: Scope, headers: Headers | None = None) -> tuple[str | None, dict[str, Any]]:
        """(address of the initiator, the rest as `model.ForwardedPart`); ``None`` where nobody trusted knows it.

        ``headers``: those of the request's that count here, where they have been picked already; default: all.
        """
        headers = scope["headers"] if headers is None else headers
        lines = _lines(headers) if headers else None
        peer, resolved = _peer(scope)
        if not lines:
            return peer, _NOTHING_CLAIMED
        header = self._header if self._header in lines else next(iter(lines))
        entries = _entries(header, lines[header])
        believed = header == self._header and not resolved and self._is_proxy(peer)
        initiator, rest = self._walk(entries) if believed and entries else (peer, entries)
        return initiator, {
            "untrusted": [clean(entry, _MAX_ENTRY) for entry in rest[-_MAX_UNTRUSTED:]],
            "header": header,
        }

    def _is_proxy(self, peer: str | None) -> bool:
        if self._depth is not None:
            return True
        return self._unix if peer is None else self._trusts(peer)

    def _in_networks(self, address: str) -> bool:
        parsed = ip_address(address)
        return any(parsed in network for network in self._networks)

    def _walk(self, entries: list[str]) -> tuple[str | None, list[str]]:
        """From the right past our own proxies, to the first address that they saw and that is none of them."""
        at = len(entries) if self._depth is None else max(1, len(entries) - self._depth + 1)
        address = None
        while at > 0:
            at -= 1
            address = _address(entries[at])
            if address is None:  # obfuscated or garbage: nobody trusted knows the sender; the entry stays on record
                return None, entries[: at + 1]
            if self._depth is not None or not self._trusts(address):
                break
        return address, entries[:at]


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted proxies: {text!r} is no address and no network: {error}") from None
    if network.prefixlen == 0:
        raise ConfigError(f"trusted proxies: {text} trusts everybody, so that any client chooses its own address")
    return network


def _lines(headers: Headers) -> dict[Header, str]:
    """The forwarding headers there are; several lines of one are one list (RFC 9110, 5.3)."""
    lines: dict[Header, str] = {}
    for name, value in headers:
        if name in _NAMES:
            known = _NAMES[name]
            text = value.decode("latin-1")
            lines[known] = f"{lines[known][-_MAX_LINE:]},{text}" if known in lines else text
    return lines


def _peer(scope: Scope) -> tuple[str | None, bool]:
    """(the peer, whether a server's own proxy handling already resolved it: no TCP peer has port 0)."""
    client = scope.get("client")
    if not client:
        return None, False
    return _address(client[0]), client[1] == 0


def _entries(header: Header, line: str) -> list[str]:
    """The list's entries, left to right. An overlong list loses its left end, whole entries at a time."""
    cut = len(line) > _MAX_LINE
    parts = _elements(line[-_MAX_LINE:])
    parts = parts[1:] if cut and len(parts) > 1 else parts
    named = (_node(part) if header == "forwarded" else part.strip() for part in parts)
    return [entry for entry in named if entry]


def _elements(line: str) -> list[str]:
    """Splits at the commas outside of quotes, from the right.

    From the right, because a client may open a quote that it never closes: read from the left, that would swallow the
    elements which our proxies appended.
    """
    if '"' not in line:
        return line.split(",")
    parts, end, quoted = [], len(line), False
    for at in range(len(line) - 1, -1, -1):
        if line[at] == '"':
            quoted = not quoted
        elif line[at] == "," and not quoted:
            parts.append(line[at + 1 : end])
            end = at
    return [line[:end], *reversed(parts)]


def _node(element: str) -> str:
    """The ``for=`` of one element of ``Forwarded`` (RFC 7239); the element itself where there is not exactly one."""
    found = _FOR.findall(element.strip())
    return found[0][0] or found[0][1] if len(found) == 1 else element.strip()


@lru_cache(4096)
def _address(text: str) -> str | None:
    """The canonical text of an address given with or without port and brackets; ``None`` for anything else.

    IPv4 inside IPv6 becomes IPv4 and a zone is dropped, so that one host has one spelling.
    """
    if len(text) > 64:
        return None
    match = _PORT.fullmatch(text)
    try:
        address = ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))
    return str(address)
