"""One process with everything on: receipts, publishing, detectors, blocks, a restart; its log is in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from audit_middleware import AuditMiddleware, action, record
from audit_middleware.errors import LogUnavailable
from audit_middleware.evidence.blocking import add_block, lift_blocks
from audit_middleware.evidence.keys import create_log
from audit_middleware.evidence.signers import signers_of
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.proof import parse_proof
from audit_middleware.ledger.verify import verify
from audit_middleware.settings import load_settings
from audit_middleware.signing import read_key_file
from audit_middleware.stores.opening import Place, open_log, place_of
from audit_middleware.web.receipts import receipt, receipts_app
from audit_middleware.wiring import background_state, running_log
from tests.kit import Answer, Running, call, write_policy
from tests.middleware.service import identify
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD
from tests.servers.running import PATIENCE

ORIGIN = "audit.example.com/inside"
ANN = [(b"x-user", b"ann:reader")]
POLICY = """
roles: {reader: {}}
actions:
  doc.read: {allow: [reader], guarantee: sealed}
  job.run: {allow: [reader]}
  receipt.read: {allow: [reader], record: none}
"""


@action("doc.read")
async def read(request: Request) -> Response:
    """A guarded page."""
    return PlainTextResponse("read")


def service(folder: Path, url: str, **settings: Any) -> Starlette:
    app = Starlette(routes=[Route("/docs/{name}", read), Mount("/receipts", receipts_app())])
    app.add_middleware(
        AuditMiddleware, identify=identify,
        **{"policy": write_policy(folder, POLICY), "log": url, "state": folder / "state", "service": "s"} | settings,
    )  # fmt: skip
    return app


def records(place: Place) -> list[dict[str, Any]]:
    with closing(open_log(place)) as store:
        report = verify(store.raw_frames(), ORIGIN, [parse_vkey(one) for one in store.vkeys])
        assert report.holds, report.findings
        return [decode(entry) for frame in store.frames() for entry in frame.entries]


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    made = place_of(database.url, tmp_path / "state")
    create_log(made, ORIGIN)
    return made


async def eventually(condition: Any, what: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)


def test_everything_at_once(place: Place, database: Database, tmp_path: Path) -> None:
    followers = tmp_path / "followers.yaml"
    followers.write_text("version: 1\nfollowers:\n  - {name: rules, type: detectors}\n")
    published = tmp_path / "published"
    app = service(
        tmp_path, database.url, publish_to=published, publish_interval=50, followers=followers, block_interval=50
    )
    signers = signers_of(read_key_file(tmp_path / "state" / "signing.key"))

    async def get(path: str) -> Answer:
        return await call(app, "GET", path, ANN)

    async def work() -> None:
        async with Running(app) as running:
            assert running.failed is None
            assert str(running_log()) == str(place)
            answer = await get("/docs/1")
            assert answer.status == 200
            job = await asyncio.to_thread(record, "job.run", wait=True)
            proof = await get(f"/receipts/{answer.header(b'audit-id')}")
            assert proof.status == 200
            assert parse_proof(proof.body).index > 0
            # who is blocked by a command on this host is refused, until the block is lifted
            await asyncio.to_thread(add_block, place, signers, "user", "ann", 600, "case 1", "me")

            async def refused() -> bool:
                return (await get("/docs/2")).status == 403

            async def let_in() -> bool:
                return (await get("/docs/3")).status == 200

            await eventually(refused, "the block")
            await asyncio.to_thread(lift_blocks, place, signers, "user", "ann", "case 1", "me")
            await eventually(let_in, "the end of the block")
            state = background_state()
            assert list(state) == [str(place)]
            assert PASSWORD not in str(state)

            async def all_work() -> bool:
                found = background_state()[str(place)]
                assert isinstance(found, dict)
                return all(found[name]["role"] == what for name, what in wanted.items())

            wanted = {"publisher": "publishing", "followers": "following"}
            await eventually(all_work, "the work beside the requests")
            assert any(one["action_id"] == job for one in records(place))

    asyncio.run(work())
    size = int((published / "checkpoint").read_text().splitlines()[1])
    assert size == len(records(place)), "what was committed last is published as well"


def test_a_restart_knows_what_was_there_before(place: Place, database: Database, tmp_path: Path) -> None:
    """Also on another host, whose folder knows nothing."""

    async def once(**settings: Any) -> None:
        async with Running(service(tmp_path, database.url, **settings)) as running:
            assert running.failed is None

    asyncio.run(once())
    key = tmp_path / "state" / "signing.key"
    asyncio.run(once(state=tmp_path / "elsewhere", key=key, environment="staging"))
    found = records(place)
    (changed,) = [one for one in found if one["action"] == "audit.configuration_changed"]
    told = {one["name"]: (one["old"], one["new"]) for one in changed["extra"]["changed"]}
    assert told["environment"] == (None, "staging")
    assert "log" not in told
    assert sum(one["action"] == "audit.policy_archived" for one in found) == 1
    assert PASSWORD not in json.dumps(found)


def test_a_log_that_was_set_back_is_not_written(place: Place, database: Database, tmp_path: Path) -> None:
    """Another log behind the same address: what lies beside it shows a longer one."""

    async def once() -> str | None:
        async with Running(service(tmp_path, database.url, publish_to=tmp_path / "published")) as running:
            if running.failed is None:
                await call(running.app, "GET", "/docs/1", ANN)
            return running.failed

    assert asyncio.run(once()) is None
    database.run("DROP SCHEMA audit CASCADE")
    create_log(place, ORIGIN, tmp_path / "state" / "signing.key")
    failed = asyncio.run(once())
    assert failed is not None
    assert "rolled back or cut" in failed
    assert PASSWORD not in failed
    assert records(place) == []


def test_a_service_that_may_not_read_its_log(
    place: Place, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It writes; what a start reads is said to be unknown, and the policy is written each time."""
    url = database.role("service", "audit_writer")

    async def once(environment: str) -> None:
        app = service(tmp_path, url, environment=environment)
        async with Running(app) as running:
            assert running.failed is None
            answer = await call(app, "GET", "/docs/1", ANN)
            assert answer.status == 200
            with pytest.raises(LogUnavailable, match="what writers and readers need"):
                await receipt(str(answer.header(b"audit-id")))

    asyncio.run(once("staging"))
    asyncio.run(once("production"))
    assert "not known what the last start was" in caplog.text
    assert "not known whether the log holds the policy" in caplog.text
    found = [one["action"] for one in records(place)]
    assert found.count("audit.policy_archived") == 2
    assert "audit.configuration_changed" not in found
    assert found.count("doc.read") == 2


def test_the_settings_do_not_show_the_password(tmp_path: Path) -> None:
    url = f"postgresql://app:{PASSWORD}@db/audit"
    settings = load_settings({"policy": tmp_path / "p", "log": url, "service": "s", "state": tmp_path}, {})
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in str(settings.shown())
    assert PASSWORD not in repr(place_of(url, tmp_path)) + str(place_of(url, tmp_path))
    assert settings.spool_path == tmp_path / "spool"
    assert settings.key_path == tmp_path / "signing.key"
