"""Blocks by hand, and what the log knows of all blocks: adding, lifting, making the list anew, checking a decision.

Here and not among the detectors, because it writes control records and reads the journal. The record comes first, then
the list. *If we die between*: a block that was added is missing from the list, and one that was lifted still stands
there; the same command again, or `rebuild`, completes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from ..context import clean
from ..detectors.blocklist import LONGEST_S, BlockList, Listing
from ..detectors.orders import ADDED, LIFTED, listing_in, order_in, orders_in, said
from ..errors import ConfigError
from ..formats.facts import address
from ..model import ANONYMOUS, Json
from ..pipeline.blocks import MANUAL, Entry, Kind, recorded_id
from ..protocols import Clock, Signer
from ..stores.opening import Place, open_log, origin_of
from .control import ControlWriter, as_owner, statement, write_control
from .recorded import Recorded

__all__ = ["NO_ORDER", "Orders", "add_block", "lift_blocks", "list_of", "orders_in", "read_blocks", "rebuild"]

NO_ORDER = "no record of the log orders this block"
_REASON = 512
_DETAIL = re.compile(r"(?:finding|by hand) (\S{1,1024}), until \S+")


def list_of(log: Place) -> BlockList:
    """The list of blocks of a log. Raises `StoreError` where there is no log."""
    return BlockList(log, origin_of(log))


def read_blocks(log: Place, *, clock: Clock = time.time_ns) -> tuple[Entry, ...]:
    """Who is blocked or flagged now, what ends first before the rest. Raises `BlocksError`, `StoreError`."""
    return tuple(sorted(list_of(log).read().at(clock()).entries, key=lambda one: one.until_ns))


def add_block(
    log: Place,
    signers: Sequence[Signer],
    kind: Kind,
    who: str,
    seconds: int,
    reason: str,
    by: str,
    *,
    clock: Clock = time.time_ns,
) -> Entry:
    """Records a block and puts it on the list. ``seconds`` is how long, ``by`` who does it.

    Raises:
        ConfigError: There is nobody, no reason or no such time.
        BlocksError, StoreError: The list or the log cannot be read or written.
    """
    who = _compared(kind, who)
    if not who or (kind == "user" and who == ANONYMOUS):
        raise ConfigError("a block needs a user; nobody can be blocked by address only: --address")
    if not 1 <= seconds <= LONGEST_S:
        raise ConfigError(f"{seconds} seconds: a block lasts 1 second to {LONGEST_S // 86_400} days")
    source = list_of(log)
    before = _held(log, source, clock)  # before anything is recorded: a list that is damaged takes no block
    now = clock() // 1_000 * 1_000
    draft = Entry(kind, who, MANUAL, "", True, now, now + seconds * 1_000_000_000)
    told = statement(
        ADDED, "high", {**said(draft), "seconds": seconds, "reason": _reason(reason), "by": by}, clock=clock
    )
    entry = Entry(kind, who, MANUAL, told.action_id, True, draft.since_ns, draft.until_ns)
    write_control(log, ControlWriter(signers, clock), [told], clock=clock)
    with as_owner(log):
        source.change(lambda listing: listing.add(entry), clock(), lost=before)
    return entry


def lift_blocks(
    log: Place, signers: Sequence[Signer], kind: Kind, who: str, reason: str, by: str, *, clock: Clock = time.time_ns
) -> tuple[Entry, ...]:
    """Records that what is held against a caller is lifted, and takes it from the list; returns it.

    Raises:
        ConfigError: Nothing is held against this caller, or there is no reason.
        BlocksError, StoreError: The list or the log cannot be read or written.
    """
    who = _compared(kind, who)
    source = list_of(log)
    before = _held(log, source, clock)
    held = before.at(clock()).about(kind, who)
    if not held:
        raise ConfigError(f"nothing is held against {kind} {who!r}; see: audit-middleware blocks list {log}")
    extra: dict[str, Json] = {
        "kind": kind,
        "who": who,
        "findings": [one.finding_id for one in held[:64]],
        "count": len(held),
        "reason": _reason(reason),
        "by": by,
    }
    write_control(log, ControlWriter(signers, clock), [statement(LIFTED, "high", extra, clock=clock)], clock=clock)
    with as_owner(log):
        source.change(lambda listing: listing.lift(kind, who), clock(), lost=before)
    return held


def rebuild(log: Place, *, clock: Clock = time.time_ns) -> Listing:
    """Makes the list anew from the log's own records, whatever stands in the file. Raises `StoreError`."""
    source = list_of(log)
    with closing(open_log(log)) as store, as_owner(log):
        # Read under the lock: a follower that adds meanwhile waits, and adds to the new list.
        return source.change(lambda _: listing_in(store, clock()), clock(), anew=True)


def _held(log: Place, source: BlockList, clock: Clock) -> Listing:
    """The list; of one that is not there, what the log says."""
    if source.there():
        return source.read()
    with closing(open_log(log)) as store:
        return listing_in(store, clock())


@dataclass(slots=True)
class Orders:
    """The blocks that a log's records ordered, by the id that decisions name. ``base``: below it the log is pruned."""

    base: int = 0
    found: dict[str, tuple[int, Entry]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[tuple[int, Mapping[str, Any]]], base: int = 0) -> Orders:
        """From records with their indexes; of a finding that stands there twice the first one counts."""
        made = cls(base)
        for index, record in records:
            entry = order_in(record)
            if entry is not None and entry.block:
                made.found.setdefault(entry.finding_id, (index, entry))
        return made

    def wrong(self, index: int | None, record: Recorded) -> str | None:
        """Why a decision ``blocked`` is not what the log ordered; ``None`` if it is."""
        named = _DETAIL.fullmatch(record.decision.detail or "")
        if named is None:
            return "its detail names no block"
        place, entry = self.found.get(named[1], (None, None))
        if place is None or entry is None:
            return NO_ORDER
        if index is not None and place > index:
            return f"the block was ordered later, by entry {place}"
        if entry.rule != record.decision.rule:
            return f"entry {place} orders it by another rule"
        anonymous = record.subject.type == ANONYMOUS
        who = record.initiator_ip if entry.kind == "address" else record.user_id
        if anonymous is not (entry.kind == "address") or who != entry.who:
            return f"entry {place} orders it for another caller"
        if record.timestamp >= said(entry)["until"]:
            return f"the block of entry {place} had ended"
        return None


def _compared(kind: Kind, who: str) -> str:
    """As requests are compared with it. Raises `ConfigError` for an address that none is: it would block nobody."""
    if kind == "user":
        return recorded_id(who)
    found = address(who.strip())
    if found is None:
        raise ConfigError(f"{who!r} is no IP address: write one, such as 192.0.2.1; a network cannot be blocked")
    return str((found.ipv4_mapped or IPv6Address(int(found))) if isinstance(found, IPv6Address) else found)


def _reason(text: str) -> str:
    if not text.strip():
        raise ConfigError("a block needs a reason, such as a case number")
    return clean(text, _REASON)
