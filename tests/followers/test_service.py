"""Followers as a process of their own and inside a service: elected, stopped in order, never in a request's way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.signers import signers_of
from audit_middleware.signing import read_key_file
from tests.control.support import app_for, eventually, run, until
from tests.followers.receivers import Receiver
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC, arrived
from tests.kit import Log, call
from tests.middleware.support import check_log


def config(folder: Path, *followers: str) -> Path:
    path = folder / "followers.yaml"
    path.write_text("version: 1\nfollowers:\n" + "".join(f"  - {{{one}}}\n" for one in followers))
    return path


def files(folder: Path) -> str:
    return f"name: files, type: jsonl, directory: {folder}"


def indexes(folder: Path) -> list[int]:
    path = folder / "audit.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []  # a shipper waits for a line's end, too
    return [json.loads(line)["index"] for line in whole]


def _more(process: subprocess.Popen[str], folder: Path, count: int) -> bool:
    """A process that ended says why, instead of a test that waits for it."""
    assert process.poll() is None, process.communicate()
    return len(indexes(folder)) > count


def fill(log: Log, count: int) -> None:
    writer = ControlWriter(signers_of(read_key_file(Path(f"{log.path}.key"))))
    write_control(log.path, writer, [statement("audit.heartbeat", extra={"interval_s": 60}) for _ in range(count)])


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "audit_middleware", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False,
    )  # fmt: skip


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `follow` processes, and ends what is left of them."""
    made: list[subprocess.Popen[str]] = []

    def begin(log: Log, path: Path, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "audit_middleware", "follow", str(log.path), "--config", str(path)]
        pipe = subprocess.PIPE
        made.append(subprocess.Popen(
            [*command, "--interval", "0.05"], stdout=pipe, stderr=pipe, text=True, env=os.environ | environment
        ))  # fmt: skip
        return made[-1]

    yield begin
    for one in made:
        one.kill()
        one.communicate()


