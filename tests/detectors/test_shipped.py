"""Every shipped rule: records that it must find, and records that come near and must not be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.model import Rules
from tests.detectors.support import DAY, HOUR, MINUTE, SECOND, Record, control, denied, findings, numbered, request

Records = list[Record]


@pytest.fixture(scope="module")
def shipped() -> Rules:
    return load_rules([], shipped=True)


def times(count: int, apart: int, make: Callable[..., Record] = request, start: int = 0, **changes: Any) -> Records:
    """So many records, each a little after the one before."""
    return [make(start + at * apart, **changes) for at in range(count)]


def others(records: Records) -> Records:
    """The same, each by another user and from another address."""
    return [
        record | {"user_id": f"user-{at}", "initiator_ip": f"192.0.2.{at % 250 + 1}"}
        for at, record in enumerate(records)
    ]


def set_roles(at: int = 0, user: str = "ann", whom: str = "bob", **changes: Any) -> Record:
    """As the example's service records it."""
    given: dict[str, Any] = {
        "action": "user.set_roles",
        "event": "USER_ROLES_CHANGED",
        "severity": "critical",
        "user_id": user,
        "resource": {"type": "user", "id": whom},
        "request": {"method": "PUT"},
    }
    return request(at, **given | changes)


def sign_in(at: int, status: int) -> Record:
    return request(at, action="auth.login", event="SIGNED_IN", user_id="anonymous", status=status,
                   subject={"type": "anonymous"}, request={"method": "POST"})  # fmt: skip


def reads(count: int, apart: int, **changes: Any) -> Records:
    return [request(at * apart, resource_id=f"{at}", **changes) for at in range(count)]


def long(at: int, duration: int = 2 * SECOND) -> Record:
    return request(at, duration_us=duration)


def hours(counts: list[int]) -> Records:
    """So many records in each hour, one hour after the other."""
    return [request(hour * HOUR + at * SECOND) for hour, count in enumerate(counts) for at in range(count)]


def beats(until: int, instance: str = "web-1:1:a", last: Records | None = None) -> Records:
    """A process that starts, and beats every minute; and another one, which is there all the time."""
    mine = {"service": {"name": "billing", "version": None, "instance": instance, "environment": None}}
    other = {"service": {"name": "billing", "version": None, "instance": "web-2:1:b", "environment": None}}
    settings = {"configuration": {"settings": {"heartbeat": 60}}}
    found = [control(0, "audit.started", extra=settings, **mine), control(1, "audit.started", extra=settings, **other)]
    for minute in range(1, 60):
        if minute <= until:
            found.append(control(minute * MINUTE, "audit.heartbeat", extra={"interval_s": 60}, **mine))
        if minute == until:
            found += [record | mine for record in last or []]
        found.append(control(minute * MINUTE + 1, "audit.heartbeat", extra={"interval_s": 60}, **other))
    return found


def lost(instance: str, sequence: int, at: int) -> Record:
    service = {"name": "billing", "version": None, "instance": instance, "environment": None}
    return request(at, service=service) | {"sequence": sequence}


@dataclass(frozen=True)
class Case:
    """``evidence``: indexes of the first finding's entries; ``group``: of whom."""

    found: Records
    missed: list[Records]
    evidence: tuple[int, ...] | None = None
    group: Mapping[str, str] | None = None


ANN, ADDRESS = {"user.id": "ann"}, {"source.ip": "192.0.2.17"}
GRAVE: dict[str, Any] = {"action": "refund.create", "severity": "high"}
SATURDAY = 5 * DAY
DELETE: dict[str, Any] = {"action": "invoice.delete", "event": "INVOICE_DELETED"}

