"""The heads of a log compared before a service writes: rolled back, forked, or nobody there to ask."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import ConfigError, FormatError, LogDamaged, LogForked
from audit_middleware.evidence.anchors import keep_cosigned, newest_cosigned
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.heads import AskWitnesses, Compared, KnownHead, compare_heads
from audit_middleware.evidence.keys import new_key, rotate
from audit_middleware.evidence.retention import set_retention
from audit_middleware.evidence.signers import signers_of
from audit_middleware.ledger.checkpoint import open_checkpoint
from audit_middleware.ledger.note import COSIGNATURE_ED25519, cosignature_line, format_vkey
from audit_middleware.ledger.trust import Policy
from audit_middleware.pipeline.seal import make_sealer
from audit_middleware.settings import load_settings
from audit_middleware.signing import Ed25519Signer, read_key_file
from audit_middleware.stores.journal import JournalStore
from audit_middleware.wiring import build_parts
from tests.control.support import POLICY, app_for, run
from tests.kit import Log, write_policy
from tests.publish.support import publish
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, VKEY, entry, new_journal, small

WITNESS = Ed25519Signer("witness.example/w", bytes(range(1, 33)))


# --- a log, its copies, and one who rewrites ---------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    """Seven entries in three commits."""
    entries = [entry(number) for number in range(7)]
    return new_journal(tmp_path / "log", entries[:3], entries[3:5], entries[5:])


def rolled_back(store: JournalStore, folder: Path) -> JournalStore:
    """The log as it was two commits ago, whole and signed."""
    return new_journal(folder / "older", [entry(number) for number in range(3)])


def rewritten(store: JournalStore, folder: Path, count: int) -> JournalStore:
    """Another history, signed with the same key."""
    entries = [small(number) for number in range(count)]
    return new_journal(folder / f"rewritten-{count}", entries[:3], entries[3:])


def places(found: Sequence[Compared]) -> list[tuple[str, str, int | None]]:
    return [(one.place, one.state, one.size) for one in found]


def published(store: JournalStore, folder: Path) -> Path:
    publish(store, folder / "published")
    return folder / "published"


def test_a_log_that_nothing_is_known_of(store: JournalStore) -> None:
    assert compare_heads(store) == ()


def test_a_folder_as_large_smaller_or_empty(store: JournalStore, tmp_path: Path) -> None:
    folder = published(store, tmp_path)
    (tmp_path / "empty").mkdir()
    publish(store, store.path)
    found = compare_heads(store, [folder, tmp_path / "empty"])
    assert places(found) == [
        ("published in the log itself", "same", 7),
        (f"published in {folder}", "same", 7),
        (f"published in {tmp_path / 'empty'}", "none", None),
    ]
    store.append([entry(7)], SEAL)
    assert {one.state for one in compare_heads(store, [folder])} == {"older"}


def test_a_folder_that_has_more_refuses(store: JournalStore, tmp_path: Path) -> None:
    folder = published(store, tmp_path)
    with pytest.raises(LogDamaged) as refused:
        compare_heads(rolled_back(store, tmp_path), [folder])
    for words in ("ends at size 3", "checkpoint of size 7", f"published in {folder}", "Restore the newest copy"):
        assert words in str(refused.value)


@pytest.mark.parametrize("count", [7, 9])
def test_another_history_refuses_at_the_same_size_and_when_longer(
    store: JournalStore, tmp_path: Path, count: int
) -> None:
    folder = published(store, tmp_path)
    with pytest.raises(LogForked, match=r"at size 7 the log has another root .* two histories"):
        compare_heads(rewritten(store, tmp_path, count), [folder])


def test_a_folder_that_another_key_signed_proves_nothing(store: JournalStore, tmp_path: Path) -> None:
    folder = published(store, tmp_path)
    other = make_sealer(ORIGIN, [Ed25519Signer(ORIGIN, bytes(32))], VERIFIERS)
    head = other(store.head(), [entry(8)])
    (folder / "checkpoint").write_bytes(head.checkpoint)
    (found,) = compare_heads(store, [folder])
    assert found.state == "unknown"
    assert "no checkpoint that this log's key signed" in str(found.problem)


def test_a_folder_that_is_not_there_blocks_nothing(store: JournalStore, tmp_path: Path) -> None:
    (found,) = compare_heads(store, [tmp_path / "not mounted"])
    assert (found.state, found.problem) == ("unknown", "there is no such folder")


def test_the_newest_cosigned_checkpoint(store: JournalStore, tmp_path: Path) -> None:
    older = rolled_back(store, tmp_path)
    lines = [json.dumps({"note": one.head().checkpoint.decode()}) + "\n" for one in (older, store)]
    (store.path / "cosigned.jsonl").write_text("".join(lines) + '{"note": "cut sho')
    assert newest_cosigned(store.path) == store.head().checkpoint
    assert places(compare_heads(store)) == [("cosigned.jsonl", "same", 7)]
    shutil.copy(store.path / "cosigned.jsonl", older.path)
    with pytest.raises(LogDamaged, match=r"size 7, signed by this log's key: cosigned\.jsonl"):
        compare_heads(older)


def test_no_cosigned_checkpoint(tmp_path: Path) -> None:
    assert newest_cosigned(tmp_path) is None
    (tmp_path / "cosigned.jsonl").write_text("[]\n\n{}\n")
    assert newest_cosigned(tmp_path) is None


# --- witnesses ---------------------------------------------------------------------------------------------------


@dataclass
class Head:
    """What a witness shows."""

    name: str
    size: int | None = None
    root: bytes | None = None
    verified: bool = False
    problem: str | None = None


def ask(trust: Policy, origin: str, timeout: float) -> list[KnownHead]:
    """A plain client of the read side: GET <url>/<hex SHA-256 of the origin>/checkpoint."""
    heads: list[KnownHead] = []
    for witness in trust.witnesses:
        where = f"{witness.url}/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
        try:
            with urllib.request.urlopen(where, timeout=timeout) as answer:
                found, _ = open_checkpoint(answer.read(), origin, trust.log_keys(origin))
        except (OSError, FormatError) as error:
            heads.append(Head(witness.name, problem=f"{type(error).__name__}"))
        else:
            heads.append(Head(witness.name, found.size, found.root, True))
    return heads


class Shown:
    """A witness's read side on a real socket, showing one note."""

    def __init__(self) -> None:
        self.note = b""
        shown = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
                known = self.path == wanted and shown.note
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(shown.note if known else b"")

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def show(self, store: JournalStore) -> None:
        """The head of a log, cosigned."""
        note = store.head().checkpoint
        text = note.decode().rpartition("\n\n")[0] + "\n"
        self.note = note + cosignature_line(text, WITNESS, COSIGNATURE_ED25519, 1_800_000_000)


