"""``verify`` as an auditor uses it: trust file, archives, time stamps, and going on from the last time."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_middleware.archives.local import Folder
from audit_middleware.cli import main
from audit_middleware.errors import ProofError
from audit_middleware.evidence.keys import new_key, retire, rotate
from audit_middleware.evidence.outside import stamped_outside
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.signers import signers_of
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN as KIT_ORIGIN
from tests.kit import Log
from tests.ledger_verify.test_pruned import RULED, prune, pruning
from tests.ledger_verify.witnesses import TIME, WHEN, cosign, heads_of, keep_cosigned, trust_text
from tests.stores.samples import ORIGIN, VERIFIERS, VKEY, batches, entry, new_journal, segments_of

Verify = Callable[..., tuple[int, dict[str, Any], str]]

GROUPS = batches(2, 3, 1, 4)
HEADS = heads_of(GROUPS)


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    """The command with --json, in this process: exit code, report, errors."""

    def command(*arguments: object) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "verify", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, json.loads(captured.out) if captured.out else {}, captured.err

    return command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of ten records in four commits."""
    new_journal(tmp_path / "log", *GROUPS).close()
    return tmp_path / "log"


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """A trust file with three witnesses, of which two must have cosigned."""
    file = tmp_path / "trust"
    file.write_text(trust_text("2 a b c"))
    return file


def kinds(report: dict[str, Any]) -> list[str]:
    return [claim["kind"] for claim in report["claims"]]


# --- trust -------------------------------------------------------------------------------------------------------


def test_witnesses_beside_the_log_published_and_given(path: Path, trust: Path, tmp_path: Path, verify: Verify) -> None:
    code, report, _ = verify(path, "--trust", trust)
    assert (code, report["cause"]) == (1, "not witnessed")
    keep_cosigned(path, cosign(HEADS[0].checkpoint, "a", "b"), cosign(HEADS[1].checkpoint, "a"))
    with (path / "cosigned.jsonl").open("ab") as file:
        for line in (b'{"note": "\\ud800"}', b'{"note": 7}', b"[" * 90_000, b'{"note": "x"}', b'{"note": "cut sh'):
            file.write(line + b"\n")
    code, report, _ = verify(path, "--trust", trust)
    assert (code, kinds(report)) == (0, ["locally consistent", "witnessed"])
    assert report["claims"][-1] | {"text": ""} == {
        "kind": "witnessed",
        "size": 2,
        "text": "",
        "by": ["a", "b"],
        "time": WHEN,
    }
    assert [one["cause"] for one in report["findings"]] == ["not counted"]
    (path / "checkpoint").write_bytes(cosign(HEADS[1].checkpoint, "c"))
    assert verify(path, "--trust", trust)[1]["claims"][-1]["size"] == 5, "a's and c's lines stand in different files"
    kept = tmp_path / "kept"
    kept.write_bytes(cosign(HEADS[3].checkpoint, "b", "c"))
    report = verify(path, "--trust", trust, "--cosigned", kept)[1]
    assert (report["claims"][-1]["size"], report["claims"][-1]["by"]) == (10, ["b", "c"])
    assert report["claim"] == f"witnessed by 2 (b, c), up to size 10 of 10, newest cosignature at {WHEN}"


def test_the_keys_come_from_the_trust_file_alone(log: Log, tmp_path: Path, verify: Verify) -> None:
    """Keys in config.json that the file does not name are told, and believed no more."""
    trust = tmp_path / "trust"
    trust.write_text(trust_text("none", log.vkey))
    store = JournalStore.open(log.path)
    key_file = Path(f"{log.path}.key")
    store.append([entry(0)], make_sealer(KIT_ORIGIN, signers_of(read_key_file(key_file))))
    assert verify(log.path, "--trust", trust)[1]["findings"] == []
    new = new_key(KIT_ORIGIN, tmp_path / "new.key")
    rotate(log.path, key_file, tmp_path / "new.key")
    code, report, _ = verify(log.path, "--trust", trust)
    assert code == 0
    (told,) = [one for one in report["findings"] if one["cause"] == "wrong key"]
    assert told["level"] == "note"
    assert new in told["text"]
    retire(log.path, key_file, log.vkey)
    code, report, _ = verify(log.path, "--trust", trust)
    assert (code, report["cause"], report["index"]) == (1, "wrong key", 2)
    assert verify(log.path)[0] == 0, "config.json believes the new key"


