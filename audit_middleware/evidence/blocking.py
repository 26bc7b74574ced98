"""Blocks by hand, and what the log knows of all blocks: adding, lifting, making the list anew, checking a decision.

Here and not among the detectors, because it writes control records and reads the log. The record comes first, then
the list. *If we die between*: a block that was added is missing from the list, and one that was lifted still stands
there; the same command again, or `rebuild`, completes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from ..context import clean
from ..detectors.blocklist import LONGEST_S, BlockList, Listing, list_beside
from ..detectors.orders import ADDED, LIFTED, listing_in, order_in, orders_in, said
from ..errors import ConfigError
from ..formats.facts import address
from ..model import ANONYMOUS, Json
from ..persons import Person, pseudonym, pseudonym_of, token_of
from ..pipeline.blocks import MANUAL, Entry, Kind, recorded_id
from ..privacy.patterns import REDACTED
from ..protocols import Clock, Signer, SubjectKeys
from ..stores.opening import Database, Place, open_log, origin_of
from .control import ControlWriter, as_owner, statement, write_control
from .recorded import Recorded, is_hidden

__all__ = ["NO_ORDER", "Orders", "add_block", "lift_blocks", "list_of", "orders_in", "read_blocks", "rebuild"]

NO_ORDER = "no record of the log orders this block"
SEALED = "sealed"
"""Who was blocked, or what a decision read, cannot be told without the persons' keys."""
_REASON = 512
_DETAIL = re.compile(r"(?:finding|by hand) (\S{1,1024}), until \S+")


@contextmanager
def list_of(log: Place) -> Iterator[BlockList]:
    """The list of blocks of a log. Raises `StoreError` where there is no log."""
    if isinstance(log, Database):
        with closing(open_log(log)) as store:
            yield list_beside(log, store)
    else:
        yield BlockList(log, origin_of(log))


def read_blocks(log: Place, *, clock: Clock = time.time_ns) -> tuple[Entry, ...]:
    """Who is blocked or flagged now, what ends first before the rest. Raises `BlocksError`, `StoreError`."""
    with list_of(log) as source:
        return tuple(sorted(source.read().at(clock()).entries, key=lambda one: one.until_ns))


def add_block(
    log: Place,
    signers: Sequence[Signer],
    kind: Kind,
    who: str,
    seconds: int,
    reason: str,
    by: str,
    *,
    keys: SubjectKeys | None = None,
    clock: Clock = time.time_ns,
) -> Entry:
    """Records a block and puts it on the list. ``seconds`` is how long, ``by`` who does it. With the persons' ``keys``
    log and list have the token of whom it is about: one is made for who has none.

    Raises:
        ConfigError: There is nobody, no reason or no such time.
        BlocksError, StoreError, SubjectKeysError: The list, the log or the keys cannot be read or written.
    """
    who = _compared(kind, who)
    if not who or (kind == "user" and who == ANONYMOUS):
        raise ConfigError("a block needs a user; nobody can be blocked by address only: --address")
    if not 1 <= seconds <= LONGEST_S:
        raise ConfigError(f"{seconds} seconds: a block lasts 1 second to {LONGEST_S // 86_400} days")
    with list_of(log) as source:
        before = _held(log, source, clock)  # before anything is recorded: a list that is damaged takes no block
    reason = _reason(reason)
    if keys is not None and token_of(who) is None:
        token = keys.of(_person(kind, who)).token
        keys.commit()  # *if we die here*: a key that nobody needs; the log is told of it when a record does
        who = pseudonym_of(token)
    now = clock() // 1_000 * 1_000
    draft = Entry(kind, who, MANUAL, "", True, now, now + seconds * 1_000_000_000)
    told = statement(ADDED, "high", {**said(draft), "seconds": seconds, "reason": reason, "by": by}, clock=clock)
    entry = Entry(kind, who, MANUAL, told.action_id, True, draft.since_ns, draft.until_ns)
    write_control(log, ControlWriter(signers, clock), [told], clock=clock)
    with as_owner(log), list_of(log) as source:
        source.change(lambda listing: listing.add(entry), clock(), lost=before)
    return entry


def lift_blocks(
    log: Place,
    signers: Sequence[Signer],
    kind: Kind,
    who: str,
    reason: str,
    by: str,
    *,
    keys: SubjectKeys | None = None,
    clock: Clock = time.time_ns,
) -> tuple[Entry, ...]:
    """Records that what is held against a caller is lifted, and takes it from the list; returns it. With the persons'
    ``keys`` also what is held against the caller's token.

    Raises:
        ConfigError: Nothing is held against this caller, or there is no reason.
        BlocksError, StoreError: The list or the log cannot be read or written.
    """
    who = _compared(kind, who)
    with list_of(log) as source:
        before = _held(log, source, clock)
    found = keys.find(_person(kind, who)) if keys is not None and token_of(who) is None else None
    names = (who,) if found is None else (who, pseudonym_of(found.token))
    by_name = {name: held for name in names if (held := before.at(clock()).about(kind, name))}
    if not by_name:
        raise ConfigError(f"nothing is held against {kind} {who!r}; see: audit-middleware blocks list {log}")
    reason = _reason(reason)
    told = [
        statement(LIFTED, "high", {**_lifted(kind, name, held), "reason": reason, "by": by}, clock=clock)
        for name, held in by_name.items()
    ]
    write_control(log, ControlWriter(signers, clock), told, clock=clock)
    with as_owner(log), list_of(log) as source:
        for name in by_name:
            source.change(lambda listing, name=name: listing.lift(kind, name), clock(), lost=before)  # type: ignore[misc]  # the default is no argument of the seam
    return tuple(one for held in by_name.values() for one in held)


def _lifted(kind: Kind, who: str, held: Sequence[Entry]) -> dict[str, Json]:
    return {"kind": kind, "who": who, "findings": [one.finding_id for one in held[:64]], "count": len(held)}


def _person(kind: Kind, who: str) -> Person:
    """Whose token a policy's `personal:` would put in the place of a ``user_id`` or an ``initiator_ip``."""
    return Person("user", who) if kind == "user" else Person("resource", f"initiator_ip/{who}")


def rebuild(log: Place, *, clock: Clock = time.time_ns) -> Listing:
    """Makes the list anew from the log's own records, whatever stands there. Raises `StoreError`."""
    with closing(open_log(log)) as store, as_owner(log), list_of(log) as source:
        # Read under the lock: a follower that adds meanwhile waits, and adds to the new list; or was first, and then
        # the log is read once more.
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
        """Why a decision ``blocked`` is not what the log ordered; ``None`` if it is, `SEALED` if that is not known."""
        if is_hidden(record.decision.detail):
            return SEALED
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
        another = f"entry {place} orders it for another caller"
        if anonymous is not (entry.kind == "address"):
            return another
        same = _same(entry, who)
        if same is False:
            return another
        if record.timestamp >= said(entry)["until"]:
            return f"the block of entry {place} had ended"
        return SEALED if same is None else None


def _same(entry: Entry, who: str | None) -> bool | None:
    """Is a block about the caller of a record? ``None`` where only the persons' keys can tell."""
    if entry.kind == "user":
        # The token of a sealed user is that person's own.
        if pseudonym(who) == pseudonym(entry.who):
            return True
        tokens = [pseudonym(one) for one in (who, entry.who) if is_hidden(one)]
        return False if len(tokens) != 1 and who != REDACTED else None
    if who == entry.who:
        return True
    hidden = is_hidden(who) or token_of(entry.who) is not None
    return None if hidden and not (token_of(who) and token_of(entry.who)) else False


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
