"""Correlation in and out: W3C trace context, ``X-Correlation-ID`` and ``X-Request-ID``.

In: `correlate` reads the raw headers. Out: `correlate_client` makes an httpx client carry them on. In logs:
`CorrelationFilter`. OpenTelemetry's current span is joined where there is one; none is ever started here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace
from opentelemetry.context import get_current
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..context import MAX_ORIGINAL, RUNNING, Correlation, clean
from ..errors import ConfigError

if TYPE_CHECKING:
    import httpx

CORRELATING = frozenset((b"traceparent", b"tracestate", b"x-correlation-id", b"x-request-id"))
"""The headers that are read."""

_IDS = frozenset((b"x-correlation-id", b"x-request-id"))
_GOOD_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}").fullmatch
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_KEY = rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_STATE_MEMBER = re.compile(
    _STATE_KEY + rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
).fullmatch
_KNOWN_FLAGS = 3  # sampled, random: the others of a version we do not know must not be sent on
_PROPAGATOR = TraceContextTextMapPropagator()
_MAX_TRACEPARENT, _MAX_TRACESTATE, _MAX_MEMBERS = 256, 8192, 32

Client = TypeVar("Client", bound="httpx.Client | httpx.AsyncClient")


def correlate(headers: Iterable[tuple[bytes, bytes]], new_id: Callable[[], str]) -> Correlation:
    """Reads the correlation of a request from its raw ASGI headers; never raises for what a client sends.

    The correlation ID is the first good one of ``X-Correlation-ID`` and ``X-Request-ID``, else ``new_id()``. A current
    OpenTelemetry span wins over ``traceparent``.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in CORRELATING:
            if name not in found:
                found[name] = value
            elif value != found[name] or name not in _IDS:
                # A comma is in no traceparent and no good ID: several lines that disagree are refused below.
                found[name] = found[name][:_MAX_TRACESTATE] + b"," + value
    context = _current_span()
    if not found and context is None:
        return Correlation(new_id())
    wanted, bad_wanted = _identifier(found.get(b"x-correlation-id"))
    request, bad_request = _identifier(found.get(b"x-request-id"))
    trace = _trace(found)
    correlation = Correlation(wanted or request or new_id(), *trace, request, bad_wanted, bad_request)
    return correlation if context is None else _joined(correlation, context)


def join_span(correlation: Correlation) -> Correlation:
    """The same correlation in the span that is current *now*; for a framework that starts its span below us."""
    context = _current_span()
    return correlation if context is None or context.is_remote else _joined(correlation, context)


def _current_span() -> SpanContext | None:
    """The context of the span that is current, if there is one. In an empty context there is none."""
    if not get_current():
        return None
    context = get_current_span().get_span_context()
    return context if context.is_valid else None


def _joined(known: Correlation, context: SpanContext) -> Correlation:
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    parent = known.parent if known.trace_id == trace_id else None
    if context.is_remote:  # something above us extracted the caller's context and started no span
        parent, span_id = span_id, ""
    return replace(
        known,
        trace_id=trace_id,
        span_id=span_id or None,
        parent=parent,
        trace_flags=f"{context.trace_flags:02x}",
        tracestate=(context.trace_state.to_header() or None) if context.trace_state else None,
    )


def _identifier(raw: bytes | None) -> tuple[str | None, str | None]:
    """(the good ID, None), (None, the refused original made safe) or (None, None)."""
    if raw is None:
        return None, None
    return (raw.decode(), None) if _GOOD_ID(raw) else (None, clean(raw, MAX_ORIGINAL))


def _trace(found: Mapping[bytes, bytes]) -> tuple[str | None, str | None, str | None, str | None, str | None]:
    """(trace ID, no span of ours, parent, flags, tracestate) by W3C Trace Context; all ``None`` if not valid."""
    raw = found.get(b"traceparent", b"").strip(b" \t")
    match = _TRACEPARENT.fullmatch(raw) if 55 <= len(raw) <= _MAX_TRACEPARENT and b"," not in raw else None
    if match is None or (match[5] and match[1] == b"00"):
        return None, None, None, None, None
    state = found.get(b"tracestate")
    return match[2].decode(), None, match[3].decode(), match[4].decode(), _tracestate(state) if state else None


