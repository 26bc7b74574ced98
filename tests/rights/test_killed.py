"""Erasures that are cut short, that fail, and that meet others: services, other erasures, an older store of keys."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.kit import Log, Run
from tests.postgres.conftest import Database
from tests.privacy.keying import found_in
from tests.rights.support import BASIS, BECAUSE, app, ask, identify, key_of, serve, verified
from tests.sealing.support import Sealed

ROOT = Path(__file__).resolve().parents[2]
ERASE = ["alice", *BASIS, "--yes"]


def kill_at(point: str, *arguments: object) -> None:
    """Runs a command that is killed there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rights.killed", point, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)


def secrets_of(sealed: Sealed) -> list[bytes]:
    """The row of alice as it stands in the store."""
    held = key_of(sealed)
    assert held is not None
    with sqlite3.connect(f"{sealed.place}/keys.sqlite") as database:
        (row,) = database.execute("SELECT name, secrets, lookup FROM persons WHERE token = ?", (held.token,))
    return list(row)


@pytest.mark.parametrize("point", ["recorded", "deleted", "committed", "scrubbed"])
def test_a_second_run_completes_what_was_cut_short(run: Run, sealed: Sealed, point: str) -> None:
    pieces, size = secrets_of(sealed), len(sealed.log.records())
    kill_at(point, "subject", "erase", sealed.log.path, *ERASE)
    assert len(sealed.log.controls("audit.subject_erased")) == 1
    code, out, err = run("subject", "erase", sealed.log.path, *ERASE)
    if point in ("recorded", "deleted"):
        assert code == 0, err
        assert f"that had been recorded in entry {size} before" in out
    else:
        assert (code, "has no key of anybody" in err) == (1, True), "the key is gone"
    assert key_of(sealed) is None
    assert found_in(Path(sealed.place), pieces) == []
    assert len(sealed.log.controls("audit.subject_erased")) == 1
    assert verified(sealed.log).persons.erased == 1


def test_a_service_completes_it_as_well(sealed: Sealed) -> None:
    pieces = secrets_of(sealed)
    kill_at("recorded", "subject", "erase", sealed.log.path, *ERASE)
    serve(sealed, ("bob", "7"))
    assert key_of(sealed) is None
    assert found_in(Path(sealed.place), pieces) == []


@pytest.mark.parametrize("point", ["restricted", "releasing"])
def test_a_restriction_that_was_cut_short_holds(run: Run, sealed: Sealed, point: str) -> None:
    if point == "releasing":
        assert run("subject", "restrict", sealed.log.path, "alice", *BECAUSE)[0] == 0
        kill_at(point, "subject", "release", sealed.log.path, "alice", *BECAUSE)
    else:
        kill_at(point, "subject", "restrict", sealed.log.path, "alice", *BECAUSE)
    assert run("subject", "erase", sealed.log.path, *ERASE)[0] == 1
    again = "release" if point == "releasing" else "restrict"
    assert run("subject", again, sealed.log.path, "alice", *BECAUSE)[0] == 0
    told = sealed.log.controls("audit.subject_released" if point == "releasing" else "audit.subject_restricted")
    assert len(told) == 1
    assert run("subject", "erase", sealed.log.path, *ERASE)[0] == (0 if point == "releasing" else 1)


def test_an_older_store_of_keys_is_put_right_before_it_opens(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    pieces = secrets_of(sealed)
    shutil.copytree(sealed.place, tmp_path / "backup")
    assert run("subject", "erase", sealed.log.path, *ERASE)[0] == 0
    shutil.rmtree(sealed.place)
    shutil.copytree(tmp_path / "backup", sealed.place)
    assert key_of(sealed) is not None
    code, out, _ = run("subject", "find", sealed.log.path, "alice", "--json")
    assert code == 0
    assert json.loads(out)["keys"][0]["erased_in"] is not None
    assert key_of(sealed) is None
    assert found_in(Path(sealed.place), pieces) == []


def test_without_the_keys_nothing_is_recorded(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    size = len(sealed.log.records())
    other = tmp_path / "other"
    other.write_text("A" * 43 + "=\n")
    other.chmod(0o600)
    for wrong in (["--master-key", f"file:{other}"], ["--subject-keys", tmp_path / "nowhere"], ["--key", other]):
        code, _, err = run("subject", "erase", sealed.log.path, *ERASE, *wrong)
        assert code == 3, (wrong, err)
        assert "Traceback" not in err
    assert len(sealed.log.records()) == size
    assert key_of(sealed) is not None


def test_two_erasures_at_once(sealed: Sealed) -> None:
    command = [sys.executable, "-m", "audit_middleware", "subject", "erase", str(sealed.log.path), *ERASE]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=300) for one in both]
    assert sorted(one.returncode for one in both) in ([0, 0], [0, 1]), said
    assert len(sealed.log.controls("audit.subject_erased")) == 1
    assert key_of(sealed) is None
    verified(sealed.log)


def test_a_service_writes_about_the_person_meanwhile(sealed: Sealed) -> None:
    guarded = sealed.guard(app(), identify=identify)
    done: list[subprocess.CompletedProcess[str]] = []

    def erase() -> None:
        command = [sys.executable, "-m", "audit_middleware", "subject", "erase", str(sealed.log.path), *ERASE]
        done.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False))

    async def drive() -> None:
        other = threading.Thread(target=erase)
        other.start()
        while other.is_alive():
            await ask(guarded)
        for _ in range(20):
            await ask(guarded)
            await asyncio.sleep(0.005)

    before = key_of(sealed)
    sealed.run(guarded, drive)
    assert done[0].returncode == 0, done[0].stderr
    assert before is not None
    (told,) = sealed.log.controls("audit.subject_erased")
    assert told["extra"]["tokens"] == [before.token]
    after = key_of(sealed)
    assert after is not None
    assert after.token != before.token
    opened = [one["user_id"] for one in sealed.opened() if one["kind"] == "outcome"]
    assert opened[-20:] == ["alice"] * 20
    assert opened.count(f"erased ({before.token[:6]}…)") >= 2
    assert verified(sealed.log).persons.erased == 1


def test_a_log_and_keys_in_databases(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_STATE", str(tmp_path / "state"))
    url = database.url
    code, _, err = run("init", url, "--origin", "example.com/test")
    assert code == 0, err
    monkeypatch.setenv("AUDIT_SUBJECT_KEYS", url)
    code, _, err = run("subject", "init", url)
    assert code == 0, err
    sealed = Sealed(tmp_path, Log(Path(url), ""))
    settings: dict[str, Any] = {"log": url, "state": tmp_path / "state", "subject_keys": url}
    serve(sealed, ("alice", "7"), ("bob", "7"), **settings)
    target = tmp_path / "out"
    code, _, err = run("subject", "export", url, "alice", "--to", target, *BECAUSE)
    assert code == 0, err
    (line,) = (target / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["record"]["user_id"] == "alice"
    assert run("subject", "restrict", url, "alice", *BECAUSE)[0] == 0
    assert run("subject", "erase", url, *ERASE)[0] == 1
    assert run("subject", "release", url, "alice", *BECAUSE)[0] == 0
    code, out, err = run("subject", "erase", url, *ERASE, "--json")
    assert code == 0, err
    (token,) = json.loads(out)["tokens"]
    assert run("subject", "find", url, "alice")[0] == 1
    code, out, _ = run("subject", "find", url, "--token", token, "--json")
    assert json.loads(out)["keys"][0]["erased_in"] is not None
    assert verified(url).persons.erased == 1
    assert os.environ["AUDIT_STATE"]
