"""The review's items on the log itself: is it whole, watched, kept, and who read it?"""

from __future__ import annotations

from datetime import date

from .activity import Event, detail
from .checklist import Basis, Item, Line, Table

VERIFY_DAYS = 31
"""So old a verification may be before the review asks for a new one."""

READS = ("audit.log_read", "audit.log_exported")
VERIFICATIONS = "audit.log_verified"
CLOCK = "audit.clock_jump"
KEYS = ("audit.key_rotated", "audit.key_retired")
FINDING = "audit.finding"
BLOCKS = ("audit.block_added", "audit.block_lifted", "audit.blocks_refused")
RETENTION = ("audit.retention_set", "audit.hold_placed", "audit.hold_released", "audit.pruned")
"""Control records by what they say."""


def items(basis: Basis) -> list[Item]:
    """From changes of the rules to the log's own safety."""
    return [
        _findings(basis),
        _policy(basis),
        _processes(basis),
        _gaps(basis),
        _clock(basis),
        _keys(basis),
        _verification(basis),
        _reads(basis),
        _retention(basis),
    ]


def events(basis: Basis, *names: str) -> list[Event]:
    """The control records of these names, in the log's order."""
    found = basis.activity.events
    return sorted((one for name in names for one in found.get(name, ())), key=lambda one: one.index)


def count(basis: Basis, *names: str) -> int:
    """How many there are, also of those that were not kept one by one."""
    return sum(basis.activity.controls.get(name, 0) for name in names)


def _table(found: list[Event], top: int, *names: str) -> tuple[Table, ...]:
    rows = [(str(one.index), one.time[:19], one.action, one.user, detail(one, *names)) for one in found[:top]]
    if len(found) > top:
        rows.append(("", "", f"and {len(found) - top} more", "", ""))
    return (Table(("entry", "time", "what", "by", "detail"), tuple(rows)),) if rows else ()


def _findings(basis: Basis) -> Item:
    found, by_hand = count(basis, FINDING), events(basis, *BLOCKS)
    refused = basis.activity.causes["blocked"]
    return Item(
        "Findings and blocks",
        ("SOC 2 CC7.2", "SOC 2 CC7.3", "HIPAA 164.308(a)(1)(ii)(D)"),
        "Was each finding looked at, and was each block by hand, and each one lifted, right?",
        (
            Line(f"{found} findings of detectors", found > 0),
            Line(f"{refused} denials of blocked callers", refused > 0),
            Line(f"{len(by_hand)} changes of blocks by hand, or lists that could not be used", bool(by_hand)),
        ),
        (
            *_table(events(basis, FINDING), basis.top, "title", "level", "user_id"),
            *_table(by_hand, basis.top, "who", "until", "reason", "by", "problem"),
        ),
    )


def _policy(basis: Basis) -> Item:
    activity = basis.activity
    rows = tuple((str(index), time[:19], service, digest) for index, time, service, digest in activity.policies)
    last = basis.policy.digest in activity.in_force.values() or not activity.in_force
    given = f"under review: {basis.policy.digest}"
    return Item(
        "Changes of the policy",
        ("SOC 2 CC6.8", "SOC 2 CC8.1"),
        "Was each change asked for, reviewed and tested?",
        (
            Line(f"{activity.policy_changes} times another policy than before was loaded", activity.policy_changes > 0),
            *(Line(f"in force at the end: {digest} ({service})") for service, digest in activity.in_force.items()),
            Line(given if last else f"{given}, which no service loaded last", not last),
        ),
        (Table(("entry", "time", "service", "digest"), rows),) if rows else (),
    )


def _processes(basis: Basis) -> Item:
    activity = basis.activity
    running = sorted(activity.processes.items(), key=lambda pair: pair[1].last)
    rows = tuple((name, one.service, one.started[:19], one.last[:19]) for name, one in running[: basis.top])
    silent = len(running) + activity.ended_silently.total
    return Item(
        "Starts and stops of recording",
        ("PCI DSS 10.2.1.6", "SOC 2 CC7.2"),
        "Does each of these processes still run? One that does not was killed: its last records may be missing.",
        (
            Line(f"{activity.started} starts, {activity.stopped} stops"),
            Line(f"{silent} processes without a stop", silent > 0),
            Line(f"{basis.unfinished} announced actions without an outcome", basis.unfinished > 0),
        ),
        (Table(("process", "service", "started", "last record"), rows),) if rows else (),
    )


