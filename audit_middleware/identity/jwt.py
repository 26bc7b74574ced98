"""Who a signed token says is calling: ``Authorization: Bearer`` with a JWT (RFC 7519, best practice RFC 8725).

What must hold before a token is believed, in this order:

1. it is offered once, in the place configured, and is at most 16 KiB of three base64url parts;
2. its ``alg`` is one of those pinned in the settings, and it has no ``crit`` header;
3. a key of the issuer that fits ``kid`` and ``alg`` verifies its signature;
4. ``iss`` is the issuer, ``aud`` names the audience, ``exp`` is there and ahead, ``nbf`` and ``iat`` are past;
5. its subject, roles and type are readable text.

A token that failed is refused without saying which of these it was. One that passed is remembered by its SHA-256 until
it expires or the issuer's keys change.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ..context import clean
from ..errors import ConfigError, IdentityError
from ..model import Source, Subject
from ..protocols import Scope
from .claims import authentication_of, claim, properties_of, resolve_roles, text_of, type_of
from .credential import Credential
from .jwks import KeyRing, KeySource, RemoteKeys, StaticKeys, key_type_of

__all__ = ["JWTIdentifier"]

_HASHED = (f"{kind}{size}" for kind in ("RS", "PS", "ES", "HS") for size in (256, 384, 512))
ALGORITHMS: Final = (*_HASHED, "Ed25519", "EdDSA")
_DAY_S = 86_400
_REFUSED = "the token does not verify"
_SHAPE = re.compile(rb"[A-Za-z0-9_-]{1,2048}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch

logger = logging.getLogger(__name__)


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


class JWTIdentifier:
    """An identifier that verifies bearer tokens. No credential: ``None``. A bad one: `IdentityError`.

    Args:
        issuer: what ``iss`` must be.
        audience: what ``aud`` must contain; one of several.
        algorithms: the signature algorithms to accept. There is no default, and no ``none``.
        jwks_url: where the issuer publishes its keys; ``https://``, or ``http://`` to this machine.
        keys: instead of ``jwks_url``: a JWK, a JWKS, PEM text, an HMAC secret, or a list of those.
        roles_claim: the claim with the roles, a dotted path into nested claims, or a callable ``(claims) -> names``.
        id_claim: the claim (or path) with the subject's id.
        type_claim: the claim with the subject's type; ``user`` without it.
        tenant_claim: the claim with the tenant.
        session_claim: the claim with the session.
        properties: further claims to copy into the subject's properties (``email``); ``mfa``, ``acr`` and ``auth_time``
            are there by themselves, from OpenID Connect's claims.
        mfa_methods: the values of ``amr`` of which one means more than one factor.
        leeway_s: how far the clocks of issuer and service may differ.
        cache_s: how long fetched keys are fresh.
        stale_s: how long they serve while the issuer cannot be reached.
        timeout_s: for one fetch in all.
        header: the header with the token; after ``Bearer``, or alone in a header other than ``authorization``.
        cookie: the cookie with the token, if the header is not there.
        websocket_query: the query parameter with the token, for WebSockets only: browsers cannot set headers there.
        allow_insecure: accept ``http://`` to other machines.
        cache_size: how many verified tokens to remember.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str | Sequence[str],
        algorithms: Sequence[str],
        jwks_url: str | None = None,
        keys: Any = None,
        roles_claim: str | Callable[[Mapping[str, Any]], Any] = "roles",
        id_claim: str = "sub",
        type_claim: str | None = None,
        tenant_claim: str | None = None,
        session_claim: str | None = "sid",
        properties: Sequence[str] = (),
        mfa_methods: Sequence[str] = ("mfa",),
        leeway_s: int = 30,
        cache_s: float = 300,
        stale_s: float = 3600,
        timeout_s: float = 3,
        header: str = "authorization",
        cookie: str | None = None,
        websocket_query: str | None = None,
        allow_insecure: bool = False,
        cache_size: int = 2048,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        from joserfc.jwt import JWTClaimsRegistry

        audiences = [audience] if isinstance(audience, str) else list(audience)
        _check(issuer, audiences, algorithms, jwks_url, keys)
        if jwks_url is None:
            self._keys: KeySource = StaticKeys(keys, algorithms)
        else:
            self._keys = RemoteKeys(
                jwks_url,
                algorithms,
                cache_s=cache_s,
                timeout_s=timeout_s,
                stale_s=stale_s,
                allow_insecure=allow_insecure,
                clock=monotonic,
            )
        self._algorithms = frozenset(algorithms)
        self._issuer = issuer
        self._registry = _registry(algorithms)
        self._claims = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=leeway_s,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "values": audiences},
            exp={"essential": True},
        )
        self._roles, self._id, self._type = roles_claim, id_claim, type_claim
        self._tenant, self._session, self._properties = tenant_claim, session_claim, tuple(properties)
        self._mfa_methods = _listed(mfa_methods)
        self._leeway_s, self._clock = leeway_s, clock
        self._credential = Credential(header, cookie, websocket_query)
        self._verified = _Verified(cache_size)

    def __call__(self, scope: Scope) -> Awaitable[Subject | None] | Subject | None:
        """Who is calling; answers at once for a token that was verified before, else it must be awaited."""
        token = self._credential.of(scope)
        if token is None:
            return None
        digest = hashlib.sha256(token).digest()
        ring = self._keys.current
        known = self._verified.get(digest, ring, self._clock()) if ring else None
        return known or self._verify(token, digest)

    async def _verify(self, token: bytes, digest: bytes) -> Subject:
        header = self._header(token)
        ring = await self._keys.get()
        now = self._clock()
        known = self._verified.get(digest, ring, now)  # with keys that are stale, but all there are
        if known is not None:
            return known
        if not ring.candidates(header.kid, header.alg):
            ring = await self._keys.renewed()
        claims = self._checked(token, header, ring)
        subject = self._subject(claims, header)
        self._verified.put(digest, ring, min(claims["exp"], now + _DAY_S) + self._leeway_s, subject)
        return subject

    def _header(self, token: bytes) -> _Header:
        """Checks 1 and 2, before anything is fetched or computed for the token."""
        if not _SHAPE(token):
            raise IdentityError(_REFUSED)
        encoded = token[: token.index(b".")]
        try:
            header = msgspec.json.decode(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)), type=_Header)
        except (ValueError, RecursionError):
            raise IdentityError(_REFUSED) from None
        if header.alg not in self._algorithms or header.crit is not None:
            raise IdentityError(_REFUSED)
        return header

    def _checked(self, token: bytes, header: _Header, ring: KeyRing) -> dict[str, Any]:
        """Checks 3 and 4. Without ``kid`` there may be several keys to try."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        refusals = (JoseError, ValueError, TypeError, OverflowError, RecursionError)
        cause: Exception = IdentityError("no key")
        for key in ring.candidates(header.kid, header.alg):
            try:
                claims = jwt.decode(token, key, algorithms=[header.alg], registry=self._registry).claims
            except refusals as error:
                cause = error
                continue
            try:
                self._claims.validate(claims)
            except refusals as error:
                cause = error
                break
            return claims
        logger.debug("a token was refused: %s", type(cause).__name__)
        raise IdentityError(_REFUSED)

    def _subject(self, claims: Mapping[str, Any], header: _Header) -> Subject:
        """Check 5."""
        roles = self._roles(claims) if callable(self._roles) else claim(claims, self._roles)
        return Subject(
            id=text_of(claim(claims, self._id), "id"),
            type=type_of(claim(claims, self._type) if self._type else None),
            roles=resolve_roles(roles),
            tenant=_optional(claims, self._tenant, "tenant"),
            session=_optional(claims, self._session, "session"),
            properties=self._properties_of(claims),
            source=Source("jwt", self._issuer, f"alg={header.alg} kid={clean(header.kid or '-', 256)}"),
        )

    def _properties_of(self, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        named = properties_of(self._properties, lambda name: claim(claims, name))
        derived = authentication_of(claims, self._mfa_methods)
        return MappingProxyType(
            {**named, **{name: value for name, value in derived.items() if named.get(name) is None}}
        )


class _Verified:
    """Subjects of verified tokens by SHA-256, for one key ring; the least recently used goes first. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ring: bytes | None = None
        self._known: OrderedDict[bytes, tuple[float, Subject]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes, ring: KeyRing, now: float) -> Subject | None:
        with self._lock:
            found = self._known.get(digest) if self._ring == ring.digest else None
            if found is None or now >= found[0]:
                return None
            self._known.move_to_end(digest)
            return found[1]

    def put(self, digest: bytes, ring: KeyRing, until: float, subject: Subject) -> None:
        with self._lock:
            if self._ring != ring.digest:  # the keys changed: a key that is gone must take its tokens with it
                self._known.clear()
                self._ring = ring.digest
            self._known[digest] = until, subject
            self._known.move_to_end(digest)
            while len(self._known) > self._size:
                self._known.popitem(last=False)


