"""What ``@action`` leaves on an endpoint, and how it is found again."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint

from audit_middleware.errors import ConfigError, ResolutionError
from audit_middleware.frameworks.marks import MARK, action, action_of, mark_from_openapi, mark_of
from audit_middleware.model import Action


async def endpoint(number: int, q: str = "x") -> str:
    """An endpoint."""
    return f"{number}{q}"


def fresh() -> Any:
    """A new function like `endpoint`."""

    async def one(number: int, q: str = "x") -> str:
        """An endpoint."""
        return f"{number}{q}"

    return one


def test_a_mark_changes_nothing_but_an_attribute() -> None:
    bare = fresh()
    before = (
        inspect.signature(bare),
        bare.__doc__,
        bare.__name__,
        bare.__annotations__,
        inspect.iscoroutinefunction(bare),
    )
    marked = action("doc.read", resource="doc/{number}", event="DOC_READ", severity="low")(bare)
    assert marked is bare
    after = (
        inspect.signature(bare),
        bare.__doc__,
        bare.__name__,
        bare.__annotations__,
        inspect.iscoroutinefunction(bare),
    )
    assert after == before
    assert mark_of(marked, "GET") == Action("doc.read", "doc/{number}", "DOC_READ", "low")


def test_an_unmarked_endpoint_has_none() -> None:
    assert mark_of(endpoint, "GET") is None
    assert action_of(endpoint, None, "GET") is None
    assert mark_of(None, "GET") is None
    assert mark_of(object(), "GET") is None


def test_wrapped_functions_keep_the_mark() -> None:
    marked = action("doc.read")(fresh())

    @functools.wraps(marked)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await marked(*args, **kwargs)

    assert mark_of(wrapper, "GET") == Action("doc.read")


def test_partials_are_seen_through() -> None:
    marked = action("doc.read")(fresh())
    twice = functools.partial(functools.partial(marked, 1), q="y")
    assert mark_of(twice, "GET") == Action("doc.read")
    own = action("doc.other")(functools.partial(marked, 1))
    assert mark_of(own, "GET") == Action("doc.other"), "the outer one's own mark wins"


def test_bound_methods() -> None:
    class Service:
        @action("doc.read")
        async def read(self) -> None: ...

        async def write(self) -> None: ...

    assert mark_of(Service().read, "GET") == Action("doc.read")
    assert mark_of(action("doc.write")(Service().write), "GET") == Action("doc.write")
    with pytest.raises(ConfigError, match="two @action marks"):
        action("doc.other")(Service().write)  # one function behind all instances


@pytest.mark.parametrize("thing", [len, "text".upper])
def test_what_takes_no_attributes_cannot_be_marked(thing: Any) -> None:
    with pytest.raises(ConfigError, match="cannot mark"):
        action("doc.read")(thing)


def test_instances_are_found_by_their_class_or_their_own_mark() -> None:
    @action("doc.read")
    class App:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    assert mark_of(App(), "GET") == Action("doc.read")
    assert mark_of(action("doc.other")(App()), "GET") == Action("doc.other")


def test_class_based_endpoints_by_method() -> None:
    @action("doc.any")
    class Docs(HTTPEndpoint):
        @action("doc.read")
        async def get(self, request: Any) -> None: ...

        @action("doc.delete")
        def delete(self, request: Any) -> None: ...

        async def post(self, request: Any) -> None: ...

    assert mark_of(Docs, "GET") == Action("doc.read")
    assert mark_of(Docs, "HEAD") == Action("doc.read"), "HEAD runs get()"
    assert mark_of(Docs, "DELETE") == Action("doc.delete")
    assert mark_of(Docs, "POST") == Action("doc.any"), "the class's own mark covers the rest"


def test_a_head_method_of_its_own() -> None:
    class Docs(HTTPEndpoint):
        @action("doc.read")
        async def get(self, request: Any) -> None: ...

        @action("doc.peek")
        async def head(self, request: Any) -> None: ...

    assert mark_of(Docs, "HEAD") == Action("doc.peek")


def test_inherited_methods_and_marks() -> None:
    class Base(HTTPEndpoint):
        @action("doc.read")
        async def get(self, request: Any) -> None: ...

    class Derived(Base):
        pass

    class Overriding(Base):
        async def get(self, request: Any) -> None: ...

    assert mark_of(Derived, "GET") == Action("doc.read")
    assert mark_of(Overriding, "GET") is None, "another function, which nobody named"


def test_a_subclass_may_have_a_mark_of_its_own() -> None:
    """The mark is not inherited into a conflict."""

    @action("doc.any")
    class Base(HTTPEndpoint): ...

    @action("doc.other")
    class Derived(Base): ...

    assert mark_of(Base, "GET") == Action("doc.any")
    assert mark_of(Derived, "GET") == Action("doc.other")


def test_websocket_classes() -> None:
    @action("feed.watch")
    class Feed(WebSocketEndpoint): ...

    assert mark_of(Feed, "WS") == Action("feed.watch")


def test_methods_that_name_other_attributes_find_no_mark() -> None:
    """A method is whatever the client says: it must not reach another attribute's mark."""

    class Docs(HTTPEndpoint):
        @action("doc.public")
        async def helper(self) -> None: ...

        async def get(self, request: Any) -> None: ...

    assert mark_of(Docs, "GET") is None


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "Doc.read", "doc read", "doc..read", ".doc", "doc.", "doc/read", "döc", "doc\n", None, 7]
)
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ConfigError, match="lower-case words joined by dots"):
        action(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"severity": "urgent"}, "severity of doc.read must be one of info, low, medium, high, critical"),
        ({"severity": "High"}, "severity"),
        ({"resource": 7}, "resource of doc.read must be text, not int"),
        ({"event": b"X"}, "event of doc.read must be text, not bytes"),
    ],
)
def test_wrong_options(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        action("doc.read", **options)


BAD = ["", "/", "doc/", "doc/{", "doc/}", "doc/{}", "doc/{0}", "doc/{id.x}", "doc/{id!r}", "doc/{id:>9}", "{id}", "a b"]


@pytest.mark.parametrize("resource", BAD)
def test_resources_that_are_no_templates(resource: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form type or type/\{parameter\}"):
        action("doc.read", resource=resource)


@pytest.mark.parametrize(
    "resource", ["doc", "doc/{id}", "doc/{tenant}/{id}", "doc/{a}-{b}", "doc/main", "my-doc.v2/{_id}"]
)
def test_resources_that_are(resource: str) -> None:
    assert mark_of(action("doc.read", resource=resource)(fresh()), "GET") == Action("doc.read", resource)


def test_two_marks_on_one_function() -> None:
    with pytest.raises(ConfigError, match=r"two @action marks: .doc\.read. and .doc\.delete."):
        action("doc.delete")(action("doc.read")(fresh()))


def test_one_function_on_two_routes_has_one_mark() -> None:
    """Marking it again for the second route would make the first one lie."""
    marked = action("doc.read")(fresh())
    with pytest.raises(ConfigError):
        action("doc.write")(marked)
    assert vars(marked)[MARK].name == "doc.read"


# --- OpenAPI -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        (None, None),
        ({}, None),
        ({"x-other": 1}, None),
        ({"x-audit-action": "doc.read"}, Action("doc.read")),
        ({"x-audit-action": {"name": "doc.read", "severity": "high"}}, Action("doc.read", severity="high")),
        (
            {"x-audit-action": {"name": "doc.read", "resource": "doc/{n}", "event": "DOC_READ"}},
            Action("doc.read", "doc/{n}", "DOC_READ"),
        ),
    ],
)
def test_the_openapi_extra(extra: Any, wanted: Action | None) -> None:
    assert mark_from_openapi(extra) == wanted
    assert action_of(endpoint, extra, "GET") == wanted


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Doc.Read", "lower-case"),
        (7, "must be a name or a mapping"),
        (None, "must be a name or a mapping"),
        (["doc.read"], "must be a name or a mapping"),
        ({}, "lower-case"),
        ({"name": "doc.read", "resorce": "x"}, "unknown key 'resorce'"),
        ({"name": "doc.read", "severity": "bad"}, "severity"),
    ],
)
def test_a_malformed_openapi_extra_is_an_error_of_the_route(value: Any, words: str) -> None:
    extra = {"x-audit-action": value}
    with pytest.raises(ConfigError, match=words):
        mark_from_openapi(extra)
    with pytest.raises(ResolutionError, match=words):
        action_of(endpoint, extra, "GET")


def test_decorator_and_extra_must_agree() -> None:
    marked = action("doc.read", severity="high")(fresh())
    assert action_of(marked, {"x-audit-action": "doc.read"}, "GET") == Action("doc.read", severity="high")
    with pytest.raises(ResolutionError, match=r"@action says 'doc.read' but x-audit-action says 'doc.write'"):
        action_of(marked, {"x-audit-action": "doc.write"}, "GET")
