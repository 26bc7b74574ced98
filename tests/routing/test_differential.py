"""The action enforced is the action of the route that runs: random applications, bare against guarded.

Two runs over the same requests. *Allowing*: every action is permitted, so the guarded application must answer exactly
as the bare one, and the record must name the endpoint that ran. *Denying*: every other action is refused; what the bare
application ran under a refused action must not run, everything else must come out the same.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.middleware import AuditMiddleware
from tests.kit import Answer, Log, Running, call, make_log, write_policy
from tests.routing.apps import App, requests

OURS = (b"audit-id", b"x-correlation-id")
APPS = int(os.environ.get("AUDIT_TEST_FUZZ_APPS", "40"))
REQUESTS = 60


def policy_text(endpoints: int, *, allow_all: bool) -> str:
    lines = ["default: allow" if allow_all else "default: deny", "actions:"]
    for number in range(1, endpoints + 1):
        allow = "[anyone]" if allow_all or number % 2 else "[]"
        lines.append(f"  r.e{number}: {{allow: {allow}}}")
    return "\n".join(lines) + "\n"


def seen(answer: Answer) -> tuple[Any, ...]:
    """What a client can see, without the two headers we add."""
    headers = sorted((name, value) for name, value in answer.headers if name not in OURS)
    kinds = [message["type"] for message in answer.messages]
    return answer.status, headers, answer.body, kinds, type(answer.error)


def narrowing(seed: int) -> bool | str:
    """On, as it is by default, off, and of the guards alone; each for a third of the seeds."""
    settings: tuple[bool | str, ...] = (True, "guard", False)
    return settings[seed // 1000 % 3]


def run(folder: Path, seed: int, *, allow_all: bool) -> tuple[Log, list[tuple[Any, ...]]]:
    folder.mkdir()
    return asyncio.run(drive(folder, seed, allow_all=allow_all))


async def drive(folder: Path, seed: int, *, allow_all: bool) -> tuple[Log, list[tuple[Any, ...]]]:
    bare, guarded = App(seed, folder), App(seed, folder)
    log = make_log(folder)
    policy = write_policy(folder, policy_text(bare.endpoints, allow_all=allow_all))
    guarded.app.add_middleware(
        AuditMiddleware, policy=policy, log=str(log.path), service="fuzz", inventory="warn", narrow=narrowing(seed)
    )
    rows = []
    async with Running(bare.app), Running(guarded.app) as running:
        assert running.failed is None, running.failed
        for method, path, headers in requests(bare, REQUESTS, seed + 1):
            bare.ran.clear()
            guarded.ran.clear()
            expected = await call(bare.app, method, path, headers)
            got = await call(guarded.app, method, path, headers)
            rows.append(((method, path, headers), list(bare.ran), expected, list(guarded.ran), got))
    return log, rows


@pytest.mark.parametrize("seed", range(0, APPS * 1000, 1000))
def test_allowing_changes_nothing_and_names_what_ran(tmp_path: Path, seed: int) -> None:
    log, rows = run(tmp_path / "allow", seed, allow_all=True)
    records = {record["action_id"]: record for record in log.outcomes()}
    for request, bare_ran, expected, ran, got in rows:
        assert ran == bare_ran, request
        assert seen(got) == seen(expected), request
        record = records.pop(str(got.header(b"audit-id"))) if got.header(b"audit-id") else None
        if request[0] == "WS" and record is None:
            continue  # a WebSocket closed before accept carries no headers; its record is counted below
        assert record is not None, request
        named = [name for name, _ in bare_ran if not name.startswith("opaque")]
        assert record["action"] == (named[0] if named else None), (request, record)
        assert record["decision"]["cause"] != "error", (request, record)
        assert "route_mismatch" not in record["flags"]
    unanswered = [row for row in rows if not row[4].header(b"audit-id")]
    assert len(records) == len(unanswered)


@pytest.mark.parametrize("seed", range(0, APPS * 1000, 1000))
def test_denying_stops_exactly_what_is_denied(tmp_path: Path, seed: int) -> None:
    _, rows = run(tmp_path / "deny", seed, allow_all=False)
    for request, bare_ran, expected, ran, got in rows:
        if not bare_ran:
            served = expected.status is not None and expected.status < 300
            preflight = any(name == b"access-control-request-method" for name, _ in request[2])
            if served and not preflight:  # documentation pages, frontends: no action, so no permission
                assert got.status == 403, request
            elif expected.status == 404:  # a frontend is opaque: refused before it can look for the file
                assert got.status in (404, 403), request
            elif not served:
                assert seen(got) == seen(expected), request
            assert ran == [], request
            continue
        name = bare_ran[0][0]
        if name.startswith("opaque"):
            assert (ran, got.status) == ([], 403), request
        elif int(name.removeprefix("r.e")) % 2:
            assert ran == bare_ran, request
            assert seen(got) == seen(expected), request
        else:
            assert ran == [], request
            assert got.status == (403 if request[0] == "WS" else 401), request


def test_the_random_applications_are_worth_it(tmp_path: Path) -> None:
    """Most requests must reach something, of every kind; or the comparisons above compare 404 with 404."""
    assert Counter(map(narrowing, range(0, APPS * 1000, 1000))).keys() == {True, "guard", False}
    statuses: Counter[int | None] = Counter()
    ran: Counter[str] = Counter()
    for seed in range(0, 12_000, 1000):
        _, rows = run(tmp_path / str(seed), seed, allow_all=True)
        for request, bare_ran, expected, _, _ in rows:
            statuses[expected.status] += 1
            ran[
                "websocket" if request[0] == "WS" and bare_ran else "opaque" if "opaque" in str(bare_ran) else "route"
            ] += bool(bare_ran)
    assert {200, 307, 404, 405, 101} <= set(statuses), statuses
    assert ran["route"] > 150, ran
    assert ran["opaque"] > 5, ran
    assert ran["websocket"] > 2, ran
