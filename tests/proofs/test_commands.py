"""The commands: checkpoint, prove, verify-proof, consistency and publish, as one would use them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.errors import AuditError
from tests.stores.samples import ORIGIN, SEAL, VKEY, entry, new_journal, record

Done = subprocess.CompletedProcess[bytes]


def run(*arguments: object, stdin: bytes = b"") -> Done:
    """The command in this process, which is many times faster; what it does with our errors is `main`'s, as below."""
    result = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
    if isinstance(result.exception, AuditError):
        return Done("", 3, b"", str(result.exception).encode())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done("", result.exit_code, result.stdout_bytes, result.stderr_bytes)


def run_alone(*arguments: object) -> Done:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "audit_middleware", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    new_journal(tmp_path / "log", [entry(0), entry(1)], [entry(2)])
    return tmp_path / "log"


def test_a_proof_is_made_and_checked_without_the_log(log: Path, tmp_path: Path) -> None:
    proof = tmp_path / "one.tlog-proof"
    wanted = record(1)["action_id"]
    assert run("prove", log, wanted, "--out", proof).returncode == 0
    shutil.rmtree(log)
    done = run_alone("verify-proof", proof, "--vkey", VKEY)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()
    assert f"is in the log {ORIGIN} at index 1, under the checkpoint of size 3" in said
    assert wanted in said
    answer = json.loads(run("verify-proof", proof, "--vkey", VKEY, "--json").stdout)
    assert (answer["holds"], answer["index"], answer["size"], answer["record"]) == (True, 1, 3, record(1))


def test_a_proof_without_the_entry_wants_it(log: Path, tmp_path: Path) -> None:
    proof = tmp_path / "one.tlog-proof"
    done = run("prove", log, 1, "--no-entry")
    proof.write_bytes(done.stdout)
    assert b"user-1" not in b64decode(re.findall(rb"^extra (.*)$", done.stdout, re.M)[0])
    assert b"leaf hash" in run("verify-proof", proof, "--vkey", VKEY).stdout
    plain = tmp_path / "entry.json"
    plain.write_bytes(entry(1))
    assert run("verify-proof", proof, "--vkey", VKEY, "--entry", plain).returncode == 0
    laid_out = json.dumps(record(1), indent=2).encode()
    assert run("verify-proof", proof, "--vkey", VKEY, "--entry", "-", stdin=laid_out).returncode == 0
    assert run("verify-proof", proof, "--vkey", VKEY, "--entry", "-", stdin=entry(2)).returncode == 1
    twice = laid_out.replace(b'"user_id"', b'"user_id": "mallory", "user_id"')
    assert run("verify-proof", proof, "--vkey", VKEY, "--entry", "-", stdin=twice).returncode == 1


def test_what_does_not_hold(log: Path, tmp_path: Path) -> None:
    proof = tmp_path / "one.tlog-proof"
    data = run("prove", log, 1).stdout
    proof.write_bytes(data.replace(b"index 1", b"index 0"))
    done = run("verify-proof", proof, "--vkey", VKEY)
    assert (done.returncode, done.stdout) == (1, b"")
    answer = json.loads(run("verify-proof", proof, "--vkey", VKEY, "--json").stdout)
    assert answer["holds"] is False
    proof.write_bytes(data)
    assert run("verify-proof", proof, "--vkey", VKEY[:-4] + "AAA=").returncode == 2
    assert run("prove", log, 3).returncode == 1
    assert run("prove", log, "00000000-0000-7000-8000-000000000000").returncode == 1


def test_checkpoints_kept_and_compared(log: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(run("checkpoint", log).stdout)
    assert json.loads(run("checkpoint", log, "--json").stdout)["size"] == 3
    assert run("verify", log, "--since", old).returncode == 0
    from audit_middleware.stores.journal import JournalStore

    JournalStore.open(log).append([entry(3), entry(4)], SEAL)
    new.write_bytes(run("checkpoint", log).stdout)
    answer = json.loads(run("consistency", log, old, new, "--json").stdout)
    assert (answer["holds"], answer["old"]["size"], answer["new"]["size"]) == (True, 3, 5)
    assert answer["proof"] == run("consistency", log, old).stdout.decode().split()
    assert run("consistency", log, new, old).returncode == 1
    proof = json.loads(run("prove", log, 1, "--to", old, "--json").stdout)
    assert proof["size"] == 3
    assert proof["proof"].encode().endswith(old.read_bytes())
    assert run("prove", log, 4, "--to", old).returncode == 1
    new_journal(tmp_path / "other", [entry(7), entry(1)], [entry(2)], [entry(3), entry(4)])
    forked = run("consistency", tmp_path / "other", old)
    assert forked.returncode == 1
    assert b"another history" in forked.stderr


def test_an_empty_log(tmp_path: Path) -> None:
    new_journal(tmp_path / "log")
    assert run("checkpoint", tmp_path / "log").returncode == 1
    assert run("prove", tmp_path / "log", 0).returncode == 1


def test_publish_and_what_it_says(log: Path, tmp_path: Path) -> None:
    done = run("publish", log, tmp_path / "dir", "--check", "--json")
    assert json.loads(done.stdout)["files"] == 3, done.stderr
    assert (tmp_path / "dir" / "checkpoint").read_bytes() == run("checkpoint", log).stdout
    assert run("publish", log).returncode == 0
    assert (log / "checkpoint").read_bytes() == (tmp_path / "dir" / "checkpoint").read_bytes()
    (tmp_path / "dir" / "tile" / "0" / "000.p" / "3").write_bytes(bytes(96))
    refused = run("publish", log, tmp_path / "dir")
    assert refused.returncode == 3
    assert b"do not lead to the root" in refused.stderr
    assert run_alone("publish", tmp_path / "nothing", tmp_path / "dir2").returncode == 3


def test_openssl_verifies_a_checkpoint(log: Path, tmp_path: Path) -> None:
    note = run("checkpoint", log).stdout
    text, _, line = note.rpartition(b"\n\n")
    (tmp_path / "text").write_bytes(text + b"\n")
    (tmp_path / "signature").write_bytes(b64decode(line.split(b" ")[2])[4:])
    public = b64decode(VKEY.split("+", 2)[2])[1:]
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    options = ["-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-sigfile", "signature"]
    command = ["openssl", "pkeyutl", *options, "-in", "text"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"Verified Successfully" in done.stdout) == (0, True), done.stderr
    (tmp_path / "text").write_bytes(text.replace(b"\n3\n", b"\n4\n") + b"\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0
