"""What clients and broken servers can send: it never crashes a request, injects a line, or loses a record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.routing import Host, Mount, Route

from audit_middleware.frameworks.marks import action
from tests.kit import Answer, Log, Running, call, make_log
from tests.middleware.service import READER, Service, app_of
from tests.middleware.support import Exchange, check_log, guard, http_scope, journal_bytes, shown

T = TypeVar("T")
POLICY = """
default: allow
actions:
  doc.read: {allow: [anyone], record: response}
"""


async def show(request: Request) -> Response:
    """Says what it got."""
    return PlainTextResponse(repr(dict(request.path_params)))


@action("doc.read", resource="rest/{rest}")
class AnyMethod:
    """An ASGI endpoint: takes every method."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await show(Request(scope))
        await response(scope, receive, send)


def _app() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.api_route("/item/{name}", methods=["GET", "POST", "DELETE"])
    @action("doc.read", resource="item/{name}")
    async def item(name: str, request: Request) -> Response:
        return PlainTextResponse(repr(name) + repr(len(await request.body())))

    @app.get("/number/{number}")
    @action("doc.read")
    async def number(number: int, q: str = "") -> dict[str, Any]:
        return {"number": number, "q": q}

    @app.websocket("/socket/{name}")
    @action("doc.read")
    async def socket(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    app.router.routes += [
        Route("/rest/{rest:path}", AnyMethod()),
        Mount("/mount/{name}", app_of(Route("/{inner}", show))),
        Host("{tenant}.example", app_of(Route("/{any:path}", show))),
    ]
    return app


# --- one by one --------------------------------------------------------------------------------------------------


def ask(service: Service, method: str, path: str, *arguments: Any, **more: Any) -> tuple[Answer, dict[str, Any]]:
    """One request to the application above, everything allowed."""
    service.policy = POLICY
    return service.ask(_app(), method, path, *arguments, **more)


def test_a_newline_in_the_path_is_data(service: Service) -> None:
    answer, record = ask(service, "GET", "/item/1\n")
    assert answer.body.startswith(b"'1\\n'")
    assert (record["request"]["path"], record["resource"]["id"]) == ("/item/1\n", "1\n")
    assert record["request"]["path_params"] == {"name": "1\n"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\x85", "\x0b", "\x1e"])
def test_no_line_can_be_forged(service: Service, end: str) -> None:
    """A whole record as a path, a header, a query and an ID, with every kind of line end around it."""
    _, genuine = Service(service.folder / "other", make_log(_made(service.folder / "other")), POLICY).ask(
        _app(), "GET", "/item/x"
    )
    forged = end + json.dumps(genuine | {"user_id": "forged"}) + end
    raw = forged.encode()
    headers = [
        (name, raw) for name in (b"user-agent", b"referer", b"x-correlation-id", b"traceparent", b"content-type")
    ]
    _, record = ask(service, "POST", "/item/" + forged.replace("/", "_"), headers, raw, query=raw)
    assert record["user_id"] == "anonymous"
    lines = journal_bytes(service.log).split(b"\n")
    assert not any(line.startswith(b'{"action') and b'"user_id":"forged"' in line for line in lines)
    assert len([line for line in lines if line]) == len(service.log.records()) + _commits(service.log)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _commits(log: Log) -> int:
    return sum(b'"sha256":' in line[-100:] and line.startswith(b'{"commit') for line in journal_bytes(log).split(b"\n"))


@pytest.mark.parametrize(
    "path", ["/item/\x00", "/item/\ud800\udc00", "/item/\udcff", "/rest/\ud800", "/item/\U0010ffff", "/item/%00"]
)
def test_odd_characters_in_the_path(service: Service, path: str) -> None:
    answer, record = ask(service, "GET", path)
    assert answer.status == 200
    assert record["action"] == "doc.read"
    assert record["request"]["path"] == path.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_bytes_that_are_not_utf_8(service: Service) -> None:
    bad = b"\xff\xfe\x80 caf\xe9"
    headers = [
        (name, bad) for name in (b"user-agent", b"referer", b"host", b"cookie", b"x-forwarded-for", b"x-request-id")
    ]
    answer, record = ask(service, "GET", "/item/x", headers, query=b"q=" + bad)
    assert answer.status == 200
    assert record["user_agent"] == bad.decode("utf-8", "replace")
    assert "\ufffd" in record["request"]["query"]


def test_a_header_of_a_megabyte(service: Service) -> None:
    large = b"x" * 1_000_000
    names = (
        b"user-agent",
        b"referer",
        b"x-forwarded-for",
        b"x-correlation-id",
        b"traceparent",
        b"tracestate",
        b"x-other",
    )
    answer, record = ask(service, "GET", "/item/x", [(name, large) for name in names])
    assert answer.status == 200
    assert len(record["user_agent"]) <= 512
    assert len(json.dumps(record)) < 65_535
    assert answer.header(b"x-correlation-id") != large.decode()


def test_ten_thousand_headers(service: Service) -> None:
    names = [
        b"referer",
        b"x-forwarded-for",
        b"forwarded",
        b"x-correlation-id",
        b"tracestate",
        b"accept",
        b"cookie",
        b"a",
    ]
    headers = [(names[number % len(names)], b"value, %d" % number) for number in range(10_000)]
    started = time.monotonic()
    answer, record = ask(service, "GET", "/item/x", headers)
    assert answer.status == 200
    assert len(record["forwarded"]["untrusted"]) <= 16
    assert time.monotonic() - started < 30, "work that grows with the square of what a client sends"


def test_odd_header_names(service: Service) -> None:
    names = [b"", b" ", b"\x00", b"\xff", b"a\r\nb", b"Referer", b"x" * 100_000, b"__proto__", b"\n{}"]
    answer, record = ask(service, "GET", "/item/x", [(name, b"v") for name in names])
    assert answer.status == 200
    assert record["request"]["headers"] == {}


@pytest.mark.parametrize("name", [b"x-correlation-id", b"x-request-id", b"traceparent"])
def test_correlation_headers_that_contradict_each_other(service: Service, name: bytes) -> None:
    values = [b"00-%032x-%016x-01" % (number, number) for number in (1, 2)]
    answer, record = ask(service, "GET", "/item/x", [(name, value) for value in values])
    assert answer.status == 200
    given = answer.header(b"x-correlation-id")
    assert given is not None
    assert given.encode() not in values
    assert record["trace"]["correlation_id"] == given
    assert record["trace"]["trace_id"] is None
    if name == b"x-correlation-id":
        assert record["trace"]["client_correlation_id"] == b",".join(values).decode()


def test_correlation_headers_that_agree_twice(service: Service) -> None:
    answer, _ = ask(service, "GET", "/item/x", [(b"x-correlation-id", b"a-1")] * 3)
    assert answer.header(b"x-correlation-id") == "a-1"


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x=1", b"\x00", b"", b"<script>", b"a" * 129, b"\xc3\xa9", b"a b"])
def test_a_bad_correlation_id_is_replaced_not_reflected(service: Service, value: bytes) -> None:
    answer, record = ask(service, "GET", "/item/x", [(b"x-correlation-id", value)])
    given = answer.header(b"x-correlation-id")
    assert given is not None
    assert len(given) == 32
    assert all(value not in pair[1] or not value for pair in answer.headers)
    assert record["trace"]["correlation_id"] == given


@pytest.mark.parametrize("method", ["A" * 100_000, "", "G\nET", "\ud800", "get", "DISPATCH", "__CLASS__", "é", "\x00"])
def test_odd_methods(service: Service, method: str) -> None:
    answer, record = ask(service, method, "/rest/x")
    assert answer.status == 200
    assert len(record["request"]["method"].encode()) <= 32
    assert record["action"] == "doc.read"


HOSTS = [
    b"",
    b"\x00",
    b"a b",
    b"a@b",
    b"[::1",
    b"a:99999999",
    b"x" * 100_000,
    b"a\r\nb",
    b"\xff",
    b"/../",
    b"t.example:",
]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: repr(host[:20]))
def test_absurd_hosts(service: Service, host: bytes) -> None:
    answer, record = ask(service, "GET", "/item/x", [(b"host", host), (b"host", b"second")])
    assert answer.status == 200
    assert record["request"]["route"] == "/item/{name}"


def test_a_body_that_never_ends_is_bounded_in_memory(service: Service) -> None:
    """The handler gives up; what was captured of it is bounded, what was read is counted."""

    async def sink(request: Request) -> Response:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size >= 64 * 2**20:
                return Response(status_code=413)
        raise AssertionError

    async def drive(app: Any) -> None:
        chunk = {"type": "http.request", "body": b"[" * 65_536, "more_body": True}

        async def receive() -> Any:
            return chunk

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await app(http_scope("POST", "/", [(b"content-type", b"application/json")]), receive, send)
        assert sent[0]["status"] == 413

    service.policy = POLICY
    [record] = service.run(app_of(Route("/", action("doc.read")(sink), methods=["POST"])), drive)
    assert record["request"]["size"] == 64 * 2**20
    assert record["request"]["body"] == {
        "content": None,
        "content_type": "application/json",
        "size": 64 * 2**20,
        "truncated": True,
    }


def test_a_denied_body_that_never_ends_is_never_asked_for(service: Service) -> None:
    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/", READER))  # nothing ever comes
        await exchange.end()
        assert (exchange.received, exchange.messages[0]["status"]) == (0, 403)

    async def page(request: Request) -> Response:
        return Response(await request.body())

    [record] = service.run(app_of(Route("/", action("doc.delete")(page), methods=["POST"])), drive)
    assert record["outcome"] == "denied"


@pytest.mark.parametrize(
    "container", [tuple, iter, lambda pairs: (pair for pair in pairs)], ids=["tuple", "iterator", "generator"]
)
def test_headers_in_any_iterable(service: Service, container: Any) -> None:
    """ASGI asks for an iterable; Starlette makes a list of it at its first look, so that must find them all."""

    async def page(request: Request) -> Response:
        return PlainTextResponse(request.headers["x-a"] + request.headers["user-agent"])

    pairs = [(b"x-a", b"1"), (b"user-agent", b"u")]

    async def drive(app: Any) -> None:
        scope = http_scope("GET", "/")
        scope["headers"] = container(pairs)
        exchange = Exchange(app, scope, {"type": "http.request"})
        await exchange.end()
        assert exchange.messages[1]["body"] == b"1u"

    service.policy = POLICY
    [record] = service.run(app_of(Route("/", action("doc.read")(page))), drive)
    assert record["user_agent"] == "u"


# --- everything at once ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None), max_size=30)  # lone surrogates too
ROUTES = ["/item/", "/number/", "/rest/", "/mount/m/", "/socket/", "/socket/", "/mount/", "/", "//", ""]
ENDS = ["1", "7", "x", "1\n", "x/y", "é", "..", "%2e%2e/x", "\x00", "\ud800"]
PATHS = st.builds("{}{}".format, st.sampled_from(ROUTES), st.one_of(st.sampled_from(ENDS), TEXT))
NAMES = st.one_of(
    st.sampled_from(
        b"host user-agent referer origin cookie content-type content-length accept x-forwarded-for forwarded "
        b"traceparent tracestate x-correlation-id x-request-id authorization range if-none-match expect".split()
    ),
    st.binary(max_size=12),
)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"t.example",
            b"application/json",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b'for="[2001:db8::1]:80";by=x, for=unknown',
            b"10.0.0.1, 1.2.3.4",
            b"x" * 9000,
            b'"' * 5000,
            b"bytes=0-,1-",
        ]
    ),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
