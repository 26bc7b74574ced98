"""``routes:``: entries for code that cannot be annotated, and which of them holds for a route."""

from __future__ import annotations

from datetime import date

import pytest

from audit_middleware.policy import Policy, loads
from tests.policy.samples import problems

HEAD = "version: 1\nname: p\nactions: {static.read: {}, feed.open: {}, dav.use: {}}\nroutes:\n"
ROUTES = """\
  - {match: 'GET /static/{path:path}', action: static.read, resource: 'file/{path}'}
  - {match: 'WS /feed', action: feed.open}
  - {match: '* /dav/{name}', action: dav.use}
  - {match: 'HEAD /dav/{name}', exempt: 'sizes only'}
  - {match: 'GET|POST /both', action: static.read}
  - {match: 'GET /healthz', exempt: 'liveness probe', until: 2027-06-30}
  - {match: '*|WS default', exempt: 'answers 404 itself'}
"""


@pytest.fixture(name="policy", scope="module")
def _policy() -> Policy:
    return loads(HEAD + ROUTES)


@pytest.mark.parametrize(
    ("template", "method", "expected"),
    [
        ("/static/{path:path}", "GET", "GET /static/{path}"),
        ("/static/{path}", "GET", "GET /static/{path}"),
        ("/static/{path:str}", "HEAD", "GET /static/{path}"),
        ("/static/{path}", "POST", None),
        ("/static/{path}", "WS", None),
        ("/static/{file}", "GET", None),
        ("/static/{path}/", "GET", None),
        ("/static", "GET", None),
        ("/feed", "WS", "WS /feed"),
        ("/feed", "GET", None),
        ("/dav/{name}", "PROPFIND", "* /dav/{name}"),
        ("/dav/{name}", "GET", "* /dav/{name}"),
        ("/dav/{name}", "HEAD", "HEAD /dav/{name}"),
        ("/dav/{name}", "WS", None),
        ("/both", "GET", "GET|POST /both"),
        ("/both", "POST", "GET|POST /both"),
        ("/both", "HEAD", "GET|POST /both"),
        ("/both", "*", None),
        ("default", "DELETE", "*|WS default"),
        ("default", "WS", "*|WS default"),
        ("/default", "GET", None),
    ],
)
def test_lookup(policy: Policy, template: str, method: str, expected: str | None) -> None:
    entry = policy.route(template, method)
    assert (entry.match if entry else None) == expected


def test_entries_are_exposed(policy: Policy) -> None:
    static = policy.route("/static/{path}", "GET")
    health = policy.route("/healthz", "GET")
    assert static is not None
    assert health is not None
    assert (static.action, static.resource, static.exempt, static.until) == ("static.read", "file/{path}", None, None)
    assert (static.line, health.line) == (5, 10)
    assert (health.action, health.exempt, health.until) == (None, "liveness probe", date(2027, 6, 30))
    assert len(policy.routes) == 7
    assert policy.templates == {"/static/{path}", "/feed", "/dav/{name}", "/both", "/healthz", "default"}
    assert static in policy.routes


def test_an_exemption_holds_through_its_last_day(policy: Policy) -> None:
    health, static = policy.route("/healthz", "GET"), policy.route("/both", "GET")
    assert health is not None
    assert static is not None
    assert not health.expired(date(2027, 6, 30))
    assert health.expired(date(2027, 7, 1))
    assert not static.expired(date.max)


def test_policies_without_routes_have_none() -> None:
    policy = loads("version: 1\nname: p\nactions: {}\n")
    assert (policy.routes, policy.templates, policy.route("/", "GET")) == ((), frozenset(), None)


