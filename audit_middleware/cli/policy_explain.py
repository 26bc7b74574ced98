"""``policy explain``: why one request is decided as it is, in words or in AuthZEN's shape."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import AuthzenError
from ..model import NOBODY, Resource, Subject
from ..pipeline.answer import refusal
from ..policy.authzen import Evaluation, parse, read_evaluation, respond, response
from ..policy.evaluate import Policy
from ..policy.explain import ConditionView, Explanation
from ..policy.explain import explain as explanation_of
from ..policy.requirements import Offer, seconds_of
from ..policy.wording import limit_in_words
from ..settings import Settings
from .imports import PREDICATES, load_policy
from .output import DOES_NOT_HOLD, HOLDS, USAGE, fail, out, print_json, row, shown, table

POLICY = Annotated[Path, typer.Argument(help="The policy file.", show_default=False)]
Pairs = list[str] | None
_CHALLENGE = str(Settings.model_fields["challenge"].default)


def explain(
    policy: POLICY,
    action: Annotated[str | None, typer.Option(help="The action, such as invoice.delete.")] = None,
    subject: Annotated[str | None, typer.Option(help="Who asks, by id. Default: nobody.")] = None,
    subject_type: Annotated[str, typer.Option(help="The subject's type.")] = "user",
    roles: Annotated[list[str] | None, typer.Option(help="The subject's roles, with commas or several times.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The subject's tenant.")] = None,
    subject_property: Annotated[Pairs, typer.Option(help="NAME=VALUE of the subject.")] = None,
    resource: Annotated[str | None, typer.Option(help="What is acted on: TYPE/ID or TYPE.")] = None,
    prop: Annotated[Pairs, typer.Option("--property", help="NAME=VALUE of the resource.")] = None,
    context: Annotated[Pairs, typer.Option(help="NAME=VALUE of the request, such as ip=10.0.0.1.")] = None,
    reason: Annotated[str | None, typer.Option(help="The caller's reason, as in X-Request-Reason.")] = None,
    confirm: Annotated[str | None, typer.Option(help="What the caller repeats, as in X-Confirm.")] = None,
    now: Annotated[str | None, typer.Option(help="context.time, with a zone. Default: none.")] = None,
    request: Annotated[Path | None, typer.Option(help="A file with an AuthZEN request instead; - is stdin.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an AuthZEN response; without --action, read a request from stdin.")
    ] = False,
    predicates: PREDICATES = None,
) -> None:
    """Show why a request is allowed or denied: every rule and its conditions, and every requirement.

    Exit codes: 0 allowed, 1 denied (or one of several), 2 wrong usage or a malformed request, 3 no policy to ask.
    """
    loaded = load_policy(policy, predicates)
    if (action is None) == (request is None) and not (as_json and action is None):
        fail("name an --action, or give an AuthZEN --request", USAGE)
    if action is None:
        _asked(loaded, _read(request), as_json)
    who = NOBODY
    if subject is not None:
        held = tuple(role.strip() for text in roles or () for role in text.split(",") if role.strip())
        who = Subject(subject, subject_type, held, tenant, None, _pairs(subject_property, "--subject-property"))
    elif roles or tenant or subject_property:
        fail("--roles, --tenant and --subject-property need a --subject", USAGE)
    kind, _, identity = (resource or "").partition("/")
    what = Resource(kind or None, identity or None, _pairs(prop, "--property"))
    about = {**_pairs(context, "--context"), **({"time": _moment(now)} if now is not None else {})}
    _tell(loaded, Evaluation(str(action), who, what, about, Offer(reason, confirm or False)), as_json)


# --- the question ------------------------------------------------------------------------------------------------


def _read(path: Path | None) -> str:
    try:
        return sys.stdin.read() if path is None or str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        fail("request: not UTF-8", USAGE)


def _asked(policy: Policy, text: str, as_json: bool) -> None:
    """Answers an AuthZEN request and ends."""
    try:
        body = parse(text)
        if as_json or (isinstance(body, dict) and body.get("evaluations")):
            answer = respond(body, lambda one: _response(policy, one))
            print_json(answer)
            decisions = [one["decision"] for one in answer.get("evaluations", [answer])]
            raise SystemExit(HOLDS if all(decisions) else DOES_NOT_HOLD)
        respond(body, lambda one: response(_explained(policy, one).decision))  # refuses what is not of the shape
        _tell(policy, read_evaluation(body), as_json)
    except AuthzenError as problem:
        fail(problem, USAGE)


def _pairs(texts: Pairs, option: str) -> dict[str, Any]:
    """NAME=VALUE; a value that is a JSON number, boolean, list or object is one, anything else is text."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            fail(f"{option} {text}: write NAME=VALUE", USAGE)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--now {text}: not a time such as 2026-01-05T09:00:00Z", USAGE)
    if moment.tzinfo is None:
        fail(f"--now {text}: a time needs a zone, such as 2026-01-05T09:00:00Z", USAGE)
    return moment


