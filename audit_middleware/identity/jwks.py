"""The keys that tokens are verified with: given once, or fetched from an issuer's JWKS URL and kept fresh.

A key set is never half new: a fetch that fails, or that brings nothing usable, leaves the old one in place. `KeyRing`
is immutable and carries a digest, so that whoever remembers what it verified can see that the keys have changed since.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from ..errors import ConfigError, IdentityUnavailable

if TYPE_CHECKING:
    import ssl

    from joserfc.jwk import Key

__all__ = ["KeyRing", "KeySource", "RemoteKeys", "StaticKeys", "key_type_of"]

_MAX_BODY, _MAX_KEYS = 256 * 1024, 100
_REFETCH_S = 10.0  # between two fetches: unknown key ids are free to invent, the issuer must not pay for them
_RETRY_S = 1.0  # the same while there are no keys at all: nobody can sign in until there are
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "HS": "oct", "Ed": "OKP"}
_MIN_RSA_BITS = 2048

logger = logging.getLogger(__name__)


def key_type_of(algorithm: str) -> str:
    """The JWK ``kty`` that a signature algorithm takes."""
    return _KEY_TYPES[algorithm[:2]]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys that may verify a token, and a digest that differs when any of them does."""

    keys: tuple[Key, ...]
    digest: bytes

    def candidates(self, kid: str | None, algorithm: str) -> list[Key]:
        """The keys a token of this ``kid`` and ``alg`` may be signed with. A key's own ``alg`` binds it."""
        kind = key_type_of(algorithm)
        return [
            key
            for key in self.keys
            if key.key_type == kind and key.alg in (None, algorithm) and (kid is None or key.kid in (None, kid))
        ]


class StaticKeys:
    """Keys given with the settings: a JWK, a JWKS, PEM text, an HMAC secret, or a list of those."""

    def __init__(self, keys: Any, algorithms: Sequence[str]) -> None:
        given = keys if isinstance(keys, Sequence) and not isinstance(keys, str | bytes) else [keys]
        flat = [one for key in given for one in (key["keys"] if isinstance(key, Mapping) and "keys" in key else [key])]
        try:
            self.current = _ring(flat, algorithms, _import_strict)
        except Exception as error:  # whatever the key parsers raise; the message must not show the key
            raise ConfigError(f"keys: a key does not fit {', '.join(algorithms)} ({type(error).__name__})") from None

    async def get(self) -> KeyRing:
        """The keys."""
        return self.current

    async def renewed(self) -> KeyRing:
        """The same keys: there is nowhere to get newer ones from."""
        return self.current


class RemoteKeys:
    """The keys behind a JWKS URL.

    Fetched when first needed, kept for ``cache_s``, fetched again after that or when a token names an unknown key, at
    most once in 10 s. While the issuer cannot be reached the last keys serve on for ``stale_s`` after they were
    fetched. At most one fetch at a time in one event loop; any number of loops may share the object.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        cache_s: float = 300,
        timeout_s: float = 3,
        stale_s: float = 3600,
        allow_insecure: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_url(url, allow_insecure)
        self._url, self._algorithms = url, algorithms
        self._cache_s, self._timeout_s, self._stale_s = cache_s, timeout_s, stale_s
        self._clock = clock
        self._ring: KeyRing | None = None
        self._fetched_at = self._next_fetch = float("-inf")
        self._failed = False
        self._tls: ssl.SSLContext | None = None
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def current(self) -> KeyRing | None:
        """The keys, if they are fresh: nothing to wait for."""
        return self._ring if self._clock() < self._fetched_at + self._cache_s else None

    async def get(self) -> KeyRing:
        """The keys, fetched if need be; raises `IdentityUnavailable` when there are none that are fresh enough."""
        fresh = self.current
        # While one request fetches, the others go on with the keys there are rather than wait for a slow issuer.
        if fresh is None and not (self._ring is not None and self._lock().locked()):
            await self._fetch()
        return fresh or self._usable()

    async def renewed(self) -> KeyRing:
        """The keys after a look for newer ones; raises `IdentityUnavailable` when that look failed."""
        await self._fetch()
        if self._failed:
            raise IdentityUnavailable("the issuer's keys could not be fetched, and the token names an unknown one")
        return self._usable()

    def _usable(self) -> KeyRing:
        if self._ring is None or self._clock() >= self._fetched_at + max(self._stale_s, self._cache_s):
            raise IdentityUnavailable("the issuer's keys could not be fetched")
        return self._ring

    def _lock(self) -> asyncio.Lock:
        # One per loop, as an asyncio.Lock belongs to the loop it was first waited for in.
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def _fetch(self) -> None:
        async with self._lock():
            if self._clock() < self._next_fetch:  # somebody has just fetched, perhaps while we waited for the lock
                return
            try:
                self._ring = parse_jwks(await self._download(), self._algorithms)
                self._fetched_at, self._failed = self._clock(), False
            except (OSError, TimeoutError, ValueError, _http_errors()) as error:
                self._failed = True
                logger.warning("the issuer's JWKS could not be fetched: %s", _cause(error))
            finally:
                # Also after a cancellation: a client that hangs up must not buy the right to another fetch.
                self._next_fetch = self._clock() + (_REFETCH_S if self._ring else _RETRY_S)

    async def _download(self) -> bytes:
        import httpx

        if self._tls is None:
            self._tls = httpx.create_ssl_context()  # reads the system's certificates, about 20 ms: once
        # Uncompressed and raw, or a small answer could unpack to gigabytes; no redirect, the URL is the trust anchor.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with (
            asyncio.timeout(self._timeout_s),
            httpx.AsyncClient(verify=self._tls, timeout=self._timeout_s, follow_redirects=False) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise _Unusable(f"status {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise _Unusable(f"more than {_MAX_BODY} bytes")
            return bytes(body)


KeySource = StaticKeys | RemoteKeys


class _Unusable(ValueError):
    """An answer that is no key set. Its message is ours, so that it may be logged."""


def parse_jwks(body: bytes, algorithms: Sequence[str]) -> KeyRing:
    """The usable keys of a JWKS document; raises `ValueError` for anything else. Keys of unknown kinds are skipped."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise _Unusable("not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise _Unusable(f"no list of at most {_MAX_KEYS} keys")
    return _ring(entries, algorithms, _import_lenient)


