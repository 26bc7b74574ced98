"""Access evaluation requests and responses as the OpenID AuthZEN Authorization API 1.0 writes them.

::

    {"subject": {"type", "id", "properties"}, "action": {"name", "properties"},
     "resource": {"type", "id", "properties"}, "context": {...}}       ->  {"decision": true, "context": {...}}
    {"evaluations": [{...}, ...], "options": {"evaluations_semantic": ...}, and defaults as above}
                                                                       ->  {"evaluations": [{"decision", "context"}]}

A subject's ``roles``, ``tenant`` and ``session`` are properties; a subject of type ``anonymous`` is nobody. The
response's context has the decision's cause, rule, near misses, detail, mode and policy digest, which requirements are
``missing``, and the action's ``limit``, which is told and not counted here. The shape is strict: unknown members,
duplicate members and wrong types are an `AuthzenError`, because a misspelt ``propertes`` would decide on nothing.

What a caller brings for requirements are two of the action's properties: ``reason`` (text), and ``confirm`` (the text
that it repeats, or ``true``: the right one). No condition can read ``action.properties``; others are not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import AuthzenError
from ..model import Decision, Resource, Subject
from .evaluate import Policy
from .findings import nearest
from .requirements import NOTHING_OFFERED, Offer, decide
from .schema import Limit

__all__ = ["Answer", "Evaluation", "evaluate_authzen", "parse", "read_evaluation", "response"]

_MEMBERS = ("subject", "action", "resource", "context")
SEMANTICS = ("execute_all", "deny_on_first_deny", "permit_on_first_permit")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One request, ready for `requirements.decide`."""

    action: str
    subject: Subject
    resource: Resource
    context: Mapping[str, Any]
    offer: Offer = NOTHING_OFFERED


Answer = Callable[[Evaluation], dict[str, Any]]
"""Answers one evaluation with a response."""


def evaluate_authzen(policy: Policy, request: Any) -> dict[str, Any]:
    """Decides a request of one evaluation or several, and gives the response.

    Args:
        policy: the policy.
        request: the decoded JSON; `parse` decodes text strictly.

    Raises:
        AuthzenError: the request does not have the shape of one. A single evaluation among several that is incomplete
            is denied with an ``error`` in its context instead, as the specification has it.
    """

    def answer(one: Evaluation) -> dict[str, Any]:
        decision = decide(policy, one.action, one.subject, one.resource, one.context, one.offer)
        compiled = policy.actions.get(one.action)
        return response(decision, compiled.limit if compiled is not None else None)

    return respond(request, answer)


def respond(request: Any, answer: Answer) -> dict[str, Any]:
    """As `evaluate_authzen`, with one's own answer to each evaluation."""
    body = _object(request, "request", (*_MEMBERS, "evaluations", "options"))
    evaluations = body.get("evaluations")
    if evaluations is not None and not isinstance(evaluations, list):
        raise AuthzenError("evaluations: expected a list")
    semantic = _semantic(body)
    defaults = {name: body[name] for name in _MEMBERS if name in body}
    if not evaluations:
        return answer(read_evaluation(defaults))
    stop = {"deny_on_first_deny": False, "permit_on_first_permit": True}.get(semantic)
    answers: list[dict[str, Any]] = []
    for index, item in enumerate(evaluations):
        merged = {**defaults, **_object(item, f"evaluations[{index}]", _MEMBERS)}
        try:
            answers.append(answer(read_evaluation(merged)))
        except AuthzenError as problem:
            error = {"status": 400, "message": f"evaluations[{index}].{problem}"}
            answers.append({"decision": False, "context": {"error": error}})
        if answers[-1]["decision"] is stop:
            break
    return {"evaluations": answers}


def response(decision: Decision, limit: Limit | None = None) -> dict[str, Any]:
    """The response to one evaluation. ``decision`` is the policy's answer, in ``monitor`` mode too; ``limit`` the
    action's, which only the service counts."""
    return {
        "decision": decision.effect == "allow",
        "context": {
            "cause": decision.cause,
            "rule": decision.rule,
            "near_misses": list(decision.near_misses),
            "detail": decision.detail,
            "missing": list(decision.missing),
            "limit": {**limit.to_json(), "counted": False} if limit is not None else None,
            "mode": decision.mode,
            "policy_digest": decision.policy_digest,
        },
    }


def parse(text: str) -> Any:
    """JSON without duplicate members and without NaN. Raises `AuthzenError`."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as problem:
        raise AuthzenError(f"request: not JSON: {problem}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise AuthzenError("request: a member is there twice")
    return found


def _constant(name: str) -> Any:
    raise AuthzenError(f"request: {name} is not JSON")


# --- reading -----------------------------------------------------------------------------------------------------


def read_evaluation(body: Mapping[str, Any]) -> Evaluation:
    """One evaluation's members as values. Raises `AuthzenError`."""
    missing = [name for name in _MEMBERS[:3] if name not in body]
    if missing:
        raise AuthzenError(f"{missing[0]}: missing")
    action = _object(body["action"], "action", ("name", "properties"))
    offer = _offer(_properties(action, "action"))
    subject = _object(body["subject"], "subject", ("type", "id", "properties"))
    resource = _object(body["resource"], "resource", ("type", "id", "properties"))
    context = body.get("context", {})
    if not isinstance(context, dict):
        raise AuthzenError("context: expected an object")
    return Evaluation(
        action=_text(action, "action", "name"),
        subject=_subject(subject),
        resource=Resource(
            _text(resource, "resource", "type"), _text(resource, "resource", "id"), _properties(resource, "resource")
        ),
        context=context,
        offer=offer,
    )


def _offer(properties: Mapping[str, Any]) -> Offer:
    reason, confirm = properties.get("reason"), properties.get("confirm", False)
    if reason is not None and not isinstance(reason, str):
        raise AuthzenError("action.properties.reason: expected text")
    if not isinstance(confirm, str | bool):
        raise AuthzenError("action.properties.confirm: expected text, true or false")
    return Offer(reason or None, confirm)


def _subject(body: Mapping[str, Any]) -> Subject:
    properties = dict(_properties(body, "subject"))
    roles = properties.pop("roles", [])
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise AuthzenError("subject.properties.roles: expected a list of text")
    own = {name: properties.pop(name, None) for name in ("tenant", "session")}
    for name, value in own.items():
        if value is not None and not isinstance(value, str):
            raise AuthzenError(f"subject.properties.{name}: expected text")
    return Subject(
        _text(body, "subject", "id"),
        _text(body, "subject", "type"),
        tuple(roles),
        own["tenant"],
        own["session"],
        properties,
    )


def _object(value: Any, path: str, known: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AuthzenError(f"{path}: expected an object")
    for name in value:
        if name not in known:
            raise AuthzenError(f"{path}: unknown member '{name}'{nearest(name, known)}")
    return value


def _text(body: Mapping[str, Any], path: str, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise AuthzenError(f"{path}.{name}: " + ("expected non-empty text" if name in body else "missing"))
    return value


def _properties(body: Mapping[str, Any], path: str) -> dict[str, Any]:
    value = body.get("properties", {})
    if not isinstance(value, dict):
        raise AuthzenError(f"{path}.properties: expected an object")
    return value


def _semantic(body: Mapping[str, Any]) -> str:
    options = body.get("options", {})
    if not isinstance(options, dict):
        raise AuthzenError("options: expected an object")
    semantic = options.get("evaluations_semantic", SEMANTICS[0])
    if semantic not in SEMANTICS:
        raise AuthzenError(f"options.evaluations_semantic: expected one of {', '.join(SEMANTICS)}")
    return str(semantic)