@pytest.mark.parametrize(
    ("entry", "findings"),
    [
        ("GET /x", [": expected a mapping, found text", ": expected exactly one of action and exempt"]),
        ("{action: static.read}", [".match: missing"]),
        ("{match: 'GET /x'}", [": expected exactly one of action and exempt"]),
        ("{match: 'GET /x', action: static.read, exempt: r}", [": expected exactly one of action and exempt"]),
        ("{match: 'GET /x', action: static.raed}", [
            ".action: unknown action 'static.raed'; did you mean 'static.read'?"
        ]),
        ("{match: 'GET /x', exempt: ''}", [".exempt: expected 1 to 1024 characters, found 0"]),
        ("{match: 'GET /x', exempt: }", [".exempt: expected text, found nothing"]),
        ("{match: 'GET /x', exempt: true}", [".exempt: expected text, found true: write 'true' in quotes"]),
        ("{match: 'GET /x', exempt: r, until: soon}", [".until: 'soon' is not a date such as 2027-06-30"]),
        ("{match: 'GET /x', exempt: r, until: 2027-02-30}", [".until: '2027-02-30' is not a date such as 2027-06-30"]),
        ("{match: 'GET /x', exempt: r, until: 20270630}", [
            ".until: expected text, found a number: write '20270630' in quotes"
        ]),
        ("{match: 'GET /x', action: static.read, until: 2027-06-30}", [".until: only an exemption ends on a date"]),
        ("{match: 'GET /x', exempt: r, resource: x}", [".resource: an exempt route has no resource"]),
        ("{match: 'GET /x/{id}', action: static.read, resource: 'x/{idd}'}", [
            ".resource: '/x/{id}' has no parameter 'idd'; did you mean 'id'?"
        ]),
        ("{match: 'GET /x', action: static.read, resource: '{id}'}", [
            ".resource: '{id}' is not of the form type/{parameter}"
        ]),
        ("{match: GET, exempt: r}", [".match: 'GET' is not of the form 'METHOD /template'"]),
        ("{match: /x, exempt: r}", [".match: '/x' is not of the form 'METHOD /template'"]),
        ("{match: 'GTE /x', exempt: r}", [".match: unknown method 'GTE'; did you mean 'GET'?"]),
        ("{match: 'get /x', exempt: r}", [".match: unknown method 'get'; did you mean 'GET'?"]),
        ("{match: 'GET|PSOT /x', exempt: r}", [".match: unknown method 'PSOT'; did you mean 'POST'?"]),
        ("{match: 'GET|GET /x', exempt: r}", [".match: 'GET|GET' names a method twice"]),
        ("{match: 'GET | POST /x', exempt: r}", [
            ".match: '| POST /x' is not a path template such as /static/{path:path}, nor the word default"
        ]),
        ("{match: 'GET x', exempt: r}", [
            ".match: 'x' is not a path template such as /static/{path:path}, nor the word default"
        ]),
        ("{match: 'GET /x/{id', exempt: r}", [
            ".match: '/x/{id' is not a path template such as /static/{path:path}, nor the word default"
        ]),
        ("{match: 'GET /x?a=1', exempt: r}", [
            ".match: '/x?a=1' is not a path template such as /static/{path:path}, nor the word default"
        ]),
        ("{match: 'GET /x', exempts: r}", [
            ".exempts: unknown key; did you mean 'exempt'?", ": expected exactly one of action and exempt"
        ]),
    ],
)  # fmt: skip
def test_mistakes(entry: str, findings: list[str]) -> None:
    assert problems(f"{HEAD}  - {entry}\n") == [f"5: routes[0]{finding}" for finding in findings]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("GET /x/{id}", "GET /x/{id:int}", "GET /x/{id}"),
        ("GET|POST /x", "POST|PUT /x", "POST /x"),
        ("* /x", "* /x", "* /x"),
        ("WS default", "GET|WS default", "WS default"),
    ],
)
def test_two_entries_for_one_route(first: str, second: str, clash: str) -> None:
    text = f"{HEAD}  - {{match: '{first}', exempt: a}}\n  - {{match: '{second}', exempt: b}}\n"
    assert problems(text) == [f"6: routes[1].match: '{clash}' is matched already on line 5"]
    one_line = f"{HEAD}  [{{match: '{first}', exempt: a}}, {{match: '{second}', exempt: b}}]\n"
    assert problems(one_line) == [f"5: routes[1].match: '{clash}' is matched already on line 5"]


def test_entries_for_different_methods_or_parameters_do_not_clash() -> None:
    matches = ("GET /x/{id}", "POST /x/{id}", "* /x/{key}")
    entries = "".join(f"  - {{match: '{match}', exempt: reason}}\n" for match in matches)
    assert len(loads(HEAD + entries).routes) == 3
