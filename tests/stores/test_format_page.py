"""docs/format/journal.md against the code: its commands are run, its example is what the journal writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from audit_middleware.ledger import note
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores import frames, layout
from audit_middleware.stores.journal import SEGMENT_BYTES, JournalStore
from tests.stores.samples import CREATED, segments_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "format" / "journal.md").read_text(encoding="utf-8")
ORIGIN = "audit.example/billing"
TOOLS = ["bash", "sha256sum", "od", "base64", "grep", "tail", "head", "cut"]


def commands() -> list[tuple[str, str]]:
    """Commands ("$ ", continued with "> ") and what they print."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            elif line.startswith(">"):
                found[-1] = (found[-1][0] + "\n" + line[2:], found[-1][1])
            else:
                found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="the page's commands need POSIX tools")
def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    assert len(commands()) == 6
    for command, expected in commands():
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
        assert (run.stdout.decode(), run.stderr.decode()) == (expected, ""), command


def test_the_example_is_what_the_journal_writes(tmp_path: Path) -> None:
    signer = Ed25519Signer(ORIGIN, b"\x01" * 32)
    seal = make_sealer(ORIGIN, [signer])
    entries = [
        b'{"action":"invoice.read","user_id":"u-1"}',
        '{"action":"invoice.delete","reason":"TICKET-7","user_id":"Zoë"}'.encode(),
        b'{"action":"log.stopped","sequence":2,"user_id":null}',
    ]
    store = JournalStore.create(tmp_path / "log", ORIGIN, [note.format_vkey(ORIGIN, signer.public_key)], CREATED)
    store.append(entries[:2], seal)
    store.append(entries[2:], seal)
    written = segments_of(tmp_path / "log")[0].read_text(encoding="utf-8")
    shown = commands()[0][0].partition("\n")[2].removesuffix("END")
    assert shown == written


def test_the_numbers_on_the_page() -> None:
    assert f"without the last {frames.TRAILER}" in PAGE
    assert f"1 to {frames.MAX_ENTRY:,} bytes" in PAGE
    assert f"{len(frames._UNWRITTEN)} or more zero bytes" in PAGE
    assert f"format ({layout.FORMAT})" in PAGE
    assert f"{SEGMENT_BYTES // 2**20}\nMiB" in PAGE
