"""A refusal by a block and the record of a finding, in every format: nothing of them is lost or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audit_middleware.formats import FORMATS
from audit_middleware.schema import Record
from tests.formats.records import RECORDS
from tests.formats.schema_files import errors, ocsf_schema, published

RULE, FINDING = "08166926-3b44-439f-bc38-799818f65594", "5f0c7d11b0a55a3b8f6f2c5501a20689"
BLOCKED: dict[str, Any] = {
    **RECORDS["denied"],
    "decision": {
        **RECORDS["denied"]["decision"], "cause": "blocked", "rule": RULE, "near_misses": [],
        "detail": f"finding {FINDING}, until 2026-11-22T10:30:00Z",
    },
    "flags": [f"finding:{RULE}"],
}  # fmt: skip
FOUND: dict[str, Any] = {
    **next(record for record in RECORDS.values() if record["kind"] == "control"),
    "action": "audit.finding", "event": "AUDIT_FINDING",
    "extra": {
        "finding_id": FINDING, "rule": RULE, "title": "Many refusals of one user", "group": {"user.id": "ann"},
        "evidence": [3, 5, 8], "observed": 3, "baseline": {"limit": 3}, "user_id": "ann",
        "effect": {"kind": "user", "who": "ann", "block": True, "since": "2026-11-22T10:15:00.000000Z",
                   "until": "2026-11-22T10:30:00.000000Z"},
    },
}  # fmt: skip


def test_both_are_records() -> None:
    Record.model_validate(BLOCKED)
    Record.model_validate(FOUND)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_which_rule_refused(name: str) -> None:
    text = FORMATS[name].encoder()(BLOCKED).decode()
    assert RULE in text or "blocked" in text
    assert FORMATS[name].encoder()(RECORDS["denied"]).decode() != text
    found = FORMATS[name].encoder()(FOUND).decode()
    assert any(text in found for text in ("audit.finding", "AUDIT_FINDING", RULE))


@published
@pytest.mark.parametrize("record", [BLOCKED, FOUND], ids=["blocked", "finding"])
def test_ocsf_takes_both(record: dict[str, Any]) -> None:
    event = json.loads(FORMATS["ocsf"].encoder()(record))
    assert errors(ocsf_schema("1.8.0", event["class_uid"]), event) == []
