"""Getting checkpoints cosigned: the quorum, the quirks of real servers, and what is kept and published."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import ConfigError, NoteError
from audit_middleware.evidence import cosign
from audit_middleware.evidence.anchors import COSIGNED, cosigned_notes, keep_cosigned, newest_cosigned
from audit_middleware.evidence.cosign import Submitter
from audit_middleware.evidence.publish import Publisher
from audit_middleware.ledger.note import cosignature_line, format_vkey, open_note
from audit_middleware.ledger.submission import SIZE_TYPE, parse_submission
from audit_middleware.ledger.trust import parse_policy
from audit_middleware.model import Frame, Head
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.protocols import Sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import numbered
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, new_journal
from tests.witness.support import (
    NOW,
    TEXT,
    V1,
    V2,
    V3,
    W1,
    W3,
    Answer,
    Script,
    always,
    ask,
    grow,
    honest,
    make_witness,
    pq_cosigner,
    serving,
    submitter,
    trust_of,
    trust_text,
)

# --- the quorum ---------------------------------------------------------------------------------------------------


def test_a_quorum_is_kept(log: Path, urls: list[str]) -> None:
    trust = trust_of(("w1", V1, urls[0]), ("w2", V2, urls[1] + "/"))
    first = ask(log, trust)
    assert (first.checkpoint.size, first.witnesses) == (5, ("w1", "w2"))
    grow(log, 5, 300)
    same = submitter(log, trust)
    second = same.round()
    grow(log, 300, 301)
    third = same.round()
    assert second is not None
    assert third is not None
    assert list(cosigned_notes(log)) == [first.note, second.note, third.note]
    assert newest_cosigned(log) == third.note
    for note, size in zip(cosigned_notes(log), (5, 300, 301), strict=True):
        opened = trust.open(note, ORIGIN)
        assert (opened.checkpoint.size, opened.witnesses) == (size, frozenset({"w1", "w2"}))
        assert opened.note.unverified == ()
    assert (log / COSIGNED).stat().st_mode & 0o777 == 0o600


def test_one_witness_with_two_keys_is_asked_once(log: Path, tmp_path: Path) -> None:
    pq = pq_cosigner(W1.signer.name, 1)
    script = Script(
        lambda method, path, body: (200, TEXT, honest(W1)(method, path, body)[2] + honest(pq)(method, path, body)[2])
    )
    with script.running() as url:
        result = ask(log, trust_of(("ed", V1, url), ("pq", pq.verifier, url + "/")))
    assert (result.witnesses, len(script.asked)) == (("ed", "pq"), 1)
    assert script.asked[0][1] == "/add-checkpoint"


@pytest.mark.parametrize("torn", [b"", b'{"note":"half', b"garbage\n"])
def test_without_a_quorum_nothing_is_kept(log: Path, urls: list[str], torn: bytes) -> None:
    keep_cosigned(log, b"earlier\n")
    with (log / COSIGNED).open("ab") as file:
        file.write(torn)
    before = (log / COSIGNED).read_bytes()
    with Script(always(500, {}, b"")).running() as broken:
        result = ask(log, trust_of(("w1", V1, urls[0]), ("w2", V2, broken)))
        assert (result.note, result.witnesses) == (None, ("w1",))
        assert (log / COSIGNED).read_bytes() == before
        enough = ask(log, trust_of(("w1", V1, urls[0]), ("w2", V2, broken), quorum="1"))
    assert enough.note is not None
    assert list(cosigned_notes(log)) == [b"earlier\n", enough.note]
    assert newest_cosigned(log) == enough.note


def test_no_quorum_asked_for(log: Path, urls: list[str]) -> None:
    with Script(always(500, {}, b"")).running() as broken:
        assert ask(log, trust_of(("w1", V1, broken), quorum="none")).note is None
    assert not (log / COSIGNED).exists()
    assert ask(log, trust_of(("w1", V1, urls[0]), quorum="none")).note is not None


def test_what_cannot_work_is_said_at_once(log: Path) -> None:
    for trust, problem in [
        (trust_of(("w1", V1, None)), "no witness with a URL"),
        (trust_of(("w1", V1, "http://127.0.0.1:1"), ("w2", V2, None)), "needs witnesses that have no URL"),
        (trust_of(("w1", V1, "ftp://example.com")), "no http or https URL"),
        (trust_of(("w1", V1, "http:///x")), "no http or https URL"),
        (trust_of(("w1", V1, "https://example.com/?q")), "no http or https URL"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            submitter(log, trust)
    new_journal(log.with_name("other"))
    empty = submitter(log.with_name("other"), trust_of(("w1", V1, "http://127.0.0.1:1")))
    assert empty.round() is None


def test_after_a_rotation_it_is_said_whose_trust_file_lacks_the_new_key(log: Path, tmp_path: Path) -> None:
    new = Ed25519Signer(ORIGIN, b"n" * 32)
    both = f"{trust_text(('w1', V1, None)).partition('witness')[0]}log {format_vkey(ORIGIN, new.public_key)}\n"
    with contextlib.closing(JournalStore.open(log)) as store:
        store.append(numbered(5, 6), make_sealer(ORIGIN, [new], VERIFIERS))
    with serving(make_witness(tmp_path / "state", W1)) as url:
        with pytest.raises(
            NoteError, match=r"(?s)does not open .* After a rotation .* and so do those of the witnesses"
        ):
            ask(log, trust_of(("w1", V1, url)))
        result = ask(log, parse_policy(f"{both}witness w1 {V1.vkey} {url}\nquorum w1\n".encode()))
    assert (result.note, result.outcomes[0].problem) == (
        None,
        f"{url}: status 403 (it trusts none of the keys that sign this log: give it the new verifier key)",
    )


# --- quirks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "headers", "body"),
    [
        ("409 with an empty body", 409, {}, b""),
        ("409 with the type and no body", 409, {"Content-Type": SIZE_TYPE}, b""),
        ("409 with a body and no type", 409, {"Content-Type": "text/plain"}, b"3\n"),
        ("409 with a signed size", 409, {"Content-Type": SIZE_TYPE}, b"+3\n"),
        ("409 with no end of line", 409, {"Content-Type": SIZE_TYPE}, b"3"),
        ("409 with two lines", 409, {"Content-Type": SIZE_TYPE}, b"3\n3\n"),
        ("409 with the size that was sent", 409, {"Content-Type": SIZE_TYPE}, b"0\n"),
        ("409 with another size each time", 409, {"Content-Type": SIZE_TYPE}, b"?"),
        ("500 for a key it does not know", 500, {}, b""),
        ("403", 403, {}, b"no"),
        ("404", 404, {}, b"no"),
        ("a redirect", 302, {"Location": "http://127.0.0.1:1/"}, b""),
        ("204", 204, {}, b""),
        ("200 with nothing", 200, TEXT, b""),
        ("200 with HTML", 200, {"Content-Type": "text/html"}, b"<html>\n\n</html>\n"),
        ("200 with binary", 200, TEXT, bytes(range(256))),
        ("200 without end", 200, TEXT, b"x" * 2**18),
        ("200 with a whole note", 200, TEXT, b"other.example\n9\nAAAA\n\n"),
        ("200 that unpacks to something", 200, {**TEXT, "Content-Encoding": "gzip"}, b"\x1f\x8b"),
    ],
)
def test_answers_that_are_none(log: Path, name: str, status: int, headers: dict[str, str], body: bytes) -> None:
    numbers = iter(range(1000))

    def answer(method: str, path: str, _: bytes) -> Answer:
        if method == "GET":
            return 404, {}, b""
        return status, headers, b"%d\n" % (3 if next(numbers) % 2 else 5) if body == b"?" else body

    script = Script(answer)
    with script.running() as url:
        result = ask(log, trust_of(("w1", V1, url)))
    assert (result.note, result.witnesses) == (None, ()), name
    assert result.outcomes[0].problem
    posts = [one for one in script.asked if one[0] == "POST"]
    assert 1 <= len(posts) <= cosign.ATTEMPTS * cosign.CONFLICTS
    assert not (log / COSIGNED).exists()


def test_lines_that_do_not_hold(log: Path) -> None:
    """Another's line is ignored; a line of the witness's own key that does not hold spoils the answer."""

    def with_more(more: Callable[[bytes], bytes]) -> Callable[[str, str, bytes], Answer]:
        def answer(method: str, path: str, body: bytes) -> Answer:
            return 200, TEXT, more(honest()(method, path, body)[2])

        return answer

    stranger = cosignature_line("x\n1\n" + "A" * 43 + "=\n", W3.signer, W3.kind, NOW)
    wrong = cosignature_line("x\n1\n" + "A" * 43 + "=\n", W1.signer, W1.kind, NOW)
    for more, holds in [
        (lambda line: stranger + line + stranger, True),
        (lambda line: stranger, False),
        (lambda line: wrong, False),
        (lambda line: wrong + line, False),
        (lambda line: line[:-1], False),
        (lambda line: line + b"\n", False),
        (lambda line: b"a\n\n" + line, False),
    ]:
        with Script(with_more(more)).running() as url:
            result = ask(log, trust_of(("w1", V1, url)))
        assert (result.note is not None) is holds
        if result.note is not None:
            opened = open_note(result.note, [*VERIFIERS, V1])
            assert (len(opened.verified), opened.unverified) == (2, ())


def test_a_line_over_more_than_the_checkpoint(log: Path) -> None:
    """The answer brings text of its own, and a signature over the whole of it."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        if method == "GET":
            return 404, {}, b""
        text = parse_submission(body).note.rpartition(b"\n\n")[0].decode() + "\n"
        return 200, TEXT, b"more\n\n" + cosignature_line(text + "\nmore\n", W1.signer, W1.kind, NOW)

    with Script(answer).running() as url:
        result = ask(log, trust_of(("w1", V1, url)))
    assert (result.note, "more than signature lines" in str(result.outcomes[0].problem)) == (None, True)


