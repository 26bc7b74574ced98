"""Files for log shippers: rotated, each entry once, with its own bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import FollowerError
from audit_middleware.followers.jsonl import JsonLines
from tests.followers.support import append, follower, items, journal, once
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
    sink = JsonLines(tmp_path / "aged", max_age=60).open("example.com/log")
    sink._clock = lambda: now[0]
    for number, passed in enumerate((0, 59, 1, 30)):
        now[0] += passed
        sink.send(items(number))
    sink.close()
    assert [path.name for path in (tmp_path / "aged").glob("audit-*")] == ["audit-00000000000000000000.jsonl"]
    assert [one["index"] for one in lines(tmp_path / "aged")] == [0, 1, 2, 3]


def test_files_of_another_log_or_history_are_left_alone(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "out").open("example.com/log")
    sink.send(items(0, 1))
    with pytest.raises(FollowerError, match="entry 1 in it is not the log's"):
        sink.send(items(1, user_id="another"))
    sink.close()
    before = (tmp_path / "out" / "audit.jsonl").read_bytes()
    with pytest.raises(FollowerError, match=r"lines of the log 'example.com/log'"):
        JsonLines(tmp_path / "out").open("example.com/other")
    assert (tmp_path / "out" / "audit.jsonl").read_bytes() == before
    (tmp_path / "out" / "audit.jsonl").write_text("something else\n")
    with pytest.raises(FollowerError, match="something else"):
        JsonLines(tmp_path / "out").open("example.com/log")
