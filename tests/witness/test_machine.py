"""The witness's state machine: the specification's answers, a model, a recorded session, crashes, hostile requests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from audit_middleware.errors import ConfigError, LogExists, LogNotFound
from audit_middleware.evidence.witness import Cosigner, Witness
from audit_middleware.evidence.witness_state import WitnessState
from audit_middleware.ledger import tree
from audit_middleware.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from audit_middleware.ledger.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    format_vkey,
    open_note,
    parse_cosigner_key,
    parse_vkey,
    sign,
)
from audit_middleware.ledger.submission import Submission, cosignatures_in, format_submission, origin_hash
from audit_middleware.ledger.trust import parse_policy
from audit_middleware.signing import Ed25519Signer, MLDSA44Signer
from audit_middleware.stores import filesystem
from tests.stores.children import fork
from tests.stores.samples import ORIGIN, VERIFIERS, VKEY
from tests.witness.support import (
    FORK,
    NOW,
    cosigner,
    log_key,
    logs,
    make_witness,
    note,
    pq_cosigner,
    proof,
    request,
    root,
)

OTHER = "audit.example.com/other"
SIZE = "text/x.tlog.size"


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return make_witness(tmp_path / "state")


def kept(folder: Path, origin: str = ORIGIN) -> Checkpoint | None:
    path = folder / origin_hash(origin)
    return open_checkpoint(path.read_bytes(), origin, [parse_vkey(VKEY)])[0] if path.exists() else None


# --- the answers of the specification --------------------------------------------------------------------------------


def test_a_fork_that_the_key_itself_proves_is_told(witness: Witness, caplog: pytest.LogCaptureFixture) -> None:
    witness.add_checkpoint(request("a", 0, 9))
    assert witness.add_checkpoint(request("a", 9, 12, hashes=())).status == 422
    assert caplog.text == ""
    assert witness.add_checkpoint(request("b", 9, 9)).status == 422
    assert "its key signed two roots at size 9" in caplog.text


def test_each_answer_of_the_specification(witness: Witness, tmp_path: Path) -> None:
    mallory = Ed25519Signer(ORIGIN, bytes(32))
    first = witness.add_checkpoint(request("a", 0, 5))
    assert first.status == 200
    (line,) = cosignatures_in(first.body, Checkpoint(ORIGIN, 5, root("a", 5)).text(), [cosigner().verifier])
    assert (line.name, line.time) == (cosigner().signer.name, NOW)
    refused: list[tuple[int, bytes]] = [
        (409, request("a", 0, 9)),
        (409, request("a", 4, 9)),
        (409, request("a", 6, 9)),
        (400, request("a", 5, 4)),
        (404, request("a", 5, 9, OTHER)),
        (403, request("a", 5, 9, signer=mallory)),
        (422, request("a", 5, 9, hashes=proof("a", 4, 9))),
        (422, request("a", 5, 9, hashes=())),
        (422, request("a", 5, 5, hashes=(bytes(32),))),
        (422, format_submission(Submission(5, (), note("a", 9)))),
    ]
    for status, body in refused:
        answer = witness.add_checkpoint(body)
        assert (answer.status, status == 409) == (status, answer.content_type == SIZE), body
        assert status != 409 or answer.body == b"5\n"
    assert kept(tmp_path / "state") == Checkpoint(ORIGIN, 5, root("a", 5))
    assert witness.add_checkpoint(request("a", 5, 9)).status == 200
    assert witness.add_checkpoint(request("b", 9, 9)).status == 422  # the same size, another root
    assert witness.add_checkpoint(request("b", 9, 12)).status == 422  # a proof of another history
    assert kept(tmp_path / "state") == Checkpoint(ORIGIN, 9, root("a", 9))


def test_an_empty_log_has_the_empty_root(witness: Witness) -> None:
    text = f"{ORIGIN}\n0\n{'A' * 43}=\n"
    assert witness.add_checkpoint(b"old 0\n\n" + sign(text, [log_key(ORIGIN)])).status == 400
    assert witness.add_checkpoint(request("a", 0, 0)).status == 200
    assert witness.add_checkpoint(request("a", 0, 0, hashes=(bytes(32),))).status == 422
    assert witness.add_checkpoint(request("a", 0, 3)).status == 200


def test_the_same_checkpoint_again_gets_a_new_time(tmp_path: Path) -> None:
    now = [NOW]
    witness = make_witness(tmp_path / "state", clock=lambda: now[0] * 10**9)

    def time() -> int | None:
        answer = witness.add_checkpoint(request("a", 0 if kept(tmp_path / "state") is None else 5, 5))
        assert answer.status in (200, 503), answer
        if answer.status == 503:
            return None
        return cosignatures_in(answer.body, parse_text(5), [cosigner().verifier])[0].time

    assert time() == NOW
    now[0] += 100
    assert time() == NOW + 100
    now[0] -= 50  # within the slack: never a time before the newest
    assert time() == NOW + 100
    now[0] -= 5000
    assert time() is None
    now[0] += 6000
    assert time() == now[0]


def parse_text(size: int, history: str = "a") -> str:
    return Checkpoint(ORIGIN, size, root(history, size)).text()


def test_both_kinds_of_cosignature(tmp_path: Path) -> None:
    keys = (cosigner(), pq_cosigner())
    answer = make_witness(tmp_path / "state", *keys).add_checkpoint(request("a", 0, 5))
    lines = cosignatures_in(answer.body, parse_text(5), [one.verifier for one in keys])
    assert [line.type for line in lines] == [COSIGNATURE_ED25519, COSIGNATURE_MLDSA44]
    shown = make_witness(tmp_path / "state", *keys).newest(origin_hash(ORIGIN))
    assert shown is not None
    assert len(open_note(shown, [*VERIFIERS, *(one.verifier for one in keys)]).verified) == 3


def test_lines_that_were_not_verified_are_not_kept(witness: Witness) -> None:
    """Neither a stranger's, nor one that claims to be the witness's own."""
    signed = note("a", 5)
    stranger = sign(parse_text(5), [Ed25519Signer("stranger.example", bytes(32))]).rpartition(b"\n\n")[2]
    forged = cosigner().verifier
    own = f"— {forged.name} ".encode() + b64encode(forged.key_id + bytes(72)) + b"\n"
    assert witness.add_checkpoint(b"old 0\n\n" + signed + stranger + own).status == 200
    shown = witness.newest(origin_hash(ORIGIN))
    assert shown is not None
    opened = open_note(shown, [*VERIFIERS, cosigner().verifier])
    assert (len(opened.verified), opened.unverified) == (2, ())
    assert witness.add_checkpoint(request("a", 5, 8)).status == 200


def test_a_second_key_of_the_log_and_its_bad_line(tmp_path: Path) -> None:
    """During a rotation both lines stand there: a good one is not enough beside a bad one of a known key."""
    second = Ed25519Signer(ORIGIN, bytes([3]) * 32)
    lines = [f"log {VKEY}", f"log {format_vkey(ORIGIN, second.public_key)}", "quorum none\n"]
    witness = make_witness(tmp_path / "state", trust=parse_policy("\n".join(lines).encode()))
    text = parse_text(5)
    both = sign(text, [log_key(ORIGIN), second])
    bad = sign(text, [log_key(ORIGIN)]) + sign(parse_text(6), [second]).rpartition(b"\n\n")[2]
    assert witness.add_checkpoint(b"old 0\n\n" + bad).status == 403
    assert witness.add_checkpoint(b"old 0\n\n" + both).status == 200
    assert witness.add_checkpoint(b"old 5\n\n" + sign(text, [second])).status == 200


# --- keys and memory -------------------------------------------------------------------------------------------------


def test_a_log_that_watches_itself_is_refused(tmp_path: Path) -> None:
    own = Cosigner(COSIGNATURE_ED25519, log_key(ORIGIN))
    with pytest.raises(ConfigError, match="watches itself is no witness"):
        make_witness(tmp_path / "state", own)
    with pytest.raises(ConfigError, match="needs a key"):
        Witness((), logs(), WitnessState(tmp_path / "state"))
    with pytest.raises(ConfigError, match="at most 255 bytes"):
        make_witness(tmp_path / "state", pq_cosigner(), trust=logs("x" * 256))


def test_a_memory_is_made_once_and_never_by_accident(tmp_path: Path) -> None:
    with pytest.raises(LogNotFound, match="no witness's state here"):
        WitnessState(tmp_path)
    WitnessState.create(tmp_path / "state")
    with pytest.raises(LogExists):
        WitnessState.create(tmp_path / "state")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b"\n5\n", b"\n4\n"),
        lambda data: data.replace(ORIGIN.encode(), OTHER.encode()),
        lambda data: note("a", 5, OTHER),
    ],
)
def test_a_damaged_memory_stops_the_witness(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    witness = make_witness(tmp_path / "state", trust=logs(ORIGIN, OTHER))
    witness.add_checkpoint(request("a", 0, 5))
    path = tmp_path / "state" / origin_hash(ORIGIN)
    path.write_bytes(damage(path.read_bytes()))
    for old in (0, 5):
        assert witness.add_checkpoint(request("a", old, 9)).status == 503


def test_a_disk_that_refuses_gets_no_signature(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness.add_checkpoint(request("a", 0, 5))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for step in ("write_side_file", "sync_directory"):  # before the memory changed, and after
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, step, full)
            answer = witness.add_checkpoint(request("a", 5, 9))
        assert (answer.status, b"witness.example" in answer.body) == (503, False)
    # The second one left the new memory, of which nobody knows: it is said, and cosigned when asked again.
    assert witness.add_checkpoint(request("a", 5, 9)).body == b"9\n"
    assert witness.add_checkpoint(request("b", 9, 9)).status == 422
    assert witness.add_checkpoint(request("a", 9, 9)).status == 200


# --- crashes ---------------------------------------------------------------------------------------------------------


def kill_self(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("moment", "size"), [("written", 5), ("replaced", 9), ("persisted", 9)])
def test_killed_while_it_cosigns(tmp_path: Path, moment: str, size: int) -> None:
    """kill -9 before the memory has its name, after it, and after `put`: one history is all that is ever cosigned."""
    make_witness(tmp_path / "state").add_checkpoint(request("a", 0, 5))

    class Dying(WitnessState):
        def put(self, name: str, data: bytes) -> None:
            super().put(name, data)
            kill_self()

    def work(tell: Callable[[bytes], int]) -> None:
        state = Dying(tmp_path / "state") if moment == "persisted" else WitnessState(tmp_path / "state")
        if moment == "written":
            setattr(os, "replace", kill_self)  # noqa: B010  # this process ends with it
        elif moment == "replaced":
            setattr(filesystem, "sync_directory", kill_self)  # noqa: B010
        witness = Witness([cosigner()], logs(), state, lambda: NOW * 10**9)
        tell(witness.add_checkpoint(request("a", 5, 9)).body)

    child = fork(work)
    assert (child.read(), child.wait()) == (b"", -signal.SIGKILL)
    witness = make_witness(tmp_path / "state")
    assert witness.add_checkpoint(request("a", 0, 9)).body == b"%d\n" % size
    forked = witness.add_checkpoint(request("b", size, 9))
    if size == 9:
        assert forked.status == 422
        assert witness.add_checkpoint(request("a", 9, 9)).status == 200
    else:
        assert forked.status == 200  # it had cosigned nothing of either history beyond the entries they share
        assert witness.add_checkpoint(request("a", 9, 9)).status == 422


# --- hostile requests ------------------------------------------------------------------------------------------------

GOOD = request("a", 5, 9)
HASH = b"A" * 43 + b"=\n"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nothing", b""),
        ("binary", bytes(range(256)) * 40),
        ("a note alone", note("a", 9)),
        ("no old line", GOOD.partition(b"\n")[2]),
        ("no empty line", GOOD.replace(b"\n\n", b"\n", 1)),
        ("old with a sign", GOOD.replace(b"old 5", b"old +5")),
        ("old with a zero before", GOOD.replace(b"old 5", b"old 05")),
        ("old in other digits", GOOD.replace(b"old 5", "old \N{ARABIC-INDIC DIGIT FIVE}".encode())),
        ("old beyond 2^63", GOOD.replace(b"old 5", b"old 9223372036854775808")),
        ("a space after old", GOOD.replace(b"old 5\n", b"old 5 \n")),
        ("carriage returns", GOOD.replace(b"\n", b"\r\n")),
        ("64 hashes", b"old 5\n" + HASH * 64 + b"\n" + note("a", 9)),
        ("a hash of 31 bytes", b"old 5\n" + b"A" * 42 + b"==\n\n" + note("a", 9)),
        ("stray bits", b"old 5\n" + b"A" * 42 + b"B=\n\n" + note("a", 9)),
        ("url-safe base64", b"old 5\n" + b"-" * 43 + b"=\n\n" + note("a", 9)),
        ("spaces around a hash", b"old 5\n " + HASH + b"\n" + note("a", 9)),
        ("bytes after the note", GOOD + b"x"),
        ("an empty line after the note", GOOD + b"\n"),
        ("a note without its end", GOOD[:-1]),
        ("101 signatures", GOOD + GOOD.rpartition(b"\n\n")[2] * 100),
        ("a size with a zero before", b"old 5\n\n" + sign(parse_text(9).replace("\n9\n", "\n09\n"), [log_key(ORIGIN)])),
        ("no root", b"old 5\n\n" + sign(f"{ORIGIN}\n9\n", [log_key(ORIGIN)])),
        ("not UTF-8", GOOD.replace(b"audit.example.com", b"audit.example.co\xff")),
    ],
)
def test_malformed_requests(witness: Witness, tmp_path: Path, name: str, body: bytes) -> None:
    witness.add_checkpoint(request("a", 0, 5))
    before = (tmp_path / "state" / origin_hash(ORIGIN)).read_bytes()
    assert witness.add_checkpoint(body).status == 400, name
    assert (tmp_path / "state" / origin_hash(ORIGIN)).read_bytes() == before
    assert witness.add_checkpoint(b"old 5\n" + HASH * 63 + b"\n" + note("a", 9)).status == 422


def test_every_flipped_bit_of_a_good_request_is_refused(witness: Witness, tmp_path: Path) -> None:
    witness.add_checkpoint(request("a", 0, 5))
    statuses = set()
    for bit in range(8 * len(GOOD)):
        body = bytearray(GOOD)
        body[bit // 8] ^= 1 << bit % 8
        statuses.add(witness.add_checkpoint(bytes(body)).status)
    assert statuses == {400, 403, 404, 409, 422}
    assert kept(tmp_path / "state") == Checkpoint(ORIGIN, 5, root("a", 5))


# --- a model ---------------------------------------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """A witness and two histories of one log: it cosigns whatever it likes, but never both of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.witness = make_witness(self.folder / "state")
        self.size, self.root = 0, tree.EMPTY_ROOT
        self.cosigned: list[tuple[int, bytes]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(
        history=st.sampled_from("ab"),
        old=st.none() | st.integers(0, 24),
        new=st.integers(0, 24),
        hashes=st.sampled_from(["right", "right", "none", "short", "long", "flipped"]),
        who=st.sampled_from(["log", "log", "log", "stranger"]),
    )
    def submit(self, history: str, old: int | None, new: int, hashes: str, who: str) -> None:
        old = self.size if old is None else old
        right = proof(history, old, new)
        sent = {
            "right": right,
            "none": (),
            "short": right[:-1],
            "long": (*right, bytes(32)),
            "flipped": tuple(bytes([one[0] ^ 1]) + one[1:] for one in right),
        }[hashes]
        signer = log_key(ORIGIN) if who == "log" else Ed25519Signer(ORIGIN, bytes(32))
        answer = self.witness.add_checkpoint(request(history, old, new, signer=signer, hashes=sent))
        assert answer.status == self._expected(history, old, new, sent == right, who)
        if answer.status == 409:
            assert (answer.content_type, answer.body) == (SIZE, b"%d\n" % self.size)
        if answer.status == 200:
            text = Checkpoint(ORIGIN, new, root(history, new)).text()
            assert cosignatures_in(answer.body, text, [cosigner().verifier])
            self.size, self.root = new, root(history, new)
            self.cosigned.append((new, self.root))

    def _expected(self, history: str, old: int, new: int, right: bool, who: str) -> int:
        if who != "log":
            return 403
        if old > new:
            return 400
        if old != self.size:
            return 409
        return 200 if right and root(history, old) == self.root else 422

    @rule()
    def restart(self) -> None:
        self.witness = make_witness(self.folder / "state")

    @invariant()
    def what_is_kept_is_what_was_cosigned_last(self) -> None:
        found = kept(self.folder / "state")
        assert found == (Checkpoint(ORIGIN, self.size, self.root) if self.cosigned else None)

    @invariant()
    def all_that_was_cosigned_is_of_one_history(self) -> None:
        assert any(all(root(one, size) == wanted for size, wanted in self.cosigned) for one in "ab")


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_two_histories_differ_where_the_model_needs_it() -> None:
    assert root("a", FORK) == root("b", FORK)
    assert root("a", FORK + 1) != root("b", FORK + 1)


# --- the session with transparency-dev's witness ---------------------------------------------------------------------


def test_a_recorded_session_gets_the_answers_of_the_specification(load: Callable[[str], Any], tmp_path: Path) -> None:
    """Same keys, same clock: where the other witness kept to the specification, our Ed25519 lines are its lines."""
    session = load("cosign/witness_session.json")
    first, second = (parse_vkey(session[key]) for key in ("witness_ed25519_vkey_type4", "witness_mldsa44_vkey"))
    name, kind, seed = parse_cosigner_key(session["witness_mldsa44_skey"])
    cosigners = (
        Cosigner(COSIGNATURE_ED25519, Ed25519Signer(first.name, bytes.fromhex(session["witness_ed25519_seed_hex"]))),
        Cosigner(kind, MLDSA44Signer(name, seed)),
    )
    assert [one.verifier for one in cosigners] == [first, second]
    trust = parse_policy(f"log {session['log_vkey']}\nquorum none\n".encode())
    now = [0]
    witness = make_witness(tmp_path / "state", *cosigners, trust=trust, clock=lambda: now[0] * 10**9)
    identical = 0
    for step in session["witness_transcript"]:
        text = step["request"].partition("\n\n")[2].rpartition("\n\n")[0] + "\n"
        if step["status"] == 200:
            theirs = cosignatures_in(step["response"].encode(), text, [first, second])
            now[0] = theirs[0].time or 0
        answer = witness.add_checkpoint(step["request"].encode())
        assert answer.status == step["spec_status"], step["desc"]
        if answer.status == 409:
            assert (answer.content_type, answer.body.decode()) == (step["content_type"], step["response"])
        if answer.status == 200:
            assert cosignatures_in(answer.body, text, [first])[0] == theirs[0]
            assert cosignatures_in(answer.body, text, [second])
            identical += 1
    assert identical == 4
    shown = witness.newest(origin_hash("audit.example/log1"))
    assert shown is not None
    assert parse_checkpoint(shown.decode().rpartition("\n\n")[0] + "\n").size == 5000


def test_a_memory_of_which_the_directory_is_gone(witness: Witness, tmp_path: Path) -> None:
    witness.add_checkpoint(request("a", 0, 5))
    shutil.rmtree(tmp_path / "state")
    assert witness.add_checkpoint(request("a", 0, 5)).status == 503
    (tmp_path / "state").mkdir()  # as when a volume goes away and its empty mount point shows
    assert witness.add_checkpoint(request("b", 0, 9)).status == 503