def test_a_witness_that_recovers_is_asked_again(log: Path) -> None:
    numbers = iter(range(100))

    def answer(method: str, path: str, body: bytes) -> Answer:
        return (503, {}, b"") if next(numbers) < 3 else honest()(method, path, body)

    with Script(answer).running() as url:
        assert ask(log, trust_of(("w1", V1, url))).note is not None


def test_the_size_is_learnt_and_then_known(log: Path, tmp_path: Path) -> None:
    state = tmp_path / "w1"
    with serving(make_witness(state, W1)) as url:
        ask(log, trust_of(("w1", V1, url)))
        (log / COSIGNED).unlink()
        grow(log, 5, 9)
        again = submitter(log, trust_of(("w1", V1, url)))
        assert again.round() is not None
        grow(log, 9, 10)
        final = again.round()
    assert final is not None
    assert final.note is not None


def test_a_slow_witness_does_not_hold_up_the_others(log: Path, urls: list[str]) -> None:
    release = threading.Event()

    def never(method: str, path: str, body: bytes) -> Answer:
        release.wait(60)
        return 200, TEXT, b""

    with Script(never).running() as slow:
        trust = trust_of(("slow", V3, slow), ("w1", V1, urls[0]), ("w2", V2, urls[1]), quorum="2")
        result = ask(log, trust, patience=100.0, grace=0.1)
        release.set()
    assert result.witnesses == ("w1", "w2")
    problems = {one.name: one.problem for one in result.outcomes if one.problem}
    assert problems == {"slow": "did not answer before the quorum was reached"}


