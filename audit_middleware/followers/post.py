"""One bounded HTTP request after another to a destination that is not trusted.

Answers are read up to a limit, unpacked by nobody; no redirect is followed, because the URL is what was configured; no
proxy is taken from the environment; time is bounded as a whole, which also ends a server that sends a byte a minute.

With ``guarded`` the host's addresses are looked up first, and every one must be public: a URL that somebody else may
choose must not reach the machine's own network (SSRF). The connection then goes to the very address that was looked at,
so a name that changes its mind in between (DNS rebinding) gains nothing; TLS still checks the certificate of the name.

Errors name scheme, host and port, never path, query or headers: these may be secrets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from ..errors import FollowerError

LONGEST_WAIT = 3600.0
"""Seconds that a ``Retry-After`` may ask for; more is cut."""

_ours = ContextVar("_ours", default=False)
"""True while a request of ours is under way."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that is anybody's on the public internet (IANA, "IPv6 Global Unicast Address Assignments"). Not in it are
# the forms that embed an IPv4 address: "compatible", translated, and NAT64 by a prefix of one's own (RFC 8215).
_UNICAST = ipaddress.ip_network("2000::/3")
_EXAMPLES = ipaddress.ip_network("3fff::/20")  # RFC 9637, which not every Python knows


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _ours.get()


# At the level DEBUG the client's library writes the headers of answers to the application's log, and a redirect may
# name the very URL that is secret. Only what belongs to our requests is left out.
for _name in ("httpcore.connection", "httpcore.http11"):
    logging.getLogger(_name).addFilter(_is_not_ours)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the destination answered. Header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def after(self) -> float | None:
        """Seconds to wait, by ``Retry-After`` (RFC 9110, 10.2.3: seconds or a date)."""
        text = self.headers.get("retry-after", "").strip()
        if not text:
            return None
        if text.isdecimal() and text.isascii():
            return min(float(text[:9]), LONGEST_WAIT)
        try:
            when = parsedate_to_datetime(text)
            when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
            return min(max((when - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)
        except (ValueError, OverflowError):  # no date, or one that no calendar here has
            return None


class Poster:
    """Sends requests to one URL from one thread; connections are kept open."""

    def __init__(
        self,
        url: str,
        *,
        patience: float,
        ca: Path | None = None,
        client: tuple[Path, Path] | None = None,
        guarded: bool = False,
        largest: int = 1 << 16,
    ) -> None:
        """``patience`` is the seconds for one request; ``ca`` a PEM file instead of the public authorities; ``client``
        certificate and key, as PEM files, for a server that asks who comes; ``largest`` the bytes of an answer. Raises
        `FollowerError` for a URL or files that cannot be used."""
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        try:
            self._url, self._host = httpx.URL(url), parts.hostname or ""
        except httpx.InvalidURL:
            raise FollowerError(f"{self.place}: this is no URL that can be reached") from None
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._patience, self._guarded, self._largest = patience, guarded, largest
        try:
            tls = ssl.create_default_context(cafile=ca) if ca is not None else httpx.create_ssl_context()
        except (OSError, ssl.SSLError) as error:
            raise FollowerError(f"{ca}: no certificates can be read there: {type(error).__name__}") from error
        if client is not None:
            try:
                # A password, though an empty one: without, OpenSSL would ask the terminal for that of an encrypted key.
                tls.load_cert_chain(*client, password="")
            except (OSError, ssl.SSLError) as error:
                what = f"{client[0]} and {client[1]}: no certificate with its own, unencrypted key"
                raise FollowerError(f"{what} can be read there: {type(error).__name__}") from error
        self._runner = asyncio.Runner()
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        # The transport and no client: a client writes every URL to the application's log.
        self._transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits)

    def post(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Returns the answer, whatever its status. Raises `FollowerError` when there was none that can be used."""
        return self._runner.run(self._post(body, headers))

    def close(self) -> None:
        """Closes the connection."""
        self._runner.run(self._transport.aclose())
        self._runner.close()

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        _ours.set(True)
        try:
            async with asyncio.timeout(self._patience):
                return await self._exchange(body, headers)
        except TimeoutError:
            raise FollowerError(f"{self.place}: no whole answer within {self._patience:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # The class alone: its text may quote what was sent.
            raise FollowerError(f"{self.place}: {type(error).__name__}") from None

    async def _exchange(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        url = self._url
        extensions: dict[str, object] = {"timeout": httpx.Timeout(self._patience).as_dict()}
        sent = {"Accept-Encoding": "identity", "User-Agent": "audit-middleware", **headers}
        if self._guarded:
            sent["Host"] = self._url.netloc.decode("ascii")
            url = self._url.copy_with(host=await self._public_address())
            extensions["sni_hostname"] = self._host
        request = httpx.Request("POST", url, content=body, headers=sent, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        try:
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > self._largest:
                    raise FollowerError(f"{self.place}: the answer has more than {self._largest} bytes")
            return Reply(response.status_code, dict(response.headers), bytes(content))
        finally:
            await response.aclose()

    async def _public_address(self) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        if not addresses or not all(map(is_public, addresses)):
            raise FollowerError(
                f"{self.place}: is not on the public internet; if that is meant, set allow_private: true"
            )
        return addresses[0]


def is_public(address: str) -> bool:
    """True for a unicast address of the public internet; also what an IPv6 address embeds must be one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if found not in _UNICAST or found in _EXAMPLES:
            return False
    return found.is_global and not found.is_multicast
