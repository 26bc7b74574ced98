"""Covering one record: every declared field, and every copy of it that the record holds elsewhere, is replaced.

Copies are found by their place: the inputs of the decision, which are named after what they were read from; the path,
its parameters, the query and the referer, which repeat the resource's id; what proxies said of the address; the digest
of a body. Beside them, whatever of these says the user's id in so many words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from ..model import Json
from ..persons import About, Treatment
from .patterns import REDACTED
from .places import INPUTS, RESOURCE_ID, USER_ID, Hide, Plan, Rule, is_empty, shaped, walk

__all__ = ["WITHHELD", "about", "covered", "withheld"]

WITHHELD = "personal_withheld"
"""The flag of a record whose personal fields were dropped because no keys were to be had."""


def about(record: Mapping[str, Any]) -> About:
    """What the record of a request says of itself."""
    resource = record["resource"]
    return About(record["user_id"], record["subject"]["type"], resource["type"], resource["id"])


def covered(record: dict[str, Json], plan: Plan, whose: About, hide: Hide, *, amends: bool = False) -> dict[str, Json]:
    """A copy of the record with all that is personal replaced. ``amends``: it is an amendment, whose fields stand
    below ``extra``."""
    out = dict(record)
    for name, node in (plan.amended if amends else plan.root).members.items():
        old = record.get(name)
        if old is not None and not (name == USER_ID and whose.nobody):
            out[name] = walk(old, node, name, hide)
    if not amends:
        _Copies(record, out, plan, whose, hide).cover()
    return out


def withheld(record: dict[str, Json], plan: Plan, whose: About, *, amends: bool = False) -> dict[str, Json]:
    """The record without its personal fields, and the flag that says so; it needs no keys."""
    dropped = False

    def drop(value: Json, rule: Rule, path: str) -> str:
        nonlocal dropped
        dropped = True
        return REDACTED

    out = covered(record, plan, whose, drop, amends=amends)
    if dropped:
        out["flags"] = [*record["flags"], WITHHELD]
    return out


class _Copies:
    """The copies in one record; ``out`` is the record so far, whose parts may still be those of the record given."""

    __slots__ = ("hide", "out", "plan", "record", "thing", "user", "user_id")

    def __init__(self, record: dict[str, Json], out: dict[str, Json], plan: Plan, whose: About, hide: Hide) -> None:
        self.record, self.out, self.plan, self.hide = record, out, plan, hide
        self.user = None if whose.nobody else plan.user
        self.user_id = whose.user_id.casefold()
        self.thing = None if is_empty(whose.resource_id) else plan.resource

    def cover(self) -> None:
        """Covers what is not covered yet."""
        plan, record = self.plan, self.record
        inputs = record["decision"]["inputs"]
        if inputs is not None and inputs["values"]:
            self._inputs(inputs)
        if self.thing is not None or (self.user is not None and self._named()):
            self._texts()
            if record["request"]["path_params"]:
                self._params()
            if self.thing is None and record["resource"]["id"] is not None:
                self._resource()
        untrusted = record["forwarded"]["untrusted"]
        if untrusted and plan.address is not None and self.out["forwarded"]["untrusted"] is untrusted:
            self._put("forwarded", untrusted=self._shown(untrusted, plan.address.sealed(), "forwarded.untrusted"))
        digest = record["request"]["digest"]
        if plan.body is not None and digest is not None and self.out["request"]["digest"] == digest:
            rule = Rule(Treatment("commit", plan.body.treatment.of), "request.digest")
            self._put("request", digest=self._shown(digest, rule, "request.digest"))

    def _put(self, part: str, **changed: Json) -> None:
        self.out[part] = {**self.out[part], **changed}

    def _shown(self, value: Json, rule: Rule, path: str) -> Json:
        return shaped(self.hide(value, rule, path), path)

    def _inputs(self, inputs: dict[str, Any]) -> None:
        """Each value follows the field it was read from; one that is the user or the resource itself follows those."""
        old, new = inputs["values"], {}
        for name, value in old.items():
            if is_empty(value):
                continue
            rule = self.plan.attribute(name) or self._same(value) or self.plan.inputs
            if rule is not None:
                if rule.field in (USER_ID, RESOURCE_ID) and not self._is(value, rule):
                    rule = rule.sealed()
                new[name] = self.hide(value, rule, f"{INPUTS}.{name}")
        if new:
            self._put("decision", inputs={**inputs, "values": old | new})

    def _same(self, value: Json) -> Rule | None:
        """The rule of the user or the resource where a value is one of them, or a list that holds one."""
        found = None
        for rule in (self.user, self.thing):
            if rule is not None and found is None:
                items = value if isinstance(value, list) else [value]
                found = next((rule for item in items if self._is(item, rule)), None)
        return found

    def _is(self, value: Json, rule: Rule) -> bool:
        """Is a text the whole of what the rule's field holds?"""
        if rule.field == USER_ID:
            return bool(value == self.record["user_id"])
        return rule.field == RESOURCE_ID and bool(value == self.record["resource"]["id"])

    def _rule(self, text: Json, *, repeats: bool = True) -> Rule | None:
        """The rule that a text follows. ``repeats``: it may say the resource's id in a spelling of its own."""
        if self.thing is not None and repeats:
            return self.thing if self._is(text, self.thing) else self.thing.sealed()
        if self.user is None or not isinstance(text, str):
            return None
        if text == self.record["user_id"]:
            return self.user
        return self.user.sealed() if _says(text.casefold(), self.user_id) else None

    def _named(self) -> bool:
        """Can any of the texts below say the user's id at all? For nearly all records this is the end of it."""
        request = self.record["request"]
        texts = [request["path"], request["query"], request["headers"].get("referer"), self.record["resource"]["id"]]
        texts += [value for value in request["path_params"].values() if isinstance(value, str)]
        whole = "\n".join(filter(None, texts)).casefold()
        return self.user_id in whole or (("%" in whole or "+" in whole) and self.user_id in unquote_plus(whole))

    def _texts(self) -> None:
        old, now = self.record["request"], self.out["request"]
        path, query, referer = old["path"], old["query"], old["headers"].get("referer")
        # A path that is its own template holds no parameter, and so no id.
        if path and now["path"] is path and (rule := self._rule(path, repeats=path != old["route"])) is not None:
            self._put("request", path=self.hide(path, rule.sealed(), "request.path"))
        if query and now["query"] is query and (rule := self._rule(query)) is not None:
            self._put("request", query=self.hide(query, rule.sealed(), "request.query"))
        if referer and now["headers"].get("referer") is referer and (rule := self._rule(referer)) is not None:
            text = self.hide(referer, rule.sealed(), "request.headers.referer")
            self._put("request", headers={**now["headers"], "referer": text})

    def _params(self) -> None:
        old, now = self.record["request"]["path_params"], self.out["request"]["path_params"]
        new = {}
        for name, value in old.items():
            untouched = name in now and now[name] is value and not is_empty(value)
            if untouched and (rule := self._rule(value)) is not None:
                new[name] = self.hide(value, rule, f"request.path_params.{name}")
        if new:
            self._put("request", path_params=now | new)

    def _resource(self) -> None:
        """A resource that is the user, or has the user's id in its own."""
        name = self.record["resource"]["id"]
        if self.out["resource"]["id"] is name and (rule := self._rule(name)) is not None:
            self._put("resource", id=self.hide(name, rule, RESOURCE_ID))


def _says(text: str, name: str) -> bool:
    """Does a text say a name in so many words, be it percent-encoded?"""
    return _holds(text, name) or (("%" in text or "+" in text) and _holds(unquote_plus(text), name))


def _holds(text: str, name: str) -> bool:
    at = text.find(name)
    while at >= 0:
        end = at + len(name)
        if not (text[at - 1 : at] if at else "").isalnum() and not text[end : end + 1].isalnum():
            return True
        at = text.find(name, at + 1)
    return False
