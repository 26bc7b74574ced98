"""The values that travel between the rooms; all frozen, none does I/O.

Dataclasses for what is computed on the way of a request (`Subject`, `Resource`, `Action`, `Decision`) and for the log
(`Head`, `Frame`, `Receipt`); what every request makes anew is a `msgspec.Struct`, which is made in a tenth of the time
(`Found`). The record as its reader sees it is in `schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import msgspec

__all__ = [
    "Action",
    "Decision",
    "Effect",
    "Found",
    "FoundKind",
    "Frame",
    "Head",
    "Level",
    "Outcome",
    "Receipt",
    "Refusal",
    "Resource",
    "Severity",
    "Source",
    "Subject",
]

Json = Any

Severity = Literal["info", "low", "medium", "high", "critical"]
Level = Literal["none", "metadata", "request", "response"]
Effect = Literal["allow", "deny", "not_applicable"]
Outcome = Literal["success", "failure", "denied", "error", "aborted"]
Kind = Literal["intent", "outcome", "control"]
Mode = Literal["enforce", "monitor"]

Cause = Literal[
    "rule",  # an allow or deny rule of the policy decided
    "default",  # no rule matched: the policy's default
    "blocked",  # the caller stands on the list of blocks: a finding asked for it, or an operator
    "requirement",  # allowed, but a requirement (reason, mfa, ...) was not met
    "limit",  # allowed, but a rate or concurrency limit was reached
    "error",  # the decision could not be computed
    "unannotated",  # the route that would run has no action
    "unknown_action",  # the route names an action that the policy does not know
    "route_mismatch",  # the router selected another endpoint than the one decided on
    "log_unavailable",  # the log takes no records and the action is guarded
    "exempt",  # the policy's routes: exempts this route
    "no_route",  # 404, 405, a slash redirect, or an answer given before the router: there is nothing to decide
]

SCHEMA_VERSION = 1
ANONYMOUS = "anonymous"
_EMPTY: Mapping[str, Any] = MappingProxyType({})


def _empty() -> Mapping[str, Any]:
    return _EMPTY


@dataclass(frozen=True, slots=True)
class Action:
    """What a route does, in the business's words: made by ``@action``, OpenAPI extra or the policy's ``routes:``.

    ``resource`` is a template over path parameters, ``type/{parameter}``: ``invoice/{invoice_id}``. ``loader`` fetches
    further properties of the resource where a rule reads them.
    """

    name: str
    resource: str | None = None
    event: str | None = None
    severity: Severity | None = None
    loader: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How the caller was authenticated, and by what: ``Source("jwt", issuer="https://login.example.com")``."""

    method: str
    issuer: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks (AuthZEN ``subject``). ``roles`` are what the identity says, before inheritance."""

    id: str
    type: str = "user"
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    session: str | None = None
    properties: Mapping[str, Any] = field(default_factory=_empty)
    source: Source = field(default=Source("application"))

    @property
    def anonymous(self) -> bool:
        """True for the subject that stands for nobody."""
        return self.type == ANONYMOUS


NOBODY = Subject(id=ANONYMOUS, type=ANONYMOUS, source=Source("none"))


@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted on (AuthZEN ``resource``). Unknown type or id is ``None``."""

    type: str | None = None
    id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow or deny, and why. ``effect`` is the policy's answer; ``refused`` says whether it was carried out.

    ``missing`` names the requirements that were not met; ``retry_after`` is in seconds, for a limit or a block.
    """

    effect: Effect
    cause: Cause
    rule: str | None = None
    near_misses: tuple[str, ...] = ()
    policy_digest: str | None = None
    mode: Mode = "enforce"
    detail: str | None = None
    missing: tuple[str, ...] = ()
    retry_after: int | None = None

    @property
    def refused(self) -> bool:
        """True when the request must not reach the handler."""
        return self.effect == "deny" and self.mode == "enforce"


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an object in an archive.

    ``version`` is what the archive calls it, ``None`` where there is only one. ``stored_at`` is the archive's clock and
    ``until`` the end of its lock, both in seconds since the epoch; ``locked`` says that the archive itself refuses to
    remove or replace this version until then, for anybody (S3: COMPLIANCE). Locked without ``until``: the lock has no
    end of its own (a folder's immutable flag, which the administrator of its machine can take away).
    """

    name: str
    size: int
    version: str | None = None
    stored_at: float | None = None
    until: float | None = None
    locked: bool = False


FoundKind = Literal[
    "route",  # one endpoint takes the request
    "opaque",  # static files, a frontend, WSGI or foreign ASGI: what happens inside cannot be seen
    "descend",  # a mount or host whose inner router has a guard of its own, which decides
    "default",  # no route, and the router's default is the application's own
    "partial",  # a route with this path, but not for this method: 405
    "redirect",  # a slash redirect
    "not_found",  # 404
    "unknown",  # a route class or router that cannot be understood: refused
]


class Found(msgspec.Struct, frozen=True, gc=False):
    """What one router will do with a request, as read from the router itself (never from URL text).

    ``template`` is the whole path template with every include and mount prefix; ``endpoint`` is what the router will
    put into ``scope["endpoint"]`` (``None``: it will put nothing there); ``action`` is the mark found on the endpoint.
    ``inner`` is the router that a ``descend`` leads to. ``method`` is the name a policy's ``routes:`` uses: the HTTP
    method, or ``WS`` for a WebSocket.
    """

    kind: FoundKind
    template: str | None = None
    endpoint: Any = None
    action: Action | None = None
    method: str = "GET"
    path_params: Mapping[str, Any] = _EMPTY
    detail: str | None = None
    inner: Any = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that must not reach its handler, as the client sees it. Says nothing about the policy.

    With a ``problem`` (RFC 9457) that document is the body, whatever the application makes of its own errors.
    """

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=_empty)
    problem: Mapping[str, Any] | None = None


# --- the log -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """State of a log that suffices to append: tree size and one 32-byte peak per set bit of the size, largest first.

    ``sums`` says something of the commit that led here: the first 4 bytes of each of its entries' leaf hashes. They
    help to name an entry that was changed later; nothing is proved by them, and a store may leave them out.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()
    checkpoint: bytes = b""
    sums: bytes = field(default=b"", compare=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """One group commit as a store gives it back: ``entries[i]`` is the log's entry ``first + i``."""

    first: int
    entries: tuple[bytes, ...]
    head: Head
    where: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append returns. With an inclusion proof it becomes a tlog-proof anyone can check."""

    origin: str
    index: int
    action_id: str