def test_usage_errors_of_trust(path: Path, trust: Path, tmp_path: Path, verify: Verify) -> None:
    broken = tmp_path / "broken"
    broken.write_text("quorum q\n")
    foreign = tmp_path / "foreign"
    foreign.write_text(trust_text("none").partition("\n")[2])
    for arguments, words in (
        (["--trust", foreign], f"names no log '{ORIGIN}'"),
        (["--trust", broken], "line 1"),
        (["--trust", trust, "--vkey", VKEY], "not with both"),
        (["--cosigned", trust], "--cosigned needs --trust"),
    ):
        code, _, err = verify(path, *arguments)
        assert code == 2, arguments
        assert words in err, err


def test_only_evidence_from_outside_shows_a_log_that_was_signed_anew(
    tmp_path: Path, trust: Path, verify: Verify
) -> None:
    changed = [*GROUPS[:1], [entry(2, user_id="somebody-else"), *GROUPS[1][1:]], *GROUPS[2:]]
    new_journal(tmp_path / "log", *changed).close()
    kept, archive, state = tmp_path / "kept", tmp_path / "archive", tmp_path / "state"
    kept.write_bytes(cosign(HEADS[2].checkpoint, "a", "b"))
    archive.mkdir()
    (archive / "checkpoint").write_bytes(HEADS[3].checkpoint)
    new_journal(tmp_path / "before", *GROUPS[:2]).close()
    assert verify(tmp_path / "before", "--remember", state)[0] == 0
    code, report, _ = verify(tmp_path / "log")
    assert code == 0
    assert "all written anew and signed again" in report["not_checked"][0]
    for arguments in (["--trust", trust, "--cosigned", kept], ["--since", kept], ["--archive", archive]):
        code, report, _ = verify(tmp_path / "log", *arguments)
        assert (code, report["cause"], report["claims"]) == (1, "forked", []), arguments
    assert verify(tmp_path / "log", "--since", state)[0] == 1


# --- archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_home", [True, False], ids=["in place", "elsewhere"])
def test_tiles_are_what_their_checkpoint_signs(path: Path, tmp_path: Path, verify: Verify, at_home: bool) -> None:
    folder = path if at_home else tmp_path / "published"
    given = [] if at_home else ["--archive", folder]
    store = JournalStore.open(path, writable=False)
    with Folder(folder).exclusive():
        Publisher(store, Folder(folder), VERIFIERS).catch_up()
    assert verify(path, *given)[0] == 0
    for damaged in (folder / "tile" / "0").rglob("*"), (folder / "tile" / "entries").rglob("*"):
        file = next(one for one in damaged if one.is_file())
        before = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        code, report, _ = verify(path, *given)
        assert (code, report["holds"], report["cause"]) == (1, False, "altered")
        assert [(one["check"], one["where"]) for one in report["findings"]] == [(17, str(folder))]
        file.write_bytes(before)
    assert verify(path, *given)[0] == 0


def test_archives(path: Path, tmp_path: Path, verify: Verify) -> None:
    one, two, empty = (tmp_path / name for name in ("one", "two", "empty"))
    for folder in (one, two, empty):
        (folder / "checkpoints").mkdir(parents=True)
    (one / "checkpoint").write_bytes(HEADS[2].checkpoint)
    for head in HEADS[:2]:
        (one / "checkpoints" / f"{head.size:020d}").write_bytes(head.checkpoint)
    (one / "checkpoints" / "README").write_text("not a checkpoint")
    (two / "checkpoint").write_bytes(HEADS[3].checkpoint)
    code, report, _ = verify(path, "--archive", one, "--archive", two)
    assert (code, kinds(report)) == (0, ["locally consistent", "archived", "archived"])
    assert f"archived in {one}: agrees with 3 checkpoints there, up to size 6" in report["claims"][1]["text"]
    assert f"archived in {two}: agrees with 1 checkpoint there" in report["claims"][2]["text"]
    assert sum("is immutable" in text for text in report["not_checked"]) == 2
    assert [(one["cause"], one["level"]) for one in report["findings"]] == [("not counted", "note")]
    code, _, err = verify(path, "--archive", empty)
    assert code == 2
    assert "holds no checkpoint" in err
    (empty / "checkpoint").write_bytes(b"something else\n\n")
    code, report, _ = verify(path, "--archive", empty)
    assert (code, report["cause"]) == (1, "wrong key")
    (two / "checkpoint").write_bytes(heads_of([*GROUPS, [entry(10)]])[-1].checkpoint)
    code, report, _ = verify(path, "--archive", two)
    assert (code, report["cause"], report["index"]) == (1, "truncated", 10)


