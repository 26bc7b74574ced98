"""Step 1: from what the router will run to the action that is asked for.

The router's answer (`Found`) is a fact; this step only joins it with the policy's ``routes:`` and actions.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from ..model import Action, Found
from ..policy.evaluate import Policy
from ..policy.routes import RouteEntry
from .facts import Facts, Resolved

NOTHING_TO_DECIDE = frozenset({"partial", "redirect", "not_found", "descend"})
_NO_ROUTE = Resolved(cause="no_route")


def resolve(found: Found, policy: Policy, today: Callable[[], date]) -> Resolved:
    """The action that running ``found`` would perform under this policy.

    ``cause`` is set where no rule is asked: ``no_route``, ``exempt``, ``unannotated``, ``unknown_action`` or ``error``.
    """
    if found.kind in NOTHING_TO_DECIDE:
        return _NO_ROUTE
    if found.kind == "unknown":
        return Resolved(cause="error", detail=found.detail)
    entry = policy.route(found.template or "", found.method) if policy.routes else None
    if entry is None:
        return _known(found.action, policy)
    return _mapped(found, entry, policy, today)


def _mapped(found: Found, entry: RouteEntry, policy: Policy, today: Callable[[], date]) -> Resolved:
    if found.action is not None and entry.action != found.action.name:
        says = entry.action or "an exemption"
        return Resolved(cause="error", detail=f"the route says {found.action.name}, the policy's routes say {says}")
    if entry.action is not None:
        return _known(found.action or Action(entry.action, entry.resource), policy)
    if entry.expired(today()):
        return Resolved(cause="unannotated", detail=f"the route's exemption ended on {entry.until}")
    return Resolved(cause="exempt", detail=entry.exempt)


def _known(action: Action | None, policy: Policy) -> Resolved:
    if action is None:
        return Resolved(cause="unannotated")
    rule = policy.actions.get(action.name)
    if rule is None:
        return Resolved(action, cause="unknown_action", detail=f"the policy has no action {action.name}")
    return Resolved(action, rule)


def describe(facts: Facts, found: Found, resolved: Resolved) -> None:
    """Notes on the request's facts what its action is called, how severe it is, and what it acts on."""
    action, rule = resolved.action, resolved.rule
    facts.found, facts.action = found, action
    facts.known_resource = None  # see `Facts.resource`
    if rule is not None and action is not None:
        facts.level = rule.record
        facts.sealed, facts.degrade = rule.guarantee != "after", rule.on_log_failure == "degrade"
        facts.event = rule.event if "event" in rule.stated or action.event is None else action.event
        facts.severity = rule.severity if "severity" in rule.stated or action.severity is None else action.severity
    elif action is not None:
        facts.event, facts.severity = action.event, action.severity or "high"
    elif resolved.cause == "error":
        facts.severity = "critical"  # nobody knows what would have run
    elif resolved.cause == "unannotated":
        facts.severity = "high"
