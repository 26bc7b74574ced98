"""The commands on a log in PostgreSQL: all of them on one log, what cannot be there, and errors without a password."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit_middleware.evidence.keys import new_key
from tests.kit import Run
from tests.postgres.commands import COUNT, ORIGIN, fill
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD
from tests.servers.running import PATIENCE, ROOT, until
from tests.stores.samples import record


def test_reading(url: str, run: Run, tmp_path: Path) -> None:
    code, out, err = run("query", url, "--json", "--limit", 5)
    assert (code, err) == (0, "")
    assert [json.loads(line)["index"] for line in out.splitlines()] == [39, 38, 37, 36, 35]
    first = record(3, "filler")["action_id"]
    code, out, err = run("show", url, first, "--json")
    assert (code, json.loads(out)["index"]) == (0, 3), err
    code, out, err = run("tail", url, "-n", "2", "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, err = run("verify", url, "--json")
    report = json.loads(out)
    assert code == 0, out
    assert report["holds"]
    assert report["entries"] == COUNT + 3, "each reading is a record of the log"
    code, out, _ = run("verify", url)
    assert (code, ORIGIN in out) == (0, True)
    # what was read stands in the log, under the name of the command
    code, out, _ = run("query", url, "--action", "audit.log_read", "--json")
    assert [json.loads(line)["record"]["extra"]["command"] for line in out.splitlines()] == ["tail", "show", "query"]


def test_proofs(url: str, run: Run, tmp_path: Path) -> None:
    kept, proof = tmp_path / "kept", tmp_path / "proof"
    code, out, err = run("checkpoint", url)
    assert (code, err) == (0, "")
    kept.write_text(out)
    assert out.splitlines()[0] == ORIGIN
    vkey = json.loads(run("keys", "list", url, "--json")[1])["keys"][0]["vkey"]
    assert run("prove", url, "12", "--out", proof)[0] == 0
    assert run("verify-proof", proof, "--vkey", vkey)[0] == 0
    fill(url, tmp_path / "state", 10)
    assert run("consistency", url, kept)[0] == 0
    assert run("verify", url, "--since", kept, "--vkey", vkey)[0] == 0
    state = tmp_path / "remembered"
    assert run("verify", url, "--remember", state)[0] == 0
    assert run("verify", url, "--since", state)[0] == 0


def test_export_publish_and_detect(url: str, run: Run, tmp_path: Path) -> None:
    code, out, err = run("export", url, "--format", "jsonl")
    assert (code, err, len(out.splitlines())) == (0, "", COUNT)
    assert run("export", url, "--format", "cef", "--user", "nobody-there")[0] == 1
    code, _, err = run("publish", url)
    assert (code, "needs a directory" in err) == (2, True)
    folder = tmp_path / "published"
    assert run("publish", url, folder, "--check")[0] == 0
    assert run("verify", url, "--archive", folder)[0] == 0
    assert run("prove", url, "3", "--tiles", folder)[0] == 0
    code, out, err = run("detect", url, "--json")
    assert code in (0, 1), err


def test_keys(url: str, run: Run, tmp_path: Path) -> None:
    new_key(ORIGIN, tmp_path / "new.key")
    code, out, err = run("keys", "rotate", url, "--new", tmp_path / "new.key", "--json")
    assert code == 0, err
    first, second = json.loads(out)["active"]
    fill(url, tmp_path / "state", 3)
    assert run("verify", url)[0] == 0
    code, out, err = run("keys", "retire", url, first)
    assert code == 0, err
    fill(url, tmp_path / "state", 3)
    code, out, _ = run("keys", "list", url, "--json")
    assert code == 0
    assert [one["vkey"] for one in json.loads(out)["keys"]] == [first, second]
    assert json.loads(out)["keys"][0]["retired_in"] is not None
    assert run("verify", url)[0] == 0


def test_a_role_that_does_not_own_the_log_cannot_rotate(url: str, database: Database, run: Run, tmp_path: Path) -> None:
    new_key(ORIGIN, tmp_path / "new.key")
    writer = database.role("service", "audit_writer", "audit_reader")
    code, _, err = run("keys", "rotate", writer, "--new", tmp_path / "new.key")
    assert (code, "may not do that" in err) == (3, True), err
    assert run("verify", url)[0] == 0


def test_holds_and_retention_and_prune(url: str, run: Run, tmp_path: Path) -> None:
    fill(url, tmp_path / "state", 600)
    assert run("retention", "set", url, "--months", 1)[0] == 0
    assert run("hold", "place", url, "case-1", "--from", 530, "--reason", "case 1")[0] == 0
    code, out, _ = run("retention", "show", url, "--json")
    assert (code, json.loads(out)["months"]) == (0, 1)
    assert run("publish", url, tmp_path / "published")[0] == 0
    code, out, err = run("prune", url, "--published", tmp_path / "published", "--dry-run", "--json")
    assert code == 0, err
    code, out, err = run("prune", url, "--published", tmp_path / "published", "--json")
    assert code == 0, err
    done = json.loads(out)
    assert 500 < done["base"] <= done["minimum"] == 512, done
    code, out, err = run("verify", url, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out
    code, _, err = run("show", url, 3)
    assert (code, "was pruned" in err) == (1, True)
    assert run("retention", "show", url)[0] == 0


def test_blocks(url: str, run: Run) -> None:
    assert run("blocks", "add", url, "mallory", "--for", "15m", "--reason", "case 2")[0] == 0
    _, out, _ = run("blocks", "list", url, "--json")
    assert [one["who"] for one in json.loads(out)["entries"]] == ["mallory"]
    assert run("blocks", "rebuild", url)[0] == 0
    assert run("blocks", "lift", url, "mallory", "--reason", "case 2")[0] == 0


def test_copy(url: str, run: Run, tmp_path: Path) -> None:
    """Into a directory, where the log goes on, and back."""
    code, out, err = run("copy", url, tmp_path / "journal", "--json")
    assert code == 0, err
    done = json.loads(out)
    assert (done["size"], done["added"], done["holds"]) == (COUNT, COUNT, True)
    (tmp_path / "journal.key").write_bytes((tmp_path / "state" / "signing.key").read_bytes())
    (tmp_path / "journal.key").chmod(0o600)
    assert run("blocks", "add", tmp_path / "journal", "mallory", "--for", "15m", "--reason", "case 2")[0] == 0
    code, out, err = run("copy", tmp_path / "journal", url)
    assert (code, "1 entries added" in out) == (0, True), err
    code, _, err = run("copy", url, tmp_path / "state")
    assert (code, "is not empty" in err) == (3, True)


FOLLOWERS = """
version: 1
followers:
  - {name: file, type: jsonl, directory: PATH}