# --- time stamps -------------------------------------------------------------------------------------------------


def check_stamp(note: bytes, response: bytes, roots: Sequence[bytes]) -> datetime:
    """A stamp for tests: the root's digest, the note's digest and a time, separated by spaces."""
    root, digest, at = response.split(b" ")
    if digest != sha256(note).hexdigest().encode():
        raise ProofError("time stamp: is of other bytes")
    if root not in [sha256(one).hexdigest().encode() for one in roots]:
        raise ProofError("time stamp: not by a trusted authority")
    return datetime.fromtimestamp(int(at), UTC)


def stamp(log: Path, size: int, note: bytes, root: bytes, *, at: int = TIME, of: bytes | None = None) -> None:
    folder = log / "timestamps"
    folder.mkdir(exist_ok=True)
    (folder / f"{size:020d}.checkpoint").write_bytes(note)
    digests = (sha256(root).hexdigest(), sha256(note if of is None else of).hexdigest())
    (folder / f"{size:020d}.tsr").write_text(f"{digests[0]} {digests[1]} {at}")


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, bytes]:
    """A file with a certificate, and the certificate's DER bytes."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "time.example")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, begin, begin + timedelta(days=9000)).sign(key, None)
    file = tmp_path / "roots.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file, made.public_bytes(serialization.Encoding.DER)


def test_time_stamps(
    path: Path, roots: tuple[Path, bytes], verify: Verify, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, der = roots
    monkeypatch.setattr("audit_middleware.evidence.timestamps.check_stamp", check_stamp)
    code, report, _ = verify(path, "--tsa-roots", file)
    assert (code, kinds(report)) == (0, ["locally consistent"])
    assert any("no time stamp beside the log holds" in text for text in report["not_checked"])
    stamp(path, 2, HEADS[0].checkpoint, der)
    stamp(path, 5, HEADS[1].checkpoint, der, at=TIME + 60)
    stamp(path, 6, HEADS[2].checkpoint, b"another authority")
    stamp(path, 10, HEADS[3].checkpoint, der, of=b"other bytes")
    code, report, _ = verify(path, "--tsa-roots", file)
    assert (code, kinds(report)) == (0, ["locally consistent", "time-stamped"])
    assert report["claims"][1]["time"] == "2027-01-15T08:01:00Z"
    assert "the first 5 entries existed at 2027-01-15T08:01:00Z; 2 time stamps say so" in report["claims"][1]["text"]
    assert [one["cause"] for one in report["findings"]] == ["not counted"] * 2
    other = heads_of([[entry(5), entry(6)]])[0].checkpoint
    stamp(path, 2, other, der)
    code, report, _ = verify(path, "--tsa-roots", file)
    assert (code, report["cause"]) == (1, "forked")
    assert f"time-stamped at {WHEN}" in report["findings"][-1]["text"] + report["findings"][0]["text"]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    monkeypatch.setattr(sys, "argv", ["audit-middleware", "verify", str(path), "--tsa-roots", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 3
    no_certificate = tmp_path / "none.pem"
    no_certificate.write_text("nothing")
    assert verify(path, "--tsa-roots", no_certificate)[0] == 3


def test_a_stamp_over_what_is_no_checkpoint_of_this_log(path: Path) -> None:
    stamp(path, 2, b"any text\n\n", b"root")
    found = stamped_outside(path, ORIGIN, VERIFIERS, [b"root"], check_stamp)
    assert found.anchors == ()
    assert [one.cause for one in found.findings] == ["not counted"]


# --- going on ----------------------------------------------------------------------------------------------------


def test_remember_and_go_on(path: Path, tmp_path: Path, verify: Verify) -> None:
    state = tmp_path / "state.json"
    code, whole, _ = verify(path, "--remember", state)
    assert (code, whole["start"]) == (0, 0)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    said = json.loads(state.read_bytes())
    assert (said["origin"], said["size"], said["format"]) == (ORIGIN, 10, 1)
    assert said["processes"]["process-1"]["next"] == 10
    store = new_journal(tmp_path / "more", *GROUPS, [entry(10)])
    code, report, _ = verify(tmp_path / "more", "--since", state, "--remember", state)
    assert (code, report["start"], report["entries"], report["size"]) == (0, 10, 1, 11)
    assert "entries 0 to 9: they were not read again" in report["not_checked"][0]
    segment = segments_of(tmp_path / "more")[0]
    segment.write_bytes(segment.read_bytes().replace(b'"user-1"', b'"user-6"', 1))
    code, report, _ = verify(tmp_path / "more", "--since", state)
    assert (code, report["entries"]) == (0, 0)
    assert verify(tmp_path / "more")[0] == 1
    store.close()
    before = state.read_bytes()
    code, _, err = verify(tmp_path / "more", "--remember", state)
    assert code == 1
    assert "not written, because the log does not hold" in err
    assert state.read_bytes() == before


def test_states_that_do_not_belong_to_the_log(path: Path, log: Log, tmp_path: Path, verify: Verify) -> None:
    state = tmp_path / "state.json"
    assert verify(path, "--remember", state)[0] == 0
    code, _, err = verify(log.path, "--since", state)
    assert code == 2
    assert f"is of the log '{ORIGIN}'" in err
    state.write_text("{}")
    code, _, err = verify(path, "--since", state)
    assert code == 2
    assert "state.json: state: not a file that verify --remember wrote" in err
    code, _, err = verify(log.path, "--remember", state)
    assert (code, state.read_text()) == (0, "{}")
    assert "the log is empty" in err


def test_a_retired_key_is_remembered(log: Log, tmp_path: Path, verify: Verify) -> None:
    """Its late signature is found although the record of its retirement is not read again."""
    key_file, state = Path(f"{log.path}.key"), tmp_path / "state.json"
    new_key(KIT_ORIGIN, tmp_path / "new.key")
    rotate(log.path, key_file, tmp_path / "new.key")
    both = signers_of(read_key_file(key_file))
    retire(log.path, key_file, log.vkey)
    assert verify(log.path, "--remember", state)[0] == 0
    store = JournalStore.open(log.path)
    store.append([entry(0)], make_sealer(KIT_ORIGIN, both))
    code, report, _ = verify(log.path, "--since", state)
    assert (code, report["cause"], report["index"], report["entries"]) == (1, "wrong key", 2, 1)
    assert "which entry 1 retired" in report["findings"][-1]["text"]
    assert report["claims"] == []


# --- a pruned log ------------------------------------------------------------------------------------------------


def test_a_pruned_log(tmp_path: Path, verify: Verify) -> None:
    prune(tmp_path / "log", [*RULED, [pruning(5, 4), entry(6)]], 3)
    code, report, err = verify(tmp_path / "log", "--remember", tmp_path / "state")
    assert (code, report["start"], report["pruned"], report["entries"]) == (0, 4, 4, 3), err
    code, report, _ = verify(tmp_path / "log", "--since", tmp_path / "state")
    assert (code, report["start"], report["entries"]) == (0, 7, 0)
    prune(tmp_path / "unexplained", RULED, 3)
    code, report, _ = verify(tmp_path / "unexplained")
    assert (code, report["cause"], report["index"]) == (1, "missing", 0)
    (tmp_path / "log" / "journal" / f"{4:020d}.base").write_text("{}")
    code, _, err = verify(tmp_path / "log")
    assert code == 1
    assert ".base" in err


# --- words -------------------------------------------------------------------------------------------------------


def test_the_report_in_words(
    path: Path, trust: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    assert "give yours with --trust or --vkey" in say(path)
    text = say(path, "--trust", trust)
    assert "does not hold" in text
    assert "quorum 'q' of the trust file is not reached" in text
    assert "This proves: none: the quorum" in text
    assert "This proves: locally consistent" in text
    assert "--vkey" not in text
    keep_cosigned(path, cosign(HEADS[2].checkpoint, "a", "c"))
    assert "This proves: witnessed by 2 (a, c), up to size 6 of 10" in say(path, "--trust", trust)
    gap: dict[str, Any] = {
        "kind": "control",
        "action": "audit.gap",
        "extra": {"count": 4, "from": "a", "to": "b", "cause": "disk"},
    }
    new_journal(path.with_name("gap"), [entry(0, **gap)]).close()
    assert "the log admits 1 gap: 4 records could not be kept" in say(path.with_name("gap"))
