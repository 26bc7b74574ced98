"""The record of a request on its way to the encoder: `schema.Record`, member by member.

Members stand in the order of the canonical form, which is that of their names' bytes, and are given by position: so
nothing is looked up or sorted for a record. What many records share is in it as its bytes (`Raw`), made once.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import asdict

from ..context import clean
from ..ledger.canonical import encode_trusted
from ..model import Decision, Json

__all__ = ["Request", "RequestRecord", "Resource", "Response", "Trace", "decided", "raw", "unfolded"]

_DETAIL, _MISS, _MISSES = 512, 256, 16


class Decided(msgspec.Struct, gc=False):
    """`schema.DecisionPart`."""

    cause: str
    detail: str | None
    effect: str
    inputs: Json
    mode: str
    near_misses: list[str]
    policy_digest: str | None
    rule: str | None


class Request(msgspec.Struct, gc=False):
    """`schema.RequestPart`."""

    body: Json
    digest: str | None
    headers: dict[str, str]
    method: str
    path: str
    path_params: dict[str, Json]
    protocol: str
    query: str | None
    route: str | None
    size: int


class Resource(msgspec.Struct, gc=False):
    """`schema.ResourcePart`."""

    id: str | None
    properties: Json
    type: str | None


class Response(msgspec.Struct, gc=False):
    """`schema.ResponsePart`."""

    body: Json = None
    error: str | None = None
    size: int | None = None
    status: int | None = None


class Trace(msgspec.Struct, gc=False):
    """`schema.TracePart`."""

    client_correlation_id: Json
    client_request_id: Json
    correlation_id: str
    parent: str | None
    request_id: str | None
    span_id: str | None
    trace_id: str | None


class RequestRecord(msgspec.Struct, gc=False):
    """`schema.Record` of a request."""

    action: str | None
    action_id: str
    decision: Raw | Decided
    duration_us: int | None
    event: str | None
    extra: Json
    flags: list[str]
    forwarded: Raw | Json
    impact: Json
    initiator_ip: str | None
    intent_id: str | None
    kind: str
    outcome: str | None
    reason: Json
    recorded_at: str
    request: Request
    resource: Resource
    response: Response
    schema_version: int
    sequence: int
    service: Raw
    severity: str
    source: Raw
    subject: Raw
    timestamp: str
    trace: Trace
    user_agent: str | None
    user_id: str


_FOLDED = frozenset((Raw, Decided, Request, Resource, Response, Trace))
_decode = msgspec.json.Decoder().decode


def decided(decision: Decision, inputs: Json = None) -> Decided:
    """What a record says of a decision."""
    return Decided(
        decision.cause,
        None if decision.detail is None else clean(decision.detail, _DETAIL),
        decision.effect,
        inputs,
        decision.mode,
        [clean(miss, _MISS) for miss in decision.near_misses[:_MISSES]],
        decision.policy_digest,
        decision.rule,
    )


def raw(part: Any) -> Raw:
    """A part that many records share, as its bytes. Raises `RecordError` where it has none."""
    return Raw(encode_trusted(part))


def unfolded(part: Any) -> Any:
    """The same as dictionaries, for whoever looks into a record or takes something out of it."""
    if type(part) is Raw:
        return _decode(part)
    members = asdict(part)
    for name, value in members.items():
        if type(value) in _FOLDED:
            members[name] = unfolded(value)
    return members
