"""Action marks: what ``@action`` leaves on an endpoint, and how a mark is found again.

A mark is an attribute on the function or class; nothing is wrapped, so signatures, dependencies and OpenAPI stay as
they are. `functools.wraps` carries it over to a decorated function.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import ConfigError, ResolutionError
from ..model import Action, Severity

MARK = "__audit_action__"
OPENAPI_KEY = "x-audit-action"
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_RESOURCE = re.compile(r"[^\s{}/]+(/([^\s{}]|\{[A-Za-z_][A-Za-z0-9_]*\})+)?")
_SEVERITIES = ("info", "low", "medium", "high", "critical")

T = TypeVar("T", bound=Callable[..., Any])


def action(
    name: str,
    *,
    resource: str | None = None,
    event: str | None = None,
    severity: Severity | None = None,
    resource_properties: Callable[[Any], Any] | None = None,
) -> Callable[[T], T]:
    """Names the action that a route performs.

    Works on functions, bound methods, Starlette's class-based endpoints and their single methods.

    Args:
        name: the action's name in the policy, lower case with dots: ``invoice.delete``.
        resource: template of what is acted on, over path parameters: ``invoice/{invoice_id}``.
        event: name for the record when the policy gives none: ``INVOICE_DELETED``.
        severity: ``info`` to ``critical``; the policy's wins.
        resource_properties: loads what rules ask of the resource: ``(connection) -> mapping``, given Starlette's
            `HTTPConnection` with the path parameters. Called before the decision, and only where a rule reads a
            property that is no path parameter. A plain function runs in a worker thread; ``async def`` does not.

    Raises:
        ConfigError: for a malformed name, a loader that cannot be called, a second ``@action`` on one function, or what
            takes no attributes.
    """
    if resource_properties is not None and not callable(resource_properties):
        raise ConfigError(f"@action: resource_properties of {name} must be a function (connection) -> mapping")
    mark = replace(make_action(name, resource, event, severity, "@action"), loader=resource_properties)

    def decorate(endpoint: T) -> T:
        holder = getattr(endpoint, "__func__", endpoint)  # a bound method has no attributes of its own
        own = getattr(holder, "__dict__", None)
        if own is None:
            raise ConfigError(f"@action cannot mark {endpoint!r}: it takes no attributes; use a function")
        if own.get(MARK) is not None:
            raise ConfigError(f"{endpoint!r} has two @action marks: {own[MARK].name!r} and {name!r}")
        setattr(holder, MARK, mark)
        return endpoint

    return decorate


def make_action(name: Any, resource: Any, event: Any, severity: Any, where: str) -> Action:
    """An `Action` from outside values, checked."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: action name {name!r} is not lower-case words joined by dots, such as invoice.delete"
        )
    for label, value in (("resource", resource), ("event", event)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{where}: {label} of {name} must be text, not {type(value).__name__}")
    if resource is not None and not _RESOURCE.fullmatch(resource):
        raise ConfigError(
            f"{where}: resource {resource!r} of {name} is not of the form type or type/{{parameter}}, such as "
            "invoice/{invoice_id}"
        )
    if severity is not None and severity not in _SEVERITIES:
        raise ConfigError(f"{where}: severity of {name} must be one of {', '.join(_SEVERITIES)}, not {severity!r}")
    return Action(name, resource, event, severity)


def mark_of(endpoint: Any, method: str) -> Action | None:
    """The mark on an endpoint, for this HTTP method where the endpoint is a class of methods."""
    while isinstance(endpoint, functools.partial) and not hasattr(endpoint, MARK):
        endpoint = endpoint.func
    if isinstance(endpoint, type):
        handler = getattr(endpoint, handler_name(endpoint, method), None)
        own: Action | None = getattr(handler, MARK, None)
        if own is not None:
            return own
    found: Action | None = getattr(endpoint, MARK, None)
    return found


def handler_name(endpoint: type, method: str) -> str:
    """The method that Starlette's `HTTPEndpoint` calls: HEAD falls back to ``get``."""
    if method == "HEAD" and not hasattr(endpoint, "head"):
        return "get"
    return method.lower()


@functools.lru_cache(maxsize=4096)
def _from_text(name: str) -> Action:
    return make_action(name, None, None, None, OPENAPI_KEY)


def mark_from_openapi(extra: Any) -> Action | None:
    """The mark in a route's OpenAPI extra: ``{"x-audit-action": "invoice.read"}`` or a mapping with the same keys
    as `action`.

    Raises:
        ConfigError: for a malformed extra.
    """
    if not isinstance(extra, Mapping) or OPENAPI_KEY not in extra:
        return None
    value = extra[OPENAPI_KEY]
    if isinstance(value, str):
        return _from_text(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{OPENAPI_KEY} must be a name or a mapping with a name, not {type(value).__name__}")
    unknown = set(value) - {"name", "resource", "event", "severity"}
    if unknown:
        raise ConfigError(f"{OPENAPI_KEY}: unknown key {sorted(unknown)[0]!r}; known: event, name, resource, severity")
    return make_action(value.get("name"), value.get("resource"), value.get("event"), value.get("severity"), OPENAPI_KEY)


def action_of(endpoint: Any, openapi_extra: Any, method: str) -> Action | None:
    """The one action an endpoint and its route declare.

    Raises:
        ResolutionError: when decorator and OpenAPI extra disagree, or the extra is malformed.
    """
    marked = mark_of(endpoint, method)
    try:
        declared = mark_from_openapi(openapi_extra) if openapi_extra else None
    except ConfigError as problem:
        raise ResolutionError(str(problem)) from problem
    if marked is None or declared is None:
        return marked or declared
    if marked.name != declared.name:
        raise ResolutionError(f"@action says {marked.name!r} but {OPENAPI_KEY} says {declared.name!r}")
    return marked
