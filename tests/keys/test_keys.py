"""Keys: rotation with an overlap of two signatures, retirement, and what is reported afterwards."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.cli.reading import log_signers
from audit_middleware.errors import AuditError, ConfigError, KeyFileError, LogDamaged, NoteError
from audit_middleware.evidence.changes import append_control
from audit_middleware.evidence.keys import new_key, retire, rotate
from audit_middleware.evidence.keywatch import KeyWatch
from audit_middleware.evidence.prove import Prover
from audit_middleware.evidence.signers import signers_of, vkey_of
from audit_middleware.evidence.wellformed import check_record
from audit_middleware.ledger import tree
from audit_middleware.ledger.note import format_signer_key, open_note, parse_vkey
from audit_middleware.ledger.proof import verify_proof
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.verify import verify
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.settings import load_settings
from audit_middleware.signing import Ed25519Signer, read_key_file, replace_key_file, write_key_file
from audit_middleware.stores.journal import JournalStore
from audit_middleware.wiring import build_parts
from tests.kit import ORIGIN, Log, write_policy
from tests.stores.children import fork
from tests.stores.samples import entry


def key_file(log: Log) -> Path:
    return Path(f"{log.path}.key")


def write(log: Log, number: int, signers: tuple[Ed25519Signer, ...] | None = None, *, thief: bool = False) -> None:
    """What a service that has just been started does; a thief goes on behind any commit."""
    signers = signers or signers_of(read_key_file(key_file(log)))
    store = JournalStore.open(log.path)
    store.append([entry(number)], make_sealer(ORIGIN, signers, map(parse_vkey, store.vkeys) if thief else ()))
    store.close()


def report(log: Log, vkeys: list[str] | None = None) -> Report:
    """What `verify` says once it watches the keys."""
    store = JournalStore.open(log.path, writable=False)
    watch = KeyWatch()
    verifiers = [parse_vkey(text) for text in vkeys or store.config.vkeys]
    return watch.amend(verify(watch.over(store.raw_frames()), ORIGIN, verifiers, check_entry=check_record))


def head(log: Log) -> bytes:
    return JournalStore.open(log.path, writable=False).head().checkpoint


def signed_by(note: bytes, *vkeys: str) -> list[bool]:
    def one(vkey: str) -> bool:
        try:
            return bool(open_note(note, [parse_vkey(vkey)]))
        except NoteError:
            return False

    return [one(vkey) for vkey in vkeys]


@pytest.fixture
def rotated(log: Log, tmp_path: Path) -> tuple[Log, str, str]:
    """A log with an entry under the old key, then a rotation; and both verifier keys."""
    write(log, 0)
    new = new_key(ORIGIN, tmp_path / "new.key")
    rotate(log.path, key_file(log), tmp_path / "new.key")
    return log, log.vkey, new


def test_the_rotation_is_in_the_log_signed_by_both(rotated: tuple[Log, str, str]) -> None:
    log, old, new = rotated
    (record,) = log.controls("audit.key_rotated")
    assert record["extra"] == {"old_vkey": old, "new_vkey": new, "size": 1}
    assert signed_by(head(log), old, new) == [True, True]
    assert json.loads((log.path / "config.json").read_text())["vkeys"] == [old, new]
    assert report(log).holds


def test_the_overlap_verifies_with_the_old_key_the_new_one_and_both(rotated: tuple[Log, str, str]) -> None:
    log, old, new = rotated
    write(log, 1)
    assert signed_by(head(log), old, new) == [True, True]
    assert report(log).holds
    assert report(log, [old]).holds
    assert report(log, [new]).cause == "wrong key", "the commits before the rotation are not signed by the new key"


def test_a_service_that_was_not_restarted_goes_on_with_the_old_key(log: Log, tmp_path: Path) -> None:
    before = signers_of(read_key_file(key_file(log)))
    new = new_key(ORIGIN, tmp_path / "new.key")
    rotate(log.path, key_file(log), tmp_path / "new.key")
    write(log, 0, before)
    assert signed_by(head(log), log.vkey, new) == [True, False]
    assert report(log).holds


def test_old_proofs_verify_after_the_retirement(rotated: tuple[Log, str, str]) -> None:
    log, old, new = rotated
    store = JournalStore.open(log.path, writable=False)
    verifiers = [parse_vkey(old), parse_vkey(new)]
    proof = Prover(store, verifiers).inclusion(0)
    change = retire(log.path, key_file(log), old)
    assert (change.active, change.size) == ((new,), 3)
    write(log, 1)
    assert signed_by(head(log), old, new) == [False, True]
    for keys_held in ([parse_vkey(old)], verifiers):
        assert verify_proof(proof, tree.leaf_hash(entry(0)), ORIGIN, keys_held).size == 1
    again = Prover(store, verifiers).inclusion(0, head(log))
    assert verify_proof(again, tree.leaf_hash(entry(0)), ORIGIN, [parse_vkey(new)]).size == 4
    assert report(log).holds
    assert log.controls("audit.key_retired")[0]["extra"] == {"vkey": old, "size": 2}


@pytest.mark.parametrize("thief_adds_new", [False, True])
def test_a_later_signature_of_a_retired_key_is_reported(rotated: tuple[Log, str, str], thief_adds_new: bool) -> None:
    log, old, _ = rotated
    both = signers_of(read_key_file(key_file(log)))
    retire(log.path, key_file(log), parse_vkey(old).key_id.hex())
    write(log, 1)
    write(log, 2, both if thief_adds_new else both[:1], thief=True)
    write(log, 3, thief=True)
    found = report(log)
    assert (found.holds, found.index, found.cause) == (False, 4, "wrong key")
    assert [one.index for one in found.findings if one.cause == "wrong key"] == [4]
    assert "which entry 2 retired" in found.findings[-1].text


def test_a_service_that_still_signs_with_the_old_key_alone(rotated: tuple[Log, str, str]) -> None:
    """It was not started anew. Nobody with the new key alone goes on behind it, but the retirement does."""
    log, old, _ = rotated
    both = signers_of(read_key_file(key_file(log)))
    write(log, 1, both[:1])
    write(log, 2, both)
    write(log, 3, both[:1])
    retire(log.path, key_file(log), old, prepare=True)
    with pytest.raises(LogDamaged, match="not signed by a key of this process"):
        write(log, 4)
    retire(log.path, key_file(log), old)
    write(log, 4)
    with pytest.raises(LogDamaged, match="not signed by a key of this process"):
        write(log, 5, both[:1])
    assert report(log).holds


def test_a_rotation_that_one_of_the_keys_did_not_sign_is_reported(log: Log, tmp_path: Path) -> None:
    rotate_text = new_key(ORIGIN, tmp_path / "new.key")
    old, new = signers_of(read_key_file(key_file(log))), signers_of(read_key_file(tmp_path / "new.key"))
    extra = {"old_vkey": log.vkey, "new_vkey": rotate_text, "size": 0}
    store = JournalStore.open(log.path)
    append_control(store, old, "audit.key_rotated", extra, lambda: 0)
    found = report(log)
    assert (found.holds, found.index, found.cause) == (False, 0, "wrong key")
    assert "new_vkey did not sign" in found.findings[0].text
    append_control(store, [*old, *new], "audit.key_rotated", extra, lambda: 0)
    assert [one.index for one in report(log).findings if one.cause == "wrong key"] == [0]


def test_a_request_that_only_mentions_it_retires_nothing(log: Log) -> None:
    signers = signers_of(read_key_file(key_file(log)))
    store = JournalStore.open(log.path)
    store.append([entry(0, reason="audit.key_retired", extra={"vkey": log.vkey})], make_sealer(ORIGIN, signers))
    store.append([entry(1, action="audit.key_retired", extra={"vkey": log.vkey})], make_sealer(ORIGIN, signers))
    write(log, 2)
    assert report(log).holds


def test_prepare_only_takes_the_line_out(rotated: tuple[Log, str, str]) -> None:
    log, old, new = rotated
    assert retire(log.path, key_file(log), old, prepare=True).size is None
    assert list(map(vkey_of, signers_of(read_key_file(key_file(log))))) == [new]
    assert not log.controls("audit.key_retired")
    retire(log.path, key_file(log), old)
    assert len(log.controls("audit.key_retired")) == 1


def test_what_is_refused(log: Log, tmp_path: Path) -> None:
    before = key_file(log).read_bytes()
    with pytest.raises(ConfigError, match="no other key"):
        retire(log.path, key_file(log), log.vkey)
    with pytest.raises(ConfigError, match="no key of this log"):
        retire(log.path, key_file(log), "00000000")
    with pytest.raises(ConfigError, match="signs this log already"):
        rotate(log.path, key_file(log), key_file(log))
    new_key("example.com/other", tmp_path / "other.key")
    with pytest.raises(ConfigError, match=r"is for 'example.com/other'"):
        rotate(log.path, key_file(log), tmp_path / "other.key")
    new_key(ORIGIN, tmp_path / "open.key")
    (tmp_path / "open.key").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        rotate(log.path, key_file(log), tmp_path / "open.key")
    assert key_file(log).read_bytes() == before
    assert not log.records()


def test_a_retired_key_does_not_come_back(rotated: tuple[Log, str, str], tmp_path: Path) -> None:
    log, old, _ = rotated
    text = read_key_file(key_file(log)).split()[0]
    retire(log.path, key_file(log), old)
    write_key_file(tmp_path / "again.key", text)
    with pytest.raises(ConfigError, match="was retired"):
        rotate(log.path, key_file(log), tmp_path / "again.key")


@pytest.mark.parametrize("number", range(1, 14))
def test_a_rotation_killed_anywhere_can_be_repeated(log: Log, tmp_path: Path, number: int) -> None:
    new = new_key(ORIGIN, tmp_path / "new.key")

    def work(tell: object) -> None:
        from tests.publish.test_killed import dies_at

        dies_at(number)
        os.replace = _counted_replace(os.rename)  # rename is counted
        rotate(log.path, key_file(log), tmp_path / "new.key")

    assert fork(work).wait() in (0, 9)
    assert report(log).holds
    write(log, 0)
    vkeys = [vkey_of(one) for one in signers_of(read_key_file(key_file(log)))]
    if len(vkeys) == 1:
        rotate(log.path, key_file(log), tmp_path / "new.key")
        write(log, 1)
    assert signed_by(head(log), log.vkey, new) == [True, True]
    assert report(log).holds
    assert stat.S_IMODE(key_file(log).stat().st_mode) == 0o600


def _counted_replace(rename: Callable[..., Any]) -> Callable[..., Any]:
    return lambda source, target: rename(source, target)


# --- key files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["setting", "file"])
def test_a_key_that_the_log_does_not_list_signs_nothing(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Of the same origin, but another one: of a second `init`, or of somebody who has the file and not the key."""
    vkey = new_key(ORIGIN, tmp_path / "other.key")
    before = log.records()
    settings = {"policy": write_policy(tmp_path, "actions: {doc.read: {allow: [anyone]}}\n"), "log": str(log.path)}
    text = (tmp_path / "other.key").read_text()
    key = {"signing_key": text} if how == "setting" else {"key": tmp_path / "other.key"}
    with pytest.raises(ConfigError, match="is none of the log") as caught:
        build_parts(load_settings({**settings, **key, "service": "s"}, {}))
    assert vkey in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
    monkeypatch.setenv("AUDIT_KEY", str(tmp_path / "other.key"))
    monkeypatch.delenv("AUDIT_RECORD_READS", raising=False)
    with pytest.raises(ConfigError, match="is none of the log"):
        log_signers(log.path)
    assert log.records() == before


