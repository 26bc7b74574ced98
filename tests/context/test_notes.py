"""`annotate` and the holder it writes to; action IDs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audit_middleware.context import (
    RUNNING,
    Correlation,
    Notes,
    action_tail,
    annotate,
    current_action_id,
    current_correlation_id,
    current_subject,
    listen,
    new_action_id,
)
from audit_middleware.errors import AuditError
from audit_middleware.model import NOBODY, Resource
from tests.kit import call


@pytest.fixture
def notes() -> Iterator[Notes]:
    """The notes of a request that runs while the test does."""
    running = Notes("an-action", Correlation("a-correlation"))
    token = RUNNING.set(running)
    yield running
    RUNNING.reset(token)


def test_everything_given_is_noted(notes: Notes) -> None:
    annotate(
        reason="TICKET-1",
        impact={"before": {"total": 1.5}, "after": None, "count": 1},
        resource={"owner": "u1"},
        extra={"batch": 7},
    )
    assert notes.reason == "TICKET-1"
    assert notes.impact == {"before": {"total": "1.5"}, "after": None, "count": 1}
    assert notes.resource == {"properties": {"owner": "u1"}}
    assert notes.extra == {"batch": 7}


def test_later_calls_merge_and_win_by_field(notes: Notes) -> None:
    annotate(reason="first", impact={"before": 1, "count": 1}, extra={"a": 1, "b": 1}, resource={"owner": "u1"})
    annotate(impact={"after": 2}, extra={"b": 2, "c": 3}, resource=Resource("invoice", "42", {"state": "new"}))
    annotate(reason="second", resource={"owner": "u2"})
    assert notes.reason == "second"
    assert notes.impact == {"before": 1, "count": 1, "after": 2}
    assert notes.extra == {"a": 1, "b": 2, "c": 3}
    assert notes.resource == {"type": "invoice", "id": "42", "properties": {"owner": "u2", "state": "new"}}


def test_none_is_not_given(notes: Notes) -> None:
    annotate(reason="kept", impact={"before": 1})
    annotate(reason=None, impact=None, resource=None, extra=None)
    assert notes.reason == "kept"
    assert notes.impact == {"before": 1}


def test_values_are_copied_at_once(notes: Notes) -> None:
    before = {"lines": [1]}
    annotate(impact={"before": before})
    before["lines"].append(2)
    assert notes.impact == {"before": {"lines": [1]}}


def test_notes_stay_bounded_however_often_a_handler_annotates(notes: Notes) -> None:
    for n in range(3000):
        annotate(extra={f"k{n}": "x" * 50}, resource={f"k{n}": "x" * 50})
    assert len(msgspec.json.encode(notes.extra)) <= 8192
    assert len(msgspec.json.encode(notes.resource)) <= 8192 + 20
    assert notes.extra["..."].endswith(" more>")


def test_a_reason_is_bounded_and_valid(notes: Notes) -> None:
    annotate(reason="\ud800" + "é" * 3000)
    assert notes.reason is not None
    assert len(notes.reason.encode()) <= 2048
    assert notes.reason.endswith("…")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reson": "x"}, r"annotate\(\) does not take 'reson': did you mean 'reason'"),
        ({"zzz": "x"}, r"does not take 'zzz': it takes reason, impact, resource, extra"),
        ({"impact": {"befor": 1}}, r"annotate\(impact=\) does not take 'befor': did you mean 'before'"),
        ({"impact": {"count": "3"}}, "count must be an integer"),
        ({"impact": {"count": True}}, "count must be an integer"),
        ({"impact": {"count": -1}}, "count must be an integer"),
        ({"impact": {"count": 2**53}}, "count must be an integer"),
        ({"impact": [1]}, "impact must be Mapping, not list"),
        ({"reason": 3}, "reason must be str, not int"),
        ({"resource": "invoice/1"}, "resource must be Mapping or Resource, not str"),
        ({"extra": "x"}, "extra must be Mapping, not str"),
    ],
)
def test_mistakes_are_refused_and_note_nothing(notes: Notes, given: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        annotate(**{"extra": {"valid": 1}, **given})
    assert notes.extra == {}
    assert notes.impact is None


def test_outside_of_a_request_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit_middleware.context._listening", set())
    annotate(reason="x")  # a test of the bare application: nobody listens
    with pytest.raises(AuditError, match="does not take 'reson'"):
        annotate(reson="x")  # type: ignore[arg-type]  # the mistake under test
    listen(1, True)
    with pytest.raises(AuditError, match="only while a request runs"):
        annotate(reason="x")
    listen(2, True)
    listen(1, False)
    with pytest.raises(AuditError, match="only while a request runs"):
        annotate(reason="x")
    listen(2, False)
    annotate(reason="x")
    assert current_action_id() is None
    assert current_correlation_id() is None
    assert current_subject() is None


def test_current_ids(notes: Notes) -> None:
    assert current_action_id() == "an-action"
    assert current_correlation_id() == "a-correlation"
    assert current_subject() is None
    notes.subject = NOBODY
    assert current_subject() is NOBODY


def test_late_notes_go_to_the_callback_and_change_nothing(notes: Notes) -> None:
    late: list[dict[str, Any]] = []
    notes.on_late = lambda _, given: late.append(given)
    annotate(reason="in time")
    notes.close()
    annotate(reason="late", impact={"after": 1.5}, resource=Resource(id="7"), extra={"n": 1})
    assert notes.reason == "in time"
    assert notes.impact is None
    assert late == [
        {
            "reason": "late",
            "impact": {"after": "1.5"},
            "resource": {"id": "7", "properties": {}},
            "extra": {"n": 1},
        }
    ]


def test_late_notes_that_nobody_takes_are_an_error(notes: Notes) -> None:
    notes.close()
    with pytest.raises(AuditError, match="after this request's record was written"):
        annotate(reason="late")


def test_concurrent_notes_are_each_in_time_or_late(notes: Notes) -> None:
    late: list[dict[str, Any]] = []
    notes.on_late = lambda _, given: late.append(given)
    started = threading.Barrier(9)

    def work(worker: int) -> None:
        started.wait()
        for n in range(40):
            annotate(extra={f"{worker}-{n}": n})

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, work, worker) for worker in range(8)]
        started.wait()
        notes.close()
        for job in jobs:
            job.result()
    names = list(notes.extra) + [name for given in late for name in given["extra"]]
    assert sorted(names) == sorted(f"{worker}-{n}" for worker in range(8) for n in range(40))


class FromTheMiddle(BaseHTTPMiddleware):
    """The kind of middleware in whose children ContextVars set are lost."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        annotate(extra={"middleware": 1})
        return await call_next(request)


