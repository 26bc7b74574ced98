"""What many tests need: a log, a policy, a guarded application, one request by hand, the records back, a port."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audit_middleware.evidence.keys import create_log
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.persons import Person, SubjectKey
from audit_middleware.stores.journal import JournalStore

ORIGIN = "example.com/test"

Run = Callable[..., tuple[int, str, str]]
"""A command in this process, by its arguments: exit code, output, errors; the fixture `run`."""


@dataclass
class Log:
    """A log on disk and what reads it back."""

    path: Path
    vkey: str

    def records(self) -> list[dict[str, Any]]:
        """Every record, checked to be canonical."""
        store = JournalStore.open(self.path, writable=False)
        try:
            return [decode(entry) for frame in store.frames() for entry in frame.entries]
        finally:
            store.close()

    def outcomes(self) -> list[dict[str, Any]]:
        """Records of requests."""
        return [record for record in self.records() if record["kind"] == "outcome"]

    def controls(self, action: str) -> list[dict[str, Any]]:
        """Control records of one action."""
        return [record for record in self.records() if record["kind"] == "control" and record["action"] == action]


def steady_port() -> int:
    """A free port for a server that is started later, or again.

    It lies below the range of which the kernel gives ports to connections and to those who ask for any: nobody but
    another caller of this function, who has 12,000 to choose from, takes it while the server is down.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def make_log(folder: Path) -> Log:
    """A fresh log; its key is beside it."""
    path = folder / "audit"
    vkey = create_log(path, ORIGIN)
    parse_vkey(vkey)
    return Log(path, vkey)


def write_policy(folder: Path, text: str, name: str = "policy.yaml") -> Path:
    """A policy file; the head is added when the text has none."""
    if "version:" not in text:
        text = "version: 1\nname: test\n" + text
    path = folder / name
    path.write_text(text)
    return path


@dataclass
class Answer:
    """What an ASGI application sent."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int | None:
        """Of the first response start; a WebSocket that was accepted has 101."""
        for message in self.messages:
            if message["type"].endswith("response.start"):
                return int(message["status"])
            if message["type"] == "websocket.accept":
                return 101
            if message["type"] == "websocket.close":
                return 403
        return None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the first message that has any."""
        for message in self.messages:
            if "headers" in message:
                return [(bytes(k).lower(), bytes(v)) for k, v in message["headers"]]
        return []

    def header(self, name: bytes) -> str | None:
        """One header as text."""
        return next((value.decode() for key, value in self.headers if key == name), None)

    @property
    def body(self) -> bytes:
        """All chunks."""
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith("response.body"))

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def call(
    app: Any,
    method: str,
    path: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    *,
    query: bytes = b"",
    root_path: str = "",
    extensions: Mapping[str, Any] | None = None,
    incoming: list[dict[str, Any]] | None = None,
) -> Answer:
    """One request to an ASGI application, without a server; method ``WS`` opens a WebSocket."""
    websocket = method == "WS"
    scope: dict[str, Any] = {
        "type": "websocket" if websocket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws" if websocket else "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": root_path,
        "query_string": query,
        "headers": list(headers),
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
        "extensions": dict(extensions or {}),
        "state": {},
    }
    if websocket:
        scope["subprotocols"] = []
    else:
        scope["method"] = method
    if incoming is None:
        incoming = (
            [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
            if websocket
            else [{"type": "http.request", "body": body, "more_body": False}]
        )
    queue = list(incoming)
    answer = Answer()

    async def receive() -> dict[str, Any]:
        if queue:
            return queue.pop(0)
        await asyncio.sleep(0)
        return {"type": "websocket.disconnect", "code": 1000} if websocket else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answer.messages.append(dict(message))

    try:
        await app(scope, receive, send)
    except Exception as error:
        answer.error = error
    return answer


class Running:
    """Runs an application's lifespan around a block of requests, as a server would."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.failed: str | None = None

    async def __aenter__(self) -> Running:
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.ensure_future(self.app(scope, self._in.get, self._out.put))
        await self._in.put({"type": "lifespan.startup"})
        reply = await self._next()
        if reply["type"] == "lifespan.startup.failed":
            self.failed = reply["message"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.failed is None:
            await self._in.put({"type": "lifespan.shutdown"})
            reply = await self._next()
            assert reply["type"] == "lifespan.shutdown.complete", reply
        await asyncio.gather(self._task, return_exceptions=True)

    async def _next(self) -> dict[str, Any]:
        getter = asyncio.ensure_future(self._out.get())
        done, _ = await asyncio.wait({getter, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if getter in done:
            return getter.result()
        getter.cancel()
        self._task.result()
        raise AssertionError("the application returned from its lifespan without a message")


class MemoryKeys:
    """Keys of persons in memory, as `protocols.SubjectKeys`; ``broken`` makes every call fail."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.broken: Exception | None = None
        self.calls: list[str] = []
        self.rows: dict[Person, SubjectKey] = {}
        self.durable: dict[Person, SubjectKey] = {}
        self._generation = self._erased_to = 0

    def of(self, person: Person) -> SubjectKey:
        self._call("of")
        if person not in self.rows:
            token = base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()
            self.rows[person] = SubjectKey(token, os.urandom(32), os.urandom(32), told=False)
        return self.rows[person]

    def commit(self) -> None:
        self._call("commit")
        self.durable = dict(self.rows)

    def find(self, person: Person) -> SubjectKey | None:
        self._call("find")
        return self.rows.get(person)

    def named(self, token: str) -> tuple[Person, SubjectKey] | None:
        self._call("named")
        return next((row for row in self.rows.items() if row[1].token == token), None)

    def told(self, tokens: Sequence[str]) -> None:
        self._call("told")
        for person, key in self.rows.items():
            if key.token in tokens:
                self.rows[person] = replace(key, told=True)
        self.durable = dict(self.rows)

    def restrict(self, token: str, restricted: bool) -> None:
        self._call("restrict")
        self.rows = {
            one: replace(key, restricted=restricted) if key.token == token else key for one, key in self.rows.items()
        }

    def erase(self, tokens: Sequence[str]) -> int:
        self._call("erase")
        gone = [person for person, key in self.rows.items() if key.token in tokens]
        for person in gone:
            del self.rows[person]
        self.durable = dict(self.rows)
        self._generation += bool(gone)
        return len(gone)

    def generation(self) -> int:
        self._call("generation")
        return self._generation

    def erased_to(self, size: int | None = None) -> int:
        self._call("erased_to")
        self._erased_to = self._erased_to if size is None else size
        return self._erased_to

    def close(self) -> None:
        self.rows = dict(self.durable)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.broken is not None:
            raise self.broken
