"""What the log says of blocks: an order is a record that puts somebody on the list, and the list is made of orders.

Of a finding, ``extra.effect`` says whom it is held against and until when; of a block by hand, ``extra`` itself does.
Times are RFC 3339. A finding counts from its last evidence, not from when somebody came to read it: the same records
give the same block, and what happened long ago blocks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ..context import clean
from ..model import Json
from ..pipeline.blocks import MANUAL, Entry, Kind
from ..protocols import LogStore
from .blocklist import LONGEST_S, Listing
from .finding import Finding

__all__ = [
    "ADDED",
    "FINDING",
    "LIFTED",
    "effect_of",
    "listing_in",
    "listing_of",
    "moment_ns",
    "order_in",
    "orders_in",
    "said",
]

FINDING, ADDED, LIFTED = "audit.finding", "audit.block_added", "audit.block_lifted"

_MARKS = tuple(f'"{action}"'.encode() for action in (FINDING, ADDED, LIFTED))
_SHORTEST_FLAG_S, _LONGEST_FLAG_S = 900, 86_400
_ADDRESSES = ("source.ip", "initiator_ip", "client.ip")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def effect_of(finding: Finding, *, block: bool) -> Entry | None:
    """Whom a finding is held against; ``None`` where it names nobody in particular.

    A finding about nobody is held against nobody at its address, if it was measured by address. With ``block`` false
    what a rule responds with is left out.
    """
    user = finding.user_id
    kind: Kind = "address" if user is None else "user"  # somebody may have signed in as "anonymous"
    who = user if kind == "user" else next((finding.group[name] for name in _ADDRESSES if name in finding.group), None)
    since_ns = moment_ns(finding.last)
    if not who or since_ns is None:
        return None
    seconds = min(max(finding.window_s, _SHORTEST_FLAG_S), _LONGEST_FLAG_S)
    blocks = block and finding.respond is not None and finding.respond.seconds > 0
    if blocks and finding.respond is not None:
        seconds = min(finding.respond.seconds, LONGEST_S)
    return Entry(
        kind, clean(who, 256), finding.rule, finding.finding_id, blocks, since_ns, since_ns + seconds * 1_000_000_000
    )


def said(entry: Entry) -> dict[str, Json]:
    """An entry as a record says it, but for what the record says anyway."""
    return {
        "kind": entry.kind, "who": entry.who, "block": entry.block, "since": _moment(entry.since_ns),
        "until": _moment(entry.until_ns),
    }  # fmt: skip


def order_in(record: Mapping[str, Any]) -> Entry | None:
    """The entry that a record asks for; ``None`` if it asks for none."""
    extra = record.get("extra")
    if record.get("kind") != "control" or not isinstance(extra, dict):
        return None
    if record.get("action") == FINDING:
        told, name, rule = extra.get("effect"), extra.get("finding_id"), extra.get("rule")
    elif record.get("action") == ADDED:
        told, name, rule = extra, record.get("action_id"), MANUAL
    else:
        return None
    if not isinstance(told, dict) or not isinstance(name, str) or not isinstance(rule, str):
        return None
    kind, who, block = told.get("kind"), told.get("who"), told.get("block")
    since, until = moment_ns(told.get("since")), moment_ns(told.get("until"))
    if kind not in ("user", "address") or not isinstance(who, str) or not who or not isinstance(block, bool):
        return None
    if since is None or until is None or not 0 < until - since <= LONGEST_S * 1_000_000_000:
        return None
    return Entry("address" if kind == "address" else "user", who, rule, name, block, since, until)


def listing_of(records: Iterable[Mapping[str, Any]], now_ns: int = 0) -> Listing:
    """The list that these records of a log, in its order, amount to; without what has ended by ``now_ns``."""
    held: dict[tuple[Kind, str], dict[str, Entry]] = {}
    lifted: dict[str, int] = {}
    for record in records:
        entry = order_in(record)
        if entry is not None:
            if entry.until_ns > now_ns and entry.finding_id not in lifted:
                held.setdefault((entry.kind, entry.who), {}).setdefault(entry.finding_id, entry)
        elif record.get("action") == LIFTED and record.get("kind") == "control":
            extra = record["extra"]
            kind: Kind = "address" if extra.get("kind") == "address" else "user"
            gone = held.pop((kind, str(extra.get("who"))), {})
            lifted |= {name: one.until_ns for name, one in gone.items()}
    entries = sorted((one for ones in held.values() for one in ones.values()), key=lambda one: one.since_ns)
    return Listing(tuple(entries), tuple(lifted.items()))


def orders_in(store: LogStore, start: int | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every record of a log from ``start`` on that says something of blocks, with its index; streams."""
    begin = max(store.base.size, start or 0)
    size = store.head().size
    for frame in store.frames(begin, size) if begin < size else ():
        for index, entry in enumerate(frame.entries, frame.first):
            if index >= begin and any(mark in entry for mark in _MARKS):
                record = msgspec.json.decode(entry)
                if record.get("kind") == "control" and record.get("action") in (FINDING, ADDED, LIFTED):
                    yield index, record


def listing_in(store: LogStore, now_ns: int) -> Listing:
    """The list that a log's records amount to; reads all of them."""
    return listing_of((record for _, record in orders_in(store)), now_ns)


def moment_ns(text: object) -> int | None:
    """A moment of a record in nanoseconds since the epoch; ``None`` for anything else."""
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if when.tzinfo is None or when < _EPOCH else (when - _EPOCH) // _MICRO * 1_000


def _moment(ns: int) -> str:
    return (_EPOCH + timedelta(microseconds=ns // 1_000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