def _gaps(basis: Basis) -> Item:
    gaps = events(basis, "audit.gap", "audit.unencodable")
    lost = sum(int(one.extra.get("count", 1)) for one in gaps if isinstance(one.extra, dict))
    unwritable = count(basis, "audit.unencodable")
    missing, dropped = basis.activity.missing, basis.activity.flags["content_dropped"]
    return Item(
        "Gaps: records that could not be written",
        ("PCI DSS 10.7.2", "PCI DSS 10.7.3", "SOC 2 CC7.2"),
        "Is the cause of each known and dealt with?",
        (
            Line(f"{count(basis, 'audit.gap')} gaps; {lost} records lost, {unwritable} of them unwritable", bool(gaps)),
            Line(f"{missing} sequence numbers of processes are not in the log", missing > 0),
            Line(f"{dropped} records lost captured content because they were too large", dropped > 0),
        ),
        _table(gaps, basis.top, "count", "from", "to", "cause", "error"),
    )  # fmt: skip


def _clock(basis: Basis) -> Item:
    jumps, told = basis.activity.jumps, count(basis, CLOCK)
    return Item(
        "Jumps of the clock",
        ("PCI DSS 10.6",),
        "Are the clocks of all hosts synchronised? Order in the log is by entry, never by time.",
        (
            Line(
                f"{jumps} times the clock of an entry is more than 2 seconds before that of the entry before", jumps > 0
            ),
            Line(f"{told} jumps reported by the service", told > 0),
        ),
        _table(events(basis, CLOCK), basis.top, "from", "to", "step_us"),
    )


def _keys(basis: Basis) -> Item:
    found = events(basis, *KEYS)
    return Item(
        "Changes of signing keys",
        ("PCI DSS 10.3.2", "HIPAA 164.312(c)(1)"),
        "Was each change planned? Whoever holds a key can write into the log.",
        (Line(f"{count(basis, *KEYS)} changes of keys", bool(found)),),
        _table(found, basis.top, "new_vkey", "vkey"),
    )


def _verification(basis: Basis) -> Item:
    report, verified = basis.report, basis.verified
    old = verified is None or (basis.today - date.fromisoformat(verified[:10])).days > VERIFY_DAYS
    on_record = f"last verification on record: {verified[:19] if verified else 'none'}"
    lines = [Line(on_record, old and report is None)]
    if report is None:
        lines.append(Line("not verified by this review: run audit-middleware verify, or give --verify", old))
    else:
        verdict = (
            f"verified for this review with the log's own list of keys: {report.verdict}, {report.entries} entries"
        )
        lines.append(Line(verdict, not report.holds))
        lines.append(Line(f"which proves: {report.claim}"))
    return Item(
        "Verification of the log",
        ("SOC 2 CC2.1", "HIPAA 164.312(c)(1)", "PCI DSS 10.3.4"),
        "Does the log hold, checked with a key and against a checkpoint that its operator does not keep?",
        tuple(lines),
    )


def _reads(basis: Basis) -> Item:
    found = events(basis, *READS)
    return Item(
        "Who read the log",
        ("HIPAA 164.312(b)", "HIPAA 164.308(a)(1)(ii)(D)", "PCI DSS 10.2.1.3"),
        "Did only those read it who should, and was it read as often as the rules for reviews ask?",
        (Line(f"{count(basis, *READS)} reads and exports on record"),),
        _table(found, basis.top, "command", "filters", "records"),
    )


def _retention(basis: Basis) -> Item:
    oldest = basis.oldest
    days = (basis.today - date.fromisoformat(oldest[:10])).days if oldest else 0
    found = events(basis, *RETENTION)
    return Item(
        "Retention",
        ("PCI DSS 10.5.1", "HIPAA 164.316(b)(2)(i)", "GDPR 5(1)(e)"),
        "Is all kept as long as it must be (PCI DSS 12 months, 3 of them at hand; HIPAA 6 years), and not longer?",
        (
            Line(f"{basis.size} entries; the oldest is of {oldest[:10] if oldest else 'no day'}, {days} days ago"),
            Line(f"{count(basis, *RETENTION)} records of archiving, expiry or erasure", bool(found)),
        ),
        _table(found, basis.top, "from", "to", "count"),
    )
