"""The review's items on who did what, and on the rules that allowed it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ..policy.evaluate import Policy
from ..policy.personal import in_words
from ..policy.routes import RouteEntry
from .activity import SEVERE
from .checklist import Basis, Item, Line, Table, listed, ranked

SOON = timedelta(days=30)
"""An exemption that ends within this time asks for a look now."""


def items(basis: Basis) -> list[Item]:
    """From what was recorded to what is exempt from it."""
    return [
        _records(basis),
        _denials(basis),
        _severe(basis),
        _roles(basis),
        _rules(basis),
        _monitor(basis),
        _exemptions(basis),
        _routes(basis),
        _content(basis),
        _tests(basis),
    ]


def _records(basis: Basis) -> Item:
    activity = basis.activity
    counts = [
        ("kind", activity.kinds), ("decision", activity.effects), ("outcome", activity.outcomes),
        ("severity", activity.severities),
    ]  # fmt: skip
    rows = tuple((what, name, str(count)) for what, found in counts for name, count in sorted(found.items()))
    errors = activity.outcomes["error"]
    return Item(
        "Records of the period",
        ("SOC 2 CC7.2", "HIPAA 164.312(b)", "GDPR 30", "PCI DSS 10.2.2"),
        "Is this the activity that the service had? A period that is quieter or busier than expected needs a reason.",
        (
            Line(f"{activity.entries} records of {len(activity.users)} users", activity.entries == 0),
            Line(f"{errors} requests ended in an error of the service", errors > 0),
            Line(f"{activity.unreadable} entries could not be read", activity.unreadable > 0),
        ),
        (Table(("what", "value", "records"), rows), *_flags(basis)),
    )


def _flags(basis: Basis) -> tuple[Table, ...]:
    flags = basis.activity.flags
    return (ranked(flags, ("anomaly flagged", "records"), basis.top),) if len(flags) else ()


def _denials(basis: Basis) -> Item:
    activity = basis.activity
    refused = activity.flags["credential_refused"]
    undecided = activity.causes["error"]
    mismatch = activity.causes["route_mismatch"] + activity.flags["route_mismatch"]
    tables = [
        ranked(activity.denied_actions, ("action denied", "records"), basis.top),
        ranked(activity.denied_users, ("user denied", "records"), basis.top),
    ]
    causes = tuple((cause, str(count)) for cause, count in sorted(activity.causes.items()))
    return Item(
        "Denials and refused credentials",
        ("SOC 2 CC7.3", "HIPAA 164.308(a)(5)(ii)(C)", "PCI DSS 10.2.1.4"),
        "Who was refused what, and does anyone try too often?",
        (
            Line(f"{activity.denied_actions.total} denials"),
            Line(f"{refused} requests with a credential that did not verify", refused > 0),
            Line(f"{undecided} denials because a decision could not be made", undecided > 0),
            Line(f"{mismatch} requests that would have run another route than the one decided on", mismatch > 0),
        ),
        (Table(("cause", "records"), causes), *tables) if causes else (),
    )


def _severe(basis: Basis) -> Item:
    activity, policy = basis.activity, basis.policy
    users = {user for user, _, _ in activity.severe}
    nobody = [
        Line(f"allowed without a known user: {one}, {count} times", _is_severe(policy, one))
        for one, count in activity.anonymous.top(basis.top)
    ]
    columns = ("user", "action", "severity", "records")
    return Item(
        "Use of high and critical actions",
        ("SOC 2 CC6.3", "HIPAA 164.308(a)(1)(ii)(D)", "PCI DSS 10.2.1.2"),
        "Was each of these uses by somebody who should, for a reason?",
        (
            Line(f"{activity.severe.total} uses by {len(users)} users"),
            *nobody,
        ),
        (ranked(activity.severe, columns, basis.top),) if len(activity.severe) else (),
    )


def _is_severe(policy: Policy, action: str) -> bool:
    return action in policy.actions and policy.actions[action].severity in SEVERE


def _roles(basis: Basis) -> Item:
    used, known = basis.activity.roles, basis.policy.roles
    brought = {inner for role in used for inner in known.get(role, ())}
    idle = [role for role in known if role not in brought]
    unknown = [role for role in used if role not in known]
    rows = tuple((role, str(used[role]), _how(role, role in used, role in brought)) for role in sorted(known))
    return Item(
        "Roles used and never used",
        ("SOC 2 CC6.2", "SOC 2 CC6.3", "PCI DSS 7.2"),
        "Does anybody still need the roles that nobody used? Remove grants without a use.",
        (
            Line(f"{len(idle)} of {len(known)} roles were not used: {', '.join(idle) or 'none'}", bool(idle)),
            Line(
                f"{len(unknown)} roles of callers are not in the policy: {', '.join(unknown) or 'none'}", bool(unknown)
            ),
        ),
        (Table(("role", "allowed requests", "use"), rows),) if rows else (),
    )


def _how(role: str, used: bool, brought: bool) -> str:
    return "used" if used else "by inheritance only" if brought else "never used"


def _rules(basis: Basis) -> Item:
    policy, used = basis.policy, basis.activity.rules
    rows = []
    for name, action in policy.actions.items():
        for rule in (*action.deny, *action.allow):
            if (name, rule.name) not in used:
                silent = action.record == "none" and rule.effect == "allow"
                rows.append((name, rule.name, rule.effect, "cannot be known: record: none" if silent else "never used"))
    idle = [row for row in rows if row[3] == "never used"]
    total = sum(len(action.deny) + len(action.allow) for action in policy.actions.values())
    return Item(
        "Rules that were never used",
        ("SOC 2 CC6.3", "PCI DSS 7.2"),
        "Is each of these rules still wanted? A rule that nobody needs is access that nobody watches.",
        (Line(f"{len(idle)} of {total} rules were not used", bool(idle)),),
        (Table(("action", "rule", "effect", "use"), tuple(rows)),) if rows else (),
    )


def _monitor(basis: Basis) -> Item:
    policy, noted = basis.policy, basis.activity.noted
    names = [name for name, action in policy.actions.items() if action.mode == "monitor"]
    rows = tuple((name, str(noted[name])) for name in names)
    return Item(
        "Actions that are only watched (mode: monitor)",
        ("SOC 2 CC6.1", "PCI DSS 7.3.3"),
        "Until when is each of these only watched? What would be denied passes.",
        (
            Line(f"{len(names)} of {len(policy.actions)} actions are in monitor mode", bool(names)),
            Line(f"{noted.total} requests passed that the policy would deny", noted.total > 0),
            Line(f"the policy's default is {policy.default}", policy.default != "deny"),
        ),
        (Table(("action", "would be denied"), rows),) if rows else (),
    )


def _exemptions(basis: Basis) -> Item:
    exempt = [entry for entry in basis.policy.routes if entry.exempt is not None]
    rows = tuple((one.match, one.exempt or "", one.until.isoformat() if one.until else "no end") for one in exempt)
    return Item(
        "Exempt routes",
        ("SOC 2 CC6.1", "PCI DSS 7.3.3"),
        "Does each of these still need no action, for the reason given?",
        listed(_exempt_lines(exempt, basis), f"{len(exempt)} exemptions, none ends within {SOON.days} days"),
        (Table(("route", "reason", "until"), rows),) if rows else (),
    )


def _exempt_lines(exempt: list[RouteEntry], basis: Basis) -> Iterator[Line]:
    for one in exempt:
        if one.expired(basis.today):
            yield Line(f"{one.match}: the exemption ended on {one.until}; the route is denied", True)
        elif one.until is not None and one.until - basis.today <= SOON:
            yield Line(f"{one.match}: the exemption ends on {one.until}", True)


def _routes(basis: Basis) -> Item:
    inventory = basis.inventory
    lines: tuple[Line, ...]
    if inventory is None:
        lines = (Line("not checked: no application was given (--app MODULE:APP)", True),)
    else:
        bare = sum(1 for row in inventory.rows if row.action is None and row.rule != "exempt")
        lines = (
            Line(f"{len(inventory.rows)} routes, {bare} of them without an action", bare > 0),
            *(Line(str(problem), True) for problem in inventory.findings),
        )
    return Item(
        "Routes without an action",
        ("SOC 2 CC6.1", "PCI DSS 10.2.1", "PCI DSS 7.3.3"),
        "Is every route of the service under a rule, so that its use is decided and on record?",
        lines,
    )


def _content(basis: Basis) -> Item:
    policy = basis.policy
    levels = tuple(
        (name, action.record) for name, action in policy.actions.items() if action.record in ("request", "response")
    )
    keys, patterns = policy.redact.keys, policy.redact.patterns
    return Item(
        "What is kept of requests",
        ("GDPR 5(1)(c)", "GDPR 25", "GDPR 30"),
        "Is it still needed that the bodies of these actions are kept, and is everything redacted that must be?",
        (
            Line(f"{len(levels)} actions keep bodies"),
            Line(f"redacted besides the built-in names: {', '.join((*keys, *patterns)) or 'nothing'}"),
            *_personal(policy),
        ),
        (Table(("action", "kept"), levels),) if levels else (),
    )


def _personal(policy: Policy) -> Iterator[Line]:
    """What of a record is treated as personal data. Nothing may be right: a person has to judge it."""
    told = ", ".join(f"{path} ({in_words(how)})" for path, how in sorted(policy.personal.items()))
    yield Line(f"personal data, treated before it is recorded: {told or 'nothing is declared'}")
    stricter = [name for name in policy.actions if policy.personal_of(name) != policy.personal]
    if stricter:
        yield Line(f"more strictly in: {', '.join(stricter)}")


def _tests(basis: Basis) -> Item:
    tests = basis.tests
    if tests is None or tests.coverage is None:
        problem = "; ".join(tests.problems) if tests else "there are none"
        lines: tuple[Line, ...] = (Line(f"the policy's tests could not be run: {problem}", True),)
    else:
        count = f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped"
        covered = tests.coverage.summary()
        lines = (
            Line(f"the policy's tests, run for this review: {count}", bool(tests.failed or not tests.passed)),
            Line(f"exercised: {covered}", min(tests.coverage.rule_ratio, tests.coverage.requirement_ratio) < 1),
        )
    return Item(
        "Tests of the policy",
        ("GDPR 32(1)(d)", "SOC 2 CC8.1"),
        "Do the tests say what the policy is meant to do, and do they pass?",
        lines,
    )