def test_signers_of_a_text() -> None:
    one, two = (format_signer_key(ORIGIN, bytes([n]) * 32) for n in (1, 2))
    assert [signer.public_key for signer in signers_of(f"\n{one}\n\n{two}\n")] == [
        Ed25519Signer(ORIGIN, bytes([n]) * 32).public_key for n in (1, 2)
    ]
    other = format_signer_key("example.com/other", bytes(32))
    for text, words in (("", "none"), (f"{one}\n{one}", "twice"), (f"{one}\n{other}", "different logs")):
        with pytest.raises(KeyFileError, match=words):
            signers_of(text)
    with pytest.raises(NoteError) as refused:
        signers_of(f"{one}\n{two[:-5]}")
    assert two.split("+")[-1][:8] not in str(refused.value)


def test_replacing_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "k"
    with pytest.raises(KeyFileError):
        replace_key_file(path, "new")
    write_key_file(path, "old")
    (tmp_path / "k.new").write_text("left by a crash")
    replace_key_file(path, "new")
    assert read_key_file(path) == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "k.new").exists()
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod"):
        replace_key_file(path, "newer")


# --- commands --------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["keys", *map(str, arguments)])
    if isinstance(result.exception, AuditError):
        return 3, str(result.exception)
    return result.exit_code, result.stdout


