"""Requirements: asked only of those who may act, all named at once, and nothing else said about the policy."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import WebSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from audit_middleware import AuditMiddleware
from audit_middleware.frameworks.marks import action
from audit_middleware.model import Subject
from tests.kit import Answer, Running, call, make_log, write_policy
from tests.middleware.service import Service, app_of
from tests.middleware.support import Exchange, check_log, websocket_scope

POLICY = """
roles: {clerk: {}, guest: {}}
actions:
  doc.delete:
    allow: [clerk]
    deny: [{name: no-guests, roles: [guest]}]
    require: {mfa: true, acr: [gold, silver], auth_age: 15m, reason: {matches: '^[A-Z]+-[0-9]+'}, confirm: true}
    limit: {rate: 3/day, per: action}
  doc.explain: {allow: [anyone], require: {reason: true}}
  doc.sign: {allow: [anyone], require: {mfa: true}}
  doc.watched: {mode: monitor, allow: [clerk], require: {reason: true}}
  doc.plain: {allow: [clerk]}
"""
STRONG: dict[str, Any] = {"mfa": True, "acr": "gold", "auth_time": time.time()}
TICKET, SEVEN = (b"x-request-reason", b"OPS-7: asked for by the customer"), (b"x-confirm", b"7")
Headers = list[tuple[bytes, bytes]]


def as_(roles: str = "clerk", **properties: Any) -> Headers:
    """Headers of a caller with these roles and properties."""
    return [(b"x-test-subject", json.dumps({"roles": roles.split(), "properties": properties}).encode())]


def identify(scope: Any) -> Subject | None:
    """Who the header says."""
    for name, value in scope["headers"]:
        if name == b"x-test-subject":
            said = json.loads(value)
            return Subject("ann", roles=tuple(said["roles"]), properties=said["properties"])
    return None


@pytest.fixture
def service(tmp_path: Path, log: Any) -> Service:
    """Guarded by the policy above."""
    return Service(tmp_path, log, POLICY, {"identify": identify})


def docs(*more: Middleware) -> Any:
    """A route for each action; counts how often a handler ran."""

    def route(name: str, resource: str | None = None) -> Any:
        async def endpoint(request: Request) -> Response:
            app.state.ran += 1
            return PlainTextResponse("done")

        return action(f"doc.{name}", resource=resource)(endpoint)

    async def feed(websocket: WebSocket) -> None:
        app.state.ran += 1
        await websocket.accept()
        await websocket.close()

    app = app_of(
        Route("/docs/{doc}", route("delete", "doc/{doc}"), methods=["DELETE"]),
        *(Route(f"/{name}", route(name)) for name in ("explain", "sign", "watched", "plain", "delete")),
        WebSocketRoute("/feed", action("doc.explain")(feed)),
        middleware=list(more),
    )
    app.state.ran = 0
    return app


def test_everything_that_is_missing_is_named_at_once(service: Service) -> None:
    app = docs()
    answer, record = service.ask(app, "DELETE", "/docs/7", as_())
    assert answer.status == 403
    assert answer.header(b"content-type") == "application/problem+json"
    assert answer.json() == {
        "type": "urn:audit-middleware:problem:requirement",
        "title": "A requirement of this action is not met",
        "status": 403,
        "missing": ["mfa", "acr", "auth_age", "reason", "confirm"],
    }
    assert answer.header(b"www-authenticate") == (
        'Bearer error="insufficient_user_authentication", acr_values="gold silver", max_age="900"'
    )
    assert app.state.ran == 0
    decision = record["decision"]
    assert (decision["effect"], decision["cause"], decision["rule"]) == ("deny", "requirement", "clerk")
    assert decision["detail"] == "missing: mfa, acr, auth_age, reason, confirm"
    assert (record["outcome"], record["response"]["status"]) == ("denied", 403)


def test_with_everything_there_the_handler_runs_and_the_reason_is_recorded(service: Service) -> None:
    app = docs()
    answer, record = service.ask(app, "DELETE", "/docs/7", [*as_(**STRONG), TICKET, SEVEN])
    assert (answer.status, app.state.ran) == (200, 1)
    assert record["reason"] == "OPS-7: asked for by the customer"
    assert record["decision"]["cause"] == "rule"


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("mfa", {"mfa": False}),
        ("mfa", {"mfa": "true"}),
        ("mfa", {"mfa": 1}),
        ("mfa", {"mfa": None}),
        ("acr", {"acr": "bronze"}),
        ("acr", {"acr": ["gold"]}),
        ("acr", {"acr": "gold silver"}),
        ("auth_age", {"auth_time": time.time() - 901 - 60}),
        ("auth_age", {"auth_time": time.time() + 3600}),
        ("auth_age", {"auth_time": "1"}),
        ("auth_age", {"auth_time": True}),
        ("auth_age", {"auth_time": None}),
    ],
)
def test_one_property_that_does_not_do(service: Service, name: str, properties: Any) -> None:
    answer, _ = service.ask(docs(), "DELETE", "/docs/7", [*as_(**STRONG | properties), TICKET, SEVEN])
    assert (answer.status, answer.json()["missing"]) == (403, [name])
    challenge = answer.header(b"www-authenticate") or ""
    assert ("acr_values" in challenge, "max_age" in challenge) == (name == "acr", name == "auth_age")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-request-reason", b"")],
        [(b"x-request-reason", b" \t ")],
        [(b"x-request-reason", b"no ticket")],
        [(b"x-request-reason", b"\xff\xfeOPS-7")],
        [(b"x-request-reason", b"OPS-7 \x00")],
        [(b"x-request-reason", b"OPS-7\nOPS-8")],
        [(b"x-request-reason", "OPS-7\u2028".encode())],
        [(b"x-request-reason", b"OPS-7 " + b"x" * 65_536)],
        [TICKET, TICKET],
        [TICKET, (b"x-request-reason", b"")],
        [(b"request-reason", b"OPS-7")],
    ],
    ids=lambda headers: repr(headers)[:50],
)
def test_a_reason_that_is_none(service: Service, headers: Headers) -> None:
    answer, record = service.ask(docs(), "DELETE", "/docs/7", [*as_(**STRONG), SEVEN, *headers])
    assert (answer.status, answer.json()["missing"]) == (403, ["reason"])
    assert answer.header(b"www-authenticate") is None, "signing in again would not help"
    assert record["reason"] in (None, "no ticket")


@pytest.mark.parametrize(
    ("path", "value", "met"),
    [
        ("/docs/7", b"7", True),
        ("/docs/7", b" 7\t", True),
        ("/docs/7", b"8", False),
        ("/docs/7", b"doc.delete", False),
        ("/docs/7", b"", False),
        ("/docs/%C3%A9%25", "é%".encode(), True),
        ("/docs/%C3%A9%25", b"%C3%A9%25", True),
        ("/docs/%C3%A9", b"\xe9", False),
        ("/docs/7", b"7" * 70_000, False),
        ("/delete", b"doc.delete", True),
        ("/delete", b"delete", False),
    ],
)
def test_a_confirmation_repeats_what_the_request_is_about(service: Service, path: str, value: bytes, met: bool) -> None:
    method = "GET" if path == "/delete" else "DELETE"
    answer, _ = service.ask(docs(), method, unquote(path), [*as_(**STRONG), TICKET, (b"x-confirm", value)])
    assert (answer.status == 200) is met
    assert met or answer.json()["missing"] == ["confirm"]


def test_two_confirmations_are_none(service: Service) -> None:
    answer, _ = service.ask(docs(), "DELETE", "/docs/7", [*as_(**STRONG), TICKET, SEVEN, SEVEN])
    assert answer.json()["missing"] == ["confirm"]


@pytest.mark.parametrize(("headers", "cause"), [(as_("other", **STRONG), "default"), (as_("clerk guest"), "rule")])
def test_who_may_not_act_learns_nothing(service: Service, headers: Headers, cause: str) -> None:
    answer, record = service.ask(docs(), "DELETE", "/docs/7", headers)
    assert (answer.status, answer.body) == (403, b"Forbidden")
    assert record["decision"]["cause"] == cause


def test_nobody_is_asked_to_sign_in_where_that_would_help(service: Service) -> None:
    answer, record = service.ask(docs(), "GET", "/sign")
    assert (answer.status, answer.json()["missing"]) == (401, ["mfa"])
    assert answer.header(b"www-authenticate") == 'Bearer error="insufficient_user_authentication"'
    assert record["decision"]["cause"] == "requirement"


def test_nobody_is_not_asked_to_sign_in_where_it_would_not(service: Service) -> None:
    answer, _ = service.ask(docs(), "GET", "/explain")
    assert (answer.status, answer.json()["missing"]) == (403, ["reason"])
    assert answer.header(b"www-authenticate") is None


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Bearer realm="b"', 'Bearer realm="b", error="insufficient_user_authentication"'),
        ("DPoP", 'DPoP error="insufficient_user_authentication"'),
        ('Basic realm="b"', 'Basic realm="b"'),
    ],
)
def test_the_challenge_is_of_the_scheme_that_is_set(service: Service, challenge: str, said: str) -> None:
    service.settings["challenge"] = challenge
    answer, _ = service.ask(docs(), "GET", "/sign", as_())
    assert (answer.status, answer.header(b"www-authenticate")) == (403, said)


def test_monitored_the_request_passes_and_what_was_missing_is_recorded(service: Service) -> None:
    app = docs()
    answer, record = service.ask(app, "GET", "/watched", as_())
    assert (answer.status, app.state.ran) == (200, 1)
    decision = record["decision"]
    assert (decision["effect"], decision["cause"], decision["mode"]) == ("deny", "requirement", "monitor")
    assert decision["detail"] == "missing: reason"


def test_a_reason_is_recorded_where_none_is_required_and_redacted(service: Service) -> None:
    service.policy += "redact: {patterns: [card-number]}\n"
    reason = (b"x-request-reason", b"card 4111 1111 1111 1111 was charged twice")
    _, record = service.ask(docs(), "GET", "/plain", [*as_(), reason])
    assert record["reason"] == "card [redacted] was charged twice"


def test_a_websocket_is_told_before_it_is_accepted(service: Service) -> None:
    async def drive(app: Any) -> None:
        plain = Exchange(app, websocket_scope("/feed"), {"type": "websocket.connect"})
        await plain.end()
        assert plain.messages == [{"type": "websocket.close", "code": 1008, "reason": "missing: reason"}]
        scope = websocket_scope("/feed", extensions={"websocket.http.response": {}})
        told = Exchange(app, scope, {"type": "websocket.connect"})
        await told.end()
        assert told.answer().status == 403
        assert told.answer().json()["missing"] == ["reason"]
        good = Exchange(app, websocket_scope("/feed", [TICKET]), {"type": "websocket.connect"})
        await good.end()
        assert good.messages[0]["type"] == "websocket.accept"

    app = docs()
    records = service.run(app, drive)
    assert [record["outcome"] for record in records] == ["denied", "denied", "success"]
    assert app.state.ran == 1


def test_a_problem_passes_through_the_applications_middleware(service: Service) -> None:
    cors = Middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    answer, _ = service.ask(docs(cors), "GET", "/explain", [(b"origin", b"https://shop.example")])
    assert answer.header(b"access-control-allow-origin") == "https://shop.example"
    assert answer.header(b"audit-id")
    assert answer.json()["missing"] == ["reason"]


# --- the order ---------------------------------------------------------------------------------------------------

ROLES = st.sets(st.sampled_from(["clerk", "guest", "other"])).map(sorted)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.tuples(ROLES, st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12),
)
def test_deny_then_allow_then_requirements_then_limit(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[list[str], bool, bool, bool]]
) -> None:
    """What refuses first, and what uses up a limit, for any sequence of callers."""
    folder = tmp_path_factory.mktemp("order")
    service = Service(folder, make_log(folder), POLICY, {"identify": identify})
    app = docs()
    answers: list[Answer] = []

    async def drive(app: Any) -> None:
        for roles, strong, reason, confirm in requests:
            headers = as_(" ".join(roles), **(STRONG if strong else {}))
            headers += [TICKET] * reason + [SEVEN] * confirm
            answers.append(await call(app, "DELETE", "/docs/7", headers))

    records = service.run(app, drive)
    passed = 0
    expected: tuple[int, str, str | None]
    for (roles, strong, reason, confirm), answer, record in zip(requests, answers, records, strict=True):
        missing = [name for name, there in zip(("mfa", "acr", "auth_age"), [strong] * 3, strict=True) if not there]
        missing += ["reason"] * (not reason) + ["confirm"] * (not confirm)
        if "guest" in roles:
            expected = (403, "rule", None)
        elif "clerk" not in roles:
            expected = (403, "default", None)
        elif missing:
            expected = (403, "requirement", f"missing: {', '.join(missing)}")
        elif passed == 3:
            expected = (429, "limit", "rate per action")
        else:
            expected, passed = (200, "rule", None), passed + 1
        decision = record["decision"]
        assert (answer.status, decision["cause"], decision["detail"]) == expected
        assert (decision["effect"] == "allow") is (answer.status == 200)
        if expected[1] in ("rule", "default") and answer.status == 403:
            assert answer.body == b"Forbidden"
    assert app.state.ran == passed


def test_what_is_allowed_without_more_awaits_no_more(service: Service) -> None:
    """The path of an action without requirement, limit and loader suspends nowhere before its handler."""
    app = docs()

    async def drive(app: Any) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "GET",
            "path": "/plain", "raw_path": b"/plain", "root_path": "", "query_string": b"", "headers": as_(),
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        before = asyncio.all_tasks()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            assert asyncio.all_tasks() == before

        steps = app(scope, receive, send)
        with pytest.raises(StopIteration):
            steps.send(None)  # to its end in one step: nothing was waited for

    service.run(app, drive)
    assert app.state.ran == 1
    assert len(check_log(service.log)) == 1


def test_a_refusal_before_any_router_is_a_problem_as_well(tmp_path: Path, log: Any) -> None:
    """An opaque application: no handler of exceptions above."""

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})

    policy = write_policy(tmp_path, POLICY + "routes: [{match: '* /{path:path}', action: doc.explain}]\n")
    app = AuditMiddleware(opaque, policy=policy, log=str(log.path), service="test", inventory="warn")

    async def main() -> None:
        async with Running(app) as running:
            assert running.failed is None
            answer = await call(app, "GET", "/")
            assert (answer.status, answer.json()["missing"]) == (403, ["reason"])

    asyncio.run(main())