def test_a_witness_that_sends_one_byte_at_a_time(log: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(60)
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000:
                    if stop.wait(0.02):
                        return
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = ask(log, trust_of(("w1", V1, url)), patience=0.5)
        stop.set()
        thread.join(60)
    assert result.note is None
    assert "seconds" in str(result.outcomes[0].problem)


# --- what is published --------------------------------------------------------------------------------------------


def test_the_published_checkpoint_carries_the_cosignatures(log: Path, urls: list[str], tmp_path: Path) -> None:
    trust = trust_of(("w1", V1, urls[0]))
    store = JournalStore.open(log, writable=False)
    folder = Folder(tmp_path / "dir")
    with folder.exclusive():
        Publisher(store, folder, VERIFIERS, log=log).catch_up()
    plain = (tmp_path / "dir" / "checkpoint").read_bytes()
    first = ask(log, trust, folder=folder)
    assert first.note is not None
    assert first.note != plain
    assert (tmp_path / "dir" / "checkpoint").read_bytes() == first.note
    with folder.exclusive():  # a publisher that runs: it keeps them, and takes newer ones from beside the log
        publisher = Publisher(store, folder, VERIFIERS, log=log)
        assert publisher.catch_up().note == first.note
        second = ask(log, trust, folder=folder)
        assert (tmp_path / "dir" / "checkpoint").read_bytes() == first.note
        assert publisher.catch_up().note == second.note
        grow(log, 5, 8)
        assert publisher.catch_up().note == store.head().checkpoint
    # What was cosigned before it was published is published as it is; what is not of this log is not.
    grow(log, 8, 9)
    third = ask(log, trust)
    with folder.exclusive():
        assert Publisher(store, folder, VERIFIERS, log=log).catch_up().note == third.note
    keep_cosigned(log, b"nonsense")
    with folder.exclusive():
        assert Publisher(store, folder, VERIFIERS, log=log).catch_up().note == third.note
    JournalStore.open(log).append(numbered(9, 10), SEAL)


# --- the session with transparency-dev's witness ---------------------------------------------------------------------


class Recorded:
    """The log of the recorded session, up to one of the sizes at which it was signed."""

    origin = "audit.example/log1"

    def __init__(self, seal: Sealer) -> None:
        self.size = 10
        self._frames, head, first = list[Frame](), Head(), 0
        for size in (10, 700, 5000):
            batch = tuple(b"entry-%d" % index for index in range(first, size))
            head = seal(head, batch)
            self._frames.append(Frame(first, batch, head, "recorded"))
            first = size

    def head(self) -> Head:
        return next(frame.head for frame in self._frames if frame.head.size == self.size)

    @property
    def base(self) -> Head:
        return Head()

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        for frame in self._frames:
            if frame.head.size > (start or 0) and frame.first < min(self.size, stop or self.size):
                yield frame

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_our_requests_are_those_of_a_recorded_session(load: Callable[[str], Any], tmp_path: Path) -> None:
    """Byte by byte what another client sent to a real witness, so that its recorded answers can be given."""
    session = load("cosign/witness_session.json")
    recorded = {step["request"].encode(): step for step in session["witness_transcript"]}
    signer = Ed25519Signer(Recorded.origin, bytes.fromhex(session["log_seed_hex"]))
    store = Recorded(make_sealer(Recorded.origin, [signer]))

    def answer(method: str, path: str, body: bytes) -> Answer:
        step = recorded[body]
        return step["status"], {"Content-Type": step["content_type"]}, step["response"].encode()

    (tmp_path / ".state").mkdir()
    with Script(answer).running() as url:
        lines = [f"log {session['log_vkey']}", f"witness a {session['witness_ed25519_vkey_type4']} {url}"]
        lines += [f"witness b {session['witness_mldsa44_vkey']} {url}", "group both all a b", "quorum both\n"]
        submitter = Submitter(store, tmp_path, parse_policy("\n".join(lines).encode()))
        for size in (10, 700, 5000):
            store.size = size
            result = submitter.round()
            assert result is not None
            assert (result.checkpoint.size, result.witnesses) == (size, ("a", "b"))
    assert (newest_cosigned(tmp_path) or b"").decode() == session["note_with_cosignatures"]
