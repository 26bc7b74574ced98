"""Entries and rules, a list beside a log, and records for detectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from audit_middleware.detectors.blocklist import BlockList
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.signers import signers_of
from audit_middleware.pipeline.blocks import Entry
from audit_middleware.signing import read_key_file
from tests.kit import ORIGIN, Log

SECOND = 1_000_000_000
RULE = "1f0c7b1e-6a52-4c3e-9b57-1d5f5a7d0001"

HOSTILE = [
    "ann", "12345", "__proto__", "constructor", "x" * 65_536, "\x00\x1b[31m\r\nann", "\ud800", "é" * 300, "anonymous",
    '{"kind":"user"}', "../../etc", "\u202eann",
]  # fmt: skip


def entry(who: str = "ann", seconds: float = 900, **changes: Any) -> Entry:
    """A block of a user that begins now."""
    now = time.time_ns() // 1000 * 1000
    values: dict[str, Any] = {
        "kind": "user", "who": who, "rule": RULE, "finding_id": f"finding-{who}"[:200], "block": True,
        "since_ns": now, "until_ns": now + int(seconds * SECOND),
    }  # fmt: skip
    return Entry(**values | changes)


def blocks_of(log: Log) -> BlockList:
    """The list of a test's log."""
    return BlockList(log.path, ORIGIN)


def put(log: Log, *entries: Entry) -> None:
    """Adds entries to the list."""

    def add(listing: Any) -> Any:
        for one in entries:
            listing = listing.add(one)
        return listing

    blocks_of(log).change(add, time.time_ns())


def keys(log: Log) -> Any:
    """The signing keys of a test's log."""
    return signers_of(read_key_file(Path(f"{log.path}.key")))


def tell(log: Log, action: str, extra: Any, writer: ControlWriter | None = None) -> None:
    """One control record, of a process of its own."""
    write_control(log.path, writer or ControlWriter(keys(log)), [statement(action, "high", extra)])


def requests(
    log: Log, *whos: str, outcome: str = "denied", cause: str = "default", writer: ControlWriter | None = None
) -> None:
    """Records of requests in one commit, as a service writes them; without a ``writer`` by a process of its own."""
    decision: dict[str, Any] = {
        "effect": "deny" if outcome == "denied" else "allow", "cause": cause, "rule": None, "near_misses": [],
        "policy_digest": None, "mode": "enforce", "detail": None, "inputs": None,
    }  # fmt: skip
    part: dict[str, Any] = {"type": "user", "roles": [], "tenant": None, "session": None, "properties": {}}
    made = [
        statement(
            "doc.read",
            fields={"kind": "outcome", "user_id": who, "subject": part, "decision": decision, "outcome": outcome},
        )
        for who in whos
    ]
    write_control(log.path, writer or ControlWriter(keys(log)), made)


DENIED, STORM, ALL = (f"1f0c7b1e-6a52-4c3e-9b57-1d5f5a7d000{n}" for n in (2, 1, 3))

DETECTION = """
title: A request that was refused
id: {id}
name: refused
status: test
taxonomy: ecs
logsource: {{product: audit_middleware, category: request}}
detection:
  selection: {{audit.decision.effect: deny, audit.outcome: denied}}
  condition: selection
level: informational
"""
CORRELATION = """
title: Too many refusals
id: {id}
status: test
taxonomy: ecs
correlation:
  type: event_count
  rules: [refused]
  group-by: [user.id]
  timespan: {span}
  condition: {{gte: {count}}}
{respond}
level: high
"""
EVERYTHING = """
title: The log says something of itself
id: {id}
status: test
taxonomy: ecs
logsource: {{product: audit_middleware}}
detection:
  selection: {{event.action: 'audit.*'}}
  condition: selection
level: low
"""


def storm_rules(folder: Path, *, count: int = 5, span: str = "5m", respond: str = "block 15m") -> Path:
    """A folder of rules: so many refusals of one user are a finding that asks for a block."""
    rules = folder / "rules"
    rules.mkdir(exist_ok=True)
    (rules / "refused.yml").write_text(DETECTION.format(id=DENIED))
    custom = f"custom: {{respond: {respond}}}" if respond else ""
    (rules / "storm.yml").write_text(CORRELATION.format(id=STORM, span=span, count=count, respond=custom))
    return rules


def detectors(folder: Path, rules: Path, *, more: str = "block: true") -> Path:
    """A configuration with one follower, ``watch``."""
    path = folder / "followers.yaml"
    options = f"name: watch, type: detectors, shipped: false, rules: ['{rules}'], {more}"
    path.write_text(f"version: 1\nfollowers:\n  - {{{options}, retry: {{first: 20, longest: 100}}}}\n")
    return path


def findings(log: Log) -> list[dict[str, Any]]:
    """The findings that the log tells of."""
    return log.controls("audit.finding")