"""


def test_followers_on_two_hosts(url: str, run: Run, tmp_path: Path) -> None:
    """Of two hosts one works; when it is killed, the other can take over."""
    config = tmp_path / "followers.yaml"
    config.write_text(FOLLOWERS.replace("PATH", str(tmp_path / "lines")))
    first = follower(url, config, tmp_path / "host-1", tmp_path)
    try:
        until(lambda: len(indexes_of(tmp_path)) >= COUNT, "the records")
        code, _, err = run("follow", url, "--config", config)  # another folder: another host
        assert (code, "another process holds" in err) == (3, True), err
        first.kill()
        first.wait()
        second = follower(url, config, tmp_path / "host-2", tmp_path)
        try:
            fill(url, tmp_path / "state", 9)
            until(lambda: COUNT + 10 in indexes_of(tmp_path), "the new records")
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(PATIENCE) == 0
    finally:
        first.kill()
        first.wait()
    found = indexes_of(tmp_path)
    assert found == list(range(len(found))), "all of them, in order"
    assert run("followers", "status", url, "--config", config)[0] == 0


def follower(url: str, config: Path, state: Path, folder: Path) -> subprocess.Popen[bytes]:
    """`follow` on another host: a folder of its own, the same key."""
    state.mkdir()
    environment = os.environ | {"AUDIT_STATE": str(state), "AUDIT_KEY": str(folder / "state" / "signing.key")}
    command = [sys.executable, "-m", "audit_middleware", "follow", url, "--config", str(config)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)


def indexes_of(folder: Path) -> list[int]:
    files = sorted((folder / "lines").glob("*.jsonl"))
    lines = [line for path in files for line in path.read_bytes().splitlines(keepends=True)]
    return [json.loads(line)["index"] for line in lines if line.endswith(b"\n")]


def test_a_place_that_is_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("query", "mysql://host/database")
    assert code in (2, 3)
    assert "postgresql://user@host/database" in err


@pytest.mark.parametrize("command", ["query", "verify", "tail", "checkpoint", "init"])
def test_errors_hold_no_password(database: Database, run: Run, command: str) -> None:
    more = ["--origin", ORIGIN] if command == "init" else []
    wrong = {
        "password": database.as_role("postgres", "not-the-right-one-either"),
        "host": f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/postgres",
        "database": database.url.replace(database.name, "no-such-database"),
    }
    if command != "init":
        wrong["log"] = database.url
    for what, url in wrong.items():
        code, out, err = run(command, url, *more)
        assert code == 3, (what, out, err)
        assert err.startswith("error: postgresql://127.0.0.1")
        assert "not-the-right-one-either" not in err
        assert len(err) < 600, err