@pytest.fixture
def witness() -> Iterator[Shown]:
    shown = Shown()
    yield shown
    shown.server.shutdown()
    shown.thread.join()
    shown.server.server_close()


def trust_file(folder: Path, *urls: str, log: str = VKEY) -> Path:
    """A trust file with witnesses at these URLs."""
    lines = [f"log {log}"]
    for number, url in enumerate(urls):
        key = Ed25519Signer("witness.example/w", bytes(range(number + 1, number + 33)))
        lines.append(f"witness w{number} {format_vkey(key.name, key.public_key, COSIGNATURE_ED25519)} {url}")
    path = folder / "trust"
    path.write_text("\n".join([*lines, "quorum none\n"]))
    return path


def test_a_witness_that_saw_more_refuses(store: JournalStore, tmp_path: Path, witness: Shown) -> None:
    trust = trust_file(tmp_path, witness.url)
    witness.show(store)
    assert places(compare_heads(store, trust=trust, ask=ask)) == [("witness w0", "same", 7)]
    with pytest.raises(LogDamaged, match=r"ends at size 3, .* of size 7, .*: witness w0"):
        compare_heads(rolled_back(store, tmp_path), trust=trust, ask=ask)
    with pytest.raises(LogForked, match="witness w0"):
        compare_heads(rewritten(store, tmp_path, 7), trust=trust, ask=ask)


def test_a_witness_that_does_not_answer_blocks_nothing(store: JournalStore, tmp_path: Path, witness: Shown) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        trust = trust_file(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}", witness.url)
        found = compare_heads(store, trust=trust, ask=partial(ask))
    assert [(one.place, one.state) for one in found] == [("witness w0", "unknown"), ("witness w1", "unknown")]
    assert all(one.problem for one in found)


def test_a_checkpoint_that_the_log_did_not_sign_is_no_evidence(store: JournalStore) -> None:
    def invented(trust: Policy, origin: str, timeout: float) -> list[KnownHead]:
        return [Head("w0", 99, None, False, "signed by nobody we know")]

    trust = store.path.parent / "trust"
    trust.write_text(trust_file(store.path.parent, "http://w.example").read_text())
    (found,) = compare_heads(store, trust=trust, ask=invented)
    assert found == Compared("witness w0", "unknown", None, "signed by nobody we know")