def test_notes_arrive_from_everywhere_in_an_application() -> None:
    def threaded() -> None:
        annotate(extra={"thread": 1})

    def sync_handler(request: Request) -> Response:
        annotate(extra={"sync": 1})
        return PlainTextResponse("", background=BackgroundTask(lambda: annotate(extra={"background": 1})))

    async def async_handler(request: Request) -> Response:
        annotate(extra={"async": 1})
        await run_in_threadpool(threaded)
        await asyncio.create_task(asyncio.to_thread(lambda: annotate(extra={"task": 1})))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/sync", sync_handler), Route("/async", async_handler)])
    app.add_middleware(FromTheMiddle)

    async def run(path: str) -> dict[str, Any]:
        running = Notes("a", Correlation("c"))
        RUNNING.set(running)
        answer = await call(app, "GET", path)
        assert answer.status == 200, answer.error
        return running.extra

    assert asyncio.run(run("/sync")) == {"middleware": 1, "sync": 1, "background": 1}
    assert asyncio.run(run("/async")) == {"middleware": 1, "async": 1, "thread": 1, "task": 1}


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**76 - 1))
def test_action_ids_are_uuids_of_version_7(clock_ns: int, bits: int) -> None:
    text = new_action_id(clock_ns, action_tail(f"{bits:019x}"))
    value = UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == RFC_4122
    assert value.int >> 80 == clock_ns // 1_000_000 % 2**48
    assert value.int & (2**62 - 1) == bits & (2**62 - 1), "the last 62 bits of 19 digits"
    assert value.int >> 64 & 0xFFF == bits >> 64, "the first three digits"


def test_action_ids_sort_by_time() -> None:
    ids = [new_action_id(n * 1_000_000, action_tail("0" * 32)) for n in (0, 1, 255, 256, 1_700_000_000_000)]
    assert ids == sorted(ids)
