"""What a start tells the log, what it refuses, and what is recorded of a repaired log and a full disk."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nacl
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from audit_middleware import AuditMiddleware
from audit_middleware.evidence.history import last_started, remember_start
from audit_middleware.evidence.keys import new_key, rotate
from audit_middleware.ledger.canonical import encode
from audit_middleware.policy.load import load
from audit_middleware.settings import Settings
from audit_middleware.stores import filesystem
from audit_middleware.stores.journal import JournalStore
from audit_middleware.wiring.background import Space
from tests.control.support import POLICY, app_for, eventually, read, run, until
from tests.kit import Log, write_policy
from tests.middleware.support import check_log
from tests.servers.service import POLICY as SERVERS_POLICY

ROOT = Path(__file__).parents[2]


# --- settings ----------------------------------------------------------------------------------------------------


def test_a_start_shows_its_settings_and_no_secret(log: Log, tmp_path: Path) -> None:
    secret = Path(f"{log.path}.key").read_text().strip()
    assert run(app_for(log, tmp_path, signing_key=secret, environment="staging")) is None
    (started,) = log.controls("audit.started")
    shown = started["extra"]["configuration"]
    assert shown["settings"]["environment"] == "staging"
    assert shown["settings"]["signing_key"] == "set"
    assert set(shown["settings"]) == set(Settings.model_fields)
    assert shown["versions"]["audit_middleware"] == started["extra"]["version"]
    assert shown["versions"]["pynacl"] == nacl.__version__  # named as it is installed, not as it is imported
    part = {name: shown[name] for name in ("settings", "versions")}
    assert shown["digest"] == "sha256:" + hashlib.sha256(encode(part)).hexdigest(), "anyone can compute it again"
    assert secret.split("+", 4)[-1].encode() not in b"".join(path.read_bytes() for path in log.path.rglob("*.jsonl"))
    check_log(log)


def test_a_changed_setting_is_told_once(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path)) is None
    assert run(app_for(log, tmp_path)) is None
    assert log.controls("audit.configuration_changed") == []
    assert run(app_for(log, tmp_path, max_body=1, challenge="Basic")) is None
    assert run(app_for(log, tmp_path, max_body=1, challenge="Basic")) is None
    (changed,) = log.controls("audit.configuration_changed")
    assert changed["severity"] == "medium"
    assert changed["extra"]["changed"] == [
        {"name": "challenge", "old": "Bearer", "new": "Basic"},
        {"name": "max_body", "old": 16384, "new": 1},
    ]
    starts = log.controls("audit.started")
    assert changed["extra"]["since"] == starts[1]["action_id"]
    digests = [start["extra"]["configuration"]["digest"] for start in starts]
    assert (changed["extra"]["old_digest"], changed["extra"]["new_digest"]) == (digests[1], digests[2])
    assert digests[0] == digests[1] != digests[2] == digests[3]
    check_log(log)


def test_each_service_is_compared_with_itself(log: Log, tmp_path: Path) -> None:
    for service, size in (("a", 1), ("b", 2), ("a", 1), ("b", 2)):
        assert run(app_for(log, tmp_path, service=service, max_body=size)) is None
    assert log.controls("audit.configuration_changed") == []
    assert run(app_for(log, tmp_path, service="a", max_body=2)) is None
    (changed,) = log.controls("audit.configuration_changed")
    assert changed["service"]["name"] == "a"


@pytest.mark.parametrize("hint", [None, "", "x", "1", "99999999", "-1"])
def test_the_last_start_is_found_without_the_hint_and_despite_a_wrong_one(
    log: Log, tmp_path: Path, hint: str | None
) -> None:
    for size in (1, 2):
        assert run(app_for(log, tmp_path, max_body=size)) is None
    (path,) = (log.path / ".state").glob("started-*")
    path.unlink() if hint is None else path.write_text(hint)
    found = last_started(JournalStore.open(log.path, writable=False), "control")
    assert found == log.controls("audit.started")[-1]


def test_the_first_entry_of_a_log_is_found(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path)) is None
    store = JournalStore.open(log.path, writable=False)
    next((log.path / ".state").glob("started-*")).unlink()
    found = last_started(store, "control")
    assert found is not None
    assert found["sequence"] == 0
    assert last_started(store, "other") is None
    remember_start(store, "other", 0)
    assert last_started(store, "other") is None, "a hint is only believed if it is true"


# --- routes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 900])
def test_all_routes_stand_in_the_log_under_their_digest(log: Log, tmp_path: Path, count: int) -> None:
    app = Starlette(routes=[Route(f"/{'pages' * 12}/{number}", read) for number in range(count)])
    policy = write_policy(tmp_path, POLICY)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="control")
    assert run(app) is None
    listed = [record["extra"] for record in log.controls("audit.routes_listed")]
    assert [(one["part"], one["parts"]) for one in listed] == [(i + 1, len(listed)) for i in range(len(listed))]
    assert (len(listed) > 1) == (count > 1)
    rows = [row for one in listed for row in one["manifest"]]
    assert len(rows) == listed[0]["routes"] >= count
    assert {"route", "method", "action", "rule"} == set(rows[0])
    whole = encode_whole({"policy": load(policy).digest, "routes": rows})
    assert {one["digest"] for one in listed} == {"sha256:" + hashlib.sha256(whole).hexdigest()}
    assert not any(record["flags"] for record in log.controls("audit.routes_listed")), "nothing was left out"
    check_log(log)


def encode_whole(value: Any) -> bytes:
    """Canonical bytes of any length, by another encoder than the project's."""
    import rfc8785

    return rfc8785.dumps(value)


