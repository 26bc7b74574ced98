"""A request whose every field is marked leaves no mark anywhere: log, index, spool, messages, other output."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from audit_middleware import Resource, Subject, action, annotate, record
from audit_middleware.errors import LogUnavailable
from audit_middleware.model import Source
from audit_middleware.schema import Record
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.opening import open_index, open_log
from tests.kit import call
from tests.middleware.support import eventually
from tests.sealing.support import ACTIONS, GDPR, HEAD, Sealed, api

POLICY = HEAD + GDPR + ACTIONS.replace(
    "note.write: {",
    "note.write: {deny: [{name: closed, when: {any: [{resource.owner: {equals: nobody}}, {subject.email: {equals: x}}, "
    "{context.body.name: {equals: x}}, {resource.id: {equals: x}}]}}], ",
)  # fmt: skip


def marks() -> Iterator[str]:
    """Words that stand nowhere else, in an order that does not change."""
    number = 0
    while True:
        number += 1
        yield f"zqmark{number:03d}x"


class Marked:
    """One request in which everything is marked, and what was used."""

    def __init__(self) -> None:
        self._next = marks()
        self.used: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        return self.used.setdefault(name, next(self._next))


def marked_app(m: Marked) -> FastAPI:
    app = api()

    def load(connection: Any) -> dict[str, str]:
        return {"owner": m("owner"), "ward": m("ward")}

    async def handle(request: Request) -> Any:
        body = await request.json()
        annotate(
            impact={"before": {"name": m("before")}, "after": [m("after")], "count": 1},
            resource=Resource("note", m("noted id"), {"colour": m("colour")}),
            extra={"deep": [{"er": m("extra")}], "body": body["name"]},
        )
        later = partial(annotate, reason=m("late reason"), extra={"late": m("late extra")})
        asyncio.get_running_loop().call_later(0.2, later)  # in this request's context
        if request.query_params.get("fail"):
            raise type("Failed", (Exception,), {})(m("exception"))
        return JSONResponse({"answer": m("answer")}, headers={"content-type": "application/json"})

    for name in ("write", "before"):
        path = f"/{name}/{{note_id}}"
        endpoint = partial(handle)  # a mark of its own for each
        app.post(path)(action(f"note.{name}", resource="note/{note_id}", resource_properties=load)(endpoint))
    return app


def identify_as(m: Marked) -> Any:
    def identify(scope: Any) -> Subject:
        properties = {"email": m("email")}
        return Subject(
            m("user"), roles=("clerk", m("role")), tenant=m("tenant"), session=m("session"), properties=properties,
            source=Source("certificate", detail=m("certificate")),
        )  # fmt: skip

    return identify


def headers(m: Marked) -> list[tuple[bytes, bytes]]:
    given = {
        "user-agent": m("agent"), "referer": f"https://x.example/{m('referer')}", "origin": f"https://{m('origin')}.x",
        "x-forwarded-for": f"{m('forwarded')}, 203.0.113.77", "content-type": "application/json",
        "x-request-reason": m("reason"),
        "idempotency-key": m("idempotency"), "accept": m("accept"), "cookie": m("cookie"),
    }  # fmt: skip
    return [(name.encode(), value.encode()) for name, value in given.items()]


def found_in(folder: Path, words: dict[str, str]) -> list[tuple[str, str]]:
    """Which words stand in which files, in any case, also in base64 at each of the three positions."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        lower = data.lower()
        for name, word in words.items():
            spellings = [base64.b64encode(b"\0" * at + word.encode())[4 * at and 4 : -4] for at in range(3)]
            if word.encode() in lower or any(spelling in data for spelling in spellings):
                found.append((path.name, name))
    return found


async def exercise(app: Any, m: Marked) -> None:
    body = json.dumps({"name": m("body"), m("member"): [m("item")]}).encode()
    for name in ("write", "before"):
        for query in (f"a={m('query')}", f"fail=1&a={m('query')}"):
            path = f"/{name}/{m('path')}"
            answer = await call(app, "POST", path, headers(m), body, query=query.encode())
            assert answer.status in (200, 500), answer.body
    await call(app, "POST", f"/nowhere/{m('unknown path')}", headers(m), b"{" + m("bad json").encode())
    await call(app, "POST", f"/write/{m('path')}", headers(m), b"{" + m("bad json").encode())
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    await call(app, "POST", f"/write/{m('path')}", [*form, *headers(m)[:3]], f"name={m('form')}".encode())
    await asyncio.to_thread(
        record, "note.write", subject=Subject(m("job user"), session=m("job session")),
        resource=Resource("note", m("job note"), {"title": m("job title")}), reason=m("job reason"),
        impact={"before": m("job before")}, extra={"x": m("job extra")},
    )  # fmt: skip
    await asyncio.sleep(0.5)  # the late annotations


def test_no_mark_is_left(sealed: Sealed, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG, logger="audit_middleware")
    m = Marked()
    settings = {"identify": identify_as(m), "subject_properties": ["email"], "trusted_proxies": ["127.0.0.1"]}
    app = sealed.guard(marked_app(m), POLICY, **settings)
    sealed.run(app, lambda: exercise(app, m))
    with contextlib.closing(open_log(sealed.log.path)) as store:
        index = open_index(store)
        index.catch_up()
        assert list(index.find(Filters()))
    assert any(sealed.log.path.rglob("*.sqlite"))
    assert found_in(sealed.folder, m.used) == []
    output = capfd.readouterr()
    said = (caplog.text + output.out + output.err).lower()
    told_by_us = "\n".join(one.getMessage() for one in caplog.records if one.name.startswith("audit_middleware"))
    assert [name for name, word in m.used.items() if word in told_by_us.lower()] == []
    assert m.used["body"] not in said
    for one in sealed.log.records():
        Record.model_validate(one)


def test_all_marks_come_back(sealed: Sealed) -> None:
    """The same, to show that what is not found in clear was there: whoever has the keys reads it."""
    m = Marked()
    settings = {"identify": identify_as(m), "subject_properties": ["email"], "trusted_proxies": ["127.0.0.1"]}
    app = sealed.guard(marked_app(m), POLICY, **settings)
    sealed.run(app, lambda: exercise(app, m))
    opened = json.dumps(sealed.opened(), ensure_ascii=False)
    never = {"exception", "cookie", "idempotency", "bad json", "owner", "ward"}  # are not recorded
    missing = [name for name, word in m.used.items() if word not in opened and name not in never]
    assert missing == []
    assert "unreadable" not in opened


def test_nor_in_the_spool(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Marked()
    genuine, failing = JournalStore.append, False

    def append(store: JournalStore, entries: Any, seal: Any) -> Any:
        if failing:
            raise LogUnavailable("no")
        return genuine(store, entries, seal)

    monkeypatch.setattr(JournalStore, "append", append)
    policy = POLICY.replace("record: response", "record: response, on_log_failure: degrade")
    app = sealed.guard(marked_app(m), policy, identify=identify_as(m))
    spool = Path(f"{sealed.log.path}.spool")

    async def drive() -> None:
        nonlocal failing
        failing = True
        await exercise(app, m)
        await eventually(lambda: list(spool.rglob("*.jsonl")))
        assert found_in(sealed.folder, m.used) == []
        failing = False

    sealed.run(app, drive)
    opened = json.dumps(sealed.opened())
    assert m.used["body"] in opened
    assert "personal_withheld" not in opened
