"""Correlation that comes in: trace context, correlation and request IDs, the current span; and in logs."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span

from audit_middleware.context import RUNNING, Correlation, Notes
from audit_middleware.identity.correlation import CorrelationFilter, correlate, join_span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
Headers = list[tuple[bytes, bytes]]


def read(*headers: tuple[str, str | bytes]) -> Correlation:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    return correlate([(b"host", b"a"), *raw, (b"accept", b"*/*")], lambda: "new")


def test_nothing_in_gives_a_new_id() -> None:
    assert read() == Correlation("new")


def test_a_good_traceparent_is_taken() -> None:
    assert read(("traceparent", GOOD)) == Correlation("new", TRACE, None, PARENT, "01")


@pytest.mark.parametrize(
    "traceparent",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE}-{PARENT}-0A",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-011",
        f"00-{TRACE}-{PARENT}-01-more",
        f"0-{TRACE}-{PARENT}-01",
        f"000-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01more",
        f"01-{TRACE}-{PARENT}-01-" + "x" * 300,
        "",
        b"\xff" * 55,
    ],
)
def test_a_bad_traceparent_is_no_trace(traceparent: str | bytes) -> None:
    assert read(("traceparent", traceparent), ("tracestate", "a=b")) == Correlation("new")


def test_two_traceparents_are_none_even_if_they_agree() -> None:
    assert read(("traceparent", GOOD), ("traceparent", GOOD)).trace_id is None
    assert (
        read(("traceparent", GOOD), ("x-request-id", "r"), ("traceparent", GOOD.replace("b7", "b8"))).trace_id is None
    )


@pytest.mark.parametrize("tail", ["", "-", "-what-will-be"])
def test_a_later_version_is_read_as_far_as_we_know_it(tail: str) -> None:
    assert read(("traceparent", f"cc-{TRACE}-{PARENT}-01{tail}")).trace_id == TRACE


def test_blanks_around_a_traceparent_do_not_count() -> None:
    assert read(("traceparent", f" \t{GOOD} ")).parent == PARENT


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"], "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (["a=1", "b=2"], "a=1,b=2"),
        ([" a=1 ,\t,b=2,"], "a=1,b=2"),
        (["fw529a3039@dt=FfG3"], "fw529a3039@dt=FfG3"),
        (["a=1,a=2"], None),
        (["a=1", "a=1"], None),
        (["A=1"], None),
        (["a=1,b"], None),
        (["a=é"], None),
        (["a=1\x00"], None),
        (["a=b=c"], None),
        (["a="], None),
        ([","], None),
        ([""], None),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([",".join(f"k{n}=1" for n in range(33))], None),
        (["a=" + "x" * 256], "a=" + "x" * 256),
        (["a=" + "x" * 257], None),
        ([",".join(f"k{n}={'x' * 256}" for n in range(32))], None),
    ],
)
def test_a_bad_tracestate_goes_and_the_trace_stays(states: list[str], expected: str | None) -> None:
    got = read(("traceparent", GOOD), *(("tracestate", state) for state in states))
    assert got.tracestate == expected
    assert got.trace_id == TRACE


def test_a_tracestate_alone_is_nothing() -> None:
    assert read(("tracestate", "a=b")) == Correlation("new")


@pytest.mark.parametrize("value", ["a", "x" * 128, "Az09._~:/+=@-", "0b9f1c2e-8a1d-4d3e-9c1a-1f2e3d4c5b6a"])
def test_good_ids_are_kept(value: str) -> None:
    assert read(("x-correlation-id", value)) == Correlation(value)
    assert read(("x-request-id", value)) == Correlation(value, request_id=value)


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "x" * 129, "a\r\nSet-Cookie: x", "a,b", "é", "<script>", "a\n", "a;b", "%0a"]
)
def test_bad_ids_are_replaced_and_remembered(value: str) -> None:
    assert read(("x-correlation-id", value)) == Correlation("new", client_correlation_id=value)
    assert read(("x-request-id", value)) == Correlation("new", client_request_id=value)


def test_a_refused_original_is_bounded_and_valid() -> None:
    kept = read(("x-correlation-id", b"\xff" * 1_000_000)).client_correlation_id
    assert kept is not None
    assert len(kept.encode()) <= 256
    assert kept.endswith("…")


def test_the_first_good_id_wins() -> None:
    assert read(("x-request-id", "r"), ("x-correlation-id", "c")) == Correlation("c", request_id="r")
    assert read(("x-request-id", "r"), ("x-correlation-id", "b a d")) == Correlation(
        "r", request_id="r", client_correlation_id="b a d"
    )


def test_ids_given_twice_must_agree() -> None:
    assert read(("x-correlation-id", "c"), ("x-correlation-id", "c")) == Correlation("c")
    assert read(("x-correlation-id", "c"), ("x-correlation-id", "d")) == Correlation("new", client_correlation_id="c,d")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"traceparent", b"tracestate", b"x-correlation-id", b"x-request-id"]),
            st.binary(max_size=300)
            | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
        ),
        max_size=6,
    )
)
def test_no_header_breaks_it_or_gets_into_an_id(headers: Headers) -> None:
    got = correlate(headers, lambda: "new")
    for text in (got.correlation_id, got.request_id or "x"):
        assert 1 <= len(text) <= 128
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    if got.trace_id is not None:
        assert int(got.trace_id, 16) > 0
        assert got.parent is not None
        assert int(got.parent, 16) > 0
    for original in (got.client_correlation_id, got.client_request_id):
        assert original is None or len(original.encode()) <= 256


def context(*, remote: bool = False, state: list[tuple[str, str]] | None = None) -> SpanContext:
    return SpanContext(0xABC, 0xDEF, remote, TraceFlags(1), TraceState(state))


def test_the_current_span_wins() -> None:
    with use_span(NonRecordingSpan(context(state=[("a", "b")]))):
        got = read(("traceparent", GOOD), ("x-request-id", "r"))
    assert got == Correlation("r", f"{0xABC:032x}", f"{0xDEF:016x}", None, "01", "a=b", "r")


def test_a_span_of_the_same_trace_keeps_the_parent() -> None:
    tracer = TracerProvider().get_tracer("t")
    remote = SpanContext(int(TRACE, 16), int(PARENT, 16), True, TraceFlags(1))
    with use_span(NonRecordingSpan(remote)), tracer.start_as_current_span("server") as span:
        got = read(("traceparent", GOOD))
        assert got.span_id == f"{span.get_span_context().span_id:016x}"
    assert (got.trace_id, got.parent) == (TRACE, PARENT)


def test_a_span_that_is_not_sampled_counts_as_well() -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("t")
    with tracer.start_as_current_span("server") as span:
        got = read()
        assert got.trace_id == f"{span.get_span_context().trace_id:032x}"
    assert got.trace_flags is not None
    assert int(got.trace_flags, 16) & 1 == 0


def test_a_context_that_was_only_extracted_is_the_parent_and_no_span() -> None:
    with use_span(NonRecordingSpan(context(remote=True))):
        got = read()
        assert join_span(got) is got
    assert got == Correlation("new", f"{0xABC:032x}", None, f"{0xDEF:016x}", "01")


def test_join_span_takes_a_span_that_started_later() -> None:
    before = read(("traceparent", GOOD))
    assert join_span(before) is before
    with use_span(NonRecordingSpan(SpanContext(int(TRACE, 16), 7, False, TraceFlags(0)))):
        after = join_span(before)
    assert after == Correlation("new", TRACE, f"{7:016x}", PARENT, "00")


@pytest.fixture
def running() -> Iterator[Notes]:
    notes = Notes("an-action", Correlation("a-correlation", TRACE))
    token = RUNNING.set(notes)
    yield notes
    RUNNING.reset(token)


def logger_to(stream: io.StringIO) -> tuple[logging.Logger, logging.Handler]:
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(logging.Formatter("%(correlation_id)s %(action_id)s %(trace_id)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, handler


def test_log_lines_carry_the_ids(running: Notes) -> None:
    stream = io.StringIO()
    logger, _ = logger_to(stream)
    logger.info("x")
    with use_span(NonRecordingSpan(context())):
        logger.info("y")
    assert stream.getvalue() == f"a-correlation an-action {TRACE} x\na-correlation an-action {0xABC:032x} y\n"


def test_log_lines_outside_of_a_request_carry_dashes() -> None:
    stream = io.StringIO()
    logger, _ = logger_to(stream)
    logger.info("x")
    assert stream.getvalue() == "- - - x\n"


def test_a_listener_in_another_thread_keeps_what_the_line_was_logged_with(running: Notes) -> None:
    stream = io.StringIO()
    _, handler = logger_to(stream)
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    sender = QueueHandler(queue)
    sender.addFilter(CorrelationFilter())
    logger = logging.Logger("test")
    logger.addHandler(sender)
    listener = QueueListener(queue, handler)
    listener.start()
    logger.info("x")
    listener.stop()
    assert stream.getvalue() == f"a-correlation an-action {TRACE} x\n"
