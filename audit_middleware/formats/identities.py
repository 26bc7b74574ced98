"""Which records change accounts or access, and what they change: the rule is that of docs/exports.md.

1. ``extra.ocsf`` of the record decides, if it is a known hint: ``"user_access:assign"``, ``"api_activity"``.
2. Control records and actions that only read are API Activity.
3. An action with a word of access in its name (role, permission, privilege, group, grant, access, entitlement) is User
   Access Management, when the name before the last dot or the resource type is that of an account or of access itself.
4. Any other action on an account (the words of `_ACCOUNTS`: user, account, member, principal, ...) is Account Change.

Names are the only thing that is looked at, so the same action is always the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from .facts import Record, verb, words

Class = Literal["account_change", "user_access"]

_ACCOUNTS = frozenset(("user", "users", "account", "accounts", "member", "members", "principal", "identity", "login"))
_ACCESS = frozenset(
    ("role", "roles", "permission", "permissions", "privilege", "privileges", "group", "groups", "grant", "grants",
     "access", "entitlement", "entitlements")
)  # fmt: skip
_FACTORS = frozenset(("mfa", "otp", "totp", "factor", "2fa", "passkey"))
_OFF = frozenset(("disable", "disabled", "remove", "reset", "off", "delete", "deactivate"))
_GIVE = frozenset(("assign", "grant", "add", "give", "attach"))
_TAKE = frozenset(("revoke", "remove", "unassign", "take", "withdraw", "detach", "delete"))

ACCOUNT_ACTIVITIES: Final[Mapping[str, int]] = {
    "create": 1, "enable": 2, "password_change": 3, "password_reset": 4, "disable": 5, "delete": 6,
    "attach_policy": 7, "detach_policy": 8, "lock": 9, "mfa_enable": 10, "mfa_disable": 11, "unlock": 12, "other": 99,
}  # fmt: skip
ACCESS_ACTIVITIES: Final[Mapping[str, int]] = {"assign": 1, "revoke": 2, "other": 99}
_WORD_TO_ACTIVITY = {
    "unlock": "unlock", "lock": "lock", "enable": "enable", "activate": "enable", "restore": "enable",
    "reactivate": "enable", "unsuspend": "enable", "disable": "disable", "deactivate": "disable",
    "suspend": "disable", "block": "disable", "delete": "delete", "remove": "delete", "deregister": "delete",
    "create": "create", "register": "create", "invite": "create", "add": "create", "signup": "create",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an account or of access. ``target`` is whose, where that is known."""

    kind: Class
    activity: str
    target: str | None
    privileges: tuple[str, ...] = ()


def change(record: Record) -> Change | None:
    """The change that a record tells of, ``None`` where it is any other action."""
    hint = record["extra"].get("ocsf")
    kind, activity = _hinted(hint) if isinstance(hint, str) else (None, None)
    if kind is None and activity is None:
        kind = _kind(record)
    if kind is None:
        return None
    before, after = _roles_of(record["impact"])
    if activity is None:
        names = words(f"{record['action']} {record['event'] or ''}")
        activity = _account_activity(names) if kind == "account_change" else _access_activity(names, before, after)
    privileges = () if kind == "account_change" else _privileges(activity, before, after)
    return Change(kind, activity, _target(record), privileges)


def _hinted(hint: str) -> tuple[Class | None, str | None]:
    """Class and activity of a hint; ``(None, "")`` is API Activity, ``(None, None)`` no hint that is known."""
    name, _, activity = hint.partition(":")
    if name == "api_activity":
        return None, ""
    if name == "account_change":
        return "account_change", activity if activity in ACCOUNT_ACTIVITIES else None
    if name == "user_access":
        return "user_access", activity if activity in ACCESS_ACTIVITIES else None
    return None, None


def _kind(record: Record) -> Class | None:
    if record["kind"] == "control" or record["action"] is None or verb(record) == "read":
        return None
    return _kind_of(record["action"][:256], (record["resource"]["type"] or "")[:256])


@lru_cache(maxsize=512)
def _kind_of(action: str, resource: str) -> Class | None:
    # The verb's own words count as well: `user.set_roles` is about access.
    about = {*words(action.rpartition(".")[0]), *words(resource)}
    names = {*words(action), *about}
    if not about & (_ACCOUNTS | _ACCESS):
        return None
    return "user_access" if names & _ACCESS else "account_change"


def _account_activity(names: tuple[str, ...]) -> str:
    known = set(names)
    if known & _FACTORS:
        return "mfa_disable" if known & _OFF else "mfa_enable"
    if "password" in known:
        return "password_reset" if "reset" in known else "password_change"
    if "policy" in known and known & {"attach", "detach"}:
        return "detach_policy" if "detach" in known else "attach_policy"
    if known & {"key", "keys", "token", "tokens", "credential", "credentials", "session", "sessions"}:
        return "other"
    return next((_WORD_TO_ACTIVITY[word] for word in names if word in _WORD_TO_ACTIVITY), "other")


def _access_activity(names: tuple[str, ...], before: frozenset[str], after: frozenset[str]) -> str:
    for word in names:
        if word in _TAKE:
            return "revoke"
        if word in _GIVE:
            return "assign"
    # Roles were set: what the handler says it changed tells which way.
    return "assign" if before < after else "revoke" if after < before else "other"


def _privileges(activity: str, before: frozenset[str], after: frozenset[str]) -> tuple[str, ...]:
    """What was given or taken; of another change, what is there afterwards."""
    moved = {"assign": after - before, "revoke": before - after}.get(activity, after)
    return tuple(sorted(moved or after or before))


def _roles_of(impact: Mapping[str, Any] | None) -> tuple[frozenset[str], frozenset[str]]:
    if impact is None:
        return frozenset(), frozenset()
    return _roles(impact["before"]), _roles(impact["after"])


def _roles(value: Any) -> frozenset[str]:
    if not isinstance(value, Mapping):
        return frozenset()
    found: list[str] = []
    for name, item in value.items():
        if name in _ACCESS:
            found += [item] if isinstance(item, str) else [one for one in _items(item) if isinstance(one, str)]
    return frozenset(found)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _target(record: Record) -> str | None:
    """Whose account it is: the resource, if it is one; else an id that the handler said is after the change."""
    kind, name = record["resource"]["type"], record["resource"]["id"]
    if name is not None and set(words(kind or "")) & _ACCOUNTS:
        return str(name)
    for side in ("after", "before"):
        said = (record["impact"] or {}).get(side)
        if isinstance(said, Mapping):
            for member in ("user_id", "user", "id", "name"):
                if isinstance(said.get(member), str):
                    return str(said[member])
    return None if name is None else str(name)
