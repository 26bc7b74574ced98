"""Records for detectors, made from one plain request; rules written in a test; an engine that has read them all."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.fields import rfc3339
from audit_middleware.detectors.finding import Finding
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.model import Rules
from audit_middleware.formats.facts import micros
from tests.formats.records import RECORDS

Record = dict[str, Any]
SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
START = micros("2026-11-23T10:00:00.000000Z")  # a Monday
BASE = "00000000-0000-4000-8000-00000000000"  # of ids; one digit is missing


def uuid(number: int) -> str:
    """The id of a rule that was made in a test."""
    return f"00000000-0000-4000-8000-{number:012d}"


def request(at: int = 0, /, **changes: Any) -> Record:
    """A request that was recorded ``at`` microseconds after `START`; a mapping is merged into what is there.

    ``status`` and ``resource_id`` are short for what they name. The default is a successful read of severity info.
    """
    record = copy.deepcopy(RECORDS["allowed"])
    record |= {"impact": None, "reason": None, "severity": "info", "action": "invoice.read", "event": None}
    record["request"] |= {"method": "GET"}
    record["response"]["status"] = 200
    status, name = changes.pop("status", None), changes.pop("resource_id", None)
    if status is not None:
        record["response"]["status"] = status
        record["outcome"] = "success" if status < 400 else "failure"
    if name is not None:
        record["resource"]["id"] = name
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) and isinstance(record[key], dict) else value
    duration = record["duration_us"] or 0
    record["recorded_at"] = rfc3339(START + at)
    record["timestamp"] = rfc3339(START + at - duration)
    return record


def denied(at: int = 0, /, **changes: Any) -> Record:
    """A request that the policy refused."""
    decision = {"effect": "deny", "cause": "default", "rule": None}
    return request(at, **{"decision": decision, "outcome": "denied", "response": {"status": 403}, **changes})


def control(at: int, action: str, /, **changes: Any) -> Record:
    """A record about the log itself."""
    record = copy.deepcopy(RECORDS["control"])
    record |= {"action": action, "event": action.replace(".", "_").upper(), "severity": "info", "extra": {}} | changes
    record["recorded_at"] = record["timestamp"] = rfc3339(START + at)
    return record


def numbered(records: Iterable[Record]) -> list[Record]:
    """With counters, as processes write them: dense from 0 for each instance."""
    counts: dict[str, int] = {}
    found = []
    for record in records:
        instance = record["service"]["instance"]
        found.append(record | {"sequence": counts.get(instance, 0)})
        counts[instance] = counts.get(instance, 0) + 1
    return found


def write_rules(folder: Path, **texts: str) -> Path:
    """Rule files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yml").write_text(text)
    return folder


def detection(body: str, *, number: int = 1, level: str = "high", custom: str = "", taxonomy: str = "ecs") -> str:
    """The text of a detection rule, called ``rule1``; ``body`` is what stands below ``detection:``, indented."""
    indented = "".join(f"  {line}\n" for line in body.strip("\n").split("\n"))
    return (
        f"title: Rule {number}\nid: {uuid(number)}\nname: rule{number}\ntaxonomy: {taxonomy}\nlevel: {level}\n"
        f"logsource: {{product: audit_middleware, category: request}}\ndetection:\n{indented}"
        + (f"custom: {custom}\n" if custom else "")
    )


def correlation(body: str, *, number: int = 9, level: str = "high", custom: str = "") -> str:
    """The text of a correlation rule; ``body`` is a flow mapping."""
    head = f"title: Rule {number}\nid: {uuid(number)}\nname: rule{number}\ntaxonomy: ecs\nlevel: {level}\n"
    return head + f"correlation: {body}\n" + (f"custom: {custom}\n" if custom else "")


def rules(folder: Path, **texts: str) -> Rules:
    """Rules from their texts."""
    return load_rules([write_rules(folder, **texts)], shipped=False)


def findings(given: Rules, records: Iterable[Mapping[str, Any]], start: int = 0) -> list[Finding]:
    """What an engine finds in them."""
    engine = Engine(given)
    found: list[Finding] = []
    for index, record in enumerate(records, start):
        found += engine.feed(index, record)
    assert engine.unread == 0
    return found
