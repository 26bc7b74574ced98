"""What many tests need: a log, a policy, a guarded application, one request by hand, the records back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit_middleware.evidence.keys import create_log
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.stores.journal import JournalStore

ORIGIN = "example.com/test"


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
