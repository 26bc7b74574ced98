"""Time stamps against a real authority of OpenSSL: what holds, what is refused, and what is kept beside a log."""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit_middleware.errors import AnchorUnavailable, ConfigError, TimestampError
from audit_middleware.evidence import anchors, timestamps
from audit_middleware.evidence.anchors import keep_stamp, stamp_path, stamped_notes
from audit_middleware.evidence.stamping import check_stamps, stamp_newest
from audit_middleware.evidence.timestamps import check_stamp, read_roots, request_stamp, sorted_certificates
from audit_middleware.stores.filesystem import write_new_file
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import numbered
from tests.stores.children import fork
from tests.stores.samples import SEAL, VERIFIERS, new_journal
from tests.timestamps.support import Authority, flipped, make_authority, missing, stamping
from tests.witness.support import run

NOTE = b"audit.example.com/test\n5\nroot\n\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture(scope="module")
def roots(authority: Authority) -> list[bytes]:
    return read_roots(authority.roots.read_bytes())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    new_journal(tmp_path / "log", numbered(0, 3), numbered(3, 5))
    return tmp_path / "log"


def test_a_stamp_is_requested_and_holds(authority: Authority, roots: list[bytes]) -> None:
    queries: list[bytes] = []

    def answer(query: bytes) -> bytes:
        queries.append(query)
        return authority.reply(query)

    with stamping(answer) as url:
        first, second = request_stamp(NOTE, url), request_stamp(NOTE, url)
    moment = check_stamp(NOTE, first, roots)
    assert moment.tzinfo is not None
    assert abs(datetime.now(UTC) - moment) < timedelta(hours=1)
    nonces = [re.findall(rb"Nonce: (0x[0-9A-F]+)", _text(authority, query))[0] for query in queries]
    assert nonces[0] != nonces[1]
    assert first != second


def _text(authority: Authority, query: bytes) -> bytes:
    (authority.folder / "shown").write_bytes(query)
    return authority.openssl("ts", "-query", "-in", "shown", "-text")


def test_what_is_refused_by_name(authority: Authority, roots: list[bytes], tmp_path: Path) -> None:
    response = authority.reply(authority.query(NOTE))
    assert check_stamp(NOTE, response, roots)
    with pytest.raises(TimestampError, match="not over this checkpoint"):
        check_stamp(NOTE + b"x", response, roots)
    other = make_authority(tmp_path / "other")
    with pytest.raises(TimestampError, match="not signed by an authority that is trusted"):
        check_stamp(NOTE, response, read_roots(other.roots.read_bytes()))
    assert check_stamp(NOTE, response, read_roots(other.roots.read_bytes() + authority.roots.read_bytes()))
    for data in (b"", b"x", response[:-1], response + b"x", NOTE):
        with pytest.raises(TimestampError, match="malformed"):
            check_stamp(NOTE, data, roots)
    rejected = bytes.fromhex("30053003020102")
    with pytest.raises(TimestampError, match=r"not granted \(status 2\)"):
        check_stamp(NOTE, rejected, roots)
    with pytest.raises(ConfigError, match="no authority is trusted"):
        check_stamp(NOTE, response, [])
    with pytest.raises(ConfigError, match="no DER certificate"):
        check_stamp(NOTE, response, [b"x"])
    with pytest.raises(ConfigError, match="no PEM certificates"):
        read_roots(b"x")


