"""Redaction: no secret survives, in any place; what is no secret does."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audit_middleware.errors import ConfigError
from audit_middleware.privacy import REDACTED, Redactor
from audit_middleware.privacy.names import DEFAULT_KEYS
from audit_middleware.privacy.patterns import NAMED, Patterns

ALL = tuple(NAMED)
SECRETS = {
    "card-number": [
        "4111111111111111",
        "5500 0000 0000 0004",
        "3400-000000-00009",
        "6011.0000.0000.0004",
        "4222222222222",
    ],
    "email": ["john.doe+x@example.co.uk", "ü@exämple.de", "a@b.co", "o'x@mail.example"],
    "iban": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "NO9386011117947", "de89-3704-0044-0532-0130-00"],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.abc_-123", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."],
    "us-ssn": ["078-05-1120", "078 05 1120"],
}
FLAT = [(name, secret) for name, secrets in SECRETS.items() for secret in secrets]
MARK = "5ecret"


@pytest.mark.parametrize(("pattern", "secret"), FLAT)
def test_a_known_shape_goes_everywhere(pattern: str, secret: str) -> None:
    redactor = Redactor(patterns=[pattern])
    heart = secret.replace("o'x@", "@").strip(".")[-9:]
    for shown in (
        redactor.text(secret),
        redactor.text(f"paid by {secret} today"),
        redactor.text(f"({secret}),[{secret}]"),
        json.dumps(redactor.value({"a": [{"b": secret}, secret]}), ensure_ascii=False),
        json.dumps(redactor.value({secret: 1, f"x {secret}": 2}), ensure_ascii=False),
        redactor.query(f"q={secret}"),
        redactor.query(f"q={quote(secret, '')}&{quote_plus(secret)}=1;{quote(secret)}"),
        redactor.query(f"q={quote_plus(secret)}".encode()),
        redactor.path(f"/u/{secret}/x"),
        redactor.path(f"/u/{quote(secret, '')}/x;p={quote(secret, '')}"),
        str(redactor.params({"id": secret})),
        str(
            redactor.headers(
                [(b"accept", secret.encode()), (b"referer", f"https://h/{quote(secret)}?q={secret}".encode())]
            )
        ),
    ):
        assert heart not in shown, shown
        assert heart.replace(" ", "+") not in shown, shown
        assert quote(heart, "") not in shown, shown


def test_without_patterns_shapes_stay() -> None:
    for _, secret in FLAT:
        assert Redactor().text(secret) == secret
    assert Redactor().value({"a": 4111111111111111}) == {"a": 4111111111111111}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("card-number", "4111111111111112"),
        ("card-number", "1700000000000"),
        ("card-number", "order 12345678"),
        ("card-number", "2026-01-02T03:04:05"),
        ("email", "user@host"),
        ("email", "@mention and a@ b.co"),
        ("iban", "DE88370400440532013000"),
        ("iban", "AB12"),
        ("jwt", "eyes.on.you"),
        ("jwt", "keyboard.test.example"),
        ("us-ssn", "2026-01-02"),
    ],
)
def test_what_only_looks_alike_stays(pattern: str, text: str) -> None:
    redactor = Redactor(patterns=[pattern])
    assert redactor.text(text) is text
    assert redactor.value({"a": text}) == {"a": text}
    assert redactor.query(f"a={quote_plus(text)}") == f"a={quote_plus(text)}"
    assert redactor.path(f"/{quote(text)}") == f"/{quote(text)}"


def test_texts_of_other_types_are_looked_at_too() -> None:
    class Text(str):
        pass

    assert Redactor(patterns=["email"]).value([Text("a@b.co")]) == [REDACTED]


def test_only_the_secret_goes() -> None:
    redactor = Redactor(patterns=ALL)
    assert redactor.text("mail a@b.co, card 4111 1111 1111 1111.") == "mail [redacted], card [redacted]."
    assert redactor.text("to xDE89370400440532013000 now") == "to x[redacted] now"
    assert redactor.query("a=1&to=a%40b.co&b=%20") == "a=1&to=[redacted]&b=%20"
    assert redactor.query("q=hi+a%40b.co+there") == "q=hi+[redacted]+there"
    assert redactor.path("/a%20b/a@b.co/ü") == "/a%20b/[redacted]/ü"


def test_a_card_number_among_other_digits_goes() -> None:
    redactor = Redactor(patterns=["card-number"])
    for text in ("4111111111111111 12 25", "12 4111111111111111", "id4111111111111111x", "9" * 300):
        assert "11111111" not in redactor.text(text)
        assert "9" * 30 not in redactor.text(text)


@given(
    st.text("0123456789", min_size=12, max_size=19),
    st.text("0123456789 -", max_size=6),
    st.text("0123456789 -", max_size=6),
)
def test_every_number_that_luhn_accepts_goes(digits: str, before: str, after: str) -> None:
    digits = "4" + digits[1:]
    total = 0
    for place, digit in enumerate(reversed(digits + "0")):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    number = digits + str(-total % 10)
    assume(13 <= len(number) <= 19)
    assert number not in Redactor(patterns=["card-number"]).text(f"{before}{number}{after}")


def test_numbers_have_shapes_too() -> None:
    redactor = Redactor(patterns=["card-number", "re:^12345$"])
    assert redactor.value([4111111111111111, 12345, -12345, 12346, True, None]) == [
        REDACTED,
        REDACTED,
        -12345,
        12346,
        True,
        None,
    ]
    assert redactor.value([4.2, float("nan")]) == [4.2, pytest.approx(float("nan"), nan_ok=True)]
    assert redactor.value({"n": 10**5000}) == {"n": REDACTED}


def test_ones_own_pattern() -> None:
    redactor = Redactor(patterns=[r"re:PRJ-\d+", "email"])
    assert redactor.text("PRJ-12 by a@b.co") == "[redacted] by [redacted]"


def test_ones_own_pattern_may_be_anchored_or_match_what_json_escapes() -> None:
    redactor = Redactor(patterns=[r"re:^x[0-9]+$", r're:2[\n"]3', "email"])
    assert redactor.path("/a/x12/b") == f"/a/{REDACTED}/b"
    assert redactor.query("a=x12&x3&b=yx12") == f"a={REDACTED}&{REDACTED}&b=yx12"
    assert redactor.value({"a": "x12", "x1": ["1x1", '1"2"3"', "1\n2\n3"]}) == {
        "a": REDACTED,
        REDACTED: ["1x1", f'1"{REDACTED}"', f"1\n{REDACTED}"],
    }


SPELLINGS = [
    "password",
    "Password",
    "PASSWORD",
    "pass-word",
    "pass_word",
    "newPassword",
    "user.password",
    "password[]",
    "user[password]",
]


@pytest.mark.parametrize(
    "name", [*SPELLINGS, *DEFAULT_KEYS, "apiKey", "X-Api-Key", "Set-Cookie", "accessToken", "db_secret"]
)
def test_secret_names_are_known_in_every_spelling(name: str) -> None:
    redactor = Redactor()
    assert redactor.value({name: MARK}) == {name: REDACTED}
    assert redactor.value([{"a": {name: [MARK, {"b": MARK}]}}]) == [{"a": {name: REDACTED}}]
    assert redactor.params({name: MARK}) == {name: REDACTED}
    assert redactor.query(f"a=1&{name}={MARK}&b=2") == f"a=1&{name}={REDACTED}&b=2"
    spelled = "".join(f"%{ord(character):02X}" for character in name)
    assert redactor.query(f"{spelled}={MARK}") == f"{spelled}={REDACTED}"
    assert redactor.path(f"/a;{name}={MARK}/b") == f"/a;{name}={REDACTED}/b"


@pytest.mark.parametrize(
    "name", ["passwords_changed", "tokens", "pins", "opinion", "author", "cookies_accepted", "keys", "", "a"]
)
def test_other_names_are_not(name: str) -> None:
    assert Redactor().value({name: MARK}) == {name: MARK}
    assert Redactor().query(f"{name}={MARK}") == f"{name}={MARK}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("card.*", {"card": {"a": 1, "b": [2]}, "a": 3}, {"card": {"a": REDACTED, "b": REDACTED}, "a": 3}),
        ("card.*", {"x": [{"Card": [{"a": 1}, "n"]}]}, {"x": [{"Card": [{"a": REDACTED}, REDACTED]}]}),
        ("card.*", {"card.a": 1, "card[b]": 2, "card": 3}, {"card.a": REDACTED, "card[b]": REDACTED, "card": 3}),
        (
            "*.nick",
            {"nick": 1, "a": {"nick": 2, "b": {"nick": 3}}},
            {"nick": 1, "a": {"nick": REDACTED, "b": {"nick": REDACTED}}},
        ),
        ("a.b.c", {"a": {"b": {"c": 1, "d": 2}}, "c": 3}, {"a": {"b": {"c": REDACTED, "d": 2}}, "c": 3}),
        ("a.*.c", {"a": {"x": {"c": 1}, "c": 2}}, {"a": {"x": {"c": REDACTED}, "c": 2}}),
        ("a.b", {"a": {"b.c": 1}}, {"a": {"b.c": REDACTED}}),
        ("nick", {"a": {"NICK": {"b": 1}}}, {"a": {"NICK": REDACTED}}),
    ],
)
def test_paths(key: str, value: Any, expected: Any) -> None:
    assert Redactor([key]).value(value) == expected


def test_paths_in_queries() -> None:
    redactor = Redactor(["card.*"])
    assert (
        redactor.query("card[no]=1&card.no=2&card%5Bno%5D=3&no=4")
        == f"card[no]={REDACTED}&card.no={REDACTED}&card%5Bno%5D={REDACTED}&no=4"
    )


def test_nothing_given_is_changed() -> None:
    value = {"password": "x", "l": [{"token": 1}, "a@b.co"], "t": (1, "a@b.co")}
    before = copy.deepcopy(value)
    shown = Redactor(["card.*"], ALL).value(value)
    assert value == before
    assert shown == {"password": REDACTED, "l": [{"token": REDACTED}, REDACTED], "t": [1, REDACTED]}
    clean = {"a": [1, {"b": None}]}
    other = Redactor(patterns=ALL).value(clean)
    assert other == clean
    assert other is not clean


def test_names_that_become_alike_stay_apart() -> None:
    assert Redactor(patterns=["email"]).value({"a@b.co": 1, "c@d.co": 2}) == {REDACTED: 1, f"{REDACTED}~": 2}


def test_what_is_too_deep_goes() -> None:
    value: Any = MARK
    for _ in range(200):
        value = [{"a": value}]
    shown = json.dumps(Redactor().value(value))
    assert MARK not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "query",
    [
        "",
        "&",
        "=",
        "&&==&",
        "a",
        "a=",
        "=b",
        "a=b=c",
        "a&b;c",
        "%",
        "%zz=%1",
        "a=%00%0a",
        "+=+",
        "a=\xff",
        "#",
        "a=1&a=2",
        "?a=1",
    ],
)
def test_a_query_without_secrets_comes_back_as_it_was(query: str) -> None:
    assert Redactor(["card.*"], ALL).query(query) == query


def test_a_query_in_bytes_may_be_anything() -> None:
    assert Redactor().query(b"a=\xff&password=\xff") == f"a=\ufffd&password={REDACTED}"


@pytest.mark.parametrize("between", ["&", ";"])
def test_an_overlong_query_is_cut_between_pairs(between: str) -> None:
    long = between.join([f"n{n}=a@b.co" for n in range(2000)])
    shown = Redactor(patterns=["email"]).query(long)
    assert shown.endswith("…")
    assert "b.co" not in shown
    assert "a@" not in shown


def test_a_form_may_be_longer_than_a_query() -> None:
    form = "&".join(["password=5ecret"] * 1000)
    shown = Redactor().query(form.encode(), limit=20_000)
    assert shown == "&".join([f"password={REDACTED}"] * 1000)


def test_an_overlong_path_is_cut_between_segments() -> None:
    shown = Redactor(patterns=["email"]).path("/a@b.co" * 2000)
    assert shown.endswith("/…")
    assert "a@" not in shown


def test_queries_of_separators_only_take_no_time() -> None:
    """Bounded before it is taken apart: a megabyte of pairs costs as much as 8 KiB of them."""
    assert len(Redactor(patterns=ALL).query("a&" * 500_000)) <= 8195


@pytest.mark.parametrize(
    ("path", "params", "expected"),
    [
        ("/reset/5ecret", {"token": "5ecret"}, "/reset/[redacted]"),
        ("/reset/5ecret/done", {"token": "5ecret", "id": "done"}, "/reset/[redacted]/done"),
        ("/reset/%35ecret", {"token": "5ecret"}, "/reset/[redacted]"),
        ("/reset/5ecret%2Fa", {"token": "5ecret/a"}, "/reset/[redacted]"),
        ("/files/5ecret/a/b", {"token": "5ecret/a"}, "/files/[redacted]/b"),
        ("/t-5ecret.txt", {"token": "5ecret"}, "/t-[redacted].txt"),
        ("/k/5ECRET", {"token": "5ecret"}, "/k/[redacted]"),
        ("/k/0017", {"pin": 17}, "/k/00[redacted]"),
        ("/k/1.50", {"pin": 1.5}, "/k/[redacted]0"),
        ("/k/seventeen", {"pin": 17}, "/[redacted]"),
        ("/k/\ud800\ud801", {"token": "\ud800"}, "/[redacted]"),
        ("/k/\ud800/5ecret-1", {"token": "5ecret"}, "/k/%EF%BF%BD/[redacted]-1"),
        ("/k/x", {"token": ""}, "/k/x"),
        ("/k/x", {"id": "x"}, "/k/x"),
        ("/k/x", None, "/k/x"),
        ("", {}, ""),
        ("//", None, "//"),
        ("*", None, "*"),
    ],
)
def test_secret_parameters_leave_the_path_as_well(path: str, params: Any, expected: str) -> None:
    assert Redactor().path(path, params) == expected


def test_headers_are_those_on_the_list() -> None:
    redactor = Redactor(patterns=["email"])
    shown = redactor.headers(
        [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer x"),
            (b"cookie", b"a=b"),
            (b"x-custom", b"x"),
            (b"accept", b"text/html"),
            (b"accept", b"for a@b.co"),
            (b"referer", b"https://me:pw@h.example:8/p/a@b.co?token=x#f"),
            (b"origin", b"https://h.example"),
            (b"idempotency-key", b"\xff" * 2000),
        ]
    )
    assert list(shown) == ["content-type", "accept", "referer", "origin", "idempotency-key"]
    assert shown["accept"] == "text/html, for [redacted]"
    assert shown["referer"] == "https://h.example:8/p/[redacted]"
    assert len(shown["idempotency-key"].encode()) <= 512


def test_a_secret_header_on_the_list_is_named_and_not_shown() -> None:
    assert Redactor(headers=["Authorization", "X-A"]).headers([(b"authorization", b"x"), (b"x-a", b"1")]) == {
        "authorization": REDACTED,
        "x-a": "1",
    }
    assert Redactor(headers=[]).headers([(b"accept", b"x")]) == {}


@pytest.mark.parametrize(
    "referer", [b"", b"/local?x=5ecret", b"https://h", b"://", b"https://h?5ecret", b"a@b#5ecret", b"\xff?5ecret"]
)
def test_any_referer_loses_its_query(referer: bytes) -> None:
    assert MARK not in Redactor().headers([(b"referer", referer)])["referer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "password"}, "keys must be a list"),
        ({"keys": [""]}, "is no key"),
        ({"keys": ["*"]}, "is no key"),
        ({"keys": ["*.*"]}, "is no key"),
        ({"keys": ["a..b"]}, "is no key"),
        ({"keys": ["-"]}, "is no key"),
        ({"keys": [7]}, "is no key"),
        ({"patterns": "email"}, "patterns must be a list"),
        ({"patterns": ["e-mail"]}, "no pattern 'e-mail': did you mean 'email'"),
        ({"patterns": ["zzz"]}, "it knows jwt, email"),
        ({"patterns": [7]}, "must be text"),
        ({"patterns": ["re:(a"]}, "is no RE2 pattern"),
        ({"patterns": [r"re:(?=a)b"]}, "is no RE2 pattern"),
        ({"patterns": ["re:"]}, "matches the empty text"),
        ({"patterns": ["re:a*"]}, "matches the empty text"),
    ],
)
def test_mistakes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Redactor(**arguments)


def test_a_pattern_that_would_explode_elsewhere_does_not() -> None:
    redactor = Redactor(patterns=["re:(a+)+$", *ALL])
    assert redactor.text("a" * 50_000 + "!") == "a" * 50_000 + "!"
    for text in (
        "4 " * 50_000,
        "AB12" * 50_000,
        "a@" * 50_000,
        "ey" * 50_000 + ".",
        "1-" * 50_000,
        "a." * 50_000 + "@",
    ):
        redactor.text(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
NAMES = st.sampled_from(["password", "apiKey", "x_token", "user[secret]", "a.pin", "NICK"])
SHAPED = st.sampled_from([f"{MARK}@example.com", f"eyJ{MARK}aaa.{MARK}.{MARK}"])


def planted(value: Any) -> st.SearchStrategy[Any]:
    """The value with a secret somewhere: under a secret name or with a secret shape."""
    hidden = st.one_of(
        st.builds(lambda name, inner: {name: [MARK, inner]}, NAMES, st.just(value)),
        st.builds(lambda shape, around: f"{around} {shape} {around}", SHAPED, st.text(max_size=5)),
        st.builds(lambda shape, inner: {shape: inner}, SHAPED, st.just(value)),
        st.just({"card": {"n": MARK, "x": value}}),
        st.just({"card": [MARK, [MARK]]}),
    )
    return hidden.flatmap(
        lambda secret: st.sampled_from(
            [secret, [value, secret], {"a": secret, "b": value}, {"deep": [[{"er": secret}]]}]
        )
    )


@given(JSON.flatmap(planted))
def test_no_planted_secret_survives_in_json(value: Any) -> None:
    shown = Redactor(["nick", "card.*"], ALL).value(value)
    assert MARK not in json.dumps(shown)
    assert Redactor(["nick", "card.*"], ALL).value(shown) == shown


@given(
    st.lists(
        st.tuples(st.booleans(), NAMES | SHAPED | st.text(max_size=6), SHAPED | st.just(MARK) | st.text(max_size=6)),
        max_size=6,
    ),
    st.sampled_from(["&", ";", "&&", "&;"]),
)
def test_no_planted_secret_survives_in_a_query(pairs: list[tuple[bool, str, str]], between: str) -> None:
    secret_names = {"password", "apiKey", "x_token", "user[secret]", "a.pin", "NICK"}
    parts = []
    for encode, name, value in pairs:
        assume(not (value == MARK and name not in secret_names))
        assume(encode or not set("&;=+%") & set(name + value))
        spell = quote_plus if encode else str
        parts.append(f"{spell(name)}={spell(value)}")
    shown = Redactor(["nick"], ALL).query(between.join(parts))
    assert MARK not in shown
    assert Redactor(["nick"], ALL).query(shown) == shown


HARMLESS = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text("xyzé @\ud800", max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("xyz._", max_size=8), inner, max_size=4),
    max_leaves=15,
)


@given(HARMLESS)
def test_what_holds_no_secret_is_unchanged(value: Any) -> None:
    assert Redactor(["card.*"]).value(value) == value


@given(st.text("xyz=&;+%20", max_size=60))
def test_a_query_that_holds_no_secret_is_unchanged(query: str) -> None:
    assert Redactor(["card.*"], ALL).query(query) == query


@given(
    st.dictionaries(
        st.sampled_from(["id", "token", "card", "x.pin", "a@b.co", "078-05-1120"]) | st.text(max_size=4),
        st.sampled_from([secret for _, secret in FLAT]) | st.text(max_size=20) | st.integers() | st.none(),
        max_size=4,
    ),
    st.sets(st.sampled_from([*ALL, "re:^a", "re:1"])),
)
def test_parameters_are_redacted_as_any_value(params: dict[str, Any], patterns: set[str]) -> None:
    redactor = Redactor(["card", "x.*"], sorted(patterns))
    assert redactor.params(params) == redactor.value(params)


def test_a_digest_is_no_card_number_by_chance() -> None:
    patterns = Patterns(["card-number"])
    digest = "sha256:" + "4111111111111111" * 4
    assert patterns.text(digest) is digest
    for other in (digest[:-1], digest + "0", digest.replace("sha256:", ""), f" {digest}"):
        assert REDACTED in patterns.text(other)
    assert REDACTED in Patterns(["re:1111"]).text(digest)
