"""The commands ``retention``, ``hold`` and ``prune``, and those that read a pruned log: output and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import ConfigError
from audit_middleware.evidence import prune as prune_module
from audit_middleware.ledger.canonical import decode
from audit_middleware.stores.journal import JournalStore
from tests.kit import Log, Run
from tests.retention.support import DAY_90, clock, dated, fill, moment


@pytest.fixture
def old(log: Log, run: Run) -> Log:
    """700 records of the first days of 2025, and a retention of a month: by now all of them may go."""
    fill(log, 0, 700)
    assert run("retention", "set", log.path, "--months", 1)[0] == 0
    return log


def as_json(run: Run, *arguments: object) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_retention(run: Run, log: Log) -> None:
    assert (
        run("retention", "show", log.path)[1]
        == "every entry is kept: no retention was set\nnothing was pruned\nno legal holds\n"
    )
    assert as_json(run, "retention", "set", log.path, "--months", 12) == {"months": 12, "size": 1}
    code, out, _ = run("retention", "show", log.path)
    assert (code, out) == (0, "entries are kept for 12 months, says entry 0\nnothing was pruned\nno legal holds\n")
    assert as_json(run, "retention", "show", log.path) == {
        "months": 12, "record": 0, "holds": [], "base": 0, "minimum": 0, "explained": None,
    }  # fmt: skip
    code, _, err = run("retention", "set", log.path, "--months", 0)
    assert code == 3
    assert "1 to 1200" in err
    (record,) = log.records()
    assert (record["action"], record["event"], record["kind"]) == (
        "audit.retention_set",
        "AUDIT_RETENTION_SET",
        "control",
    )
    assert record["extra"]["by"]


def test_holds(run: Run, old: Log) -> None:
    placed = as_json(run, "hold", "place", old.path, "case-7", "--from", 10, "--to", 20, "--reason", "subpoena")
    assert placed == {"name": "case-7", "first": 10, "last": 20, "reason": "subpoena", "record": 701}
    code, out, _ = run("hold", "place", old.path, "open", "--from", "2025-02-01", "--reason", "tax audit")
    assert code == 0
    assert "all entries from 310 on stay; recorded in entry 702" in out
    assert [one["name"] for one in as_json(run, "hold", "list", old.path)["holds"]] == ["case-7", "open"]
    assert "tax audit" in run("hold", "list", old.path)[1]
    assert "entries 10 to 20" in run("retention", "show", old.path)[1]
    code, _, err = run("hold", "place", old.path, "case-7", "--from", 1, "--reason", "x")
    assert code == 3
    assert "placed already" in err
    assert run("hold", "place", old.path, "y", "--from", "yesterday", "--reason", "x")[0] == 2
    assert as_json(run, "hold", "release", old.path, "case-7", "--reason", "settled") == {"name": "case-7", "size": 704}
    assert run("hold", "release", old.path, "case-7", "--reason", "settled")[0] == 3
    assert [one["event"] for one in old.records()[701:]] == [
        "AUDIT_HOLD_PLACED", "AUDIT_HOLD_PLACED", "AUDIT_HOLD_RELEASED",
    ]  # fmt: skip


def test_a_long_reason_is_cut_and_says_so(run: Run, old: Log) -> None:
    assert run("hold", "place", old.path, "x", "--from", 1, "--reason", "\x1b[31m" + "ü" * 5000)[0] == 0
    (found,) = as_json(run, "hold", "list", old.path)["holds"]
    assert len(found["reason"].encode()) <= 1000
    assert found["reason"].endswith("…")
    assert "\x1b" not in run("hold", "list", old.path)[1]


def test_prune_and_its_dry_run(run: Run, old: Log) -> None:
    before = {path: path.read_bytes() for path in old.path.rglob("*") if path.is_file()}
    plan = as_json(run, "prune", old.path, "--dry-run")
    assert plan["dry_run"]
    assert (plan["previous"], plan["minimum"], plan["base"], plan["entries"]) == (0, 512, 511, 511)
    assert "511 entries would be removed" in run("prune", old.path, "--dry-run")[1]
    assert {path: path.read_bytes() for path in old.path.rglob("*") if path.is_file()} == before
    done = as_json(run, "prune", old.path)
    assert (done["minimum"], done["record"], done["dry_run"]) == (512, 701, False)
    assert done["bytes"] > 100_000
    code, out, _ = run("prune", old.path)
    assert code == 0
    assert out.startswith("0 entries removed")
    code, out, _ = run("retention", "show", old.path)
    assert code == 0
    assert "the log begins at entry 511: the rest was pruned, says entry 701" in out


def test_prune_refuses(run: Run, log: Log, tmp_path: Path) -> None:
    fill(log, 0, 300)
    code, _, err = run("prune", log.path)
    assert code == 3
    assert f"audit-middleware retention set {log.path} --months 12" in err
    run("retention", "set", log.path, "--months", 1)
    code, _, err = run("prune", log.path, "--before", "1h")
    assert code == 3
    assert "keeps everything since" in err
    assert run("prune", log.path, "--before", "soon")[0] == 2
    assert run("prune", log.path, "--key", tmp_path / "no.key")[0] == 3
    assert run("prune", tmp_path / "no-log")[0] == 3
    code, _, err = run("prune", log.path, "--published", tmp_path / "dir")
    assert (code, err) == (0, "")  # an empty copy holds nothing, so nothing goes
    assert JournalStore.open(log.path, writable=False).base.size == 0


def test_prune_with_published_and_archived_folders(run: Run, old: Log, tmp_path: Path) -> None:
    for name in ("dir", "archive"):
        assert run("publish", old.path, tmp_path / name)[0] == 0
    arguments = ("--published", tmp_path / "dir", "--archived", tmp_path / "archive")
    assert as_json(run, "prune", old.path, *arguments, "--dry-run")["entries"] == 511
    assert as_json(run, "prune", old.path, *arguments)["files"] == 4
    assert not (tmp_path / "dir" / "tile" / "0" / "000").exists()
    assert (tmp_path / "archive" / "tile" / "0" / "000").exists()
    for name in ("dir", "archive"):
        assert run("publish", old.path, tmp_path / name, "--check")[0] == 0, name
    code, _, err = run("publish", old.path, tmp_path / "new")
    assert code == 3
    assert "Copy a folder that was published before that" in err


def test_reading_a_pruned_log(run: Run, old: Log, tmp_path: Path) -> None:
    ids = {number: str(decode(dated(number))["action_id"]) for number in (5, 600)}
    kept, after = tmp_path / "kept.tlog-proof", tmp_path / "after.tlog-proof"
    (tmp_path / "checkpoint").write_text(run("checkpoint", old.path)[1])
    assert run("prove", old.path, 5, "--out", kept)[0] == 0
    assert run("prove", old.path, ids[600], "--to", tmp_path / "checkpoint", "--out", after)[0] == 0
    same = after.read_bytes()
    assert run("prune", old.path)[0] == 0

    assert run("query", old.path, "--kind", "control")[1].endswith("2 of 191 records\n")
    assert run("query", old.path, "--action", "invoice.delete", "--limit", 0)[1].endswith("189 of 191 records\n")
    assert len(run("tail", old.path, "-n", 1000, "--json")[1].splitlines()) == 191
    assert "entry 600" in run("show", old.path, ids[600])[1]
    code, _, err = run("show", old.path, 5)
    assert code == 1
    assert re.search(r"entry 5 was pruned at 2.*; entry 701 of the log is the record of it", err)
    assert run("show", old.path, ids[5])[0] == 1
    code, _, err = run("prove", old.path, 5)
    assert code == 1
    assert "Whoever kept a .tlog-proof of an older entry keeps it valid" in err
    assert run("verify-proof", kept, "--vkey", old.vkey)[0] == 0
    assert run("prove", old.path, ids[600], "--to", tmp_path / "checkpoint", "--out", after)[0] == 0
    assert after.read_bytes() == same
    assert run("consistency", old.path, tmp_path / "checkpoint")[0] == 0
    assert run("keys", "list", old.path)[0] == 0


def test_missing_entries_without_a_record(run: Run, old: Log) -> None:
    journal = old.path / "journal"
    frames = list(JournalStore.open(old.path).frames())
    data = (journal / f"{0:020d}.jsonl").read_bytes()
    at = int(frames[2].where.rpartition(":")[2])
    line = data[:at].splitlines(keepends=True)[-1]
    (journal / f"{frames[2].first:020d}.base").write_bytes(line)
    code, out, _ = run("retention", "show", old.path)
    assert code == 1
    assert "no record says why: entries are missing" in out
    code, _, err = run("prune", old.path)
    assert code == 3
    assert "no record of the log says that anything was pruned" in err


def test_the_plan_without_a_clock_is_of_now(old: Log) -> None:
    store = JournalStore.open(old.path, writable=False)
    assert prune_module.plan_prune(store).minimum == 512
    with pytest.raises(ConfigError):
        prune_module.plan_prune(store, before=f"{moment(DAY_90):%Y}-12-31T00:00:00.000000Z", now_ns=clock(DAY_90))
