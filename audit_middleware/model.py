"""The values that travel between the rooms; all frozen, none does I/O.

Two families:

* dataclasses for what is computed on the way of a request (`Subject`, `Resource`, `Action`, `Decision`) and for the
  log (`Head`, `Frame`, `Receipt`); what every request makes anew is a `msgspec.Struct`, which is made in a tenth of
  the time (`Found`);
* pydantic models for the record as its reader sees it (`Record` and its parts). The hot path builds the same shape as
  plain dictionaries; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
    "Record",
    "Refusal",
    "Resource",
    "Severity",
    "Source",
    "Subject",
]

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


# --- the record --------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


MAX_TEXT, MAX_SEALED = 2048, 16_500
"""Characters of a text as it is, and of one that is sealed: its JSON, which may escape each, in base64."""


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT and not text.startswith("sealed.v1."):
        raise ValueError(f"a text of more than {MAX_TEXT} characters that is not sealed")
    return text


Text = Annotated[
    str,
    Field(
        max_length=MAX_SEALED,
        json_schema_extra={"anyOf": [{"maxLength": MAX_TEXT}, {"pattern": r"^sealed\.v1\."}]},
    ),
    AfterValidator(_bounded),
]
Json = Any


class ServicePart(_Part):
    """The service that answered."""

    name: Text
    version: Text | None
    instance: Text
    environment: Text | None


class SubjectPart(_Part):
    """Who asked, beside ``user_id``."""

    type: Text
    roles: list[Text]
    tenant: Text | None
    session: Text | None
    properties: dict[str, Json]


class SourcePart(_Part):
    """How the caller was authenticated, and by what."""

    method: Text
    issuer: Text | None
    detail: Text | None


class ForwardedPart(_Part):
    """What proxies claimed beyond the trusted hop: kept, never believed."""

    untrusted: list[Text]
    header: Literal["forwarded", "x-forwarded-for"] | None


class ResourcePart(_Part):
    """What was acted on."""

    type: Text | None
    id: Text | None
    properties: dict[str, Json]


class ImpactPart(_Part):
    """What the handler says it changed."""

    before: Json
    after: Json
    count: int | None


class InputsPart(_Part):
    """What the rules read, as far as the record does not say it elsewhere.

    In ``values``, ``{"number": text}`` is a number with a fraction or of many digits, ``{"time": text}`` a moment, and
    ``{"type": name}`` something that is no single value.
    """

    values: dict[str, Json]
    missing: list[Text]
    withheld: dict[str, Text]


class DecisionPart(_Part):
    """Why the request was allowed or denied."""

    effect: Effect
    cause: Cause
    rule: Text | None
    near_misses: list[Text]
    policy_digest: Text | None
    mode: Mode
    detail: Text | None
    inputs: InputsPart | None


class BodyPart(_Part):
    """A captured body: redacted JSON or nothing, always with length and, when complete, a SHA-256."""

    content: Json
    content_type: Text | None
    size: int
    truncated: bool


class RequestPart(_Part):
    """The request, redacted. ``route`` is the template of the route that ran; ``path`` is what the client sent."""

    protocol: Literal["http", "websocket"] | None
    method: Text | None
    route: Text | None
    path: Text | None
    path_params: dict[str, Json]
    query: Text | None
    headers: dict[str, Text]
    size: int | None
    digest: Text | None
    body: BodyPart | None


class ResponsePart(_Part):
    """The response. ``size`` counts body bytes sent; ``error`` is an exception's type, never its message."""

    status: int | None
    size: int | None
    error: Text | None
    body: BodyPart | None


class TracePart(_Part):
    """Correlation: W3C trace context and the correlation ID returned to the client."""

    trace_id: Text | None
    span_id: Text | None
    parent: Text | None
    correlation_id: Text | None
    request_id: Text | None
    client_correlation_id: Text | None
    client_request_id: Text | None


class Record(_Part):
    """One immutable audit entry, schema version 1. Every field is always present; unknown is ``null``.

    An intent has no ``outcome`` yet.
    Times are RFC 3339 UTC with microseconds; ``duration_us`` is in microseconds; sizes are in bytes.
    ``sequence`` counts the records of one process (``service.instance``) from 0, so that a missing one shows.
    """

    schema_version: Literal[1]
    action_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
    timestamp: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    recorded_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    duration_us: int | None
    kind: Kind
    intent_id: Text | None
    sequence: int
    service: ServicePart
    action: Text | None
    event: Text | None
    severity: Severity
    user_id: Text
    subject: SubjectPart
    source: SourcePart
    initiator_ip: Text | None
    forwarded: ForwardedPart
    user_agent: Text | None
    resource: ResourcePart
    reason: Text | None
    impact: ImpactPart | None
    decision: DecisionPart
    outcome: Outcome | None
    request: RequestPart
    response: ResponsePart
    trace: TracePart
    flags: list[Text]
    extra: dict[str, Json]