def _tracestate(raw: bytes) -> str | None:
    """A bad tracestate is dropped whole and leaves the traceparent standing, as the specification wants."""
    if len(raw) > _MAX_TRACESTATE:
        return None
    members = [member for part in raw.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members if _STATE_MEMBER(member)}
    return b",".join(members).decode() if 0 < len(keys) == len(members) <= _MAX_MEMBERS else None


# --- out ---------------------------------------------------------------------------------------------------------


def correlate_client(client: Client) -> Client:
    """Makes every request of this httpx client carry the running request's correlation; returns the client.

    Sets ``X-Correlation-ID`` and ``traceparent``/``tracestate`` (of the current span, else those that came in) where
    the caller did not set them, and nothing outside of a request. Idempotent; also for a client that has hooks.
    """
    import httpx

    if isinstance(client, httpx.AsyncClient):
        hook: Callable[[httpx.Request], object] = outgoing_async
    elif isinstance(client, httpx.Client):
        hook = outgoing
    else:
        raise ConfigError(f"correlate_client() takes an httpx.Client or httpx.AsyncClient, not {type(client).__name__}")
    hooks = client.event_hooks["request"]
    if hook not in hooks:
        hooks.append(hook)
    return client


def outgoing(request: httpx.Request) -> None:
    """The ``request`` event hook of an ``httpx.Client``."""
    headers = outgoing_headers()
    if "traceparent" in request.headers:  # the caller's own trace: our tracestate does not belong to it
        headers.pop("tracestate", None)
    for name, value in headers.items():
        request.headers.setdefault(name, value)


async def outgoing_async(request: httpx.Request) -> None:
    """The ``request`` event hook of an ``httpx.AsyncClient``."""
    outgoing(request)


def outgoing_headers() -> dict[str, str]:
    """The headers that carry the running request's correlation on, for clients other than httpx; empty outside of one.

    Only ``traceparent`` and ``tracestate`` by OpenTelemetry's own propagator, whatever propagators are configured:
    baggage may hold what the next service must not see.
    """
    notes = RUNNING.get()
    if notes is None:
        return {}
    known = notes.correlation
    headers = {"x-correlation-id": known.correlation_id}
    if get_current_span().get_span_context().is_valid:
        _PROPAGATOR.inject(headers)
    elif known.trace_id and (span_id := known.span_id or known.parent):
        # Not a span of our own: the next service becomes a sibling, in the same trace, of the caller's other children.
        headers["traceparent"] = f"00-{known.trace_id}-{span_id}-{int(known.trace_flags or '0', 16) & _KNOWN_FLAGS:02x}"
        if known.tracestate:
            headers["tracestate"] = known.tracestate
    return headers


# --- in logs -----------------------------------------------------------------------------------------------------


class CorrelationFilter(logging.Filter):
    """Gives every log record ``correlation_id``, ``action_id`` and ``trace_id``; ``-`` where there is none.

    Add it to handlers, not to loggers: a logger's filters do not see what its children log. What a record already
    carries stays, so that a ``QueueListener``'s thread does not overwrite what was set where the line was logged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true: it adds, it never drops."""
        notes = RUNNING.get()
        context = get_current_span().get_span_context()
        known = notes.correlation if notes else None
        trace_id = f"{context.trace_id:032x}" if context.is_valid else known.trace_id if known else None
        attributes = record.__dict__
        attributes.setdefault("correlation_id", known.correlation_id if known else "-")
        attributes.setdefault("action_id", notes.action_id if notes else "-")
        attributes.setdefault("trace_id", trace_id or "-")
        return True