BODIES = st.lists(
    st.one_of(
        st.binary(max_size=50).map(lambda body: {"body": body}),
        st.just({}),
        st.just({"body": b'{"password": "x", "a": [1.5, null]}'}),
    ),
    max_size=4,
)
OPTIONAL: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "client": st.sampled_from([None, ("1.2.3.4", 5), ["::1", 0], ("", 0), ("testclient", 50000), ("a" * 99, 1)]),
        "server": st.sampled_from([None, ("a", 80), ("/run/socket", None)]),
        "root_path": st.sampled_from(["", "/proxy", "/item", "\ud800"]),
        "raw_path": st.sampled_from([None, b"", b"\xff"]),
        "scheme": st.sampled_from(["https", "ws", "wss"]),
        "http_version": st.sampled_from(["1.0", "2", "3"]),
        "extensions": st.sampled_from([None, {}, {"websocket.http.response": {}}, {"http.response.pathsend": {}}]),
        "state": st.just({}),
        "query_string": st.binary(max_size=60),
    },
)
KNOWN = st.sampled_from(["GET", "GET", "GET", "POST", "DELETE", "HEAD", "OPTIONS", "QUERY", "PUT"])
METHODS = st.integers(0, 5).flatmap(lambda roll: TEXT if roll == 0 else KNOWN)  # mostly ones that can reach a route