# --- the answer --------------------------------------------------------------------------------------------------


def _explained(policy: Policy, one: Evaluation) -> Explanation:
    return explanation_of(policy, one.action, one.subject, one.resource, one.context, one.offer)


def _response(policy: Policy, one: Evaluation) -> dict[str, Any]:
    """The AuthZEN response, with the whole explanation in its context."""
    explanation = _explained(policy, one)
    compiled = policy.actions.get(one.action)
    answer = response(explanation.decision, compiled.limit if compiled else None)
    extra = {key: value for key, value in explanation.to_dict().items() if key not in ("effect", *answer["context"])}
    return {"decision": answer["decision"], "context": {**answer["context"], **extra}}


def _tell(policy: Policy, one: Evaluation, as_json: bool) -> None:
    """Prints one explanation and ends."""
    explanation = _explained(policy, one)
    decision = explanation.decision
    if as_json:
        print_json(_response(policy, one))
    else:
        for line in _lines(policy, one, explanation):
            out.print(shown(line), soft_wrap=True)
        if explanation.rules:
            out.print()
            out.print(_table(explanation))
        if explanation.requirements:
            out.print()
            out.print(_requirements(explanation))
    raise SystemExit(HOLDS if decision.effect == "allow" else DOES_NOT_HOLD)


def _lines(policy: Policy, one: Evaluation, explanation: Explanation) -> Iterator[str]:
    decision = explanation.decision
    verb = ", which rule {} allows" if decision.cause == "requirement" else " by rule {}"
    by = verb.format(decision.rule) if decision.rule else ""
    yield f"{decision.effect}: {explanation.action}, cause {decision.cause}{by}"
    if decision.mode == "monitor":
        yield "mode monitor: the request passes whatever is decided"
    if decision.detail:
        yield f"detail: {decision.detail}"
    for miss in decision.near_misses:
        yield f"nearly: {miss}"
    if explanation.unknown_roles:
        yield f"roles that the policy does not know, and that grant nothing: {', '.join(explanation.unknown_roles)}"
    compiled = policy.actions.get(one.action)
    told = refusal(decision, one.subject, _CHALLENGE, compiled.require if compiled else None)
    if told is not None:
        yield f"the caller is told: {told.status} {json.dumps(told.problem) if told.problem else told.detail}"
    if seconds_of(one.context) is None and any(view.name == "auth_age" for view in explanation.requirements):
        yield "without --now (context.time) no sign-in is recent"
    if compiled is not None and compiled.limit is not None:
        yield f"limit: {limit_in_words(compiled.limit)}, not counted here"
    if explanation.terms is not None:
        yield ", ".join(f"{name} {word}" for name, word in explanation.terms.items())
    if explanation.personal:
        yield f"personal data: {', '.join(f'{path} {how}' for path, how in explanation.personal.items())}"
    yield f"policy {decision.policy_digest}"


def _requirements(explanation: Explanation) -> Any:
    """Each requirement; where the rules deny, none of them is asked."""
    asked = explanation.decision.effect == "allow" or explanation.decision.cause == "requirement"
    listing = table(None, "requirement", "outcome")
    for one in explanation.requirements:
        outcome = "met" if one.met else "not met"
        style = ("green" if one.met else "red") if asked else None
        row(listing, one.text, outcome if asked else f"{outcome}, and not asked", style=style)
    return listing


def _table(explanation: Explanation) -> Any:
    listing = table(None, "rule", "effect", "roles", "condition", "outcome")
    for rule in explanation.rules:
        matched = "match" if rule.applies else f"no: {', '.join(rule.roles)}"
        result = "holds" if rule.holds else "does not hold"
        style = None if not rule.holds else ("green" if rule.effect == "allow" else "red")
        if rule.condition is None:
            row(listing, rule.name, rule.effect, matched, None, result, style=style)
            continue
        first: tuple[str, ...] = (rule.name, rule.effect, matched)
        for depth, view in _walk(rule.condition):
            row(listing, *first, f"{'  ' * depth}{_heading(view)}", _outcome(view), style=style)
            first = ("", "", "")
    return listing


def _walk(view: ConditionView, depth: int = 0) -> Iterator[tuple[int, ConditionView]]:
    yield depth, view
    for part in view.parts:
        yield from _walk(part, depth + 1)


def _heading(view: ConditionView) -> str:
    """A condition; of a group only its word, because its parts follow."""
    if not view.parts:
        return view.text
    if view.conjunction:
        return "all of"
    return "not" if len(view.parts) == 1 else "any of"


def _outcome(view: ConditionView) -> str:
    return f"{view.outcome}: {view.problem}" if view.problem else view.outcome
