"""A service that has its own checkpoints cosigned, and does not start on a log that witnesses know to be longer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.evidence.anchors import cosigned_notes, newest_cosigned
from audit_middleware.ledger.trust import parse_policy
from tests.control.support import app_for, eventually, run
from tests.kit import ORIGIN, Log, call
from tests.witness.support import V1, W1, make_witness, serving, trust_text


def trust_file(folder: Path, log: Log, url: str) -> Path:
    path = folder / "trust"
    path.write_text(trust_text(("w1", V1, url), vkey=log.vkey))
    return path


def test_a_running_service_has_its_checkpoints_cosigned(log: Log, tmp_path: Path) -> None:
    known = parse_policy(f"log {log.vkey}\nquorum none\n".encode())
    with serving(make_witness(tmp_path / "witness", W1, trust=known)) as url:
        trust = trust_file(tmp_path, log, url)

        async def drive(app: Any) -> None:
            for _ in range(3):
                assert (await call(app, "GET", "/")).status == 200
                before = len(list(cosigned_notes(log.path)))
                await eventually(lambda: len(list(cosigned_notes(log.path))) > before, "a cosigned checkpoint")  # noqa: B023

        published = tmp_path / "published"
        settings = {"trust": trust, "cosign_interval": 20, "publish_to": published, "publish_interval": 20}
        assert run(app_for(log, tmp_path, **settings), drive) is None
        note = newest_cosigned(log.path)
        assert note is not None
        opened = parse_policy(trust.read_bytes()).open(note, ORIGIN)
        assert set(opened.witnesses) == {"w1"}
        started = log.controls("audit.started")[0]
        assert {head["place"] for head in started["extra"]["heads"]} >= {"witness w1"}


def test_a_rolled_back_log_does_not_start(log: Log, tmp_path: Path) -> None:
    known = parse_policy(f"log {log.vkey}\nquorum none\n".encode())
    with serving(make_witness(tmp_path / "witness", W1, trust=known)) as url:
        settings = {"trust": trust_file(tmp_path, log, url), "cosign_interval": 20}

        async def drive(app: Any) -> None:
            await eventually(lambda: newest_cosigned(log.path), "a cosigned checkpoint")

        assert run(app_for(log, tmp_path, **settings), drive) is None
        shutil.copytree(log.path, tmp_path / "backup")
        assert run(app_for(log, tmp_path, **settings), drive_more(log)) is None
        shutil.rmtree(log.path)
        shutil.copytree(tmp_path / "backup", log.path)
        problem = run(app_for(log, tmp_path, **settings))
        assert problem is not None
        assert "rolled back" in problem
        assert "witness w1" in problem


def drive_more(log: Log) -> Any:
    async def drive(app: Any) -> None:
        before = len(list(cosigned_notes(log.path)))
        await eventually(lambda: len(list(cosigned_notes(log.path))) > before, "another cosigned checkpoint")

    return drive


@pytest.mark.parametrize("interval", [0, 20])
def test_a_witness_that_is_down_stops_nothing(log: Log, tmp_path: Path, interval: int) -> None:
    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/")).status == 200

    settings = {"trust": trust_file(tmp_path, log, "http://127.0.0.1:9"), "cosign_interval": interval}
    assert run(app_for(log, tmp_path, **settings), drive) is None
    assert newest_cosigned(log.path) is None
    (head,) = [one for one in log.controls("audit.started")[0]["extra"]["heads"] if one["place"].startswith("witness")]
    assert head["state"] == "unknown"
