"""Trust files: what they say, and every way to write one wrong, with its line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest

from audit_middleware.errors import FormatError, NoteError
from audit_middleware.ledger import checkpoint, note, tree, trust
from audit_middleware.ledger.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Signer,
    Verifier,
    format_vkey,
)
from audit_middleware.ledger.signatures import public_key_of

MakeKey = Callable[[str, int], Signer]
VerifierOf = Callable[..., Verifier]

ORIGIN = "audit.example/billing"
TIME = 1_800_000_000
SIZE, PEAKS = tree.append(0, (), [tree.leaf_hash(b"entry")] * 3)


def vkey(number: int, kind: int = COSIGNATURE_ED25519) -> str:
    public_key = bytes([number]) * 1312 if kind == COSIGNATURE_MLDSA44 else ed25519_key(number)
    return format_vkey(f"key{number}.example", public_key, kind)


def ed25519_key(number: int) -> bytes:
    """Any bytes are a key of ML-DSA-44, but not of Ed25519."""
    return public_key_of(ED25519, bytes([number]) * 32)


L1, L2 = vkey(101, ED25519), vkey(102, ED25519)
W1, W2, W3, W4 = vkey(1), vkey(2), vkey(3), vkey(4)


def parse(text: str) -> trust.Policy:
    return trust.parse_policy(text.encode())


def test_the_example_in_the_module_is_a_trust_file() -> None:
    assert trust.__doc__ is not None
    example = trust.__doc__.split("::\n", 1)[1].split("\n*", 1)[0]
    policy = parse(example)
    assert policy.quorum == "both"
    assert [witness.name for witness in policy.witnesses] == ["site-b", "site-c", "auditor"]
    assert [witness.url for witness in policy.witnesses] == ["https://b.example/", "https://c.example/", None]
    assert [key.name for key in policy.log_keys(ORIGIN)] == [ORIGIN]
    assert policy.satisfied_by({"site-c", "auditor"})
    assert not policy.satisfied_by({"site-b", "site-c"})
    assert not policy.satisfied_by({"auditor"})


def test_the_smallest_trust_file() -> None:
    assert parse("quorum none\n") == trust.Policy(())
    assert parse("quorum none").satisfied_by(())


def test_white_space_and_comments() -> None:
    text = f"\n# comment\n\t # another\n\twitness \t w1  {W1}   https://w1.example/  \n\n log\t{L1}\n  quorum\tw1\t"
    policy = parse(text)
    assert policy.witnesses == (trust.Witness("w1", note.parse_vkey(W1), "https://w1.example/"),)
    assert policy.logs == (trust.Log(note.parse_vkey(L1)),)


def test_urls_are_kept_as_they_are() -> None:
    policy = parse(f"log {L1} https://l.example/\nlog {L2}\nwitness a {W1} any-text\nwitness b {W2}\nquorum none\n")
    assert [log.url for log in policy.logs] == ["https://l.example/", None]
    assert [witness.url for witness in policy.witnesses] == ["any-text", None]


def test_keywords_are_names_too() -> None:
    policy = parse(f"witness all {W1}\nwitness any {W2}\nwitness 1 {W3}\ngroup group 2 all any 1\nquorum group\n")
    assert policy.groups == (trust.Group("group", 2, ("all", "any", "1")),)
    assert policy.satisfied_by({"all", "1"})


def test_names_are_opaque_octets() -> None:
    policy = trust.parse_policy(b"witness K\x80 %s\nwitness K %s\nquorum K\x80\n" % (W1.encode(), W2.encode()))
    assert policy.satisfied_by({policy.witnesses[0].name})
    assert not policy.satisfied_by({policy.witnesses[1].name})


def test_post_quantum_keys_of_logs_and_witnesses() -> None:
    log, witness = vkey(7, COSIGNATURE_MLDSA44), vkey(8, COSIGNATURE_MLDSA44)
    policy = parse(f"log {log}\nwitness w {witness}\nquorum w\n")
    assert {policy.logs[0].verifier.type, policy.witnesses[0].verifier.type} == {COSIGNATURE_MLDSA44}


def test_more_than_the_limits_the_specification_asks_for() -> None:
    witnesses = [f"witness w{n} {vkey(n)}" for n in range(1, 101)]
    logs = [f"log {vkey(n, ED25519)}" for n in range(101, 201)]
    groups = ["group g1 any w1", *(f"group g{n} all g{n - 1} w{n}" for n in range(2, 101))]
    policy = parse("\n".join([*logs, *witnesses, *groups, "quorum g100"]))
    assert policy.satisfied_by({f"w{n}" for n in range(1, 101)})
    for missing in (1, 50, 100):
        assert not policy.satisfied_by({f"w{n}" for n in range(1, 101)} - {f"w{missing}"})


@pytest.mark.parametrize("names", [names for n in range(5) for names in combinations("abcd", n)])
def test_nested_groups_count_as_they_say(names: tuple[str, ...]) -> None:
    keys = f"witness a {W1}\nwitness b {W2}\nwitness c {W3}\nwitness d {W4}\n"
    policy = parse(keys + "group two 2 a b c\ngroup top all two d\nquorum top\n")
    assert policy.satisfied_by(names) == (len({"a", "b", "c"} & set(names)) >= 2 and "d" in names)
    assert parse(keys + "quorum c\n").satisfied_by(names) == ("c" in names)
    assert parse(keys + "group g any b c\nquorum g\n").satisfied_by(names) == bool({"b", "c"} & set(names))


def test_names_that_are_no_witnesses_do_not_count() -> None:
    policy = parse(f"witness a {W1}\ngroup g any a\nquorum g\n")
    assert not policy.satisfied_by({"g", "none", "b"})


WRONG = [
    ("quorum none\n\x01", 2, "control character"),
    ("quorum none\r\n", 1, "control character"),
    ("quorum none\n\x7f", 2, "control character"),
    ("quibble w1\nquorum none\n", 1, "'quibble' is not log, witness, group or quorum"),
    (f"log\nlog {L1}\nquorum none\n", 1, "log takes a vkey"),
    (f"log {L1} https://l.example/ #comment\nquorum none\n", 1, "log takes a vkey"),
    ("log garbage\nquorum none\n", 1, "verifier key"),
    (f"\nlog {L1[:-4]}\nquorum none\n", 2, "bytes, not 32"),
    (f"log {L1.replace('101', '999')}\nquorum none\n", 1, "does not belong"),
    (f"log {W1}\nquorum none\n", 1, "has type 0x04, not 0x01 or 0x06"),
    (f"log {L1}\nlog {L1}\nquorum none\n", 2, "already listed"),
    (f"witness w1 {L1}\nquorum none\n", 1, "has type 0x01, not 0x04 or 0x06"),
    (f"witness w1\nwitness w2 {W1}\nquorum none\n", 1, "witness takes a name"),
    (f"witness w1 {W1} u v\nquorum none\n", 1, "witness takes a name"),
    (f"witness none {W1}\nquorum none\n", 1, "'none' is already taken"),
    (f"witness a {W1}\nwitness a {W2}\nquorum none\n", 2, "'a' is already taken"),
    (f"witness a {W1}\nwitness b {W1}\nquorum none\n", 2, "already listed"),
    (f"witness a {W1}\ngroup a any a\nquorum none\n", 2, "'a' is already taken"),
    (f"witness a {W1}\ngroup none any a\nquorum none\n", 2, "'none' is already taken"),
    (f"witness a {W1}\ngroup g any\nquorum none\n", 2, "group takes"),
    (f"witness a {W1}\ngroup g 0 a\nquorum none\n", 2, "threshold 0 is not between 1 and 1"),
    (f"witness a {W1}\ngroup g 2 a\nquorum none\n", 2, "threshold 2 is not between 1 and 1"),
    (f"witness a {W1}\ngroup g -1 a\nquorum none\n", 2, "threshold: not a decimal"),
    (f"witness a {W1}\ngroup g 01 a\nquorum none\n", 2, "threshold: not a decimal"),
    (f"witness a {W1}\ngroup g some a\nquorum none\n", 2, "threshold: not a decimal"),
    (f"witness a {W1}\ngroup g any b\nquorum none\n", 2, "member 'b' is not defined above"),
    (f"group g any a\nwitness a {W1}\nquorum none\n", 1, "member 'a' is not defined above"),
    (f"witness a {W1}\ngroup g any a g\nquorum none\n", 2, "member 'g' is not defined above"),
    (f"witness a {W1}\ngroup g any none\nquorum none\n", 2, "member 'none' is not defined above"),
    (f"witness a {W1}\ngroup g any a a\nquorum none\n", 2, "'a' is already a member"),
    (f"witness a {W1}\ngroup g any a\ngroup h any a\nquorum none\n", 3, "'a' is already a member"),
    (f"witness a {W1}\nquorum a\nquorum a\n", 3, "a quorum line already"),
    (f"quorum a\nwitness a {W1}\n", 1, "quorum 'a' is not defined above"),
    ("quorum\n", 1, "quorum takes one name"),
    ("quorum none none\n", 1, "quorum takes one name"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(FormatError, match=rf"^trust file, line {line}: ") as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_quorum_line_is_needed() -> None:
    with pytest.raises(FormatError, match="no quorum line"):
        parse(f"witness a {W1}\n")


def test_one_key_is_not_two_parties() -> None:
    same = format_vkey("other.example", ed25519_key(1), COSIGNATURE_ED25519)
    with pytest.raises(FormatError, match=r"line 2: the public key of 'other\.example' is already listed"):
        parse(f"witness a {W1}\nwitness b {same}\nquorum none\n")
    log = format_vkey("log.example", ed25519_key(1), ED25519)
    with pytest.raises(FormatError, match=r"line 2: the public key of 'key1\.example' is already listed"):
        parse(f"log {log}\nwitness a {W1}\nquorum none\n")


def test_bytes_that_are_no_key_name_are_refused() -> None:
    with pytest.raises(FormatError, match="line 1"):
        trust.parse_policy(b"log \xff" + L1.encode() + b"\nquorum none\n")


# --- opening checkpoints -----------------------------------------------------------------------------------------


@pytest.fixture
def parties(make_key: MakeKey) -> dict[str, Signer]:
    names = {"log": ORIGIN, "b": "witness.example/site-b", "c": "witness.example/site-c", "x": "stranger.example"}
    return {short: make_key(name, number) for number, (short, name) in enumerate(names.items(), 1)}


@pytest.fixture
def policy(parties: dict[str, Signer], verifier_of: VerifierOf) -> trust.Policy:
    witnesses = [f"witness {one} {verifier_of(parties[one], COSIGNATURE_ED25519).vkey}" for one in "bc"]
    log = verifier_of(parties["log"]).vkey
    return parse("\n".join([f"log {log}", *witnesses, "group all all b c", "quorum all"]))


def cosigned(parties: dict[str, Signer], by: str, signer: str = "log") -> bytes:
    signed = checkpoint.sign_checkpoint(ORIGIN, SIZE, PEAKS, [parties[signer]])
    text = signed.decode().rpartition("\n\n")[0] + "\n"
    return signed + b"".join(note.cosignature_line(text, parties[one], COSIGNATURE_ED25519, TIME) for one in by)


def test_a_quorum_opens(parties: dict[str, Signer], policy: trust.Policy) -> None:
    opened = policy.open(cosigned(parties, "bcx"), ORIGIN)
    assert opened.checkpoint.size == 3
    assert opened.witnesses == {"b", "c"}
    assert {line.time for line in opened.note.verified} == {None, TIME}
    assert policy.open(cosigned(parties, "cb")).checkpoint == opened.checkpoint


def test_every_changed_byte_is_noticed(parties: dict[str, Signer], policy: trust.Policy) -> None:
    whole = cosigned(parties, "bc")
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        with pytest.raises(FormatError):
            policy.open(bytes(changed), ORIGIN)


@pytest.mark.parametrize(("by", "seen"), [("", "nobody"), ("b", "b"), ("xc", "c")])
def test_too_few_witnesses_do_not(parties: dict[str, Signer], policy: trust.Policy, by: str, seen: str) -> None:
    with pytest.raises(NoteError, match=f"quorum 'all' is not reached, cosigned by {seen}$"):
        policy.open(cosigned(parties, by))


def test_witnesses_do_not_speak_for_the_log(parties: dict[str, Signer], policy: trust.Policy) -> None:
    with pytest.raises(NoteError, match="not signed by a trusted key of the log"):
        policy.open(cosigned(parties, "bc", signer="x"))


def test_a_log_speaks_for_its_own_origin_only(
    parties: dict[str, Signer], policy: trust.Policy, verifier_of: VerifierOf, make_key: MakeKey
) -> None:
    other = make_key("audit.example/other", 9)
    wider = trust.Policy((*policy.logs, trust.Log(verifier_of(other))))
    signed = checkpoint.sign_checkpoint(ORIGIN, SIZE, PEAKS, [other])
    with pytest.raises(NoteError, match=r"not signed by a trusted key of the log 'audit\.example/billing'"):
        wider.open(signed)
    with pytest.raises(FormatError, match="origin is"):
        wider.open(cosigned(parties, ""), "audit.example/other")


def test_a_note_that_is_no_checkpoint_does_not_open(parties: dict[str, Signer], policy: trust.Policy) -> None:
    with pytest.raises(FormatError, match="three or more lines"):
        policy.open(note.sign("hello\n", [parties["log"]]))