CASES: dict[str, Case] = {
    "request_burst": Case(
        times(300, SECOND // 10),
        [times(299, SECOND // 10), times(300, SECOND // 4), others(times(300, SECOND // 10))],
        group=ANN,
    ),
    "denial_storm": Case(
        times(10, SECOND, denied),
        [
            times(9, SECOND, denied),
            times(10, 40 * SECOND, denied),
            others(times(10, SECOND, denied)),
            times(10, SECOND, denied, decision={"effect": "deny", "mode": "monitor"}, outcome="success"),
        ],
        tuple(range(10)),
        ANN,
    ),
    "denials_then_success": Case(
        [*times(10, SECOND, denied), request(MINUTE, **GRAVE)],
        [
            [*times(9, SECOND, denied), request(MINUTE, **GRAVE)],
            [*times(10, SECOND, denied), request(MINUTE)],
            [*times(10, SECOND, denied), request(MINUTE, user_id="bob", **GRAVE)],
            [*times(10, SECOND, denied), request(16 * MINUTE, **GRAVE)],
            [request(0, **GRAVE), *times(10, SECOND, denied, start=SECOND)],
        ],
        tuple(range(11)),
        ANN,
    ),
    "signin_guessing": Case(
        [sign_in(at * SECOND, 401) for at in range(10)],
        [
            [sign_in(at * SECOND, 401) for at in range(9)],
            [sign_in(at * SECOND, 200) for at in range(10)],
            others([sign_in(at * SECOND, 401) for at in range(10)]),
        ],
        tuple(range(10)),
        ADDRESS,
    ),
    "signin_guessed": Case(
        [*(sign_in(at * SECOND, 401) for at in range(10)), sign_in(MINUTE, 200)],
        [
            [*(sign_in(at * SECOND, 401) for at in range(10)), sign_in(31 * MINUTE, 200)],
            [*(sign_in(at * SECOND, 401) for at in range(10)), sign_in(MINUTE, 401)],
            [sign_in(0, 200), *(sign_in(at * SECOND, 401) for at in range(1, 11))],
        ],
        tuple(range(11)),
        ADDRESS,
    ),
    "role_granted": Case(
        [set_roles()],
        [
            [set_roles(action="role.list", event=None)],
            [set_roles(status=404)],
            [set_roles(action="user.revoke_role", event=None)],
            [set_roles(action="user.update", event="USER_UPDATED")],
        ],
        (0,),
        ANN,
    ),
    "role_change_by_beneficiary": Case(
        [set_roles(whom="ann")],
        [[set_roles()], [set_roles(whom="ann", action="user.update", event="USER_UPDATED")], [set_roles(whom="Ann")]],
        (0,),
        ANN,
    ),
    "service_account_created": Case(
        [request(action="service_account.create", event="SERVICE_ACCOUNT_CREATED")],
        [
            [request(action="service_account.list")],
            [request(action="service_account.create", event="SERVICE_ACCOUNT_CREATED", status=409)],
            [request(action="account.create", event="ACCOUNT_CREATED")],
        ],
        (0,),
    ),
    "mfa_disabled": Case(
        [request(action="user.mfa_disable")],
        [
            [request(action="user.mfa_enable")],
            [request(action="user.disable")],
            [request(action="mfa.reset", status=403)],
        ],
        (0,),
    ),
    "key_created": Case(
        [request(action="service_account.rotate_key", event="SERVICE_KEY_ROTATED")],
        [[request(action="service_account.revoke_key", event="SERVICE_KEY_REVOKED")], [request(action="api_key.list")]],
        (0,),
    ),
    "mass_delete": Case(
        times(20, SECOND, **DELETE),
        [times(19, SECOND, **DELETE), times(20, 40 * SECOND, **DELETE), others(times(20, SECOND, **DELETE)),
         times(20, SECOND, status=404, **DELETE)],
        tuple(range(20)),
        ANN,
    ),
    "bulk_delete": Case(
        [request(impact={"before": None, "after": None, "count": 100}, **DELETE)],
        [
            [request(impact={"before": None, "after": None, "count": 99}, **DELETE)],
            [request(**DELETE)],
            [request(impact={"before": None, "after": None, "count": 100}, action="invoice.archive")],
        ],
        (0,),
        {"user_id": "ann"},
    ),
    "mass_export": Case(
        times(10, MINUTE, action="export.create", event="DATA_EXPORTED"),
        [
            times(9, MINUTE, action="export.create", event="DATA_EXPORTED"),
            times(10, 7 * MINUTE, action="export.create", event="DATA_EXPORTED"),
            times(10, MINUTE, action="report.read"),
        ],
        tuple(range(10)),
        ANN,
    ),
    "resource_enumeration": Case(
        reads(100, SECOND),
        [reads(99, SECOND), reads(100, 4 * SECOND), times(100, SECOND), reads(100, SECOND, action="invoice.list")],
        group=ANN,
    ),
    "path_enumeration": Case(
        [request(at * SECOND, status=404, request={"path": f"/{at}"}) for at in range(30)],
        [
            [request(at * SECOND, status=404, request={"path": f"/{at}"}) for at in range(29)],
            [request(at * SECOND, status=404) for at in range(30)],
            [request(at * SECOND, status=403, request={"path": f"/{at}"}) for at in range(30)],
        ],
        tuple(range(30)),
        ADDRESS,
    ),
    "records_lost": Case([control(0, "audit.gap", severity="critical")], [[control(0, "audit.heartbeat")]], (0,)),
    "log_disturbed": Case(
        [control(0, "audit.clock_jump", severity="high")],
        [[control(0, "audit.clock_jump")], [request(action="audit.log_repaired")]],
        (0,),
    ),
    "log_does_not_hold": Case(
        [control(0, "audit.started", extra={"heads": [{"place": "archive", "problem": "is ahead"}]})],
        [
            [control(0, "audit.started", extra={"heads": [{"place": "archive", "problem": None}]})],
            [control(0, "audit.log_verified", outcome="success")],
        ],
        (0,),
    ),
    "audit_controls_changed": Case(
        [control(0, "audit.hold_released", severity="high")], [[control(0, "audit.hold_placed", severity="high")]], (0,)
    ),
    "concurrent_requests": Case(
        [long(at * SECOND // 10) for at in range(10)],
        [
            [long(at * SECOND // 10) for at in range(9)],
            [long(at * SECOND // 10, SECOND // 2) for at in range(10)],
            others([long(at * SECOND // 10) for at in range(10)]),
        ],
        tuple(range(10)),
        ANN,
    ),
    "unusual_activity": Case(
        hours([5] * 24 + [11]),
        [hours([5] * 24 + [10]), hours([5] * 23 + [100]), hours([5, 9, 1, 12] * 6 + [24])],
        group={"user.id": "ann", "event.action": "invoice.read"},
    ),
    "first_grave_action": Case(
        [request(0), request(8 * DAY, **GRAVE)],
        [
            [request(0), request(6 * DAY, **GRAVE)],
            [request(0), request(DAY, **GRAVE), request(80 * DAY, **GRAVE)],
            [request(0), request(8 * DAY, severity="medium", action="refund.create")],
        ],
        (1,),
        ANN,
    ),
    "off_hours_administration": Case(
        [set_roles(11 * HOUR)],
        [
            [set_roles(0)],
            [set_roles(11 * HOUR, action="user.list", event=None, severity="info")],
            [set_roles(11 * HOUR, subject={"type": "service"})],
            [request(SATURDAY)],
        ],
        (0,),
        ANN,
    ),
    "dormant_account_active": Case(
        [request(0), request(0, user_id="bob"), request(91 * DAY)],
        [[request(0), request(89 * DAY)], [request(0), request(91 * DAY, user_id="bob")]],
        (0, 2),
        ANN,
    ),
    "process_silent": Case(
        beats(10),
        [beats(59), beats(10, last=[control(10 * MINUTE + SECOND, "audit.stopped")]), [request(0), request(9 * HOUR)]],
        (20,),
        {"service.node.name": "web-1:1:a"},
    ),
    "records_missing": Case(
        [lost("a", 0, 0), lost("b", 0, 1), lost("a", 1, 2), lost("a", 5, 3)],
        [
            [lost("a", 0, 0), lost("b", 0, 1), lost("a", 1, 2), lost("b", 1, 3)],
            [lost("a", 0, 0), lost("a", 1, 1), lost("a", 1, 2), lost("a", 2, 3)],
        ],
        (2, 3),
        {"service.node.name": "a"},
    ),
}  # fmt: skip
SATURDAY_NIGHT = set_roles(SATURDAY)


def of(rules: Rules, name: str, records: Records) -> list[Any]:
    (wanted,) = [rule.id for rule in rules.rules if rule.name == name]
    given = records if name == "records_missing" else numbered(records)
    return [finding for finding in findings(rules, given) if finding.rule == wanted]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_what_it_is_for(shipped: Rules, name: str) -> None:
    case = CASES[name]
    found = of(shipped, name, case.found)
    assert len(found) == 1, found
    if case.evidence is not None:
        assert found[0].evidence == case.evidence
    if case.group is not None:
        assert found[0].group == case.group


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, case in CASES.items() for at in range(len(case.missed))])
def test_a_rule_leaves_alone_what_comes_near(shipped: Rules, name: str, at: int) -> None:
    assert of(shipped, name, CASES[name].missed[at]) == []


def test_every_shipped_rule_that_gives_findings_is_tested(shipped: Rules) -> None:
    assert {rule.name for rule in shipped.rules if rule.alone} == set(CASES)


def test_what_only_feeds_others_is_informational_and_the_rest_is_not(shipped: Rules) -> None:
    for rule in shipped.rules:
        assert rule.alone is (rule.level != "informational"), rule.name


def test_the_weekend_is_off_hours(shipped: Rules) -> None:
    (found,) = of(shipped, "off_hours_administration", [SATURDAY_NIGHT])
    assert found.baseline == {"from": "07:00", "to": "19:00", "zone": "UTC", "local": "2026-11-28T10:00:00"}


def test_nobody_is_not_a_user(shipped: Rules) -> None:
    nobody = times(400, SECOND // 10, user_id="anonymous", subject={"type": "anonymous"})
    assert findings(shipped, numbered(nobody)) == []


def test_an_outage_that_costs_many_records_is_one_finding_an_hour(shipped: Rules) -> None:
    gaps = [control(at * 10 * SECOND, "audit.gap", severity="critical") for at in range(30)]
    assert len(of(shipped, "records_lost", gaps)) == 1
    assert len(of(shipped, "records_lost", [*gaps, control(3 * HOUR, "audit.gap", severity="critical")])) == 2
