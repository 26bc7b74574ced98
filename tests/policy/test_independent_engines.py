"""Decisions agree with engines that others wrote: random policies, translated to Cedar and to Casbin.

The translations keep to what the engines have in common: every attribute is there and of the right type (Cedar leaves a
failing rule out where ours denies), and what no rule allows is denied.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import casbin
import cedarpy

from audit_middleware.model import ANONYMOUS, Resource, Subject
from audit_middleware.policy import loads

SEED = 20260302
ROLES = ("r0", "r1", "r2", "r3", "r4")
ACTIONS = ("a.a", "a.b", "a.c")
STATES = ("new", "open", "closed")
USERS = ("u0", "u1", "u2")
NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32")
ADDRESSES = ("10.0.0.1", "10.1.2.3", "192.0.2.9", "198.51.100.1", "2001:db8::1", "2001:db9::1")
SIGNS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


@dataclass(frozen=True)
class Request:
    """One question to all engines. ``flag`` is absent at times."""

    who: str
    signed_in: bool
    roles: tuple[str, ...]
    action: str
    owner: str
    state: str
    amount: int
    ip: str
    flag: bool


def condition(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["state", "states", "amount", "owner", "ip", "flag", *(["all", "any", "not"] if depth < 2 else [])]
    kind = chance.choice(kinds)
    if kind == "state":
        return {"resource.state": {chance.choice(["equals", "not_equals"]): chance.choice(STATES)}}
    if kind == "states":
        return {"resource.state": {chance.choice(["in", "not_in"]): chance.sample(STATES, 2)}}
    if kind == "amount":
        return {"resource.amount": {chance.choice(list(SIGNS)): chance.randrange(10)}}
    if kind == "owner":
        return {"resource.owner": {"same_as": "subject.id"}}
    if kind == "ip":
        return {"context.ip": {"in_cidr": chance.sample(NETWORKS, chance.randint(1, 2))}}
    if kind == "flag":
        return {"resource.flag": {"exists": chance.random() < 0.5}}
    if kind == "not":
        return {"not": condition(chance, depth + 1)}
    return {kind: [condition(chance, depth + 1) for _ in range(chance.randint(1, 3))]}


def policy(chance: random.Random, *, conditions: bool) -> dict[str, Any]:
    def rules(effect: str) -> list[dict[str, Any]]:
        made = []
        for number in range(chance.randint(0, 3)):
            body: dict[str, Any] = {"name": f"{effect}{number}"}
            body["roles"] = sorted(chance.sample([*ROLES, "anyone", "authenticated"], chance.randint(1, 2)))
            if conditions and chance.random() < 0.7:
                body["when"] = condition(chance)
                if chance.random() < 0.3:
                    del body["roles"]
            made.append(body)
        return made

    roles = {
        role: {"inherits": sorted(chance.sample(ROLES[:index], min(index, chance.randint(0, 2))))}
        for index, role in enumerate(ROLES)
    }
    actions = {name: {"allow": rules("allow"), "deny": rules("deny")} for name in ACTIONS}
    return {"version": 1, "name": "p", "roles": roles, "actions": actions}


def request(chance: random.Random) -> Request:
    signed_in = chance.random() < 0.9
    return Request(
        who=chance.choice(USERS),
        signed_in=signed_in,
        roles=tuple(chance.sample([*ROLES, "unknown"], chance.randint(0, 2))) if signed_in else (),
        action=chance.choice([*ACTIONS, "a.unknown"]),
        owner=chance.choice(USERS),
        state=chance.choice(STATES),
        amount=chance.randrange(10),
        ip=chance.choice(ADDRESSES),
        flag=chance.random() < 0.5,
    )


def ours(source: dict[str, Any], asked: list[Request]) -> list[bool]:
    loaded = loads(json.dumps(source))
    decisions = []
    for one in asked:
        flag = {"flag": True} if one.flag else {}
        what = Resource("thing", "1", {"owner": one.owner, "state": one.state, "amount": one.amount, **flag})
        who = Subject(one.who, "user" if one.signed_in else ANONYMOUS, one.roles)
        decision = loaded.evaluate(one.action, who, what, {"ip": one.ip})
        assert decision.cause != "error"
        decisions.append(decision.effect == "allow")
    return decisions


# --- Cedar -------------------------------------------------------------------------------------------------------


def cedar_condition(when: dict[str, Any]) -> str:
    ((key, value),) = when.items()
    if key == "not":
        return f"!({cedar_condition(value)})"
    if key in ("all", "any"):
        return f" {'&&' if key == 'all' else '||'} ".join(f"({cedar_condition(part)})" for part in value)
    ((operator, operand),) = value.items()
    if operator == "same_as":
        return "resource.owner == principal.id"
    if operator == "in_cidr":
        return " || ".join(f'context.ip.isInRange(ip("{network}"))' for network in operand)
    if operator == "exists":
        return "resource has flag" if operand else "!(resource has flag)"
    if operator in SIGNS:
        return f"resource.amount {SIGNS[operator]} {operand}"
    if operator in ("in", "not_in"):
        listed = f"{json.dumps(operand)}.contains(resource.state)"
        return listed if operator == "in" else f"!({listed})"
    return f"resource.state {'==' if operator == 'equals' else '!='} {json.dumps(operand)}"


def cedar_policy(source: dict[str, Any]) -> str:
    lines = []
    for action, body in source["actions"].items():
        for effect, word in (("allow", "permit"), ("deny", "forbid")):
            for rule in body[effect]:
                roles = rule.get("roles", ["anyone"])
                held = " || ".join(f'principal in Role::"{role}"' for role in roles)
                when = f" && ({cedar_condition(rule['when'])})" if "when" in rule else ""
                lines.append(f'{word}(principal, action == Action::"{action}", resource) when {{ ({held}){when} }};')
    return "\n".join(lines)


def cedar_entities(source: dict[str, Any], one: Request) -> list[dict[str, Any]]:
    def entity(kind: str, name: str, parents: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
        above = [{"type": "Role", "id": parent} for parent in parents]
        return {"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": above}

    held = [role for role in one.roles if role in ROLES] + ["anyone"] + (["authenticated"] if one.signed_in else [])
    flag = {"flag": True} if one.flag else {}
    thing = {"owner": one.owner, "state": one.state, "amount": one.amount, **flag}
    return [
        entity("User", one.who, held, {"id": one.who}),
        entity("Thing", "1", [], thing),
        entity("Role", "anyone", [], {}),
        entity("Role", "authenticated", [], {}),
        *(entity("Role", role, body["inherits"], {}) for role, body in source["roles"].items()),
    ]


def cedar(source: dict[str, Any], asked: list[Request]) -> list[bool]:
    text = cedar_policy(source)
    decisions = []
    for one in asked:
        question = {
            "principal": f'User::"{one.who}"',
            "action": f'Action::"{one.action}"',
            "resource": 'Thing::"1"',
            "context": {"ip": {"__extn": {"fn": "ip", "arg": one.ip}}},
        }
        answer = cedarpy.is_authorized(question, text, cedar_entities(source, one))
        assert answer.diagnostics.errors == []
        decisions.append(bool(answer.allowed))
    return decisions


def test_decisions_agree_with_cedar() -> None:
    chance = random.Random(SEED)
    allowed = count = 0
    for number in range(60):
        source = policy(chance, conditions=True)
        asked = [request(chance) for _ in range(50)]
        found, expected = ours(source, asked), cedar(source, asked)
        wrong = [one for one, mine, theirs in zip(asked, found, expected, strict=True) if mine is not theirs]
        assert not wrong, (SEED, number, wrong[0], source)
        allowed += sum(found)
        count += len(found)
    assert count == 3000
    assert count * 0.1 < allowed < count * 0.9, "a comparison that is nearly always one answer says little"


# --- Casbin ------------------------------------------------------------------------------------------------------

MODEL = """
[request_definition]
r = sub, act
[policy_definition]
p = sub, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && r.act == p.act
"""


@dataclass
class Casbin:
    """A Casbin enforcer for one policy; each caller becomes a user with its roles."""

    source: dict[str, Any]
    users: dict[tuple[bool, tuple[str, ...]], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = casbin.model.Model()
        model.load_model_from_text(MODEL)
        self.enforcer = casbin.Enforcer(model)
        for role, body in self.source["roles"].items():
            for inherited in body["inherits"]:
                self.enforcer.add_grouping_policy(role, inherited)
        for action, body in self.source["actions"].items():
            for effect in ("allow", "deny"):
                for rule in body[effect]:
                    for role in rule["roles"]:
                        self.enforcer.add_policy(role, action, effect)

    def decide(self, one: Request) -> bool:
        key = (one.signed_in, one.roles)
        if key not in self.users:
            name = self.users[key] = f"user-{len(self.users)}"
            for role in (*one.roles, "anyone", *(["authenticated"] if one.signed_in else [])):
                self.enforcer.add_grouping_policy(name, role)
        return bool(self.enforcer.enforce(self.users[key], one.action))


def test_decisions_agree_with_casbin() -> None:
    chance = random.Random(SEED)
    allowed = count = 0
    for number in range(40):
        source = policy(chance, conditions=False)
        asked = [request(chance) for _ in range(50)]
        engine = Casbin(source)
        found, expected = ours(source, asked), [engine.decide(one) for one in asked]
        wrong = [one for one, mine, theirs in zip(asked, found, expected, strict=True) if mine is not theirs]
        assert not wrong, (SEED, number, wrong[0], source)
        allowed += sum(found)
        count += len(found)
    assert count == 2000
    assert count * 0.1 < allowed < count * 0.9, "a comparison that is nearly always one answer says little"
