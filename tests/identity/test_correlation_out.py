"""Correlation that goes out: what an httpx client sends to the next service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span

from audit_middleware.context import RUNNING, Correlation, Notes
from audit_middleware.errors import ConfigError
from audit_middleware.identity.correlation import correlate_client, outgoing_headers

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def running() -> Iterator[Notes]:
    notes = Notes("an-action", Correlation("c-1", TRACE, None, PARENT, "01", "a=b"))
    token = RUNNING.set(notes)
    yield notes
    RUNNING.reset(token)


def sent(headers: dict[str, str] | None = None, client: httpx.Client | None = None) -> dict[str, str]:
    """The correlation headers that reached the other side, through a sync and an async client alike."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    transport = httpx.MockTransport(answer)
    with correlate_client(httpx.Client(transport=transport)) as sync:
        sync.get("http://next/", headers=headers)

    async def run() -> None:
        async with correlate_client(httpx.AsyncClient(transport=transport)) as client:
            await client.get("http://next/", headers=headers)

    asyncio.run(run())
    names = ("x-correlation-id", "traceparent", "tracestate")
    first, second = ({name: one.headers[name] for name in names if name in one.headers} for one in seen)
    assert first == second
    return first


def test_outside_of_a_request_nothing_is_added() -> None:
    assert sent() == {}
    assert outgoing_headers() == {}


def test_without_a_span_the_incoming_context_goes_on(running: Notes) -> None:
    assert sent() == {"x-correlation-id": "c-1", "traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}


def test_without_a_trace_only_the_correlation_id_goes_on(running: Notes) -> None:
    running.correlation = Correlation("c-2")
    assert sent() == {"x-correlation-id": "c-2"}


def test_flags_of_an_unknown_version_do_not_go_on(running: Notes) -> None:
    running.correlation = Correlation("c-2", TRACE, None, PARENT, "ff")
    assert sent()["traceparent"] == f"00-{TRACE}-{PARENT}-03"


def test_a_span_that_has_ended_is_still_the_parent(running: Notes) -> None:
    running.correlation = Correlation("c-2", TRACE, "00000000000000aa", PARENT, "01")
    assert sent()["traceparent"] == f"00-{TRACE}-00000000000000aa-01"


def test_the_current_span_goes_on(running: Notes) -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("work") as span:
        context = span.get_span_context()
        assert sent() == {
            "x-correlation-id": "c-1",
            "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}",
        }
    with use_span(NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(0), TraceState([("v", "w")])))):
        assert sent()["tracestate"] == "v=w"


def test_what_the_caller_set_stays(running: Notes) -> None:
    assert sent({"X-Correlation-ID": "mine"})["x-correlation-id"] == "mine"
    theirs = sent({"TraceParent": "00-1-2-3"})
    assert theirs == {"x-correlation-id": "c-1", "traceparent": "00-1-2-3"}
    assert sent({"tracestate": "m=n"})["tracestate"] == "m=n"


def test_other_hooks_stay_and_ours_is_added_once(running: Notes) -> None:
    seen: list[str] = []
    client = httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(200)),
        event_hooks={"request": [lambda request: seen.append(request.url.path)]},
    )
    assert correlate_client(correlate_client(client)) is client
    client.get("http://next/path")
    assert seen == ["/path"]
    assert len(client.event_hooks["request"]) == 2


def test_a_redirect_carries_it_too(running: Notes) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("x-correlation-id"))
        return httpx.Response(302, headers={"location": "/b"}) if request.url.path == "/a" else httpx.Response(200)

    client = correlate_client(httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True))
    client.get("http://next/a")
    assert seen == ["c-1", "c-1"]


def test_anything_but_a_client_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes an httpx\.Client or httpx\.AsyncClient, not module"):
        correlate_client(httpx)  # type: ignore[type-var]  # the mistake under test
