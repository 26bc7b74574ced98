"""Detectors over records whose persons are sealed: who somebody is, is known by the token; what is sealed is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.fields import View, field
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.orders import effect_of
from audit_middleware.persons import Person, Personal, Treatment, pseudonym_of
from audit_middleware.privacy.sealing import Sealing
from tests.blocking.support import storm_rules
from tests.detectors.support import MINUTE, denied, request
from tests.kit import MemoryKeys

ORIGIN = "audit.example.com/detectors"
SEAL = Treatment("seal")
PERSONAL: Personal = {
    "user_id": SEAL, "resource.id": Treatment("seal", "resource"), "subject.tenant": SEAL, "subject.session": SEAL,
    "subject.roles": SEAL, "initiator_ip": SEAL, "user_agent": Treatment("commit"), "reason": SEAL,
    "request.body": SEAL, "request.query": SEAL, "extra": SEAL,
}  # fmt: skip


def sealed(record: dict[str, Any], keys: MemoryKeys, personal: Personal = PERSONAL) -> dict[str, Any]:
    return Sealing(keys, ORIGIN).apply(record, personal)


def seen(taxonomy: Any, name: str, record: dict[str, Any]) -> Any:
    found = field(taxonomy, name)
    assert found is not None
    return found.get(View(record))


@pytest.mark.parametrize(
    ("taxonomy", "name", "person"),
    [
        ("ecs", "user.id", "user"), ("ecs", "user.name", "user"), ("audit", "user_id", "user"),
        ("ecs", "organization.id", "user"), ("audit", "subject.tenant", "user"), ("audit", "subject.session", "user"),
        ("ecs", "audit.subject.session", "user"), ("ecs", "audit.resource.id", "resource"),
        ("audit", "resource.id", "resource"),
    ],
)  # fmt: skip
def test_who_and_what_is_a_token_that_is_the_same_every_time(taxonomy: str, name: str, person: str) -> None:
    keys = MemoryKeys(ORIGIN)
    one, two = (sealed(request(at, user_id="ann"), keys) for at in (0, MINUTE))
    assert one["user_id"] != two["user_id"], "the same person, and other ciphertext"
    whose = Person("user", "ann") if person == "user" else Person("resource", "invoice/1001")
    assert {seen(taxonomy, name, record) for record in (one, two)} == {pseudonym_of(keys.rows[whose].token)}


@pytest.mark.parametrize(
    ("taxonomy", "name"),
    [
        ("ecs", "source.ip"), ("ecs", "client.ip"), ("audit", "initiator_ip"), ("ecs", "user_agent.original"),
        ("audit", "user_agent"), ("ecs", "event.reason"), ("audit", "reason"), ("ecs", "user.roles"),
        ("audit", "subject.roles"), ("audit", "request.query"), ("ecs", "url.query"), ("audit", "request.body.content"),
        ("audit", "extra.note"), ("ecs", "related.ip"), ("ecs", "http.request.body.content"),
    ],
)  # fmt: skip
def test_what_else_is_sealed_is_absent_and_no_group_of_its_own(taxonomy: str, name: str) -> None:
    given = request(reason="why", extra={"note": "n"}, request={"query": "q=1", "body": {"content": {"a": "b"}}})
    assert seen(taxonomy, name, given) is not None
    assert seen(taxonomy, name, sealed(given, MemoryKeys(ORIGIN))) is None


def test_an_address_by_token_can_be_counted() -> None:
    keys = MemoryKeys(ORIGIN)
    record = sealed(request(), keys, {"initiator_ip": Treatment("token")})
    assert seen("ecs", "source.ip", record) == record["initiator_ip"]
    assert record["initiator_ip"].startswith("token.v1.")


def test_a_storm_of_one_sealed_person_is_one_finding_about_a_token(tmp_path: Path) -> None:
    rules, keys = load_rules((storm_rules(tmp_path, count=5),), shipped=False), MemoryKeys(ORIGIN)
    engine = Engine(rules)
    found: list[Any] = []
    for at in range(5):
        for user in ("ann", f"other-{at}"):
            record = sealed(denied(at * 1_000_000, user_id=user), keys)
            found += engine.feed(engine.next, record)
    (finding,) = found
    token = pseudonym_of(keys.rows[Person("user", "ann")].token)
    assert (finding.user_id, dict(finding.group)) == (token, {"user.id": token})
    assert finding.evidence_count == 5
    effect = effect_of(finding, block=True)
    assert effect is not None
    assert (effect.kind, effect.who, effect.block) == ("user", token, True)
    assert "ann" not in str(finding.extra())


def test_the_same_storm_in_clear_is_about_the_name(tmp_path: Path) -> None:
    engine = Engine(load_rules((storm_rules(tmp_path, count=5),), shipped=False))
    (finding,) = [one for at in range(5) for one in engine.feed(at, denied(at * 1_000_000, user_id="ann"))]
    assert finding.user_id == "ann"
