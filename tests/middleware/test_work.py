"""`record`: work that no request asked for, in a service, in a process without one, and in a forked child."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette

from audit_middleware import AuditMiddleware, Resource, Subject, record
from audit_middleware.errors import ConfigError
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import verify
from audit_middleware.schema import Record
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log, Running, write_policy

POLICY = "actions: {invoice.archive: {severity: high, allow: [authenticated]}}\n"


def guarded(log: Log, folder: Path) -> Starlette:
    app = Starlette()
    policy = write_policy(folder, POLICY)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="jobs", inventory="warn")
    return app


def assert_holds(log: Log) -> None:
    store = JournalStore.open(log.path, writable=False)
    report = verify(store.raw_frames(), ORIGIN, [parse_vkey(log.vkey)])
    assert report.holds, report.findings


def test_work_in_a_service_is_recorded_with_everything_given(log: Log, tmp_path: Path) -> None:
    async def main() -> str:
        async with Running(guarded(log, tmp_path)):
            return await asyncio.to_thread(
                record,
                "invoice.archive",
                subject=Subject("archiver", "service", roles=("robot",)),
                resource=Resource("invoice", "7"),
                reason="older than ten years",
                impact={"count": 3},
                extra={"password": "geheim", "ratio": 0.5},
                outcome="failure",
                wait=True,
            )

    action_id = asyncio.run(main())
    (found,) = log.outcomes()
    Record.model_validate(found)
    assert found["action_id"] == action_id
    assert (found["action"], found["event"], found["severity"]) == ("invoice.archive", "INVOICE_ARCHIVE", "high")
    assert (found["user_id"], found["subject"]["type"], found["subject"]["roles"]) == ("archiver", "service", ["robot"])
    assert (found["resource"]["id"], found["reason"], found["outcome"]) == ("7", "older than ten years", "failure")
    assert found["impact"] == {"before": None, "after": None, "count": 3}
    assert found["extra"] == {"password": "[redacted]", "ratio": "0.5"}
    assert found["request"]["path"] is None
    assert_holds(log)


def test_an_action_the_policy_does_not_have_is_refused(log: Log, tmp_path: Path) -> None:
    async def main() -> None:
        async with Running(guarded(log, tmp_path)):
            with pytest.raises(ConfigError, match=r"has no action 'invoice\.archiv'"):
                record("invoice.archiv")

    asyncio.run(main())


def test_a_process_without_a_middleware_takes_the_environment(log: Log, tmp_path: Path) -> None:
    environment = os.environ | {
        "AUDIT_POLICY": str(write_policy(tmp_path, POLICY)),
        "AUDIT_LOG": str(log.path),
        "AUDIT_SERVICE": "nightly",
    }
    code = "from audit_middleware import record; record('invoice.archive'); record('invoice.archive')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path(__file__).parents[2])
    first, second = log.outcomes()
    assert (first["user_id"], first["service"]["name"]) == ("system", "nightly")
    assert (first["sequence"], second["sequence"]) == (0, 1)
    assert_holds(log)


def test_without_a_middleware_and_an_environment_it_says_what_is_missing(log: Log, tmp_path: Path) -> None:
    code = "from audit_middleware import record; record('invoice.archive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "setting policy is missing: pass policy=... or set AUDIT_POLICY" in done.stderr


FORKING = """
import asyncio, os, sys
from starlette.applications import Starlette
from audit_middleware import AuditMiddleware, record
from tests.kit import Running

app = Starlette()
app.add_middleware(AuditMiddleware, policy=sys.argv[1], log=sys.argv[2], service="forking", inventory="warn")

async def main():
    async with Running(app) as running:
        assert running.failed is None, running.failed
        record("invoice.archive", wait=True)
        child = os.fork()
        if child == 0:
            record("invoice.archive", reason="child", wait=True)
            os._exit(0)
        record("invoice.archive", wait=True)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

asyncio.run(main())
"""


def test_a_forked_child_counts_for_itself(log: Log, tmp_path: Path) -> None:
    arguments = [str(write_policy(tmp_path, POLICY)), str(log.path)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", FORKING, *arguments], env=environment, check=True, cwd=root)
    records = log.outcomes()
    child = [found for found in records if found["reason"] == "child"]
    assert len(records) == 3
    assert len(child) == 1
    assert child[0]["sequence"] == 0
    assert child[0]["service"]["instance"] not in {f["service"]["instance"] for f in records if f["reason"] is None}
    assert_holds(log)
