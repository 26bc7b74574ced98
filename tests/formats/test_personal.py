"""Records with sealed persons in every format: as tokens, opened, and when those who are named were erased.

What is checked is what `test_schemas` checks of records in clear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from audit_middleware.followers.showing import Showing
from audit_middleware.formats import FORMATS
from audit_middleware.ledger.canonical import encode
from audit_middleware.persons import Personal, Treatment
from audit_middleware.privacy.opening import Opener
from audit_middleware.privacy.outgoing import outgoing
from audit_middleware.privacy.sealing import Sealing
from tests.formats import test_schemas
from tests.formats.records import RECORDS, Record
from tests.kit import MemoryKeys

ORIGIN = "audit.example.com/persons"
CHECKS = (
    test_schemas.test_ocsf, test_schemas.test_ocsf_with_integrity, test_schemas.test_ecs,
    test_schemas.test_cloudevents, test_schemas.test_kubernetes, test_schemas.test_datadog,
    test_schemas.test_cloudtrail, test_schemas.test_otlp, test_schemas.test_lines_are_read_back,
)  # fmt: skip
SEAL, TOKEN, COMMIT = Treatment("seal"), Treatment("token"), Treatment("commit")
EVERYTHING: Personal = {
    "user_id": SEAL, "subject.roles": SEAL, "subject.tenant": SEAL, "subject.session": TOKEN,
    "subject.properties": SEAL, "source": SEAL, "initiator_ip": SEAL, "forwarded.untrusted": SEAL, "user_agent": COMMIT,
    "resource": Treatment("seal", "resource"), "reason": SEAL, "impact": SEAL, "decision.detail": SEAL,
    "decision.inputs.values": SEAL, "request.path": SEAL, "request.path_params": SEAL, "request.query": SEAL,
    "request.headers": SEAL, "request.body": SEAL, "response": SEAL, "extra": SEAL,
}  # fmt: skip
MILD: Personal = {
    "user_id": TOKEN, "resource.id": TOKEN, "initiator_ip": TOKEN, "reason": COMMIT, "request.body": COMMIT,
}  # fmt: skip
NAMES = [name for name, record in RECORDS.items() if record["kind"] != "control"]
"""What the log says of itself is not sealed, but for amendments."""


@cache
def keys() -> MemoryKeys:
    return MemoryKeys(ORIGIN)


def sealed(name: str, personal: Personal) -> Record:
    """One record of the set, as the log has it."""
    return Sealing(keys(), ORIGIN).apply(RECORDS[name], personal)


def opened(record: Record, erased: frozenset[str] = frozenset()) -> Record:
    """As a follower with ``personal: open`` sends it."""
    opener = Opener(keys(), ORIGIN, erased)

    class Persons:
        def begin(self) -> None:
            opener.begin()

        def opened(self, record: Any) -> Record:
            return opener.opened(record)

        def name_of(self, token: str) -> str | None:
            raise AssertionError("asked for a name")

        def close(self) -> None:
            pass

    told: list[Any] = []
    showing = Showing("one", "open", "CASE-1", None, lambda *said: told.append(said), lambda store: Persons())  # type: ignore[arg-type]  # these persons read no log
    return showing.item(0, encode(record)).record


def everyone() -> frozenset[str]:
    """The tokens of all persons."""
    return frozenset(key.token for key in keys().rows.values())


SHOWN: dict[str, Callable[[str], Record]] = {
    "tokens": lambda name: outgoing(sealed(name, EVERYTHING)),
    "mild": lambda name: outgoing(sealed(name, MILD)),
    "opened": lambda name: opened(sealed(name, EVERYTHING)),
    "erased": lambda name: opened(sealed(name, EVERYTHING), everyone()),
    "mild-erased": lambda name: opened(sealed(name, MILD), everyone()),
}


@pytest.mark.parametrize("how", SHOWN)
@pytest.mark.parametrize("name", NAMES)
def test_every_format_stays_what_its_schema_says(how: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SHOWN[how](name)
    assert made != RECORDS[name]
    monkeypatch.setitem(RECORDS, name, made)
    for check in CHECKS:
        if check is test_schemas.test_ocsf_with_integrity and name in test_schemas.CLASSES:
            continue
        check(name)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_no_format_sends_ciphertext_or_what_is_behind_it(form: str, name: str) -> None:
    record = RECORDS[name]
    text = FORMATS[form].encoder()(outgoing(sealed(name, EVERYTHING)))
    assert b"sealed.v1." not in text
    assert b"commit.v1." not in text
    path, route = record["request"]["path"], record["request"]["route"]
    for value in (record["reason"], record["initiator_ip"], record["user_agent"], path if path != route else None):
        if value is not None and len(value) > 6:
            assert value.encode("utf-8", "surrogatepass") not in text


@pytest.mark.parametrize("name", NAMES)
def test_opened_is_the_record_before_it_was_sealed_but_for_commitments(name: str) -> None:
    before, found = RECORDS[name], opened(sealed(name, EVERYTHING))
    for part in ("user_id", "subject", "resource", "reason", "impact", "extra", "response", "forwarded"):
        assert found[part] == before[part], part


def test_an_address_is_an_address_or_unknown() -> None:
    for how, expected in (("tokens", None), ("erased", None), ("opened", RECORDS["allowed"]["initiator_ip"])):
        assert SHOWN[how]("allowed")["initiator_ip"] == expected, how