def test_a_process_of_its_own_follows_and_stops_in_order(
    log: Log, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    out = tmp_path / "out"
    fill(log, 5)
    process = start(log, config(tmp_path, files(out)), AUDIT_RECORD_READS="1")
    until(lambda: len(indexes(out)) >= 5, "the records arrive")
    fill(log, 3)
    until(lambda: len(indexes(out)) >= 9, "later ones, too")
    process.send_signal(signal.SIGTERM)
    said, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems
    assert "files: came to entry 9" in said
    assert indexes(out) == list(range(9))
    begin, end = log.controls("audit.log_exported")
    assert (begin["extra"]["phase"], end["extra"]["phase"], end["outcome"]) == ("begin", "end", "success")


@pytest.mark.slow
def test_killed_processes_lose_nothing_and_write_each_entry_once(
    log: Log, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """A batch is three fsyncs, and a disk that others use gives ten of them a second: so there are few batches."""
    out = tmp_path / "out"
    path = config(tmp_path, files(out) + ", batch: 20")
    for kills in range(3):
        process = start(log, path)
        fill(log, 200)
        until(partial(_more, process, out, 200 * kills + 20), "some arrive")
        process.kill()
        process.communicate()
    process = start(log, path)
    until(partial(_more, process, out, 599), "all arrive")
    assert indexes(out) == list(range(600))


def test_two_processes_do_not_follow_together(
    log: Log, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    path = config(tmp_path, files(tmp_path / "out"))
    start(log, path)
    until(lambda: (log.path / ".state" / "followers" / "files.json").exists(), "the first one works")
    found = command("follow", log.path, "--config", path)
    assert found.returncode == 3
    assert "lock" in found.stderr
    assert command("followers", "reset", log.path, "files", "--config", path, "--to", "now").returncode == 3


def test_status_reset_and_a_log_that_was_put_back(log: Log, tmp_path: Path) -> None:
    path = config(tmp_path, files(tmp_path / "out"))
    fill(log, 4)
    found = command("followers", "status", log.path, "--config", path, "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)[0]["state"] == "new"
    done = command("followers", "reset", log.path, "files", "--config", path, "--to", "1")
    assert done.returncode == 0, done.stderr
    (told,) = log.controls("audit.follower_reset")
    assert told["extra"] == {"follower": "files", "from": 0, "to": 1}
    (one,) = json.loads(command("followers", "status", log.path, "--config", path, "--json").stdout)
    assert (one["state"], one["next"], one["size"], one["lag"], one["dead_letters"]) == ("behind", 1, 5, 4, 0)
    cursor = log.path / ".state" / "followers" / "files.json"
    cursor.write_text(cursor.read_text().replace('"next": 1', '"next": 77'))
    found = command("follow", log.path, "--config", path)
    assert found.returncode == 3
    assert "77 entries were followed, but the log ends at 5" in found.stderr
    assert "followers reset" in found.stderr
    found = command("followers", "status", log.path, "--config", path)
    assert (found.returncode, "refused" in found.stdout) == (1, True)
    assert command("follow", log.path, "--config", path, "--check").returncode == 3
    for wrong in ("soon", "99"):
        found = command("followers", "reset", log.path, "files", "--config", path, "--to", wrong)
        assert found.returncode in (2, 3)
    assert (
        "no follower 'other'" in command("followers", "reset", log.path, "other", "--config", path, "--to", "0").stderr
    )


def test_what_is_never_taken_is_told_by_the_log_and_no_secret_is_shown(
    log: Log, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    def answer(handler: Handler) -> None:
        handler.say(400 if handler.headers["webhook-id"] == bad else 503 if refuse else 200, b"")

    fill(log, 3)
    bad, refuse = log.records()[1]["action_id"], False
    with served(answer) as url:
        secret_url = f"{url}/T0000/secret-path"
        path = config(
            tmp_path,
            "name: hook, type: webhook, url: '${HOOK}', secret: '${SIGN}', allow_private: true, retry: {longest: 20}",
        )
        process = start(log, path, HOOK=secret_url, SIGN=WHSEC)
        (told,) = until(lambda: log.controls("audit.delivery_failed"), "the log says so")
        assert told["extra"] == {
            "follower": "hook", "type": "webhook", "count": 1, "indexes": [1],
            "actions": ["audit.heartbeat"], "why": ["answered 400"], "dead_letters": "hook.dead.jsonl",
        }  # fmt: skip
        refuse = True
        fill(log, 1)
        problem = log.path / ".state" / "followers" / "hook.problem.json"
        until(problem.exists, "the trouble is shown")
        status = command("followers", "status", log.path, "--config", path, "--json")
        (one,) = json.loads(status.stdout)
        assert (status.returncode, one["state"], one["dead_letters"]) == (1, "failing", 1)
        process.send_signal(signal.SIGINT)
        said, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems
    everything = said + problems + status.stdout + json.dumps(log.records())
    everything += "".join(path.read_text() for path in (log.path / ".state" / "followers").iterdir())
    assert "answered 503" in everything
    assert "secret-path" not in everything
    assert WHSEC not in everything
    assert "MfKQ9r8GKYqrTwjU" not in everything
    check_log(log)


def test_a_service_follows_its_own_log_to_the_last_record(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/")).status == 200
        await eventually(lambda: len(indexes(out)) > 3, "records arrive")

    assert run(app_for(log, tmp_path, followers=config(tmp_path, files(out))), drive) is None
    assert indexes(out) == list(range(len(log.records())))
    assert log.records()[-1]["action"] == "audit.stopped"
    check_log(log)


def test_a_wrong_configuration_stops_the_start(log: Log, tmp_path: Path) -> None:
    failed = run(app_for(log, tmp_path, followers=config(tmp_path, "name: x, type: jsonl, directry: y")))
    assert "followers.yaml:3: followers[0].directry: unknown key; did you mean 'directory'?" in str(failed)


def test_a_destination_that_hangs_slows_no_request_and_no_other_follower(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def hang(handler: Handler) -> None:
        asked.append(time.monotonic())
        while not over:
            time.sleep(0.02)
        handler.say(200, b"")

    asked: list[float] = []
    over: list[bool] = []
    monkeypatch.setenv("SIGN", WHSEC)
    with served(hang) as url:
        slow = f"name: slow, type: webhook, url: '{url}', secret: '${{SIGN}}', allow_private: true, timeout: 60"

        async def drive(app: Any) -> None:
            await eventually(lambda: asked, "the destination hangs")
            for _ in range(50):
                assert (await call(app, "GET", "/")).status == 200
            await eventually(lambda: len(log.outcomes()) == 50, "the records")
            await eventually(lambda: len(indexes(out)) >= len(log.records()), "the other follower has them")
            assert len(asked) == 1, "all of this happened while the first delivery hung"
            over.append(True)

        assert run(app_for(log, tmp_path, followers=config(tmp_path, slow, files(out))), drive) is None
    check_log(log)


def test_one_of_many_workers_follows_and_another_takes_over(tmp_path: Path) -> None:
    import httpx

    from tests.servers.running import Server

    out = tmp_path / "out"
    path = config(tmp_path, files(out))
    server = Server("uvicorn asyncio h11", tmp_path / "service", "--workers", "2",
                    AUDIT_FOLLOWERS=str(path), AUDIT_HEARTBEAT="1")  # fmt: skip
    try:
        lock = server.log.path / ".state" / "followers" / "lock"
        until(lambda: len(indexes(out)) > 2, "records arrive")
        first = until(lambda: _holder(lock), "a worker follows")
        os.kill(first, signal.SIGKILL)
        until(lambda: _holder(lock) not in (0, first), "another one takes over")
        answer = httpx.get(f"{server.url}/docs/after", headers={"x-user": "ann:reader"}, timeout=60)
        server.record(answer.headers["audit-id"])
        size = len(server.log.records())
        until(lambda: len(indexes(out)) >= size, "what came after arrives")
        assert indexes(out) == list(range(len(indexes(out))))
    finally:
        server.stop()


def _holder(lock: Path) -> int:
    """The process that holds a flock, by the kernel's own list."""
    if not lock.exists():
        return 0
    inode = lock.stat().st_ino
    found = re.findall(rf"FLOCK +\w+ +WRITE (\d+) [0-9a-f]+:[0-9a-f]+:{inode} ", Path("/proc/locks").read_text())
    return int(found[0]) if found else 0


@pytest.mark.slow
def test_ten_thousand_records_reach_elasticsearch_through_a_kill_of_both_sides(
    log: Log, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    server = Receiver("elasticsearch", tmp_path / "taken").start()
    key = {"ES_KEY": "c2VjcmV0LWVzLWtleQ=="}
    path = config(
        tmp_path,
        f"name: es, type: elasticsearch, url: '{server.url}', data_stream: logs-audit-test, api_key: '${{ES_KEY}}', "
        "retry: {first: 20, longest: 100}",
    )
    try:
        first = start(log, path, **key)
        for _ in range(20):
            fill(log, 500)
        until(lambda: server.count() > 1_000, "some arrive")
        server.kill()
        first.kill()
        start(log, path, **key)
        server.start()
        until(lambda: server.count() >= 10_000, "all arrive")
    finally:
        server.kill()
    assert arrived(server, "ecs") == list(range(10_000))


def test_where_there_is_no_log(tmp_path: Path) -> None:
    path = config(tmp_path, files(tmp_path / "out"))
    found = command("follow", tmp_path / "none", "--config", path)
    assert found.returncode == 3
    assert "there is no log here" in found.stderr
    assert not (tmp_path / "none").exists()
