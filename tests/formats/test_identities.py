"""Which actions are changes of accounts and of access: the rule of docs/exports.md."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from audit_middleware.formats.facts import verb
from audit_middleware.formats.identities import ACCESS_ACTIVITIES, ACCOUNT_ACTIVITIES, change
from tests.formats.records import RECORDS


def record(action: str | None, **changes: Any) -> dict[str, Any]:
    """A record of one action and nothing else that says what it is about."""
    made = copy.deepcopy(RECORDS["allowed"])
    made |= {"action": action, "event": None, "impact": None, "resource": {"type": None, "id": None, "properties": {}}}
    return made | changes


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("user.create", ("account_change", "create")),
        ("user.delete", ("account_change", "delete")),
        ("admin.user.suspend", ("account_change", "disable")),
        ("account.unlock", ("account_change", "unlock")),
        ("user.lock", ("account_change", "lock")),
        ("user.reset_password", ("account_change", "password_reset")),
        ("user.change_password", ("account_change", "password_change")),
        ("user.mfa_disable", ("account_change", "mfa_disable")),
        ("user.enrollMfa", ("account_change", "mfa_enable")),
        ("user.attach_policy", ("account_change", "attach_policy")),
        ("service_account.rotate_key", ("account_change", "other")),
        ("service_account.delete_key", ("account_change", "other")),
        ("user.rename", ("account_change", "other")),
        ("role.assign", ("user_access", "assign")),
        ("user.grant_role", ("user_access", "assign")),
        ("user.revoke_role", ("user_access", "revoke")),
        ("group.remove_member", ("user_access", "revoke")),
        ("user.set_roles", ("user_access", "other")),
        ("user.list", None),
        ("role.read", None),
        ("invoice.delete", None),
        ("invoice.assign_role_of_payer", None),
        (None, None),
    ],
)
def test_names_decide(action: str | None, expected: tuple[str, str] | None) -> None:
    found = change(record(action))
    assert (None if found is None else (found.kind, found.activity)) == expected


@pytest.mark.parametrize(
    ("before", "after", "activity", "privileges"),
    [
        (["viewer"], ["viewer", "admin"], "assign", ("admin",)),
        (["viewer", "admin"], ["viewer"], "revoke", ("admin",)),
        (["viewer"], ["admin"], "other", ("admin",)),
        ([], ["admin"], "assign", ("admin",)),
        (["admin"], [], "revoke", ("admin",)),
    ],
)
def test_roles_that_were_set_say_which_way(
    before: list[str], after: list[str], activity: str, privileges: tuple[str, ...]
) -> None:
    impact = {"before": {"roles": before}, "after": {"roles": after}, "count": None}
    found = change(record("user.set_roles", impact=impact))
    assert found is not None
    assert (found.activity, found.privileges) == (activity, privileges)


def test_a_hint_decides_and_an_unknown_one_is_no_hint() -> None:
    assert change(record("account.close", extra={"ocsf": "api_activity"})) is None
    for name in ACCOUNT_ACTIVITIES:
        found = change(record("x.y", extra={"ocsf": f"account_change:{name}"}))
        assert found is not None
        assert (found.kind, found.activity) == ("account_change", name)
    for name in ACCESS_ACTIVITIES:
        found = change(record("x.y", extra={"ocsf": f"user_access:{name}"}))
        assert found is not None
        assert (found.kind, found.activity) == ("user_access", name)
    found = change(record("role.assign", extra={"ocsf": "user_access"}))
    assert found is not None
    assert found.activity == "assign"
    assert change(record("x.y", extra={"ocsf": "nonsense:create"})) is None
    assert change(record("x.y", extra={"ocsf": ["account_change:create"]})) is None


def test_a_resource_names_the_target() -> None:
    user = {"type": "user", "id": "ben", "properties": {}}
    found = change(record("team.update", resource=user))
    assert found is not None
    assert found.target == "ben"
    said = {"before": None, "after": {"user_id": "cleo"}, "count": None}
    found = change(record("user.create", impact=said))
    assert found is not None
    assert found.target == "cleo"


def test_verbs() -> None:
    assert verb(record("invoice.delete")) == "delete"
    assert verb(record("invoice.markPaid")) == "delete", "the method decides: DELETE"
    assert verb(record(None)) == "delete"
    control = RECORDS["control"]
    assert verb(control) is None
