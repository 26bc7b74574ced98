"""Signed notes: what is written is what opens, and nothing else opens."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import NoteError
from audit_middleware.ledger import note
from audit_middleware.ledger.note import Signer, Verifier

MakeKey = Callable[[str, int], Signer]
VerifierOf = Callable[..., Verifier]

TEXT = "one\n\n— looks like a signature\n\ntwo\n"


@pytest.fixture
def key(make_key: MakeKey) -> Signer:
    return make_key("audit.example/billing", 1)


@pytest.fixture
def known(key: Signer, verifier_of: VerifierOf) -> Verifier:
    return verifier_of(key)


def test_what_is_signed_opens(key: Signer, known: Verifier) -> None:
    opened = note.open_note(note.sign(TEXT, [key]), [known])
    assert opened.text == TEXT
    assert [(line.name, line.key_id, line.type, line.time) for line in opened.verified] == [
        ("audit.example/billing", known.key_id, note.ED25519, None)
    ]
    assert opened.unverified == ()


@given(st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]))).map("\n".join))
def test_any_text_comes_back(make_key: MakeKey, verifier_of: VerifierOf, text: str) -> None:
    signer = make_key("a", 1)
    assert note.open_note(note.sign(text + "\n", [signer]), [verifier_of(signer)]).text == text + "\n"


def test_the_bytes_of_a_note(key: Signer, known: Verifier) -> None:
    signature = b64encode(known.key_id + key.sign(b"text\n")).decode()
    assert note.sign("text\n", [key]).decode() == f"text\n\n— audit.example/billing {signature}\n"


def test_every_changed_byte_is_noticed(key: Signer, known: Verifier) -> None:
    whole = note.sign(TEXT, [key])
    for place in range(len(whole)):
        for mask in (0x01, 0x04, 0x20, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= mask
            with pytest.raises(NoteError):
                note.open_note(bytes(changed), [known])


def test_every_cut_and_every_added_byte_is_noticed(key: Signer, known: Verifier) -> None:
    whole = note.sign(TEXT, [key])
    for place in range(len(whole)):
        for changed in (whole[:place], whole[:place] + whole[place + 1 :], whole[:place] + b"\n" + whole[place:]):
            with pytest.raises(NoteError):
                note.open_note(changed, [known])


def test_lines_of_unknown_keys_are_kept_but_not_believed(
    key: Signer, known: Verifier, make_key: MakeKey, verifier_of: VerifierOf
) -> None:
    other = make_key("other.example", 2)
    whole = note.sign(TEXT, [other, key, other])
    opened = note.open_note(whole, [known])
    assert [line.name for line in opened.verified] == ["audit.example/billing"]
    assert [line.name for line in opened.unverified] == ["other.example"]
    assert len(note.open_note(whole, [known, verifier_of(other)]).verified) == 2
    with pytest.raises(NoteError, match="not signed by any known key"):
        note.open_note(whole, [])
    with pytest.raises(NoteError, match="not signed by any known key"):
        note.open_note(whole, [verifier_of(make_key("audit.example/billing", 3))])


def test_one_bad_line_of_a_known_key_refuses_the_note(
    key: Signer, known: Verifier, make_key: MakeKey, verifier_of: VerifierOf
) -> None:
    other = make_key("other.example", 2)
    line = note.sign("another text\n", [other]).rpartition(b"\n\n")[2]
    with pytest.raises(NoteError, match=r"signature of other\.example .* does not hold"):
        note.open_note(note.sign(TEXT, [key]) + line, [known, verifier_of(other)])


def test_signatures_up_to_the_limit(key: Signer, known: Verifier) -> None:
    whole = note.sign(TEXT, [key])
    line = f"— x {b64encode(bytes(36)).decode()}\n".encode()
    assert note.open_note(whole + line * 99, [known]).verified
    with pytest.raises(NoteError, match="101 signatures"):
        note.open_note(whole + line * 100, [known])


ID = b64encode(bytes(4)).decode()
BODY = b64encode(bytes(5)).decode()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        f"- x {BODY}",
        f"—x {BODY}",
        f" — x {BODY}",
        f"—  {BODY}",
        "— x",
        "— x ",
        f"— x  {BODY}",
        f"— x {BODY} ",
        f"— x y {BODY}",
        f"— x+y {BODY}",
        f"— x\u00a0y {BODY}",
        f"— x {BODY}=",
        "— x !!!!",
        f"— x {ID}",
        "— x AAAA",
    ],
)
def test_a_malformed_line_beside_a_good_one_refuses_the_note(key: Signer, known: Verifier, line: str) -> None:
    whole = note.sign(TEXT, [key])
    assert note.open_note(whole + f"— x {BODY}\n".encode(), [known]).unverified
    with pytest.raises(NoteError, match=r"signature line 2: |no blank line"):
        note.open_note(whole + f"{line}\n".encode(), [known])


@pytest.mark.parametrize("text", ["a\tb\n", "a\r\n", "\x00\n", "\x1f\n"])
def test_a_signed_control_character_is_refused(key: Signer, known: Verifier, text: str) -> None:
    signature = b64encode(known.key_id + key.sign(text.encode())).decode()
    with pytest.raises(NoteError, match="holds a control character"):
        note.open_note(f"{text}\n— {key.name} {signature}\n".encode(), [known])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "nul\0\n", "\ud800\n"])
def test_texts_that_cannot_be_signed(key: Signer, text: str) -> None:
    with pytest.raises(NoteError, match="note text"):
        note.sign(text, [key])


def test_a_note_has_a_signer() -> None:
    with pytest.raises(NoteError, match="at least one signer"):
        note.sign(TEXT, [])


class Broken:
    """A signer that answers what it is told to."""

    def __init__(self, name: str, public_key: bytes, signature: bytes) -> None:
        self.name, self.public_key, self._signature = name, public_key, signature

    def sign(self, message: bytes) -> bytes:
        return self._signature


@pytest.mark.parametrize(
    "signer",
    [Broken("a b", bytes(32), bytes(64)), Broken("a", bytes(31), bytes(64)), Broken("a", bytes(32), bytes(63))],
)
def test_signers_that_break_the_format_are_refused(signer: Signer) -> None:
    with pytest.raises(NoteError):
        note.sign(TEXT, [signer])


def test_the_same_key_may_be_given_twice(key: Signer, known: Verifier) -> None:
    twin = Verifier(known.name, known.type, known.public_key)
    assert len(note.open_note(note.sign(TEXT, [key]), [known, twin]).verified) == 1


def test_two_keys_under_one_name_and_id_are_refused(known: Verifier) -> None:
    clash = Verifier(known.name, known.type, bytes(32))
    clash.__dict__["key_id"] = known.key_id  # a real collision would take some 2^32 tries
    with pytest.raises(NoteError, match="two keys share"):
        note.open_note(b"", [known, clash])


def test_vkeys_come_back(known: Verifier) -> None:
    assert note.parse_vkey(known.vkey) == known
    assert known.vkey == note.format_vkey(known.name, known.public_key)
    assert note.key_id(known.name, 1, known.public_key) == known.key_id


def test_every_changed_character_of_a_vkey_is_noticed(known: Verifier) -> None:
    for place in range(len(known.vkey)):
        for char in "aA0+/= é\n":
            changed = known.vkey[:place] + char + known.vkey[place + 1 :]
            if changed != known.vkey:
                with pytest.raises(NoteError):
                    note.parse_vkey(changed)
    for changed in ("", "+", "++", known.vkey[:-1], known.vkey + "=", known.vkey.upper(), f" {known.vkey}"):
        with pytest.raises(NoteError):
            note.parse_vkey(changed)


@pytest.mark.parametrize("kind", [0x00, 0x02, 0x05, 0xFF])
def test_other_types_are_named(kind: int) -> None:
    data = bytes([kind]) + bytes(32)
    text = f"a+{note.key_id('a', kind, bytes(32)).hex()}+{b64encode(data).decode()}"
    with pytest.raises(NoteError, match=f"type 0x{kind:02x} is not supported"):
        note.parse_vkey(text)
    with pytest.raises(NoteError, match=f"type 0x{kind:02x} is not supported"):
        note.format_vkey("a", bytes(32), kind)


def test_signer_keys_come_back() -> None:
    text = note.format_signer_key("audit.example/billing", b"\1" * 32)
    assert note.parse_signer_key(text) == ("audit.example/billing", b"\1" * 32)


def test_garbled_signer_keys_are_refused_without_repeating_them() -> None:
    text = note.format_signer_key("audit.example/billing", b"\1" * 32)
    secret = text.rpartition("+")[2]
    garbled = [text[:place] + char + text[place + 1 :] for place in range(len(text)) for char in "aA0+/= é"]
    garbled += [text[:cut] for cut in range(len(text))] + [text.replace("PRIVATE+KEY+", ""), f"PRIVATE+KEY+{secret}"]
    garbled += [f"PRIVATE+KEY+{secret}+00000000+{b64encode(bytes(33)).decode()}", text + "\n"]
    for bad in garbled:
        if bad != text:
            with pytest.raises(NoteError) as caught:
                note.parse_signer_key(bad)
            assert secret[8:16] not in str(caught.value)


def test_a_public_key_is_no_signer_key(known: Verifier) -> None:
    with pytest.raises(NoteError, match=r"does not start with PRIVATE\+KEY\+"):
        note.parse_signer_key(known.vkey)


@pytest.mark.parametrize(("name", "seed"), [("", b"\1" * 32), ("a b", b"\1" * 32), ("a", b"\1" * 31)])
def test_seeds_and_names_that_make_no_signer_key(name: str, seed: bytes) -> None:
    with pytest.raises(NoteError):
        note.format_signer_key(name, seed)


# --- published vectors -------------------------------------------------------------------------------------------


def test_published_notes(load: Callable[[str], Any]) -> None:
    cases = load("note/notes.json")
    assert len(cases) == 33
    wrong = []
    for case in cases:
        try:
            opened = note.open_note(b64decode(case["note_b64"]), map(note.parse_vkey, case["vkeys"]))
        except NoteError:
            verdict: Any = (False, None, None)
        else:
            verdict = (True, len(opened.verified), len(opened.unverified))
        if verdict != (case["ok"], case.get("sigs"), case.get("unverified")):
            wrong.append((case["desc"], verdict))
    assert wrong == []


def test_published_keys(load: Callable[[str], Any]) -> None:
    keys = load("note/keys.json")
    for case in keys["keys"]:
        verifier = note.parse_vkey(case["vkey"])
        assert (verifier.type, verifier.vkey) == (case["type"], case["vkey"])
        if "skey" in case:
            name, seed = note.parse_signer_key(case["skey"])
            assert name == verifier.name
            assert note.format_signer_key(name, seed) == case["skey"]
    for vkey in keys["bad_vkeys"]:
        with pytest.raises(NoteError):
            note.parse_vkey(vkey)


def test_published_post_quantum_key(vectors: Path) -> None:
    # transparency-dev does not check the ID in this key, and it is a made-up one; the specification fixes it.
    text = (vectors / "note/mldsa44_vkey.txt").read_text().strip()
    with pytest.raises(NoteError, match="key ID '5893dc2c' does not belong"):
        note.parse_vkey(text)
    verifier = note.parse_vkey(text.replace("5893dc2c", "31236897"))
    assert (verifier.type, len(verifier.public_key)) == (note.COSIGNATURE_MLDSA44, 1312)
