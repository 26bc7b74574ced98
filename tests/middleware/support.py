"""What these tests share: twins of an application (bare and guarded), an exchange led by hand, a whole log checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from audit_middleware.errors import RecordError
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import Report, verify
from audit_middleware.middleware import AuditMiddleware
from audit_middleware.schema import Record
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Answer, Log, Running, make_log, write_policy

OURS = (b"audit-id", b"x-correlation-id")
ALLOW = "default: allow\nactions:\n  any.thing: {allow: [anyone]}\n"
PATIENCE = 30.0  # seconds until a test that waits for something gives up; never part of a claim

T = TypeVar("T")
Message = dict[str, Any]


def guard(app: Any, folder: Path, log: Log, policy: str = ALLOW, **settings: Any) -> Any:
    """Adds the middleware to an application, outermost."""
    identify = settings.pop("identify", None)
    predicates = settings.pop("predicates", None)
    path = write_policy(folder, policy)
    given = {"policy": path, "log": str(log.path), "service": "test", "inventory": "warn"} | settings
    app.add_middleware(AuditMiddleware, identify=identify, predicates=predicates, **given)
    return app


# --- an exchange -------------------------------------------------------------------------------------------------


def http_scope(method: str, path: str, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> dict[str, Any]:
    """A connection scope as uvicorn makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
        "state": {},
    } | more


def websocket_scope(path: str, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> dict[str, Any]:
    """A WebSocket's scope as uvicorn makes it."""
    scope = http_scope("GET", path, headers, type="websocket", scheme="ws", subprotocols=[]) | more
    del scope["method"]
    return scope


class Exchange:
    """One connection to an ASGI application, led by the test: it says when a message comes and sees when one leaves."""

    def __init__(self, app: Any, scope: dict[str, Any], *messages: Message, trace: list[Any] | None = None) -> None:
        self.scope = scope
        self.trace = trace
        self.received = 0
        self.messages: list[Message] = []
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._out: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self._in.put_nowait(message)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        self.received += 1
        return await self._in.get()

    async def _send(self, message: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{message['type']}{'+' if message.get('more_body') else ''}")
        self.messages.append(dict(message))
        self._out.put_nowait(dict(message))

    def give(self, *messages: Message) -> None:
        """Hands messages to the application."""
        for message in messages:
            self._in.put_nowait(message)

    async def sent(self) -> Message:
        """The next message that the application sends."""
        getter = asyncio.ensure_future(self._out.get())
        await asyncio.wait({getter, self.task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not getter.done() and not self._out.empty():
            return await getter
        assert getter.done(), f"nothing was sent; the application {'ended' if self.task.done() else 'waits'}"
        return getter.result()

    async def end(self) -> BaseException | None:
        """Waits until the application returned; what it raised."""
        done, _ = await asyncio.wait({self.task}, timeout=PATIENCE)
        assert done, "the application does not end"
        return self.error

    @property
    def error(self) -> BaseException | None:
        """What the application raised; `asyncio.CancelledError` when it was cancelled."""
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()

    def answer(self) -> Answer:
        """All that was sent, as the kit's answer."""
        return Answer(self.messages, self.error)


def request(body: bytes = b"", *, more: bool = False) -> Message:
    """A message with a part of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: Message = {"type": "http.disconnect"}


# --- twins -------------------------------------------------------------------------------------------------------


def stripped(messages: Iterable[Message]) -> list[Message]:
    """Messages without what the middleware adds: two headers, once each, on the first message that has headers."""
    out = []
    for message in messages:
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            ours = [name for name, _ in headers if name in OURS]
            assert ours in ([], [b"x-correlation-id", b"audit-id"]), ours
            message = {**message, "headers": [pair for pair in headers if pair[0] not in OURS]}
        out.append(message)
    return out


def shown(answer: Answer) -> tuple[Any, ...]:
    """Everything about an answer that must be the same without us."""
    error = None if answer.error is None else (type(answer.error).__name__, str(answer.error))
    return stripped(answer.messages), error


@dataclass
class Twins:
    """Runs the same thing against an application alone and against its guarded twin."""

    folder: Path
    log: Log
    policy: str = ALLOW

    def run(self, make: Callable[[], Any], drive: Callable[[Any], Awaitable[T]], **settings: Any) -> tuple[T, T]:
        """What ``drive`` returns for the bare and for the guarded application."""

        async def main() -> tuple[T, T]:
            bare = make()
            async with Running(bare):
                expected = await drive(bare)
            guarded = guard(make(), self.folder, self.log, self.policy, **settings)
            async with Running(guarded) as running:
                assert running.failed is None, running.failed
                got = await drive(guarded)
            return expected, got

        return asyncio.run(main())

    def same(self, make: Callable[[], Any], drive: Callable[[Any], Awaitable[T]], **settings: Any) -> T:
        """The same, with the middleware and without; what it was."""
        expected, got = self.run(make, drive, **settings)
        assert got == expected
        return expected


def fresh_twins(folder: Path) -> Twins:
    """Twins with a log of their own."""
    return Twins(folder, make_log(folder))


# --- the log -----------------------------------------------------------------------------------------------------


def journal_bytes(log: Log) -> bytes:
    """Everything that was written, as it stands on disk."""
    return b"".join(path.read_bytes() for path in sorted((log.path / "journal").iterdir()))


def verified(log: Log) -> Report:
    """The whole log verified: tree, signatures, counters, canonical entries, every record by the published schema."""
    store = JournalStore.open(log.path, writable=False)
    try:
        return verify(store.raw_frames(), ORIGIN, [parse_vkey(log.vkey)], check_entry=validate)
    finally:
        store.close()


def validate(entry: bytes) -> None:
    """Raises `RecordError` for an entry that is no record of the published schema."""
    try:
        Record.model_validate_json(entry)
    except ValueError as problem:
        raise RecordError(str(problem)) from problem


def check_log(log: Log) -> list[dict[str, Any]]:
    """Asserts that the log holds and that each line of its files is one JSON object; the records of requests."""
    report = verified(log)
    assert report.holds, report.findings
    for line in journal_bytes(log).split(b"\n")[:-1]:
        assert isinstance(json.loads(line), dict)
    for record in log.records():
        validated = Record.model_validate(record)
        assert set(record) == set(Record.model_fields), "every field is present"
        assert validated.model_dump(mode="json") == record
    return log.outcomes()


def find_one(log: Log, **wanted: Any) -> dict[str, Any]:
    """The only outcome record with these top-level values; the whole log is checked on the way."""
    found = [one for one in check_log(log) if all(one[name] == value for name, value in wanted.items())]
    assert len(found) == 1, [(one["request"]["path"], one["outcome"]) for one in found]
    return found[0]


async def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Waits until a condition is true; its value."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.01)
    return value