def test_witnesses_without_a_client_are_said_not_to_be_asked(store: JournalStore, tmp_path: Path) -> None:
    (found,) = compare_heads(store, trust=trust_file(tmp_path, "http://w.example"))
    assert (found.place, found.state) == ("witnesses", "unknown")
    assert compare_heads(store, trust=trust_file(tmp_path)) == (), "there is none"


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("log x\n", "trust file, line 1")])
def test_a_trust_file_that_cannot_be_read_stops_the_start(
    store: JournalStore, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "trust"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        compare_heads(store, trust=path, ask=ask)


def test_no_key_of_the_trust_file_widens_what_the_log_may_be(store: JournalStore, tmp_path: Path) -> None:
    """The keys in config.json count as well: a trust file without the log's line compares all the same."""
    folder = published(store, tmp_path)
    trust = tmp_path / "trust"
    trust.write_text("quorum none\n")
    assert places(compare_heads(store, [folder], trust=trust, ask=ask)) == [(f"published in {folder}", "same", 7)]
    assert VERIFIERS


# --- a service ---------------------------------------------------------------------------------------------------


def test_a_service_does_not_start_on_a_log_that_was_put_back(log: Log, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    assert run(app_for(log, tmp_path, publish_to=folder)) is None
    backup = tmp_path / "backup"
    shutil.copytree(log.path, backup)
    assert run(app_for(log, tmp_path, publish_to=folder)) is None
    size = len(log.records())
    shutil.rmtree(log.path)
    shutil.copytree(backup, log.path)
    before = len(log.records())
    for setting in ({"publish_to": folder}, {"published": str(folder)}):
        failed = run(app_for(log, tmp_path, **setting))
        assert failed is not None
        assert f"ends at size {before}" in failed
        assert f"checkpoint of size {size}" in failed
    assert len(log.records()) == before, "nothing was written"


def test_what_was_compared_stands_in_the_log(log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "published"
    assert run(app_for(log, tmp_path, publish_to=folder)) is None
    assert run(app_for(log, tmp_path, published=f"{folder},{tmp_path / 'gone'}")) is None
    first, second = (start["extra"]["heads"] for start in log.controls("audit.started"))
    assert first == []
    size = log.controls("audit.stopped")[0]["sequence"] + 1
    assert second == [
        {"place": f"published in {folder}", "state": "same", "size": size, "problem": None},
        {"place": f"published in {tmp_path / 'gone'}", "state": "unknown", "size": None,
         "problem": "there is no such folder"},
    ]  # fmt: skip
    assert any("gone: there is no such folder" in message for message in caplog.messages)


def test_parts_take_the_way_to_ask_witnesses(log: Log, tmp_path: Path, witness: Shown) -> None:
    """Whatever asks: its answer decides whether there are parts at all."""
    policy = write_policy(tmp_path, POLICY)
    trust = trust_file(tmp_path, witness.url, log=log.vkey)
    settings = load_settings({"policy": policy, "log": str(log.path), "service": "s", "trust": trust}, {})

    def more(trust: Policy, origin: str, timeout: float) -> list[KnownHead]:
        return [Head("w0", 5, bytes(32), True)]

    chosen: AskWitnesses = more
    with pytest.raises(LogDamaged, match="witness w0"):
        build_parts(settings, ask_witnesses=chosen)
    parts = build_parts(settings, ask_witnesses=lambda *_: [Head("w0", 0, bytes(32), True)])
    assert [head.to_json()["state"] for head in parts.heads] == ["same"]
    parts.writer.close()


def test_commands_write_nothing_into_a_log_that_was_cut(log: Log, tmp_path: Path) -> None:
    """What they would add would be signed: a second history."""
    key = Path(f"{log.path}.key")
    new_key("example.com/test", tmp_path / "new.key")
    append = partial(append_one, log)
    append()
    backup = (segment := next((log.path / "journal").iterdir())).read_bytes()
    append()
    note = JournalStore.open(log.path, writable=False).head().checkpoint
    keep_cosigned(log.path, note)
    segment.write_bytes(backup)
    for change in (
        lambda: set_retention(log.path, key, 12, "tester"),
        lambda: rotate(log.path, key, tmp_path / "new.key"),
        append,
    ):
        with pytest.raises(LogDamaged, match="was rolled back or cut"):
            change()
    assert segment.read_bytes() == backup


def append_one(log: Log) -> None:
    signers = signers_of(read_key_file(Path(f"{log.path}.key")))
    write_control(log.path, ControlWriter(signers), [statement("audit.log_read")])
