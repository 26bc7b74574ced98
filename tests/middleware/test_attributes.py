"""What rules read of the resource and the body: fetched only where it matters; what cannot be had is a denial."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from audit_middleware.errors import ConfigError
from audit_middleware.frameworks.marks import action
from audit_middleware.pipeline.body import parse
from tests.kit import call
from tests.middleware.service import READER, Service, app_of, as_
from tests.middleware.support import DISCONNECT, Exchange, http_scope, request

POLICY = """
roles: {reader: {}, admin: {}}
actions:
  doc.edit:
    allow:
      - {name: owner, roles: [reader], when: {resource.owner: {same_as: subject.id}}}
      - {name: admin, roles: [admin]}
  doc.tenant:
    allow: [{name: own, roles: [reader], when: {resource.tenant: {same_as: subject.id}}}]
  doc.frozen:
    allow: [reader, admin]
    deny: [{name: frozen, roles: [anyone], when: {resource.state: frozen}}]
  doc.asked:
    allow: [{name: asked, roles: [reader], when: {predicate: asked}}]
  doc.plain: {allow: [reader]}
  doc.watched:
    mode: monitor
    allow: [{name: owner, roles: [reader], when: {resource.owner: {same_as: subject.id}}}]
  pay.out:
    record: request
    allow:
      - {name: small, roles: [reader], when: {context.body.amount: {lte: 500}}}
      - {name: any, roles: [admin]}
  pay.optional:
    allow: [{name: small, roles: [reader], when: {not: {context.body.amount: {exists: true, gt: 500}}}}]
  pay.watched:
    mode: monitor
    allow: [{name: small, roles: [reader], when: {context.body.amount: {lte: 500}}}]
"""
ADMIN, ANN = as_("root:admin"), as_("ann:reader")
JSON = (b"content-type", b"application/json")
DEEP = b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"


@pytest.fixture
def service(tmp_path: Path, log: Any) -> Service:
    """Guarded by the policy above; a rule may ask a predicate."""
    predicates = {"asked": lambda request: request["resource"]["properties"].get("owner") == "ann"}
    return Service(tmp_path, log, POLICY, {"predicates": predicates})


class Loader:
    """Answers with what it was given, and counts."""

    def __init__(self, answer: Any = None, error: BaseException | None = None) -> None:
        self.answer, self.error = answer, error
        self.asked: list[HTTPConnection] = []
        self.threads: set[int] = set()

    def __call__(self, connection: HTTPConnection) -> Any:
        self.asked.append(connection)
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        return self.answer


def as_async(loader: Loader) -> Any:
    """The same as a coroutine function."""

    async def load(connection: HTTPConnection) -> Any:
        await asyncio.sleep(0)
        return loader(connection)

    return load


def docs(name: str, loader: Any, path: str = "/docs/{doc}") -> Any:
    """One route."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("done")

    return app_of(Route(path, action(name, resource="doc/{doc}", resource_properties=loader)(endpoint)))


KINDS: list[Callable[[Loader], Any]] = [lambda loader: loader, as_async, lambda loader: partial(loader)]


@pytest.mark.parametrize("kind", KINDS, ids=["sync", "async", "partial"])
@pytest.mark.parametrize(("owner", "status", "cause"), [("ann", 200, "rule"), ("bob", 403, "default")])
def test_a_rule_about_the_owner(service: Service, kind: Any, owner: str, status: int, cause: str) -> None:
    loader = Loader({"owner": owner})
    answer, record = service.ask(docs("doc.edit", kind(loader)), "GET", "/docs/7", ANN)
    assert (answer.status, record["decision"]["cause"]) == (status, cause)
    [connection] = loader.asked
    assert connection.path_params == {"doc": "7"}
    assert connection.headers["x-user"] == "ann:reader"
    assert (threading.get_ident() in loader.threads) is (kind is as_async), "a plain function may block"
    assert record["resource"]["properties"] == {}, "what was loaded decides, and is not recorded"


@pytest.mark.parametrize(
    ("name", "headers", "path", "status"),
    [
        ("doc.plain", ANN, "/docs/{doc}", 200),  # no rule reads anything
        ("doc.edit", ADMIN, "/docs/{doc}", 200),  # granted by another rule
        ("doc.edit", as_("root:reader,admin"), "/docs/{doc}", 200),
        ("doc.edit", [], "/docs/{doc}", 401),  # no rule is about nobody
        ("doc.edit", as_("eve:other"), "/docs/{doc}", 403),
        ("doc.edit", as_("forged"), "/docs/{doc}", 401),
        ("doc.edit", as_("outage"), "/docs/{doc}", 503),
        ("doc.tenant", ANN, "/{tenant}/{doc}", 200),  # the path tells
    ],
)
def test_nobody_is_asked_where_it_does_not_matter(
    service: Service, name: str, headers: Any, path: str, status: int
) -> None:
    loader = Loader({"owner": "ann", "tenant": "other"})
    answer, _ = service.ask(docs(name, loader, path), "GET", "/docs/7" if "docs" in path else "/ann/7", headers)
    assert (answer.status, loader.asked) == (status, [])