# --- a log that takes nothing ------------------------------------------------------------------------------------


def test_a_log_that_takes_nothing_stops_the_start(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystem, "write_all", full)
    failed = run(app_for(log, tmp_path))
    assert failed is not None
    assert "writing failed: No space left on device (the disk is full: free space)" in failed
    assert log.records() == []
    monkeypatch.undo()
    assert run(app_for(log, tmp_path)) is None


LIMITED = """
import resource, sys, uvicorn
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
uvicorn.run("tests.servers.service:app", port=0)
"""


def test_a_server_whose_disk_takes_no_more_ends_with_the_reason(log: Log, tmp_path: Path) -> None:
    """The kernel refuses the write itself: files may not grow beyond what the log has already."""
    assert run(app_for(log, tmp_path)) is None
    (segment,) = (log.path / "journal").iterdir()
    environment = os.environ | {
        "AUDIT_POLICY": str(write_policy(tmp_path, SERVERS_POLICY)),
        "AUDIT_LOG": str(log.path),
        "AUDIT_SERVICE": "full",
    }
    line = [sys.executable, "-c", LIMITED, str(segment.stat().st_size + 100)]
    ended = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 3
    assert "writing failed: File too large (the disk is full: free space)" in ended.stderr
    assert "Application startup failed. Exiting." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run(app_for(log, tmp_path)) is None
    check_log(log)


# --- room --------------------------------------------------------------------------------------------------------


def test_low_space_is_told_once_per_crossing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "audit_middleware")
    rooms = iter([100, 99, 99, 50, 100, 3])
    told: list[int] = []
    space = Space(lambda: next(rooms), 100, told.append)
    seen = []
    for _ in range(6):
        space.look()
        seen.append(space.state())
    assert told == [99, 3]
    assert [one["low"] for one in seen] == [False, True, True, True, False, True]
    assert sum("fewer than min_free (100)" in message for message in caplog.messages) == 2
    assert sum("has room again" in message for message in caplog.messages) == 1


