"""The record as its reader sees it: one closed, versioned schema, as pydantic models.

The writer builds the same shape without these models (`pipeline.record`); a test holds both together. The
JSON Schema that is published, the check of an entry and the fields that a policy may treat are read off these models.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .model import Cause, Effect, Json, Kind, Mode, Outcome, Severity

__all__ = ["MAX_SEALED", "MAX_TEXT", "Record"]


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