TARGETS = st.builds(  # what a route takes, as the text has no slash
    lambda target, text: (target[0], target[1] + (text.replace("/", "|") or "x")),
    st.sampled_from(
        [("POST", "/item/"), ("GET", "/item/"), ("WS", "/socket/"), ("PUT", "/rest/"), ("GET", "/mount/m/")]
    ),
    st.one_of(st.sampled_from(ENDS), TEXT),
)
ANYWHERE = st.tuples(st.one_of(st.just("WS"), METHODS), PATHS)


@st.composite
def connections(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A scope, with any optional key missing, and the messages that come."""
    method, path = draw(st.one_of(TARGETS, TARGETS, ANYWHERE))
    websocket = method == "WS"
    scope: dict[str, Any] = {
        "type": "websocket" if websocket else "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "path": path,
        "query_string": b"",
        "headers": draw(HEADERS),
    }
    scope |= draw(OPTIONAL)
    if scope.get("extensions", 0) is None:
        del scope["extensions"]
    if websocket:
        texts = draw(st.lists(TEXT, max_size=3))
        said = [{"type": "websocket.receive", "text": text} for text in texts]
        code = draw(st.sampled_from([1000, 1001, 1006, 1012, 4000]))
        return scope, [{"type": "websocket.connect"}, *said, {"type": "websocket.disconnect", "code": code}]
    scope["method"] = method
    parts = draw(BODIES)
    messages: list[dict[str, Any]] = []
    for at, part in enumerate(parts):
        messages.append({"type": "http.request", "more_body": at < len(parts) - 1} | part)
    return scope, [*(messages or [{"type": "http.request"}]), {"type": "http.disconnect"}]


class Loop:
    """A loop in which a bare and a guarded application run while Hypothesis asks."""

    def __init__(self, folder: Path) -> None:
        self.log = make_log(folder)
        self.asked = 0
        self.bare = _app()
        self.guarded = guard(_app(), folder, self.log, POLICY)
        self._runner = asyncio.Runner()
        self._running = self._both()
        self.run(self._running.__anext__())

    async def _both(self) -> AsyncIterator[None]:
        async with Running(self.bare), Running(self.guarded) as running:
            assert running.failed is None, running.failed
            yield

    def run(self, work: Awaitable[T]) -> T:
        async def main() -> T:
            return await work

        return self._runner.run(main())

    async def ask(self, app: Any, scope: dict[str, Any], messages: list[dict[str, Any]]) -> Answer:
        """One connection; the scope is the application's own."""
        own = {key: list(value) if key == "headers" else value for key, value in scope.items()}
        exchange = Exchange(app, own, *messages)
        await exchange.end()
        return exchange.answer()

    def close(self) -> None:
        with pytest.raises(StopAsyncIteration):
            self.run(self._running.__anext__())
        self._runner.close()


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """The two applications; when all was asked, the log is checked."""
    loop = Loop(tmp_path_factory.mktemp("hostile"))
    yield loop
    loop.close()
    records = check_log(loop.log)
    assert len(records) == loop.asked, "a record for each request, and none that nobody asked for"
    assert sum(record["action"] is not None for record in records) > loop.asked / 10, "too few reached a route"


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(connections())
@example(({**http_scope("GET", "/item/1\n"), "headers": []}, [{"type": "http.request"}]))
def test_any_connection_is_served_as_without_us_and_recorded(loop: Loop, connection: Any) -> None:
    scope, messages = connection
    expected = loop.run(loop.ask(loop.bare, scope, messages))
    loop.asked += 1
    got = loop.run(loop.ask(loop.guarded, scope, messages))
    assert shown(got) == shown(expected)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(connections())
def test_many_connections_are_served_as_without_us(loop: Loop, connection: Any) -> None:
    scope, messages = connection
    expected = loop.run(loop.ask(loop.bare, scope, messages))
    loop.asked += 1
    got = loop.run(loop.ask(loop.guarded, scope, messages))
    assert shown(got) == shown(expected)


def test_plain_call_for_the_default_run(service: Service) -> None:
    """The application that is asked above works: its answers are not all errors."""

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/number/7")).json() == {"number": 7, "q": ""}
        assert (await call(app, "GET", "/mount/a/b")).body == b"{'name': 'a', 'inner': 'b'}"
        assert (await call(app, "GET", "/x", [(b"host", b"t.example")])).status == 200

    service.policy = POLICY
    assert len(service.run(_app(), drive)) == 3
