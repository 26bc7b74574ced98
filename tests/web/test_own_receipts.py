"""Receipts for those who made the request, from the middleware's own log, over HTTP and in handlers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from audit_middleware import AuditMiddleware, Subject, action, current_subject, record
from audit_middleware.errors import ConfigError
from audit_middleware.evidence.receipts import leaf_in
from audit_middleware.ledger.canonical import encode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.proof import parse_proof, verify_proof
from audit_middleware.model import Source
from audit_middleware.web.receipts import PENDING_MS, receipt, receipts_app
from audit_middleware.wiring import running_log
from tests.control.support import eventually
from tests.kit import ORIGIN, Answer, Log, Running, call, write_policy

POLICY = """
actions:
  doc.read: {allow: [anyone]}
  doc.prove: {allow: [anyone]}
  receipt.read: {allow: [anyone], record: none}
"""

PEOPLE = {
    b"ann": Subject("ann", tenant="north", source=Source("jwt", "https://login.example")),
    b"ben": Subject("ben", tenant="north", source=Source("jwt", "https://login.example")),
    b"robot": Subject("ann", "service", tenant="north", source=Source("jwt", "https://login.example")),
    b"south": Subject("ann", tenant="south", source=Source("jwt", "https://login.example")),
    b"other": Subject("ann", tenant="north", source=Source("jwt", "https://other.example")),
    b"long": Subject("a" * 1000, source=Source("header")),
}


def identify(scope: Any) -> Subject | None:
    """Who the header names."""
    return PEOPLE.get(dict(scope["headers"]).get(b"x-user", b""))


@action("doc.read")
async def read(request: Request) -> Response:
    """A guarded page."""
    return PlainTextResponse("read")


@action("doc.prove")
async def prove(request: Request) -> Response:
    """Uses the receipt of an earlier request."""
    found = await receipt(request.path_params["id"], subject=current_subject(), entry=True)
    return Response(found or b"none", 200 if found else 404)


class Clock:
    """Hours later, so that no ID is young any more."""

    ahead_ms = 3_600_000

    def __call__(self) -> int:
        import time

        return time.time_ns() + self.ahead_ms * 1_000_000


def service(log: Log, folder: Path, app: Any) -> Any:
    policy = write_policy(folder, POLICY)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="s", identify=identify)
    return app


def starlette(**options: Any) -> Starlette:
    mounted = Mount("/audit/receipts", receipts_app(clock=Clock(), **options))
    return Starlette(routes=[Route("/", read), Route("/prove/{id}", prove), mounted])


async def ask(app: Any, user: str, path: str = "/") -> Answer:
    return await call(app, "GET", path, [(b"x-user", user.encode())] if user else [])


async def made(app: Any, log: Log, user: str) -> str:
    """A request that is in the log; its ID."""
    audit_id = str((await ask(app, user)).header(b"audit-id"))
    await eventually(lambda: any(one["action_id"] == audit_id for one in log.outcomes()), "the record")
    return audit_id


def run(log: Log, folder: Path, app: Any, drive: Any) -> None:
    async def main() -> None:
        async with Running(service(log, folder, app)) as running:
            assert running.failed is None, running.failed
            await drive(app)

    asyncio.run(main())


@pytest.mark.parametrize("user", ["ann", "long"])
def test_who_made_the_request_gets_its_receipt_and_nobody_else(log: Log, tmp_path: Path, user: str) -> None:
    async def drive(app: Any) -> None:
        audit_id = await made(app, log, user)
        answer = await ask(app, user, f"/audit/receipts/{audit_id}")
        assert answer.status == 200
        proof = parse_proof(answer.body)
        found = leaf_in(proof)
        assert found is not None
        verify_proof(proof, found[0], ORIGIN, [parse_vkey(log.vkey)])
        for other in ("", *map(bytes.decode, PEOPLE)):
            if other != user:
                refused = await ask(app, other, f"/audit/receipts/{audit_id}")
                assert (refused.status, refused.body) == (404, b"not in the log\n"), other

    run(log, tmp_path, starlette(), drive)


def test_with_the_record_and_in_fastapi(log: Log, tmp_path: Path) -> None:
    app = FastAPI(openapi_url=None)
    app.add_route("/", read)
    app.mount("/mine", receipts_app(entry=True))

    async def drive(app: Any) -> None:
        audit_id = await made(app, log, "ann")
        proof = parse_proof((await ask(app, "ann", f"/mine/{audit_id}")).body)
        (found,) = [one for one in log.outcomes() if one["action_id"] == audit_id]
        assert proof.extra == encode(found)

    run(log, tmp_path, app, drive)


def test_nobody_has_no_receipts(log: Log, tmp_path: Path) -> None:
    """Who is not known cannot be known again."""

    async def drive(app: Any) -> None:
        audit_id = await made(app, log, "")
        assert (await ask(app, "", f"/audit/receipts/{audit_id}")).status == 404

    run(log, tmp_path, starlette(), drive)


def test_a_young_id_of_another_looks_like_one_on_its_way(log: Log, tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/", read), Mount("/receipts", receipts_app())])

    async def drive(app: Any) -> None:
        audit_id = await made(app, log, "ann")
        assert (await ask(app, "ann", f"/receipts/{audit_id}")).status == 200
        answer = await ask(app, "ben", f"/receipts/{audit_id}")
        never = await ask(app, "ben", f"/receipts/{audit_id[:-4]}0000")
        assert (answer.status, answer.body) == (never.status, never.body)
        assert answer.status in (202, 404), f"older than {PENDING_MS} ms on a very slow machine"

    run(log, tmp_path, app, drive)


def test_the_logs_own_records_are_nobodys(log: Log, tmp_path: Path) -> None:
    """Not even of one who is called system."""

    async def drive(app: Any) -> None:
        (started,) = log.controls("audit.started")
        for subject in (Subject("system"), Subject("system", "system", source=Source("system"))):
            assert await receipt(started["action_id"], subject=subject) is None
        assert await receipt(started["action_id"]) is not None

    run(log, tmp_path, starlette(), drive)


def test_a_handler_gets_earlier_receipts(log: Log, tmp_path: Path) -> None:
    async def drive(app: Any) -> None:
        audit_id = await made(app, log, "ann")
        answer = await ask(app, "ann", f"/prove/{audit_id}")
        assert answer.status == 200
        assert parse_proof(answer.body).extra.startswith(b'{"action":"doc.read"')
        assert (await ask(app, "ben", f"/prove/{audit_id}")).status == 404
        assert (await ask(app, "ann", "/prove/nonsense")).status == 404
        job = await asyncio.to_thread(record, "doc.read", wait=True)
        assert await receipt(job) is not None
        assert await receipt(job[:-4] + "0000") is None

    run(log, tmp_path, starlette(), drive)


def test_without_a_middleware_the_log_must_be_named(log: Log) -> None:
    audit_id = "019b76da-a800-7000-8000-000000000000"
    with pytest.raises(ConfigError, match="no AuditMiddleware runs in this process: name the log"):
        running_log()
    with pytest.raises(ConfigError, match="name the log"):
        asyncio.run(receipt(audit_id))
    assert asyncio.run(receipt(audit_id, log=log.path)) is None


def test_a_named_log_is_the_one_that_is_read(log: Log, tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/", read), Mount("/receipts", receipts_app(log.path, action="doc.prove"))])

    async def drive(app: Any) -> None:
        audit_id = await made(app, log, "ann")
        assert (await ask(app, "ann", f"/receipts/{audit_id}")).status == 200
        await eventually(lambda: any(one["action"] == "doc.prove" for one in log.outcomes()), "its own record")

    run(log, tmp_path, app, drive)
