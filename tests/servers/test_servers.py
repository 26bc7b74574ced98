"""The same promises behind real servers: real sockets, real clients, real disconnects."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets
from httpx_ws import connect_ws
from websockets.exceptions import InvalidStatus

from tests.middleware.support import check_log
from tests.servers.running import COMMANDS, PATIENCE, Server, until

READER = {"x-user": "ann:reader"}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests below; at its end the whole log is checked."""
    if "wsproto" in COMMANDS[request.param]:
        pytest.importorskip("wsproto")
    server = Server(request.param, tmp_path_factory.mktemp("server") / "service")
    try:
        yield server
    finally:
        printed = server.stop()
    raised = set(re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception|Disconnect)\w*)", printed, re.MULTILINE))
    assert raised <= {"RuntimeError", "ClientDisconnect"}, "what the handlers raise, and nothing of ours"
    assert "is lost" not in printed
    assert "takes no records" not in printed
    records = check_log(server.log)
    assert len({record["action_id"] for record in records}) == len(records)
    assert [record["action"] for record in server.log.records()][-1] == "audit.stopped"


@pytest.mark.parametrize(
    ("method", "path", "user", "status", "outcome"),
    [
        ("GET", "/docs/7", "ann:reader", 200, "success"),
        ("GET", "/sync/7", "ann:reader", 200, "success"),
        ("GET", "/sync/x", "ann:reader", 422, "failure"),
        ("GET", "/docs/7", None, 401, "denied"),
        ("DELETE", "/docs/7", "ann:reader", 403, "denied"),
        ("DELETE", "/docs/7", "root:admin", 200, "success"),
        ("GET", "/none", None, 404, "failure"),
        ("PUT", "/docs/7", None, 405, "failure"),
        ("GET", "/docs/7/", "ann:reader", 307, "success"),
        ("GET", "/broken", "ann:reader", 500, "error"),
        ("POST", "/docs", "ann:reader", 201, "success"),
        ("POST", "/docs", "bob", 403, "denied"),
    ],
)
def test_answers_and_records(
    server: Server, method: str, path: str, user: str | None, status: int, outcome: str
) -> None:
    headers = {"x-correlation-id": f"c-{status}"} | ({"x-user": user} if user else {})
    body = {"title": "t"} if method == "POST" else None
    answer = httpx.request(method, server.url + path, headers=headers, json=body, timeout=PATIENCE)
    assert answer.status_code == status
    assert answer.headers.get_list("x-correlation-id") == [f"c-{status}"]
    assert len(answer.headers.get_list("audit-id")) == 1
    record = server.record(answer.headers["audit-id"])
    assert (record["outcome"], record["response"]["status"]) == (outcome, status)
    assert record["response"]["size"] == len(answer.content)
    assert record["initiator_ip"] == "127.0.0.1"
    if (path, status) == ("/docs/7", 200) and method == "GET":
        assert answer.headers.get_list("set-cookie") == ["a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"]


def test_odd_paths(server: Server) -> None:
    for path, seen in (("/docs/1%0A", "/docs/1\n"), ("/docs/%00", "/docs/\x00"), ("/docs/%FF", "/docs/\ufffd")):
        answer = httpx.get(server.url + path, headers=READER, timeout=PATIENCE)
        if answer.status_code == 400:
            continue  # the server itself refused it
        record = server.record(answer.headers["audit-id"])
        assert (record["request"]["path"], record["outcome"]) == (seen, "success")