@pytest.mark.parametrize(("name", "headers"), [("doc.frozen", ADMIN), ("doc.frozen", ANN), ("doc.asked", ANN)])
def test_deny_rules_and_predicates_are_told(service: Service, name: str, headers: Any) -> None:
    loader = Loader({"state": "open", "owner": "ann"})
    answer, _ = service.ask(docs(name, loader), "GET", "/docs/7", headers)
    assert (answer.status, len(loader.asked)) == (200, 1)


def test_a_deny_rule_on_a_loaded_state(service: Service) -> None:
    answer, record = service.ask(docs("doc.frozen", Loader({"state": "frozen"})), "GET", "/docs/7", ADMIN)
    assert (answer.status, record["decision"]["rule"]) == (403, "frozen")


@pytest.mark.parametrize(
    ("loader", "detail"),
    [
        (Loader(error=KeyError("hunter2")), "loader raised KeyError"),
        (Loader(error=HTTPException(404, "hunter2")), "loader raised HTTPException"),
        (Loader(error=TimeoutError()), "loader timeout"),
        (Loader(None), "loader gave no mapping of names"),
        (Loader(["owner", "ann"]), "loader gave no mapping of names"),
        (Loader({1: "ann"}), "loader gave no mapping of names"),
        (Loader({"owner": "ann", "doc": "8"}), "loader contradicts the path parameter doc"),
        (Loader({}), "owner: resource.owner is missing"),
        (Loader({"owner": None}), "owner: resource.owner is missing"),
        (Loader({"owner": ["ann"]}), "owner: resource.owner is not a single text, number or boolean"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", KINDS, ids=["sync", "async", "partial"])
def test_what_cannot_be_had_denies(service: Service, kind: Any, loader: Loader, detail: str) -> None:
    answer, record = service.ask(docs("doc.edit", kind(loader)), "GET", "/docs/7", ANN)
    assert (answer.status, answer.body) == (403, b"Forbidden")
    decision = record["decision"]
    assert (decision["effect"], decision["cause"], decision["detail"]) == ("deny", "error", detail)
    assert "hunter2" not in json.dumps(record)


def test_a_parameter_that_the_loader_repeats_is_no_contradiction(service: Service) -> None:
    answer, _ = service.ask(docs("doc.edit", Loader({"owner": "ann", "doc": 7})), "GET", "/docs/7", ANN)
    assert answer.status == 200


def test_a_coroutine_from_a_plain_function_is_not_waited_for(service: Service) -> None:
    async def load(connection: HTTPConnection) -> Mapping[str, str]:
        return {"owner": "ann"}

    made: list[Any] = []

    def loader(connection: HTTPConnection) -> Any:
        made.append(load(connection))
        return made[-1]

    answer, record = service.ask(docs("doc.edit", loader), "GET", "/docs/7", ANN)
    made[0].close()
    assert (answer.status, record["decision"]["detail"]) == (403, "loader gave no mapping of names")


@pytest.mark.parametrize("blocking", [True, False])
def test_a_loader_that_takes_too_long(service: Service, blocking: bool) -> None:
    service.settings["decision_timeout"] = 100
    go = threading.Event()

    async def slow(connection: HTTPConnection) -> None:
        await asyncio.sleep(60)

    def blocked(connection: HTTPConnection) -> None:
        go.wait(60)

    async def drive(app: Any) -> None:
        started = time.monotonic()
        answers = await asyncio.gather(*(call(app, "GET", "/docs/7", ANN) for _ in range(20)))
        assert {answer.status for answer in answers} == {403}
        assert time.monotonic() - started < 30, "nobody waited for the loader"
        go.set()

    records = service.run(docs("doc.edit", blocked if blocking else slow), drive)
    assert {record["decision"]["detail"] for record in records} == {"loader timeout"}


def test_monitored_an_error_is_recorded_and_the_request_passes(service: Service) -> None:
    answer, record = service.ask(docs("doc.watched", Loader(error=ValueError())), "GET", "/docs/7", ANN)
    assert answer.status == 200
    assert (record["decision"]["cause"], record["decision"]["detail"]) == ("error", "loader raised ValueError")


def test_class_based_endpoints_and_websockets(service: Service) -> None:
    loader = Loader({"owner": "ann"})

    @action("doc.edit", resource="doc/{doc}", resource_properties=loader)
    class Docs(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("done")

    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    watch = action("doc.edit", resource="doc/{doc}", resource_properties=loader)(feed)

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/sub/docs/7", ANN)).status == 200
        assert (await call(app, "WS", "/feed/8", ANN)).status == 101
        assert (await call(app, "WS", "/feed/8", as_("bob:reader"))).status == 403

    inner = Router([Route("/docs/{doc}", Docs)])
    service.run(app_of(Mount("/sub", inner), WebSocketRoute("/feed/{doc}", watch)), drive)
    assert [one.path_params for one in loader.asked] == [{"doc": "7"}, {"doc": "8"}, {"doc": "8"}]


def test_fastapi_gives_what_the_path_says(service: Service) -> None:
    app = FastAPI(openapi_url=None)
    loader = Loader({"owner": "ann"})

    @app.get("/docs/{doc}")
    @action("doc.edit", resource="doc/{doc}", resource_properties=loader)
    def read(doc: int) -> int:
        return doc

    answer, _ = service.ask(app, "GET", "/docs/7", ANN)
    assert answer.json() == 7
    assert loader.asked[0].app is app


def test_a_loader_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resource_properties of doc\.edit"):
        action("doc.edit", resource_properties={"owner": "ann"})  # type: ignore[arg-type]  # that is the mistake


# --- the body ----------------------------------------------------------------------------------------------------


class Payment(BaseModel):
    """As FastAPI reads it."""

    amount: int


def payments(name: str = "pay.out") -> Any:
    """Says back what it read, in Starlette's way and in FastAPI's."""
    app = FastAPI(openapi_url=None)

    async def echo(request: Request) -> Response:
        chunks = [chunk async for chunk in request.stream()]
        return JSONResponse([chunk.decode("latin-1") for chunk in chunks])

    app.router.routes.append(Route("/echo", action(name)(echo), methods=["POST"]))

    @app.post("/model")
    @action(name)
    def model(payment: Payment) -> int:
        return payment.amount

    return app


@pytest.mark.parametrize(("amount", "status"), [(500, 200), (501, 403), (-1, 200)])
@pytest.mark.parametrize("path", ["/echo", "/model"])
def test_a_rule_about_the_body(service: Service, path: str, amount: int, status: int) -> None:
    body = b'{"amount": %d}' % amount
    answer, record = service.ask(payments(), "POST", path, [*ANN, JSON], body)
    assert answer.status == status
    if status == 200:
        assert answer.json() == (amount if path == "/model" else [body.decode(), ""])
    else:
        assert record["decision"]["near_misses"] == ["small: context.body.amount lte 500"]
    assert record["request"]["size"] == len(body), "counted once"
    assert record["request"]["body"]["content"] == {"amount": amount}, "recorded although it was read ahead"


def test_every_message_is_replayed_as_it_came(service: Service) -> None:
    parts = [b'{"am', b"", b'ount": ', b"5}"]

    async def drive(app: Any) -> None:
        messages = [*(request(part, more=True) for part in parts), request()]
        exchange = Exchange(app, http_scope("POST", "/echo", [*ANN, JSON]), *messages)
        await exchange.end()
        assert exchange.answer().json() == [part.decode() for part in parts if part] + [""]
        assert exchange.received in (5, 6), "each message once; what comes after is not asked for by us"

    service.run(payments(), drive)


def test_nothing_is_read_where_no_rule_about_this_caller_reads_it(service: Service) -> None:
    async def drive(app: Any) -> None:
        for headers, status in ((ADMIN, 200), ([], 401), (as_("eve:other"), 403)):
            exchange = Exchange(app, http_scope("POST", "/echo", [*headers, JSON]), request(b"{"))
            await exchange.end()
            assert exchange.messages[0]["status"] == status
            assert (exchange.received > 0) is (status == 200), "the handler reads, we do not"

    service.run(payments(), drive)


@pytest.mark.parametrize(
    ("body", "kinds", "detail"),
    [
        (b"", [b"application/json"], "small: context.body.amount is missing"),
        (b"{}", [b"application/json"], "small: context.body.amount is missing"),
        (b"[1]", [b"application/json"], "small: context.body.amount is missing"),
        (b'{"amount": "5"}', [b"application/json"], "small: context.body.amount is text, not a number"),
        (b'{"amount": true}', [b"application/json"], "small: context.body.amount is a boolean, not a number"),
        (b'{"amount": 5}', [b"text/plain"], "body: its content type is not JSON"),
        (b'{"amount": 5}', [], "body: its content type is not JSON"),
        (b'{"amount": 5}', [b"application/json", b"application/json"], "body: its content type is not JSON"),
        (b'{"amount": 5}', [b"application/jsonp"], "body: its content type is not JSON"),
        (b"amount=5", [b"application/x-www-form-urlencoded"], "body: its content type is not JSON"),
        (b"{", [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": 5, "amount": 501}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"a": {"b": 1, "b": 2}, "amount": 5}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": 5, "\\u0061mount": 501}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": NaN}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": -Infinity}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": -1e999}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": 5} {"amount": 501}', [b"application/json"], "body: not JSON with a single meaning"),
        ('{"amount": 5}'.encode("utf-16"), [b"application/json"], "body: not JSON with a single meaning"),
        (b'\xef\xbb\xbf{"amount": 5}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": 5, "x": "\xff"}', [b"application/json"], "body: not JSON with a single meaning"),
        (b'{"amount": ' + b"9" * 5000 + b"}", [b"application/json"], "body: not JSON with a single meaning"),
        (
            b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            [b"application/json"],
            "body: not JSON with a single meaning",
        ),
        (b'{"amount": 5, "x": "' + b"x" * 65_536 + b'"}', [b"application/json"], "body: larger than a rule may read"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_has_no_single_meaning_denies(
    service: Service, body: bytes, kinds: list[bytes], detail: str
) -> None:
    headers = [*ANN, *((b"content-type", kind) for kind in kinds)]
    answer, record = service.ask(payments(), "POST", "/echo", headers, body)
    assert answer.status == 403
    assert (record["decision"]["cause"], record["decision"]["detail"]) == ("error", detail)


@pytest.mark.parametrize("kind", ["text/plain", ""])
def test_a_rule_that_takes_no_amount_for_granted_is_not_fooled_by_the_content_type(service: Service, kind: str) -> None:
    """Frameworks read JSON under other content types too: to a rule it must not look like no body at all."""
    headers = [*ANN, *([(b"content-type", kind.encode())] if kind else [])]
    answer, record = service.ask(payments("pay.optional"), "POST", "/model", headers, b'{"amount": 501}')
    assert (answer.status, record["decision"]["cause"]) == (403, "error")


def test_types_that_end_in_json_and_a_missing_body(service: Service) -> None:
    kind = (b"content-type", b'Application/Problem+JSON; charset="utf-8"')
    answer, _ = service.ask(payments(), "POST", "/echo", [*ANN, kind], b'{"amount": 5}')
    assert answer.status == 200
    assert parse(b"", []) is None


def test_monitored_a_body_that_is_too_large_arrives_whole(service: Service) -> None:
    parts = [b'{"amount": 1, "x": "', b"x" * 70_000, b"y" * 70_000, b'"}']

    async def drive(app: Any) -> None:
        messages = [request(part, more=part is not parts[-1]) for part in parts]
        exchange = Exchange(app, http_scope("POST", "/echo", [*ANN, JSON]), *messages)
        await exchange.end()
        assert "".join(exchange.answer().json()).encode() == b"".join(parts)

    [record] = service.run(payments("pay.watched"), drive)
    assert record["decision"]["detail"] == "body: larger than a rule may read"
    assert record["request"]["size"] == sum(map(len, parts))


def test_a_client_that_goes_away_while_its_body_is_read(service: Service) -> None:
    async def drive(app: Any) -> None:
        messages = (request(b'{"amount"', more=True), DISCONNECT)
        exchange = Exchange(app, http_scope("POST", "/echo", [*ANN, JSON]), *messages)
        await exchange.end()

    [record] = service.run(payments(), drive)
    assert (record["decision"]["detail"], record["outcome"]) == ("body: the client went away", "denied")


def test_a_body_that_does_not_come(service: Service) -> None:
    service.settings["decision_timeout"] = 100

    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/echo", [*ANN, JSON]), request(b"{", more=True))
        await exchange.end()
        assert exchange.answer().status == 403

    [record] = service.run(payments(), drive)
    assert record["decision"]["detail"] == "body: not there in time"


def test_a_handler_of_refusals_may_read_the_body(service: Service) -> None:
    """A rule has read it already; who reads what is not there any more waits for ever."""

    async def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"refused": (await request.body()).decode()}, 403)

    app = payments()
    app.add_exception_handler(HTTPException, refused)

    async def drive(app: Any) -> None:
        messages = [request(b'{"amount":', more=True), request(b" 501}")]
        exchange = Exchange(app, http_scope("POST", "/echo", [*ANN, JSON]), *messages)
        await exchange.end()
        assert exchange.answer().json() == {"refused": '{"amount": 501}'}

    [record] = service.run(app, drive)
    assert record["request"]["size"] == 15


def test_a_websocket_has_no_body(service: Service) -> None:
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()

    async def drive(app: Any) -> None:
        assert (await call(app, "WS", "/", READER)).status == 403

    [record] = service.run(app_of(WebSocketRoute("/", action("pay.out")(feed))), drive)
    assert record["decision"]["detail"] == "small: context.body.amount is missing"
