"""The command ``export``: files, streams, filters, what it leaves in the log, and what a failure leaves behind."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.cli import main
from audit_middleware.cli.export import write
from audit_middleware.evidence.signers import signers_of
from audit_middleware.formats import FORMATS
from audit_middleware.ledger.canonical import encode
from audit_middleware.pipeline.seal import make_sealer
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.formats.parsing import parse_cef
from tests.formats.records import RECORDS
from tests.kit import ORIGIN, Log

Command = Callable[..., "Done"]


def append(log: Log, entries: list[bytes]) -> None:
    """One commit."""
    store = JournalStore.open(log.path)
    try:
        store.append(entries, make_sealer(ORIGIN, signers_of(read_key_file(f"{log.path}.key"))))
    finally:
        store.close()


@pytest.fixture
def filled(log: Log) -> Log:
    """All records in two commits."""
    entries = [encode(record) for record in RECORDS.values()]
    append(log, entries[:5])
    append(log, entries[5:])
    return log


@dataclass
class Done:
    """What a command did."""

    returncode: int
    stdout: bytes
    stderr: str


@pytest.fixture
def export(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process."""

    def typed(log: Log, *arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "export", str(log.path), *map(str, arguments)])
        capsysbinary.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsysbinary.readouterr()
        return Done(int(code), captured.out, captured.err.decode())

    return typed


def test_every_format_is_exported_record_by_record(filled: Log, tmp_path: Path) -> None:
    for name, form in FORMATS.items():
        target = tmp_path / name
        with target.open("wb") as file:
            assert write(iter(enumerate(RECORDS.values())), form, form.encoder(), file) == len(RECORDS)
        text = target.read_text()
        if form.framing == "array":
            assert len(json.loads(text)) == len(RECORDS)
        else:
            lines = text.split("\n")
            assert lines.pop() == ""
            assert [line.encode() for line in lines] == [form.encoder()(record) for record in RECORDS.values()]


def test_a_file_is_whole_private_and_compressed(filled: Log, export: Command, tmp_path: Path) -> None:
    target = tmp_path / "records.ndjson.gz"
    done = export(filled, "--format", "jsonl", "--out", target, "--gzip")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(RECORDS)} records written to".encode() in done.stdout
    assert gzip.decompress(target.read_bytes()) == b"".join(encode(record) + b"\n" for record in RECORDS.values())
    assert target.stat().st_mode & 0o777 == 0o600
    first = target.read_bytes()
    assert export(filled, "--format", "jsonl", "--out", target, "--gzip").returncode == 0
    assert target.read_bytes() == first, "the same records, the same bytes"
    assert first[4:8] == bytes(4), "no time in the header"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_filters_are_those_of_query(filled: Log, export: Command) -> None:
    done = export(filled, "--format", "ecs", "--decision", "deny", "--user", "ann")
    ids = [json.loads(line)["event"]["id"] for line in done.stdout.splitlines()]
    assert ids == [RECORDS["denied"]["action_id"], RECORDS["monitor"]["action_id"]]
    done = export(filled, "--format", "cef", "--action", "user.*")
    assert parse_cef(done.stdout.decode().rstrip("\n")).fields["duser"] == "ben"
    since, until = RECORDS["error"]["timestamp"], RECORDS["no_route"]["timestamp"]
    done = export(filled, "--format", "datadog", "--since", since, "--until", until)
    found = [item["audit"]["id"] for item in json.loads(done.stdout)]
    assert found == [RECORDS["error"]["action_id"], RECORDS["aborted"]["action_id"]]


def test_nothing_found_and_wrong_usage_have_their_exit_codes(filled: Log, export: Command, tmp_path: Path) -> None:
    done = export(filled, "--format", "datadog", "--user", "nobody at all")
    assert (done.returncode, json.loads(done.stdout)) == (1, [])
    for arguments, said in (
        (["--format", "xml"], "there is no format 'xml'; there are jsonl, ocsf"),
        (["--format", "ecs", "--aws-account", "123456789012"], "takes no account"),
        (["--format", "cloudtrail", "--aws-account", "12"], "twelve digits"),
        (["--format", "ecs", "--since", "yesterday"], "neither a time"),
    ):
        done = export(filled, *arguments)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr
    missing = Log(tmp_path / "none", "")
    assert export(missing, "--format", "ecs").returncode == 3
    assert export(filled, "--format", "ecs", "--out", tmp_path / "no" / "folder").returncode == 3


def test_a_failure_leaves_the_file_that_was_there(filled: Log, export: Command, tmp_path: Path) -> None:
    append(filled, [encode({"schema_version": 99, "action_id": "another"})])
    target = tmp_path / "records"
    target.write_text("before")
    done = export(filled, "--format", "ecs", "--out", target)
    assert done.returncode == 3
    assert f"entry {len(RECORDS)} is not a record of schema version 1" in done.stderr
    assert target.read_text() == "before"
    assert not (tmp_path / ".records.part").exists()
    assert export(filled, "--format", "jsonl", "--out", target).returncode == 0
    assert len(target.read_text().split("\n")) == len(RECORDS) + 2


def test_a_link_and_a_device_stay_what_they_are(filled: Log, export: Command, tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    target.write_text("before")
    link.symlink_to(target)
    assert export(filled, "--format", "cef", "--out", link).returncode == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == len(RECORDS)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert export(filled, "--format", "leef", "--out", pipe).returncode == 0
        assert len(reader.communicate(timeout=60)[0].splitlines()) == len(RECORDS)
    assert pipe.is_fifo()
    assert export(filled, "--format", "leef", "--out", tmp_path).returncode == 3, "a directory"


def test_an_export_is_recorded_in_the_log(
    filled: Log, export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    monkeypatch.delenv("AUDIT_RECORD_READS")
    done = export(filled, "--format", "cef", "--action", "invoice.*", "--out", target)
    assert done.returncode == 0
    (record,) = filled.controls("audit.log_exported")
    assert (record["extra"]["command"], record["extra"]["records"]) == ("export", len(target.read_text().splitlines()))
    assert record["extra"]["filters"] == {"action": "invoice.*", "format": "cef", "out": str(target)}
    assert record["outcome"] == "success"


def test_a_reader_who_goes_away_is_no_error(filled: Log) -> None:
    append(filled, [encode(RECORDS["allowed"])] * 3000)
    line = f"{sys.executable} -m audit_middleware export {filled.path} --format ecs | head -c 100 >/dev/null"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_memory_does_not_grow_with_the_log(filled: Log, tmp_path: Path) -> None:
    """A log of 40 MB is exported within 24 MB more than one of nothing."""
    code = (
        "import resource, sys\n"
        "sys.argv = ['x', 'export', {path!r}, '--format', 'ocsf', '--out', {target!r}]\n"
        "from audit_middleware.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    sizes: list[int] = []
    for _ in range(2):
        text = code.format(path=str(filled.path), target=str(tmp_path / "out"))
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100, check=True)
        sizes.append(int(done.stdout.split()[-1]))
        if len(sizes) == 1:
            big = encode({**RECORDS["allowed"], "extra": {"note": "x" * 20_000}})
            for _ in range(20):
                append(filled, [big] * 100)
    assert sizes[1] - sizes[0] < 24 * 1024, sizes
