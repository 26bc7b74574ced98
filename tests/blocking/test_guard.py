"""A blocked caller at the guard: refused before the handler and before the policy, whatever kind of route it is."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from audit_middleware import AuditMiddleware
from audit_middleware.detectors.blocklist import Listing
from audit_middleware.frameworks.marks import action
from audit_middleware.model import Subject
from tests.blocking.support import HOSTILE, RULE, blocks_of, entry, put
from tests.kit import Log, Running, call
from tests.middleware.service import Service, app_of, as_
from tests.middleware.support import Exchange, check_log, eventually, websocket_scope

POLICY = """
roles: {reader: {}}
actions:
  doc.read: {allow: [reader]}
  doc.quiet: {allow: [reader], record: none}
  doc.public: {allow: [anyone]}
  doc.seen: {mode: monitor, allow: [reader]}
  doc.asked: {allow: [reader], require: {reason: true}}
  doc.often: {allow: [reader], limit: {rate: 1/day}}
  doc.owned:
    allow: [{name: owner, roles: [reader], when: {resource.owner: {same_as: subject.id}}}]
  doc.before: {allow: [reader], guarantee: before}
  doc.watch: {allow: [reader]}
routes:
  - {match: 'GET /health', exempt: 'liveness probe, touches no data'}
"""
PATHS = {
    "doc.read": "/read", "doc.quiet": "/quiet", "doc.public": "/public", "doc.seen": "/seen", "doc.asked": "/asked",
    "doc.often": "/often", "doc.before": "/before",
}  # fmt: skip
ran: list[str] = []
loaded: list[str] = []


def marked(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        ran.append(name)
        return PlainTextResponse("done")

    return action(name)(endpoint)


async def load(connection: Any) -> dict[str, str]:
    loaded.append(connection.path_params["name"])
    return {"owner": "ann"}


async def health(request: Request) -> Response:
    return PlainTextResponse("well")


@action("doc.watch")
async def watch(websocket: WebSocket) -> None:
    ran.append("doc.watch")
    await websocket.accept()
    await websocket.close()


@action("doc.owned", resource="doc/{name}", resource_properties=load)
async def owned(request: Request) -> Response:
    return PlainTextResponse("yours")


def app() -> Any:
    routes = [Route(path, marked(name)) for name, path in PATHS.items()]
    inner = app_of(Route("/read", marked("doc.read")))
    return app_of(
        *routes, Route("/health", health), Route("/owned/{name}", owned), WebSocketRoute("/watch", watch),
        Mount("/inner", inner),
    )  # fmt: skip


@pytest.fixture
def service(tmp_path: Path, log: Log) -> Service:
    ran.clear()
    loaded.clear()
    return Service(tmp_path, log, POLICY, {"block_interval": 10, "trusted_proxy_depth": 1})


async def becomes(app: Any, path: str, status: int) -> int | None:
    """Asks until the answer has this status: a list is looked at every now and then."""
    for _ in range(6_000):
        answer = await call(app, "GET", path, ANN)
        if answer.status == status:
            break
        await asyncio.sleep(0.01)
    return answer.status


ANN, BOB = as_("ann:reader"), as_("bob:reader")
EVERY = [*PATHS.values(), "/owned/1", "/inner/read"]


@pytest.mark.parametrize("path", [path for path in EVERY if path not in ("/seen",)])
def test_a_blocked_caller_is_refused_before_anything_is_asked(path: str, service: Service) -> None:
    held = entry("ann")
    put(service.log, held)
    answer, record = service.ask(app(), "GET", path, ANN)
    assert answer.status == 403
    assert answer.json() == {
        "type": "urn:audit-middleware:problem:blocked", "title": "This caller is blocked for a while", "status": 403,
    }  # fmt: skip
    assert answer.header(b"content-type") == "application/problem+json"
    assert 0 < int(answer.header(b"retry-after") or 0) <= 900
    assert (ran, loaded) == ([], [])
    decision = record["decision"]
    assert (decision["effect"], decision["cause"], decision["rule"]) == ("deny", "blocked", RULE)
    assert decision["detail"].startswith("finding finding-ann, until 20")
    assert (record["outcome"], record["user_id"], record["kind"]) == ("denied", "ann", "outcome")
    assert record["flags"] == [f"finding:{RULE}"]
    assert RULE.encode() not in answer.body


@pytest.mark.parametrize("path", [path for path in EVERY if path not in ("/asked", "/owned/1")])
def test_another_caller_passes(path: str, service: Service) -> None:
    put(service.log, entry("ann"), entry("127.0.0.1", kind="address"))
    answers: list[Any] = []

    async def drive(app: Any) -> None:
        answers.append(await call(app, "GET", path, BOB))

    records = service.run(app(), drive)
    assert answers[0].status == 200
    assert not any(record["flags"] for record in records)


def test_nobody_is_blocked_by_address_and_users_there_are_not(service: Service) -> None:
    put(service.log, entry("192.0.2.1", kind="address"))
    statuses: list[int | None] = []

    async def drive(app: Any) -> None:
        for user, address in (([], b"192.0.2.1"), ([], b"192.0.2.2"), (ANN, b"192.0.2.1")):
            answer = await call(app, "GET", "/public", [*user, (b"x-forwarded-for", address)])
            statuses.append(answer.status)

    service.run(app(), drive)
    assert statuses == [403, 200, 200]


def test_what_is_exempt_and_what_is_not_there_is_not_blocked(service: Service) -> None:
    put(service.log, entry("ann"))
    statuses: list[int | None] = []

    async def drive(app: Any) -> None:
        statuses.extend([(await call(app, "GET", path, ANN)).status for path in ("/health", "/nowhere")])

    (record,) = service.run(app(), drive)
    assert statuses == [200, 404]
    assert (record["decision"]["cause"], record["flags"]) == ("no_route", [])


def test_where_the_policy_only_monitors_a_blocked_caller_passes_and_it_is_recorded(service: Service) -> None:
    put(service.log, entry("ann"))
    answer, record = service.ask(app(), "GET", "/seen", ANN)
    assert (answer.status, ran) == (200, ["doc.seen"])
    assert (record["decision"]["cause"], record["decision"]["mode"]) == ("blocked", "monitor")
    assert (record["outcome"], record["decision"]["effect"]) == ("success", "deny")


def test_a_websocket_is_refused(service: Service) -> None:
    put(service.log, entry("ann"))

    async def drive(app: Any) -> None:
        exchange = Exchange(app, websocket_scope("/watch", ANN), {"type": "websocket.connect"})
        await exchange.end()
        assert exchange.answer().status == 403

    (record,) = service.run(app(), drive)
    assert ran == []
    assert (record["decision"]["cause"], record["request"]["protocol"]) == ("blocked", "websocket")


def test_a_flagged_caller_passes_and_leaves_records_with_the_flag(service: Service) -> None:
    put(service.log, entry("ann", block=False))
    answer, record = service.ask(app(), "GET", "/quiet", ANN)
    assert (answer.status, ran) == (200, ["doc.quiet"])
    assert (record["flags"], record["decision"]["effect"]) == ([f"finding:{RULE}"], "allow")


def test_without_a_block_the_same_routes_run_and_load(service: Service) -> None:
    put(service.log, entry("eve"))
    answer, record = service.ask(app(), "GET", "/owned/1", ANN)
    assert (answer.status, loaded, record["flags"]) == (200, ["1"], [])


def test_a_block_uses_up_no_limit(service: Service) -> None:
    put(service.log, entry("ann"))
    statuses: list[int | None] = []

    async def drive(app: Any) -> None:
        statuses.extend([(await call(app, "GET", "/often", ANN)).status for _ in range(3)])
        blocks_of(service.log).change(lambda listing: listing.lift("user", "ann"), time.time_ns())

        statuses.append(await becomes(app, "/often", 200))
        statuses.append((await call(app, "GET", "/often", ANN)).status)

    service.run(app(), drive)
    assert statuses[:3] == [403, 403, 403]
    assert statuses[-2:] == [200, 429]


def test_the_list_changes_while_the_service_runs(service: Service) -> None:
    statuses: list[int | None] = []

    async def drive(app: Any) -> None:
        statuses.append((await call(app, "GET", "/read", ANN)).status)
        put(service.log, entry("ann"))
        await becomes(app, "/read", 403)
        path = blocks_of(service.log).path
        path.write_bytes(b"{")
        await eventually(lambda: service.log.controls("audit.blocks_refused"))
        statuses.append((await call(app, "GET", "/read", ANN)).status)
        blocks_of(service.log).change(lambda _: Listing(), time.time_ns(), anew=True)
        await becomes(app, "/read", 200)

    service.run(app(), drive)
    assert statuses == [200, 403], "what was good before stays in force"
    (told,) = service.log.controls("audit.blocks_refused")
    assert "is damaged" in told["extra"]["problem"]
    assert "blocks rebuild" in told["extra"]["problem"]


def test_a_damaged_list_stops_the_start(service: Service) -> None:
    blocks_of(service.log).path.write_bytes(b"nonsense")

    async def start() -> str | None:
        async with Running(service.guard(app())) as running:
            return running.failed

    assert "audit-middleware blocks rebuild" in (asyncio.run(start()) or "")


def test_the_list_can_be_left_alone(service: Service) -> None:
    put(service.log, entry("ann"))
    service.settings["block_interval"] = 0
    answer, _ = service.ask(app(), "GET", "/read", ANN)
    assert answer.status == 200


@pytest.mark.parametrize("who", HOSTILE, ids=range(len(HOSTILE)))
def test_whoever_a_record_names_is_whom_a_block_meets(who: str, service: Service) -> None:
    service.settings["identify"] = lambda scope: Subject(who, roles=("reader",))
    found: list[Any] = []

    async def drive(app: Any) -> None:
        found.append((await call(app, "GET", "/read")).status)
        (first,) = await eventually(service.log.outcomes)
        put(service.log, entry(first["user_id"]))
        found.append(await becomes(app, "/read", 403))

    *_, last = service.run(app(), drive)
    assert found == [200, 403]
    assert (last["decision"]["cause"], len(last["user_id"].encode()) <= 256) == ("blocked", True)


def test_two_event_loops_see_one_list(service: Service) -> None:
    guarded = service.guard(app())
    found: dict[str, list[int | None]] = {"one": [], "two": []}
    ready = threading.Barrier(2)

    async def ask(name: str) -> None:
        for round_ in range(2):
            await asyncio.to_thread(ready.wait, 60)
            for _ in range(20):
                found[name].append((await call(guarded, "GET", "/read", ANN if round_ else BOB)).status)

    put(service.log, entry("ann"))
    threads = [threading.Thread(target=lambda name=name: asyncio.run(ask(name))) for name in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    layer = guarded.middleware_stack
    while not isinstance(layer, AuditMiddleware):
        layer = layer.app
    layer.stop()  # no lifespan does
    assert found == {"one": [200] * 20 + [403] * 20, "two": [200] * 20 + [403] * 20}
    assert len(service.log.outcomes()) == 80
    check_log(service.log)