def test_a_certificate_for_something_else_stamps_nothing(tmp_path: Path) -> None:
    """`openssl ts` refuses to answer with such a certificate, so it is exchanged in the response afterwards."""
    authority = make_authority(tmp_path / "tsa")
    mail = make_authority(tmp_path / "mail", purpose="mail")
    for name in ("ca.crt", "ca.key", "tsa.key"):
        (mail.folder / name).write_bytes((authority.folder / name).read_bytes())
    mail.openssl("req", "-new", "-key", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=TSA", "-config", "ts.cnf")
    serial = authority.openssl("x509", "-in", "tsa.crt", "-noout", "-serial").decode().strip().partition("=")[2]
    mail.openssl(
        "x509", "-req", "-in", "tsa.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", f"0x{serial}",
        "-days", "3650", "-extfile", "ts.cnf", "-extensions", "mail", "-out", "tsa.crt",
    )  # fmt: skip
    response = authority.reply(authority.query(NOTE))
    good = authority.openssl("x509", "-in", "tsa.crt", "-outform", "DER")
    bad = mail.openssl("x509", "-in", "tsa.crt", "-outform", "DER")
    assert good in response
    roots = read_roots(authority.roots.read_bytes())
    assert check_stamp(NOTE, response, roots)
    swapped = _replaced(response, good, bad)
    with pytest.raises(TimestampError, match=r"not signed by an authority .* unsuitable certificate purpose"):
        check_stamp(NOTE, swapped, roots)


def _replaced(response: bytes, old: bytes, new: bytes) -> bytes:
    """The response with another certificate; every length around it is adapted (all take two bytes)."""
    place, difference = response.index(old), len(new) - len(old)
    changed = bytearray(response[:place] + new + response[place + len(old) :])
    for start in range(place):
        length = int.from_bytes(response[start + 2 : start + 4], "big")
        around = response[start + 1] == 0x82 and start + 4 + length >= place + len(old)
        if around and response[start] in (0x30, 0xA0) and start + 4 + length <= len(response):
            changed[start + 2 : start + 4] = (length + difference).to_bytes(2, "big")
    return bytes(changed)


def test_every_flipped_byte_is_refused_or_changes_nothing(authority: Authority, roots: list[bytes]) -> None:
    """A bit that nothing looks at (the authority's own copy of a root) may change; never the time, never the bytes."""
    response = authority.reply(authority.query(NOTE))
    moment, refused = check_stamp(NOTE, response, roots), 0
    for position, changed in flipped(response):
        try:
            assert check_stamp(NOTE, changed, roots) == moment, position
        except TimestampError:
            refused += 1
    assert refused > len(response) // 2


def test_certificates_in_any_order(authority: Authority, roots: list[bytes]) -> None:
    """OpenSSL sends its own certificate first, whatever DER says of sets; both orders hold."""
    response = authority.reply(authority.query(NOTE))
    first, second = (authority.openssl("x509", "-in", f"{name}.crt", "-outform", "DER") for name in ("tsa", "ca"))
    here, there = first + second, second + first
    assert (here in response) or (there in response)
    for order in (here, there):
        sent = response.replace(here if here in response else there, order)
        assert check_stamp(NOTE, sent, roots)
        assert sorted_certificates(sent) == sorted_certificates(response)
    for data in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", response[:200], bytes(300)):
        assert sorted_certificates(data) == data


@pytest.mark.parametrize("digest", ["sha384", "sha512"])
def test_other_digests_are_read(authority: Authority, roots: list[bytes], digest: str) -> None:
    query = authority.openssl("ts", "-query", f"-{digest}", "-cert", "-data", "/dev/stdin", stdin=NOTE)
    assert check_stamp(NOTE, authority.reply(query), roots)


def test_an_authority_that_answers_something_else(authority: Authority) -> None:
    earlier = authority.reply(authority.query(NOTE))
    without = authority.reply(authority.query(NOTE, "-no_nonce"))
    elsewhere = authority.reply(authority.query(b"other"))
    refused: list[tuple[Callable[[bytes], bytes], str]] = [
        (lambda _: earlier, "its nonce is not ours"),
        (lambda _: without, "its nonce is not ours"),
        (lambda _: elsewhere, "not over this checkpoint"),
        (lambda _: bytes.fromhex("30053003020102"), "not granted"),
        (lambda _: b"", "malformed"),
    ]
    for answer, problem in refused:
        with stamping(answer) as url, pytest.raises(TimestampError, match=problem):
            request_stamp(NOTE, url)
    for kind, status in (("text/html", 200), ("application/timestamp-reply", 500)):
        with (
            stamping(authority.reply, kind, status) as url,
            pytest.raises(AnchorUnavailable, match="not with a time stamp"),
        ):
            request_stamp(NOTE, url)
    with stamping(lambda _: b"x" * 2**18) as url, pytest.raises(AnchorUnavailable, match="more than"):
        request_stamp(NOTE, url)
    with pytest.raises(AnchorUnavailable):
        request_stamp(NOTE, "http://127.0.0.1:1/")
    with pytest.raises(ConfigError, match="no http or https URL"):
        request_stamp(NOTE, "file:///etc/passwd")


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__import__", missing("rfc3161_client", builtins.__import__))
    with pytest.raises(ConfigError, match=r"pip install 'audit-middleware\[timestamp\]'"):
        check_stamp(NOTE, b"", [b""])
    with pytest.raises(ConfigError, match="extra"):
        request_stamp(NOTE, "http://127.0.0.1:1/")


# --- beside a log ----------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_stamped_once(log: Path, authority: Authority, roots: list[bytes]) -> None:
    store = JournalStore.open(log)

    def stamp(note: bytes) -> bytes:
        return authority.reply(authority.query(note))

    assert stamp_newest(store, log, stamp, roots)[1] is True  # type: ignore[index]  # the log is not empty
    path = log / "timestamps" / "00000000000000000005.tsr"
    kept = path.read_bytes()
    assert path.with_suffix(".checkpoint").read_bytes() == store.head().checkpoint
    assert stamp_newest(store, log, stamp, roots)[1] is False  # type: ignore[index]  # the log is not empty
    assert path.read_bytes() == kept
    assert keep_stamp(log, 5, b"other", b"other") is False
    store.append(numbered(5, 9), SEAL)
    assert stamp_newest(store, log, stamp, roots) is not None
    assert [one.problem for one in check_stamps(store, log, VERIFIERS, roots)] == [None, None]
    assert [one.size for one in check_stamps(store, log, VERIFIERS, roots)] == [5, 9]
    assert {path.stat().st_mode & 0o777 for path in (log / "timestamps").iterdir()} == {0o600}


def test_a_stamp_that_does_not_hold_is_not_kept(log: Path, authority: Authority, tmp_path: Path) -> None:
    other = read_roots(make_authority(tmp_path / "other").roots.read_bytes())
    with pytest.raises(TimestampError):
        stamp_newest(JournalStore.open(log), log, lambda note: authority.reply(authority.query(note)), other)
    assert list(stamped_notes(log)) == []


def test_killed_between_the_two_files(log: Path, authority: Authority, roots: list[bytes]) -> None:
    store = JournalStore.open(log, writable=False)

    def work(tell: Callable[[bytes], int]) -> None:
        def dying(path: Path, data: bytes) -> None:
            if path.suffix == ".tsr":
                os.kill(os.getpid(), signal.SIGKILL)
            write_new_file(path, data)

        setattr(anchors, "write_new_file", dying)  # noqa: B010  # this process ends with it
        keep_stamp(log, 5, b"of a log that was replaced\n", b"x")

    child = fork(work)
    assert (child.read(), child.wait()) == (b"", -signal.SIGKILL)
    assert [path.name for path in (log / "timestamps").iterdir()] == ["00000000000000000005.checkpoint"]
    assert list(stamped_notes(log)) == []
    stamp_newest(store, log, lambda note: authority.reply(authority.query(note)))
    assert [one.problem for one in check_stamps(store, log, VERIFIERS, roots)] == [None]


def test_the_command(log: Path, authority: Authority, tmp_path: Path) -> None:
    with stamping(authority.reply) as url:
        code, said, _ = run("timestamp", log, "--tsa", url, "--tsa-roots", authority.roots)
        assert (code, "size 5 is time-stamped" in said) == (0, True)
        answer = json.loads(run("timestamp", log, "--tsa", url, "--json")[1])
        assert (answer["size"], answer["new"]) == (5, False)
        JournalStore.open(log).append(numbered(5, 9), SEAL)
        assert "not checked: whether an authority" in run("timestamp", log, "--tsa", url)[1]
    answer = json.loads(run("timestamp", log, "--check", "--tsa-roots", authority.roots, "--json")[1])
    assert (answer["holds"], [one["size"] for one in answer["stamps"]]) == (True, [5, 9])
    code, said, _ = run("timestamp", log, "--check", "--tsa-roots", authority.roots)
    assert (code, "2 time stamps, 0 that do not hold" in said) == (0, True)
    for arguments in ((), ("--check",), ("--check", "--tsa", "http://127.0.0.1:1/")):
        assert run("timestamp", log, *arguments)[0] == 2
    with stamping(lambda _: authority.reply(authority.query(b"other"))) as url:
        JournalStore.open(log).append(numbered(9, 10), SEAL)
        assert run("timestamp", log, "--tsa", url)[0] == 1
    # Swapped files, a rolled back log, and another history are each told apart.
    forged = tmp_path / "forged"
    new_journal(forged, numbered(0, 3), numbered(50, 52))
    (log / "timestamps").rename(forged / "timestamps")
    five, nine = stamp_path(forged, 5), stamp_path(forged, 9)
    code, said, _ = run("timestamp", forged, "--check", "--tsa-roots", authority.roots, "--json")
    first, second = (one["problem"] for one in json.loads(said)["stamps"])
    assert (code, "it was forked" in first, "it was rolled back" in second) == (1, True, True)
    five.write_bytes(nine.read_bytes())
    said = run("timestamp", forged, "--check", "--tsa-roots", authority.roots, "--json")[1]
    assert "not over this checkpoint" in json.loads(said)["stamps"][0]["problem"]
    assert timestamps.QUERY_TYPE == "application/timestamp-query"


def test_the_published_stamps(vectors: Path) -> None:
    folder = vectors / "rfc3161"
    roots = read_roots((folder / "ca.crt").read_bytes())
    times = [check_stamp((folder / "body").read_bytes(), (folder / name).read_bytes(), roots) for name in ("resp.tsr",)]
    assert len(times) == 1