def _registry(algorithms: Sequence[str]) -> Any:
    """Header parameters nobody knows are ignored (RFC 7515, 4); those that must be understood are refused by us."""
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=list(algorithms), strict_check_header=False)
    registry.max_header_length = 2048
    return registry


def _listed(mfa_methods: Sequence[str]) -> frozenset[str]:
    if isinstance(mfa_methods, str):  # its letters would be taken for methods
        raise ConfigError("JWTIdentifier needs mfa_methods as a list, such as ['mfa']")
    return frozenset(mfa_methods)


def _optional(claims: Mapping[str, Any], path: str | None, what: str) -> str | None:
    value = claim(claims, path) if path else None
    return None if value is None else text_of(value, what)


def _check(issuer: str, audiences: list[str], algorithms: Sequence[str], jwks_url: str | None, keys: Any) -> None:
    if not issuer or not audiences or not all(audiences):
        raise ConfigError("JWTIdentifier needs an issuer and an audience: a token for another service is no credential")
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigError("JWTIdentifier needs algorithms as a list, such as ['RS256']")
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ConfigError(f"JWTIdentifier does not accept the algorithm {name!r}; it knows {', '.join(ALGORITHMS)}")
    symmetric = {key_type_of(name) == "oct" for name in algorithms}
    if len(symmetric) == 2:
        raise ConfigError("JWTIdentifier must not mix HMAC and public-key algorithms: a public key is no secret")
    if (jwks_url is None) == (keys is None):
        raise ConfigError("JWTIdentifier needs either jwks_url or keys")
    if jwks_url is not None and True in symmetric:
        raise ConfigError("JWTIdentifier: HMAC algorithms need keys=, as a secret cannot be published at a jwks_url")
