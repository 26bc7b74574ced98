"""`from_scope` with Starlette's own authentication, `first_of`, and the claims helpers."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, UnauthenticatedUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.errors import ConfigError, IdentityError, IdentityUnavailable
from audit_middleware.identity import first_of, from_scope
from audit_middleware.identity.claims import claim
from audit_middleware.model import Source, Subject
from tests.kit import call


class User:
    """A user as applications write them."""

    is_authenticated = True

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def who(user: Any, scopes: list[str] | None = None, **options: Any) -> Subject | None:
    auth = AuthCredentials(scopes) if scopes is not None else None
    return from_scope(**options)({"type": "http", "user": user, "auth": auth})


def test_nobody() -> None:
    assert from_scope()({"type": "http"}) is None
    assert who(None) is None
    assert who(UnauthenticatedUser(), []) is None


def test_a_simple_user_has_its_name_and_its_scopes() -> None:
    assert who(SimpleUser("alice"), ["authenticated", "clerk"]) == Subject(
        "alice", "user", ("authenticated", "clerk"), source=Source("starlette")
    )


def test_a_user_of_the_application() -> None:
    user = User(identity="u1", roles=["admin"], type="service", tenant="acme", level=1.5, display_name="U")
    subject = who(user, ["ignored"], properties=["level", "missing"])
    assert subject == Subject(
        "u1",
        "service",
        ("admin",),
        tenant="acme",
        properties={"level": "1.5", "missing": None},
        source=Source("starlette"),
    )


def test_other_attributes() -> None:
    user = User(pk=0, groups="a b", kind="robot", org=7)
    assert who(user, roles="groups", id="pk", type="kind", tenant="org") == Subject(
        "0", "robot", ("a", "b"), tenant="7", source=Source("starlette")
    )
    by_callable = who(User(identity="u"), roles=lambda user: (name for name in ("x", "y")))
    assert by_callable is not None
    assert by_callable.roles == ("x", "y")
    none = who(User(identity="u", roles=[]), ["scope"])
    assert none is not None
    assert none.roles == (), "an empty list is an answer"


@pytest.mark.parametrize("name", ["山田\u3000太郎", "José\xa0María", "a b", "x" * 1024, "\u202eevil"])
def test_names_of_people_are_names(name: str) -> None:
    subject = who(SimpleUser(name))
    assert subject is not None
    assert subject.id == name


@pytest.mark.parametrize(
    "user",
    [
        {"sub": "alice"},
        "alice",
        User(),
        User(identity=""),
        User(identity=True),
        User(identity="u", roles=7),
        User(identity="u", type="anonymous"),
        User(identity="u\nv"),
        User(identity="u\u2028v"),
        User(identity="u\x9b"),
        User(identity="u\ud800"),
        User(identity="x" * 1025),
        User(identity="u", tenant=[]),
    ],
)
def test_users_that_cannot_be_read_are_refused(user: Any) -> None:
    with pytest.raises(IdentityError):
        who(user)


def test_with_the_authentication_middleware_of_starlette() -> None:
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
            name = conn.headers.get("x-name")
            return (AuthCredentials(["clerk"]), SimpleUser(name)) if name else None

    seen: list[Subject | None] = []

    async def handler(request: Request) -> PlainTextResponse:
        seen.append(from_scope()(dict(request.scope)))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    asyncio.run(call(app, "GET", "/", [(b"x-name", b"alice")]))
    asyncio.run(call(app, "GET", "/"))
    assert seen == [Subject("alice", "user", ("clerk",), source=Source("starlette")), None]


ALICE, BOB = Subject("alice"), Subject("bob")


def answers(value: Subject | Exception | None) -> Any:
    def identify(scope: Any) -> Subject | None:
        if isinstance(value, Exception):
            raise value
        return value

    return identify


def later(value: Subject | Exception | None) -> Any:
    async def identify(scope: Any) -> Subject | None:
        await asyncio.sleep(0)
        return answers(value)(scope)  # type: ignore[no-any-return]  # as written above

    return identify


def resolve(identify: Any) -> Subject | None:
    async def run() -> Any:
        answer = identify({"type": "http"})
        return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(run())  # type: ignore[no-any-return]  # a subject or None


@pytest.mark.parametrize("first", [answers, later])
@pytest.mark.parametrize("second", [answers, later])
def test_the_first_who_knows_answers(first: Any, second: Any) -> None:
    assert resolve(first_of(first(ALICE), second(BOB))) is ALICE
    assert resolve(first_of(first(None), second(BOB))) is BOB
    assert resolve(first_of(first(None), second(None), first(BOB))) is BOB
    assert resolve(first_of(first(None), second(None))) is None
    for error in (IdentityError("bad"), IdentityUnavailable("down")):
        with pytest.raises(type(error)):
            resolve(first_of(first(error), second(BOB)))
        with pytest.raises(type(error)):
            resolve(first_of(first(None), second(error), first(BOB)))


def test_what_is_known_at_once_is_answered_at_once() -> None:
    assert first_of(answers(None), answers(ALICE))({"type": "http"}) is ALICE


def test_first_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        first_of()


def test_claims_by_name_before_path() -> None:
    claims = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}, "https://x/y": 4, "t": "text"}
    assert [claim(claims, path) for path in ("a.b", "a.c.d", "https://x/y", "a.x", "t.x", "x.y", "a.b.c")] == [
        1,
        3,
        4,
        None,
        None,
        None,
        None,
    ]