def test_a_large_header(server: Server) -> None:
    headers = READER | {"user-agent": "x" * 6_000, "x-forwarded-for": "1.2.3.4," * 800}  # h11 takes 16 KiB
    answer = httpx.get(server.url + "/docs/7", headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200
    record = server.record(answer.headers["audit-id"])
    assert len(record["user_agent"].encode()) == 512
    assert record["initiator_ip"] == "127.0.0.1"


def test_a_body_is_recorded_and_redacted(server: Server) -> None:
    body = {"title": "t", "password": "S3CRET"}
    answer = httpx.post(server.url + "/docs", headers=READER, json=body, timeout=PATIENCE)
    assert answer.status_code == 201
    record = server.record(answer.headers["audit-id"])
    assert record["request"]["body"]["content"] == {"title": "t", "password": "[redacted]"}
    until(lambda: _amendments(server, answer.headers["audit-id"]), "the background task's amendment")


def _amendments(server: Server, action_id: str) -> list[Any]:
    return [one for one in server.log.controls("audit.amended") if one["extra"]["amends"] == action_id]


def test_the_first_chunk_arrives_before_the_last_is_made(server: Server) -> None:
    with httpx.stream("GET", server.url + "/stream/k", headers=READER, timeout=PATIENCE) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        assert httpx.post(server.url + "/go/k", timeout=PATIENCE).status_code == 200
        assert b"".join(chunks) == b"last"
    record = server.record(answer.headers["audit-id"])
    assert (record["outcome"], record["response"]["size"]) == ("success", 9)


# --- WebSockets --------------------------------------------------------------------------------------------------


def test_websockets(server: Server) -> None:
    async def talk() -> tuple[str | None, str]:
        url = server.url.replace("http", "ws") + "/feed?talk"
        async with websockets.connect(url, additional_headers=READER) as connection:
            assert connection.response is not None
            await connection.send("hello\n")
            return connection.response.headers.get("audit-id"), str(await connection.recv())

    audit_id, said = asyncio.run(talk())
    assert said == "hello\n"
    record = server.marked("talk")
    assert audit_id == record["action_id"] or server.name == "granian", "granian sends no headers of ours on accept"
    assert (record["outcome"], record["action"], record["response"]["status"]) == ("success", "feed.watch", 101)
    assert (record["request"]["size"], record["response"]["size"]) == (6, 6)


def test_httpx_ws(server: Server) -> None:
    connected: Any = connect_ws(server.url + "/feed?httpx", httpx.Client(headers=READER))
    with connected as connection:
        connection.send_text("x")
        assert connection.receive_text() == "x"
    assert server.marked("httpx")["outcome"] == "success"


def test_a_denied_websocket_gets_a_response(server: Server) -> None:
    async def talk() -> int:
        url = server.url.replace("http", "ws") + "/feed?denied"
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(url, additional_headers={"x-user": "bob"})
        return refused.value.response.status_code

    assert asyncio.run(talk()) == 403
    record = server.marked("denied")
    assert (record["outcome"], record["user_id"]) == ("denied", "bob")


def test_a_websocket_that_is_cut(server: Server) -> None:
    key = b"dGhlIHNhbXBsZSBub25jZQ=="
    handshake = (
        b"GET /feed?cut HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-user: ann:reader\r\n"
    )
    connection = server.raw(handshake + b"sec-websocket-version: 13\r\nsec-websocket-key: " + key + b"\r\n\r\n")
    assert b" 101 " in connection.recv(1000)
    _cut(connection)
    record = server.marked("cut")
    assert record["response"]["status"] == 101
    assert record["outcome"] in ("aborted", "success"), "these servers say 1005, as for a close without a code"


# --- clients that go away ----------------------------------------------------------------------------------------


def _cut(connection: socket.socket) -> None:
    """Closes with a reset: no goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_client_that_goes_away_in_the_middle_of_its_request(server: Server) -> None:
    head = b"POST /upload?cut-upload HTTP/1.1\r\nhost: a\r\nx-user: ann:reader\r\ncontent-length: 1000\r\n\r\n"
    connection = server.raw(head + b"x" * 100)
    # The handler waits for the rest: nothing can be there yet, and nothing comes until the client is gone.
    _cut(connection)
    record = server.marked("cut-upload")
    assert (record["outcome"], record["action"]) == ("aborted", "doc.read")
    assert record["request"]["size"] <= 100


def test_a_client_that_goes_away_in_the_middle_of_a_stream(server: Server) -> None:
    connection = server.raw(b"GET /endless?cut-stream HTTP/1.1\r\nhost: a\r\nx-user: ann:reader\r\n\r\n")
    received = b""
    while received.count(b"x" * 1000) < 2:
        received += connection.recv(10_000)
    _cut(connection)
    record = server.marked("cut-stream")
    assert (record["outcome"], record["response"]["status"]) == ("aborted", 200)
    assert record["response"]["size"] >= 2000


def test_half_a_request_line_is_no_request(server: Server) -> None:
    """What the server never handed to the application is not in the application's log."""
    before = len(server.log.outcomes())
    for data in (b"GET /docs/7 HT", b"GARBAGE\r\n\r\n", b"GET /docs/7 HTTP/1.1\r\nbad header\r\n\r\n"):
        connection = server.raw(data)
        if data.endswith(b"\r\n\r\n"):
            connection.settimeout(PATIENCE)
            connection.recv(1000)
        _cut(connection)
    answer = httpx.get(server.url + "/docs/7", headers=READER, timeout=PATIENCE)
    server.record(answer.headers["audit-id"])
    assert len(server.log.outcomes()) == before + 1


def test_several_requests_on_one_connection(server: Server) -> None:
    """Pipelined: answers and records in order, each its own."""
    request = "GET /docs/{} HTTP/1.1\r\nhost: a\r\nx-user: ann:reader\r\n{}\r\n"
    connection = server.raw(
        "".join(request.format(f"p{n}", "connection: close\r\n" if n == 2 else "") for n in range(3)).encode()
    )
    received = b""
    while part := connection.recv(10_000):
        received += part
    connection.close()
    ids = [line.split(b": ")[1].decode() for line in received.split(b"\r\n") if line.lower().startswith(b"audit-id")]
    assert [server.record(one)["request"]["path"] for one in ids] == [f"/docs/p{n}" for n in range(3)]


def test_many_at_once(server: Server) -> None:
    async def ask() -> list[str]:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(headers=READER, limits=limits, timeout=PATIENCE) as client:
            answers = await asyncio.gather(*(client.get(f"{server.url}/sync/{number}") for number in range(100)))
        return [answer.headers["audit-id"] for answer in answers]

    ids = asyncio.run(ask())
    assert len(set(ids)) == 100
    server.record(ids[-1])
    until(lambda: set(ids) <= {one["action_id"] for one in server.log.outcomes()}, "all records")
