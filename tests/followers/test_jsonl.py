"""Files for log shippers: rotated, each entry once, with its own bytes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.jsonl import JsonLines
from audit_middleware.formats import FORMATS
from tests.control.support import until
from tests.followers.support import append, cursor, dies_at, follower, items, journal, once, running, way
from tests.stores.children import fork
from tests.stores.samples import entry


def lines(folder: Path) -> list[dict[str, Any]]:
    files = [*sorted(folder.glob("audit-*.jsonl")), folder / "audit.jsonl"]
    return [json.loads(line) for path in files if path.exists() for line in path.read_text().splitlines()]


def test_rotated_files_hold_each_entry_once_with_its_own_bytes(tmp_path: Path) -> None:
    store, out = journal(tmp_path, 100, batch=20), tmp_path / "out"
    once(follower(store, tmp_path, JsonLines(out, max_bytes=30_000), batch=10)[0])
    assert [one["index"] for one in lines(out)] == list(range(100))
    old = sorted(out.glob("audit-*.jsonl"))
    assert len(old) >= 3
    assert all(path.stat().st_size < 60_000 for path in old)
    for path in old:
        first = json.loads(path.read_text().splitlines()[0])
        assert path.name == f"audit-{first['index']:020}.jsonl"
    text = b"".join(path.read_bytes() for path in [*old, out / "audit.jsonl"])
    assert text.split(b"\n")[42].split(b',"record":', 1)[1][:-1] == entry(42)


def test_a_crash_before_the_cursor_and_a_torn_line_leave_no_trace(tmp_path: Path) -> None:
    store, out = journal(tmp_path, 30), tmp_path / "out"
    once(follower(store, tmp_path, JsonLines(out))[0])
    state = tmp_path / "state" / "one.json"
    state.unlink()  # as if none of it had been noted
    with (out / "audit.jsonl").open("ab") as file:
        file.write(b'{"log":"audit.example.com/test","index":30,"rec')
    append(store, 5)
    once(follower(store, tmp_path, JsonLines(out))[0])
    assert [one["index"] for one in lines(out)] == list(range(35))


def test_old_files_can_be_let_go_and_age_rotates(tmp_path: Path) -> None:
    store, out = journal(tmp_path, 60), tmp_path / "out"
    once(follower(store, tmp_path, JsonLines(out, max_bytes=1_024, keep=2), batch=5)[0])
    assert [one["index"] for one in lines(out)] == list(range(45, 60))
    now = [1e9]
    sink = JsonLines(tmp_path / "aged", max_age=60).open(way(tmp_path))
    sink._clock = lambda: now[0]
    for number, passed in enumerate((0, 59, 1, 30)):
        now[0] += passed
        sink.send(items(number))
    sink.close()
    assert [path.name for path in (tmp_path / "aged").glob("audit-*")] == ["audit-00000000000000000000.jsonl"]
    assert [one["index"] for one in lines(tmp_path / "aged")] == [0, 1, 2, 3]


def test_files_of_another_log_or_history_are_left_alone(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "out").open(way(tmp_path))
    sink.send(items(0, 1))
    with pytest.raises(FollowerError, match="entry 1 in it is not the log's"):
        sink.send(items(1, user_id="another"))
    sink.close()
    before = (tmp_path / "out" / "audit.jsonl").read_bytes()
    with pytest.raises(FollowerError, match=r"lines of the log 'example.com/log'"):
        JsonLines(tmp_path / "out").open(way(tmp_path, "example.com/other"))
    assert (tmp_path / "out" / "audit.jsonl").read_bytes() == before
    (tmp_path / "out" / "audit.jsonl").write_text("something else\n")
    with pytest.raises(FollowerError, match="something else"):
        JsonLines(tmp_path / "out").open(way(tmp_path))


def test_a_directory_that_cannot_be_used_is_waited_for(tmp_path: Path) -> None:
    store, out = journal(tmp_path, 10), tmp_path / "out"
    out.write_text("in the way")
    made, told = follower(store, tmp_path, JsonLines(out))
    with running(made):
        until(lambda: made.problem, "it is noticed")
        append(store, 10_000)
        assert cursor(tmp_path) == 0
        out.unlink()
        until(lambda: cursor(tmp_path) == 10_010, "everything is written")
    assert [one["index"] for one in lines(out)] == list(range(10_010))
    assert told == []


@pytest.mark.parametrize("form", ["jsonl", "cef"])
def test_a_disk_that_fills_up_in_a_batch_leaves_each_entry_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    store, out = journal(tmp_path, 200), tmp_path / "out"
    room = iter([700, 0, 5_000, 3])

    def some(descriptor: int, data: bytes) -> None:
        size = next(room, len(data))
        os.write(descriptor, data[:size])
        if size < len(data):
            raise OSError(errno.ENOSPC, "No space left on device", str(out))

    monkeypatch.setattr("audit_middleware.followers.destinations.jsonl.write_all", some)
    made, _ = follower(store, tmp_path, JsonLines(out, format=form, max_bytes=20_000), batch=20)
    with running(made):
        until(lambda: cursor(tmp_path) == 200, "everything is written")
    assert next(room, None) is None
    locate = FORMATS[form].locate
    assert locate is not None
    suffix = ".jsonl" if form == "jsonl" else ".log"
    old = sorted(out.glob(f"audit-*{suffix}"))
    assert len(old) > 2
    found = [locate(line).index for path in [*old, out / f"audit{suffix}"] for line in path.read_bytes().splitlines()]
    assert found == list(range(200))


def test_killed_at_each_step_each_entry_stands_in_the_files_once(tmp_path: Path) -> None:
    store, out = journal(tmp_path, 12), tmp_path / "out"
    settings = JsonLines(out, max_bytes=4_000)

    def work(_: object) -> None:
        made, _told = follower(store, tmp_path, settings, batch=4)
        made.check()
        dies_at(number)
        once(made)

    number = 1
    while True:
        for folder in (out, tmp_path / "state"):
            shutil.rmtree(folder, ignore_errors=True)
        code = fork(work).wait()
        if number % 3 and (out / "audit.jsonl").exists():
            with (out / "audit.jsonl").open("ab") as file:
                file.write(b'{"log":"audit.example.com/test","ind')  # what a torn write leaves
        once(follower(store, tmp_path, settings, batch=4)[0])
        assert [one["index"] for one in lines(out)] == list(range(12)), number
        assert cursor(tmp_path) == 12
        if code == 0:
            break
        assert code == -signal.SIGKILL
        number += 1
    assert number > 25
    assert len(list(out.glob("audit-*.jsonl"))) >= 1
