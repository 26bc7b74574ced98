"""`JWTIdentifier`: which tokens are believed, and what a subject is made of."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import warnings
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey, RSAKey

from audit_middleware.errors import ConfigError, IdentityError
from audit_middleware.identity.jwt import ALGORITHMS, JWTIdentifier
from audit_middleware.model import Source, Subject
from tests.identity.issuer import (
    AUDIENCE,
    EC,
    EC_384,
    ED,
    ISSUER,
    NOW,
    OCT,
    RSA,
    RSA_2,
    SECRET,
    Clock,
    claims,
    encoded,
    public,
    scope,
    signed,
    token,
)

REFUSED = "the token does not verify"


def identifier(**changes: Any) -> JWTIdentifier:
    arguments: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ["RS256"],
        "keys": public(RSA),
        "clock": Clock(),
        **changes,
    }
    return JWTIdentifier(**arguments)


def who(one: JWTIdentifier, request: dict[str, Any]) -> Subject | None:
    answer = one(request)
    if inspect.isawaitable(answer):

        async def wait() -> Subject | None:
            return await answer

        return asyncio.run(wait())
    return answer


def test_a_good_token_names_the_subject() -> None:
    assert who(identifier(), scope(token())) == Subject(
        "alice", "user", ("clerk",), source=Source("jwt", ISSUER, "alg=RS256 kid=rsa-1")
    )


def test_no_credential_is_nobody_and_answered_at_once() -> None:
    one = identifier(cookie="session", websocket_query="token")
    assert one(scope()) is None
    assert one(scope(None, (b"authorization", b"Basic YTpi"))) is None
    assert one(scope(None, (b"cookie", b"other=1; session="))) is None
    assert one(scope(query_string=b"token=" + token().encode())) is None


def test_a_token_seen_before_is_answered_at_once_and_alike() -> None:
    one, request = identifier(properties=["amr"]), scope(token(amr=["mfa"]))
    first = who(one, request)
    again = one(request)
    assert isinstance(again, Subject)
    assert again == first
    with pytest.raises(TypeError):
        again.properties["amr"] = "other"  # type: ignore[index]  # the next request must not see this


@pytest.mark.parametrize(
    "bad",
    [
        token(RSA_2, header={"kid": "rsa-1"}),
        token(RSA_2),
        token(header={"alg": "RS512"}, alg="RS512"),
        token(iss="https://login.example.com"),
        token(iss=None),
        token(iss=[ISSUER]),
        token(aud="other"),
        token(aud=["other", "another"]),
        token(aud=None),
        token(aud=[]),
        token(aud={"billing": 1}),
        token(exp=NOW - 31),
        token(exp=None),
        token(exp="9999999999"),
        token(exp=float("inf")),
        token(nbf=NOW + 31),
        token(iat=NOW + 31),
        token(header={"crit": ["exp"]}),
        token(header={"crit": ["b64"], "b64": False}),
        token(header={"kid": "rsa-9"}),
        token()[:-4],
        token()[:-4] + "AAAA",
        token() + ".",
        token() + ".x",
        "." + token(),
        token().replace(".", "..", 1),
        token().rsplit(".", 1)[0] + ".",
        token().rsplit(".", 1)[0],
        token() + "=",
        token().replace(".", ".\n", 1),
        token() + " " + token(),
        "",
        "x",
        "..",
        "a.b.c",
        "é.é.é",
        "x" * 16384,
        encoded(b"[" * 1500) + ".e30.x",
        encoded(b'{"alg":"RS256","kid":1}') + ".e30.x",
        encoded(b'{"alg":["RS256"]}') + ".e30.x",
        encoded(b'"RS256"') + ".e30.x",
    ],
)
def test_a_bad_token_is_refused_without_a_word_why(bad: str) -> None:
    one = identifier()
    with pytest.raises(IdentityError) as caught:
        who(one, scope(bad))
    assert str(caught.value) == REFUSED
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(IdentityError):  # and is not remembered as a good one
        who(one, scope(bad))


def test_every_changed_character_of_a_token_matters() -> None:
    good, one = token(), identifier()
    assert who(one, scope(good)) is not None
    for at in range(0, len(good) - 1, 3):  # the very last character has bits that encode nothing
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        with pytest.raises(IdentityError):
            who(one, scope(changed))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_none_is_refused(alg: str) -> None:
    unsigned = f"{encoded({'alg': alg})}.{encoded(claims())}."
    for text in (unsigned, unsigned + "AA"):
        with pytest.raises(IdentityError, match=REFUSED):
            who(identifier(), scope(text))


def test_a_public_key_does_not_serve_as_an_hmac_secret() -> None:
    pem = RSA.as_pem(private=False)
    for material in (pem, pem.strip(), RSA.as_dict(private=False)["n"]):
        raw = material if isinstance(material, bytes) else str(material).encode()
        key = OctKey(raw, raw)  # past the library's own warning: this is what an attacker would do
        with pytest.raises(IdentityError, match=REFUSED):
            who(identifier(), scope(signed({"alg": "HS256", "kid": "rsa-1"}, claims(), key, "HS256")))


def test_a_key_is_bound_to_its_own_algorithm() -> None:
    bound = {"keys": [{**RSA.as_dict(private=False), "alg": "RS256"}]}
    one = identifier(algorithms=["RS256", "PS256"], keys=bound)
    assert who(one, scope(token())) is not None
    with pytest.raises(IdentityError):
        who(one, scope(token(alg="PS256")))
    assert who(identifier(algorithms=["RS256", "PS256"]), scope(token(alg="PS256"))) is not None


@pytest.mark.filterwarnings("ignore:.*EdDSA.*")
@pytest.mark.parametrize(
    ("key", "alg", "given"),
    [
        (EC, "ES256", public(EC)),
        (EC_384, "ES384", public(EC, EC_384)),
        (ED, "EdDSA", public(ED)),
        (ED, "Ed25519", [ED.as_dict(private=False)]),
        (RSA, "RS256", RSA.as_pem(private=False)),
        (RSA, "PS512", RSA.as_pem(private=False).decode()),
        (RSA, "RS384", [public(RSA_2), RSA.as_dict(private=False)]),
        (OCT, "HS256", SECRET),
    ],
)
def test_algorithms_and_ways_to_give_keys(key: Any, alg: str, given: Any) -> None:
    assert who(identifier(algorithms=[alg], keys=given), scope(token(key, alg))) is not None


def test_without_a_kid_every_fitting_key_is_tried() -> None:
    one = identifier(algorithms=["ES256", "ES384", "RS256"], keys=public(RSA_2, EC_384, EC, RSA))
    for key, alg in ((RSA, "RS256"), (EC, "ES256"), (EC_384, "ES384")):
        assert who(one, scope(token(key, alg, header={"kid": None}))) is not None


def test_leeway() -> None:
    assert who(identifier(), scope(token(exp=NOW - 29, nbf=NOW + 29, iat=NOW + 29))) is not None
    with pytest.raises(IdentityError):
        who(identifier(leeway_s=0), scope(token(exp=NOW)))


def test_a_remembered_token_ends_with_its_expiry() -> None:
    clock = Clock()
    one, request = identifier(clock=clock), scope(token())
    who(one, request)
    clock.now += 629
    assert isinstance(one(request), Subject)
    clock.now += 1
    with pytest.raises(IdentityError):
        who(one, request)


def test_a_token_for_ever_is_looked_at_again_after_a_day() -> None:
    clock = Clock()
    one, request = identifier(clock=clock), scope(token(exp=10**400))
    assert who(one, request) is not None
    assert isinstance(one(request), Subject)
    clock.now += 86_400 + 30
    again = one(request)
    assert inspect.iscoroutine(again)
    again.close()


def test_the_memory_of_tokens_is_bounded_and_keeps_the_used_ones() -> None:
    one = identifier(cache_size=3)
    requests = [scope(token(sub=f"u{n}")) for n in range(4)]
    for request in requests[:3]:
        who(one, request)
    one(requests[0])
    who(one, requests[3])
    assert [isinstance(one.__call__(request), Subject) for request in (requests[0], requests[2], requests[3])] == [
        True
    ] * 3
    forgotten = one(requests[1])
    assert inspect.iscoroutine(forgotten)
    forgotten.close()


def test_two_credentials_are_refused() -> None:
    one = identifier(cookie="session", websocket_query="token")
    good = token().encode()
    for request in (
        scope(token(), (b"authorization", b"Bearer " + good)),
        scope(token(), (b"authorization", b"Basic YTpi")),
        scope(None, (b"cookie", b"session=" + good + b"; session=x")),
        scope(None, (b"cookie", b"session=" + good), (b"cookie", b"session=" + good)),
        scope(None, type="websocket", query_string=b"token=" + good + b"&token=x"),
    ):
        with pytest.raises(IdentityError, match="more than one"):
            one(request)


def test_an_oversize_token_is_refused_before_anything_is_done_with_it() -> None:
    with pytest.raises(IdentityError, match="larger than 16 KiB"):
        identifier()(scope("x" * 16385))
    assert who(identifier(), scope(token(note="x" * 8000))) is not None


def test_other_places_for_the_token() -> None:
    good = token().encode()
    one = identifier(cookie="session", websocket_query="token")
    for request in (
        scope(None, (b"authorization", b"bEARER   " + good + b" ")),
        scope(None, (b"cookie", b'a=1; session="' + good + b'"; b=2')),
        scope(None, (b"cookie", b"a=1"), (b"cookie", b"session=" + good)),
        scope(None, type="websocket", query_string=b"a=1&token=" + good),
        scope(token(), (b"cookie", b"session=bad")),
    ):
        assert who(one, request) is not None
    own = identifier(header="X-Token")
    assert who(own, scope(None, (b"x-token", good))) is not None
    assert who(own, scope(None, (b"x-token", b"Bearer " + good))) is not None
    assert own(scope(token())) is None


def test_claims_become_the_subject() -> None:
    one = identifier(
        roles_claim="realm_access.roles",
        id_claim="client.id",
        type_claim="kind",
        tenant_claim="https://example.com/tenant",
        properties=["amr", "age", "missing"],
    )
    text = token(
        realm_access={"roles": ["a", "b", "a"]},
        client={"id": 42},
        kind="service",
        sid="s-1",
        amr=["pwd", "mfa"],
        age=1.5,
        **{"https://example.com/tenant": "acme"},  # type: ignore[arg-type]  # no name of a parameter
    )
    subject = who(one, scope(text))
    assert subject is not None
    assert (subject.id, subject.type, subject.roles) == ("42", "service", ("a", "b"))
    assert (subject.tenant, subject.session) == ("acme", "s-1")
    assert dict(subject.properties) == {"amr": ["pwd", "mfa"], "age": "1.5", "missing": None, "mfa": True}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, {}),
        ({"amr": ["pwd"]}, {"mfa": False}),
        ({"amr": ["pwd", "mfa"]}, {"mfa": True}),
        ({"amr": ["pwd", "hwk"]}, {"mfa": True}),
        ({"amr": "pwd mfa"}, {"mfa": True}),
        ({"amr": [["mfa"], 1, None]}, {"mfa": False}),
        ({"amr": {"mfa": True}}, {}),
        ({"acr": "gold", "auth_time": NOW - 5}, {"acr": "gold", "auth_time": NOW - 5}),
        ({"acr": "", "auth_time": NOW + 0.5}, {"auth_time": NOW}),
        ({"acr": "a\nb", "auth_time": "now"}, {}),
        ({"acr": ["gold"], "auth_time": True}, {}),
        ({"acr": "x" * 1025, "auth_time": -1}, {}),
        ({"auth_time": 1e300}, {}),
    ],
)
def test_how_the_caller_was_authenticated(claims: dict[str, Any], expected: dict[str, Any]) -> None:
    """What cannot be read is left out, which meets no requirement; it refuses no caller whom none concerns."""
    subject = who(identifier(mfa_methods=["mfa", "hwk"]), scope(token(**claims)))
    assert subject is not None
    assert dict(subject.properties) == expected


def test_a_property_that_was_asked_for_wins_where_the_token_has_it() -> None:
    one = identifier(properties=["mfa", "acr"])
    said = who(one, scope(token(mfa="totp", amr=["mfa"], acr="gold")))
    unsaid = who(one, scope(token(amr=["mfa"])))
    assert said is not None
    assert dict(said.properties) == {"mfa": "totp", "acr": "gold"}
    assert unsaid is not None
    assert dict(unsaid.properties) == {"mfa": True, "acr": None}


def test_methods_are_a_list() -> None:
    with pytest.raises(ConfigError, match="mfa_methods"):
        identifier(mfa_methods="mfa")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [(["a", "b"], ("a", "b")), ("read  write read", ("read", "write")), (None, ()), ([], ()), ("", ())],
)
def test_shapes_of_roles(roles: Any, expected: tuple[str, ...]) -> None:
    subject = who(identifier(), scope(token(roles=roles)))
    assert subject is not None
    assert subject.roles == expected


def test_roles_by_a_callable() -> None:
    one = identifier(roles_claim=lambda given: [f"{given['sub']}-role"])
    subject = who(one, scope(token()))
    assert subject is not None
    assert subject.roles == ("alice-role",)


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": {"a": 1}},
        {"roles": 7},
        {"roles": [["a"]]},
        {"roles": [""]},
        {"roles": ["a\nb"]},
        {"roles": [True]},
        {"sub": None},
        {"sub": ""},
        {"sub": "a" * 1025},
        {"sub": "a\x00b"},
        {"kind": "anonymous"},
        {"kind": ["user"]},
        {"sid": {"a": 1}},
    ],
)
def test_claims_that_cannot_be_read_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        who(identifier(type_claim="kind"), scope(token(**changes)))


def test_no_log_line_holds_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bad = token(aud="other")
    with pytest.raises(IdentityError):
        who(identifier(), scope(bad))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("audit_middleware")]
    assert lines == ["a token was refused: InvalidClaimError"]


SEGMENT = st.binary(max_size=60).map(lambda raw: urlsafe_b64encode(raw).rstrip(b"="))
HEADER = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "zip", "enc"]),
    st.sampled_from(["RS256", "none", "HS256", "rsa-1", "DEF", "dir"])
    | st.none()
    | st.integers()
    | st.lists(st.text()),
).map(lambda header: urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"="))
GOOD = token().encode().split(b".")


@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(HEADER | SEGMENT, SEGMENT, SEGMENT).map(b".".join),
        st.tuples(HEADER, st.just(GOOD[1]), st.just(GOOD[2])).map(b".".join),
        st.tuples(st.just(GOOD[0]), SEGMENT, st.just(GOOD[2])).map(b".".join),
        st.tuples(st.just(GOOD[0]), st.just(GOOD[1]), SEGMENT).map(b".".join),
    )
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_offered_is_refused_and_raises_nothing_else(offered: bytes) -> None:
    request = scope(None, (b"authorization", b"Bearer " + offered))
    with pytest.raises(IdentityError):
        who(identifier(), request)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SHORT = RSAKey.generate_key(1024).as_pem(private=False)


@pytest.mark.filterwarnings("ignore:Key size should be")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithms": []}, "needs algorithms as a list"),
        ({"algorithms": "RS256"}, "needs algorithms as a list"),
        ({"algorithms": ["none"]}, "does not accept the algorithm 'none'"),
        ({"algorithms": ["RS256", "rs256"]}, "does not accept the algorithm 'rs256'"),
        ({"algorithms": ["RS256", "HS256"]}, "must not mix HMAC"),
        ({"algorithms": ["HS256"], "keys": None, "jwks_url": "https://a/"}, "HMAC algorithms need keys="),
        ({"issuer": ""}, "needs an issuer and an audience"),
        ({"audience": []}, "needs an issuer and an audience"),
        ({"audience": ["a", ""]}, "needs an issuer and an audience"),
        ({"keys": None}, "either jwks_url or keys"),
        ({"jwks_url": "https://a/"}, "either jwks_url or keys"),
        ({"keys": []}, "a key does not fit RS256"),
        ({"keys": public(EC)}, "a key does not fit RS256"),
        ({"keys": "no pem"}, "a key does not fit RS256"),
        ({"keys": SHORT}, "a key does not fit RS256"),
        ({"keys": "short", "algorithms": ["HS256"]}, "a key does not fit HS256"),
        ({"keys": SECRET, "algorithms": ["HS512"]}, "a key does not fit HS512"),
        ({"keys": RSA.as_pem(private=False), "algorithms": ["HS256"]}, "a key does not fit HS256"),
        ({"header": " "}, "must not be empty"),
        ({"cookie": ""}, "must not be empty"),
    ],
)
def test_mistakes_in_the_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        identifier(**changes)
    assert SECRET not in str(caught.value)


def test_every_algorithm_named_is_one_the_library_has() -> None:
    from joserfc.jws import JWSRegistry

    assert set(ALGORITHMS) <= set(JWSRegistry.algorithms)
    assert "none" not in ALGORITHMS