def test_the_commands(log: Log, tmp_path: Path) -> None:
    new = tmp_path / "new.key"
    code, said = run("new", "--name", ORIGIN, "--out", new)
    secret = new.read_text().strip()
    assert code == 0
    assert secret.split("+", 4)[-1] not in said
    assert run("new", "--name", ORIGIN, "--out", new)[0] == 3
    assert new.read_text().strip() == secret
    vkey = json.loads(run("show", new, "--json")[1])["vkeys"][0]
    assert vkey in said
    assert run("show", new)[1].strip() == vkey
    assert json.loads(run("rotate", log.path, "--new", new, "--json")[1]) == {"active": [log.vkey, vkey], "size": 1}
    both = signers_of(read_key_file(key_file(log)))
    code, said = run("retire", log.path, log.vkey, "--prepare")
    assert code == 0
    assert "without --prepare" in said
    assert run("retire", log.path, log.vkey)[0] == 0
    listed = json.loads(run("list", log.path, "--json")[1])
    assert listed["keys"] == [
        {"vkey": log.vkey, "rotated_in": None, "retired_in": 1},
        {"vkey": vkey, "rotated_in": 0, "retired_in": None},
    ]
    assert run("list", log.path)[0] == 0
    write(log, 0, both)
    code, said = run("list", log.path)
    assert code == 1
    assert "entry 2: signed by the key" in said