def _ring(
    entries: Iterable[Any], algorithms: Sequence[str], read: Callable[[Any, Sequence[str]], Key | None]
) -> KeyRing:
    keys = [key for entry in entries if (key := read(entry, algorithms)) is not None]
    if not keys:
        raise _Unusable("no usable key")
    known = [[key.key_type, key.kid, key.alg, key.thumbprint()] for key in keys]
    return KeyRing(tuple(keys), hashlib.sha256(msgspec.json.encode(known)).digest())


def _import_strict(entry: Any, algorithms: Sequence[str]) -> Key | None:
    """A key of the settings. Text is a PEM or, for HMAC algorithms, the secret."""
    from joserfc.jwk import JWKRegistry

    kind = None if isinstance(entry, Mapping) else key_type_of(algorithms[0])
    key = JWKRegistry.import_key(dict(entry) if isinstance(entry, Mapping) else entry, kind)
    if key.key_type not in {key_type_of(algorithm) for algorithm in algorithms} or not _strong(key, algorithms):
        raise _Unusable("wrong kind, or too short")
    return key


def _import_lenient(entry: Any, algorithms: Sequence[str]) -> Key | None:
    """A key of a JWKS; ``None`` for one that is not for us: encryption keys, other kinds, malformed ones (RFC 7517, 5).

    Symmetric keys are never taken from a URL: a published secret is none.
    """
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    try:
        return _import_strict(entry, algorithms) if "verify" in entry.get("key_ops", ["verify"]) else None
    except Exception as error:
        # The parsers below raise what they like for hostile numbers and curves; one bad key must not hide the others.
        logger.debug("a key of the JWKS was skipped: %s", type(error).__name__)
        return None


def _strong(key: Key, algorithms: Sequence[str]) -> bool:
    native: Any = key.raw_value
    if key.key_type == "oct":  # RFC 7518, 3.2: at least as long as the hash
        return len(native) * 8 >= max(int(algorithm[2:]) for algorithm in algorithms)
    return key.key_type != "RSA" or native.key_size >= _MIN_RSA_BITS


def _check_url(url: str, allow_insecure: bool) -> None:
    import httpx

    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f"jwks_url is no URL: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.host:
        raise ConfigError("jwks_url must be an https:// URL")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(parts.host):
        raise ConfigError(
            "jwks_url is http://: whoever can change the answer on its way can sign in as anybody. Use https://, or "
            "allow_insecure=True where the way is protected otherwise"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _http_errors() -> type[Exception]:
    import httpx

    return httpx.HTTPError


def _cause(error: Exception) -> str:
    """What may be logged: our own words or the error's type, never a URL or a body."""
    return str(error) if isinstance(error, _Unusable) else type(error).__name__