def test_space_is_looked_at_again_and_again() -> None:
    looks: list[int] = []
    space = Space(lambda: len(looks), 1, looks.append, interval_s=0.01)
    space.start()
    until(lambda: looks == [0], "the first look")
    until(lambda: space.state() == {"free": 1, "low": False}, "a later look")
    space.stop()


def test_a_service_on_a_disk_with_little_room(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path, min_free=2**50)) is None
    (low,) = log.controls("audit.low_space")
    assert low["severity"] == "high"
    assert low["extra"]["min_free"] == 2**50
    assert 0 < low["extra"]["free"] < 2**50
    assert log.records()[-1]["action"] == "audit.stopped"
    check_log(log)


def test_a_disk_that_cannot_be_asked_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> int:
        raise OSError(5, "Input/output error")

    space = Space(gone, 1, lambda free: None)
    space.look()
    assert space.state() == {"free": None, "low": False}
    assert "cannot be read: Input/output error" in caplog.text


# --- repairs -----------------------------------------------------------------------------------------------------


def torn(log: Log) -> tuple[Path, int]:
    """A log with the beginning of a frame at its end, as a killed writer leaves it; where it begins."""
    (segment,) = (log.path / "journal").iterdir()
    size = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b'{"action":"half a rec')
    return segment, size


def assert_told(log: Log, segment: Path, offset: int) -> dict[str, Any]:
    (repair,) = log.controls("audit.log_repaired")
    kept = repair["extra"].pop("kept")
    assert repair["extra"] == {"segment": segment.name, "offset": offset, "size": 21}
    assert (log.path / kept).read_bytes() == b'{"action":"half a rec'
    check_log(log)
    return repair


def test_a_tail_that_a_start_cut_is_told(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path)) is None
    place = torn(log)
    assert run(app_for(log, tmp_path)) is None
    repair = assert_told(log, *place)
    assert repair["severity"] == "medium"
    assert repair["service"]["name"] == "control"


def test_a_tail_that_a_running_service_cut_is_told(log: Log, tmp_path: Path) -> None:
    """Another process was killed while it wrote; this one finds what it left."""
    places = []

    async def drive(app: Any) -> None:
        places.append(torn(log))
        await eventually(lambda: log.controls("audit.log_repaired"), "the repair")

    assert run(app_for(log, tmp_path, heartbeat=1), drive) is None
    assert_told(log, *places[0])


def test_a_tail_that_a_command_cut_is_told(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path)) is None
    place = torn(log)
    new_key("example.com/test", tmp_path / "new.key")
    rotate(log.path, Path(f"{log.path}.key"), tmp_path / "new.key")
    assert_told(log, *place)
    assert [one["action"] for one in log.records()[-2:]] == ["audit.log_repaired", "audit.key_rotated"]


def test_a_tail_that_work_without_a_service_cut_is_told(log: Log, tmp_path: Path) -> None:
    assert run(app_for(log, tmp_path)) is None
    place = torn(log)
    environment = os.environ | {
        "AUDIT_POLICY": str(write_policy(tmp_path, POLICY)),
        "AUDIT_LOG": str(log.path),
        "AUDIT_SERVICE": "nightly",
    }
    code = "from audit_middleware import record; record('doc.read')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=ROOT)
    assert assert_told(log, *place)["service"]["name"] == "nightly"


def test_a_start_that_fails_tells_of_its_repair_and_leaves_no_thread(log: Log, tmp_path: Path) -> None:
    """It cut the log before it found what stopped it; and who does not serve must not beat."""
    assert run(app_for(log, tmp_path)) is None
    place = torn(log)
    threads = set(threading.enumerate())
    app = Starlette(routes=[Route("/", read), Route("/open", lambda request: None)])
    policy = write_policy(tmp_path, POLICY)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="control")
    failed = run(app)
    assert failed is not None
    assert "routes and policy do not fit together" in failed
    assert set(threading.enumerate()) <= threads
    assert_told(log, *place)
    assert len(log.controls("audit.started")) == 1
