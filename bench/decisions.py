"""What one policy decision costs: ``python -m bench.decisions``.

60 actions; three roles' rules for each. Ours by role and by three conditions; casbin's Enforcer and FastEnforcer with
the same rules; cedarpy with policies and entities parsed before. The last action is asked for, then the first, and so
on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from audit_middleware import Resource, Subject
from audit_middleware.policy.evaluate import Policy
from audit_middleware.policy.load import load
from bench import OURS, peers
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS, ROUTES, ROUTERS = 9, 60, 5
BY_ROLE, BY_CONDITION = f"{OURS}, by role", f"{OURS}, three conditions"
ABSENT = tuple(name for name in ("casbin", "cedarpy") if not peers.installed(name))

_CONDITIONS = (
    "{context.ip: {in_cidr: [127.0.0.0/8, 10.0.0.0/8]}, resource.item_id: {exists: true}, "
    "subject.tenant: {equals: north}}"
)
Decide = Callable[[int], bool]


def timed(decide: Decide, times: int) -> Mapping[str, float]:
    """Microseconds for one decision. Each must allow: a fast refusal is another question."""
    if not all(decide(number) for number in range(ROUTES)):
        raise SystemExit("a decision denies that should allow")
    started = time.perf_counter()
    for number in range(times):
        decide(number % ROUTES)
    return {"time": (time.perf_counter() - started) / times * 1e6}


def _policy(folder: Path, conditions: bool) -> Policy:
    when = f", when: {_CONDITIONS}" if conditions else ""
    rules = ", ".join(f"{{name: {role}, roles: [{role}]{when}}}" for role in peers.ROLES)
    names = [f"r{router}.i{route}" for router in range(ROUTERS) for route in range(ROUTES // ROUTERS)]
    text = "version: 1\nname: bench\nroles: {clerk: {}, auditor: {}, admin: {}}\nactions:\n"
    path = folder / f"{conditions}.yaml"
    path.write_text(text + "".join(f"  {name}: {{allow: [{rules}]}}\n" for name in names))
    return load(path)


def ours(folder: Path, *, conditions: bool) -> Decide:
    """The compiled policy."""
    policy = _policy(folder, conditions)
    names = list(policy.actions)
    subject, resource = Subject("clerk-1", roles=("clerk",), tenant="north"), Resource("item", "1", {"item_id": "1"})
    context = {"ip": "127.0.0.1", "time": datetime.now(UTC), "method": "GET", "route": "/x", "protocol": "http"}
    return lambda number: policy.evaluate(names[number], subject, resource, context).effect == "allow"


def casbin(*, fast: bool) -> Decide:
    """The same rules by path."""
    enforcer = peers.enforcer(ROUTES, fast=fast)
    paths = [f"/r{router}/items{route}/:id" for router in range(ROUTERS) for route in range(ROUTES // ROUTERS)]
    return lambda number: bool(enforcer.enforce("clerk-1", paths[number], "GET"))


def cedar() -> Decide:
    """The same rules by action, parsed once."""
    import cedarpy

    names = [f"r{router}.i{route}" for router in range(ROUTERS) for route in range(ROUTES // ROUTERS)]
    rules = [
        f'permit(principal in Role::"{role}", action == Action::"{name}", resource);'
        for name in names
        for role in peers.ROLES
    ]
    entities = [
        {"uid": {"type": "User", "id": "clerk-1"}, "attrs": {}, "parents": [{"type": "Role", "id": "clerk"}]},
        *({"uid": {"type": "Role", "id": role}, "attrs": {}, "parents": []} for role in peers.ROLES),
    ]
    policies = cedarpy.PolicySet.from_str("\n".join(rules))
    known = cedarpy.Entities.from_json_str(json.dumps(entities))

    def decide(number: int) -> bool:
        request: dict[str, Any] = {
            "principal": 'User::"clerk-1"', "action": f'Action::"{names[number]}"', "resource": 'Item::"1"',
            "context": {},
        }  # fmt: skip
        return bool(cedarpy.is_authorized(request, policies, known).allowed)

    return decide


def works(folder: Path, times: int) -> dict[str, Work]:
    """Every side that can be measured here."""
    sides: dict[str, Work] = {
        BY_ROLE: partial(timed, ours(folder, conditions=False), times * 20),
        BY_CONDITION: partial(timed, ours(folder, conditions=True), times * 10),
    }
    if "casbin" not in ABSENT:
        sides["casbin Enforcer"] = partial(timed, casbin(fast=False), max(100, times // 4))
        sides["casbin FastEnforcer"] = partial(timed, casbin(fast=True), times)
    if "cedarpy" not in ABSENT:
        sides["cedarpy, parsed once"] = partial(timed, cedar(), times)
    return sides


def main() -> None:
    """Measures and writes ``decisions``."""
    given = parser(__doc__, rounds=ROUNDS).parse_args()
    if given.quick:
        given.rounds = 3
    with TemporaryDirectory(prefix="audit-bench-") as folder:
        found = take_turns(works(Path(folder), 400 if given.quick else 2000), given.rounds)
    case = Case("a decision, 60 actions with three roles each", "us", BY_ROLE, found["time"])
    finish(Result("decisions", "Policy decisions", [case], absent=ABSENT), given)


if __name__ == "__main__":
    main()
