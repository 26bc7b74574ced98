"""Detectors: the log goes through an engine of rules; what it finds becomes a record, and may put somebody on the list
of blocks.

The engine is deterministic, so nothing of it must be durable in step with the log. Its snapshot ``<name>.engine``, kept
where the cursor is, is a JSON line (``next``: the entry that it wants next, and the hash of the one before it, so that
it is used with no other history) and the engine's bytes with their digest, written every few seconds. When a follower
starts, the entries from there to its cursor are fed again in silence, and what the log holds of findings from there on
is not recorded again. The order of the steps, and what a crash after each leaves:

1. A finding is recorded, durably. *If we die here*: the same entry comes again and gives the same finding, with the
   same ``finding_id``; it is known from the log.
2. Its entry joins the list of blocks. *If we die between 1 and 2*: the next start finds the record, and adds it.
3. The batch is settled, and the cursor moves. *If we die between 2 and 3*: as after 1.

So a finding is recorded once, unless the record itself was cut off with a torn write: then it is found again. With
other rules, or without a snapshot, the engine begins anew ``history`` entries before the cursor, in silence: it learns
what is usual, and does not tell of what is past. A cursor that was put back (`followers reset`) makes it tell what it
has not told yet.

That a finding's own record gives no finding, and a block does not prolong itself, the engine sees to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ...context import clean
from ...detectors.blocklist import Listing, list_beside
from ...detectors.engine import Engine
from ...detectors.finding import Finding
from ...detectors.load import load_rules
from ...detectors.model import Rules
from ...detectors.orders import FINDING, effect_of, listing_in, order_in, said
from ...errors import AuditError, ConfigError, FollowerError
from ...model import Json
from ...pipeline.blocks import Entry
from ...stores.opening import open_log
from ..config import Options
from ..cursor import Cursor, position_at
from ..sink import Item, Sent, Way

KEYS = ("rules", "shipped", "block", "history")
FORMAT = 1
HISTORY = 200_000

_SAVE_S = 5.0
_SAVE_SHARE = 20  # keeping the engine takes at most a twentieth of the time, however much it remembers
_MAX_EXTRA = 16_384  # bytes of JSON; an entry that is nothing but escapes is four times it
_MARK = f'"{FINDING}"'.encode()

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Detectors:
    """Detectors as configured: rules, whether findings may block, and how many entries new rules learn from."""

    rules: Rules
    block: bool = False
    history: int = HISTORY

    def open(self, way: Way) -> DetectorSink:
        """See `Destination`."""
        return DetectorSink(self, way)


def read_detectors(options: Options) -> Detectors:
    """The settings of detectors, with their rules loaded."""
    if options.given("filter"):
        options.finding("filter", "detectors see every record: a rule says itself what it is about")
    paths, shipped = tuple(map(Path, options.texts("rules"))), options.flag("shipped", True)
    rules = Rules((), "", {})
    if not paths and not shipped:
        options.finding("rules", "there are none: list folders of rules, or leave shipped out")
    try:
        rules = load_rules(paths, shipped=shipped)
    except ConfigError as problem:
        options.finding("rules", str(problem))
    return Detectors(rules, options.flag("block", False), options.integer("history", HISTORY, 0, 100_000_000))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A snapshot: of an engine that wants entry ``next``, written with a batch that began at ``begin``."""

    begin: int
    next: int
    engine: Engine


class DetectorSink:
    """Feeds one engine. Belongs to one thread."""

    def __init__(self, settings: Detectors, way: Way) -> None:
        """Opens the log for reading. Raises `FollowerError`, `StoreError`."""
        if way.log is None:
            raise FollowerError(f"{way.name}: detectors need the place of the log, which is not known here")
        self._settings, self._way = settings, way
        self._store = open_log(way.log)
        self._list = list_beside(way.log, self._store)
        self._snapshot = f"{way.name}.engine"
        self._engine: Engine | None = None
        self._next = self._begun = 0
        self._known: set[str] = set()
        self._pending: list[Entry] = []
        self._saved_at, self._pause = time.monotonic(), _SAVE_S
        self._changed = False

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        try:
            engine = self._ready(items[0].index)
            self._begun = items[0].index
            for item in items:
                self._tell(engine.feed(item.index, item.logged))  # what it has seen already gives nothing
                self._next, self._changed = max(self._next, item.index + 1), True
            self._hold()
            self._save()
        except BaseException:
            self._engine = None  # it has seen entries that were not settled: begin again from what is kept
            raise
        return Sent(len(items))

    def idle(self) -> str | None:
        """See `Sink`."""
        try:
            if self._engine is None:
                position = Cursor(self._way.shelf, self._way.name, self._way.origin).read()
                if position is None:
                    return None
                self._ready(position[0])
            assert self._engine is not None
            found = self._engine.quiet(self._way.clock())
            self._changed |= bool(found)
            self._tell(found)
            problem = self._hold()
            self._begun = self._next
            self._save()
        except BaseException:
            self._engine = None
            raise
        return problem

    def close(self) -> None:
        """See `Sink`."""
        with contextlib.closing(self._store):
            if self._engine is not None and self._changed:
                self._save(at_once=True)

    # --- findings ------------------------------------------------------------------------------------------------

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            if finding.finding_id in self._known:
                continue
            entry = effect_of(finding, block=self._settings.block)
            if finding.respond is not None and self._settings.block and (entry is None or not entry.block):
                _log.warning("%s: the finding %s names nobody to block", finding.title, finding.finding_id)
            effect = None if entry is None else said(entry)
            self._way.tell(FINDING, {**_bounded(finding.extra()), "effect": effect, "follower": self._way.name})
            if entry is not None:
                self._pending.append(entry)

    def _hold(self) -> str | None:
        """Brings what is pending to the list. What keeps it from there keeps no finding from the log."""
        if not self._pending:
            return None
        wanted = list(Listing(tuple(self._pending)).at(self._way.clock()).entries)
        try:
            if wanted:
                now = self._way.clock()
                # Not while the list is locked: to read a long log takes its time, once.
                lost = None if self._list.there() else listing_in(self._store, now)
                self._list.change(lambda listing: listing.add(*wanted), now, lost=lost)
        except AuditError as problem:
            _log.error("%s: findings are not on the list of blocks: %s", self._way.name, problem)
            self._pending = wanted
            return str(problem)
        self._pending = []
        return None

    # --- where the engine stands ---------------------------------------------------------------------------------

    def _ready(self, index: int) -> Engine:
        """The engine, for the entries from ``index`` on."""
        if self._engine is None or index > self._next:
            self._begin(index)
        assert self._engine is not None
        return self._engine

    def _begin(self, index: int) -> None:
        kept, base = self._kept(), self._store.base.size
        if kept is not None and kept.begin <= index <= kept.next + self._settings.history and base <= kept.next:
            engine, start = kept.engine, kept.next
        else:
            engine, start = Engine(self._settings.rules), max(base, index - self._settings.history)
            _log.info("%s: the engine begins anew, with entries %d to %d", self._way.name, start, index)
        self._known, self._next = set(), max(start, index)
        first, size = min(start, index), self._store.head().size
        for frame in self._store.frames(first, size) if first < size else ():
            for at, entry in enumerate(frame.entries, frame.first):
                if start <= at < index:
                    engine.feed(at, msgspec.json.decode(entry))
                if at >= first and _MARK in entry:
                    self._recall(msgspec.json.decode(entry))
        self._engine, self._changed = engine, True
        self._hold()

    def _recall(self, record: Mapping[str, Any]) -> None:
        """Takes note of a finding that is recorded; if we died before it came to the list of blocks, it does now."""
        if record.get("action") != FINDING or record.get("kind") != "control":
            return
        self._known.add(str(record["extra"].get("finding_id")))
        entry = order_in(record)
        if entry is not None and entry.until_ns > self._way.clock():
            self._pending.append(entry)

    def _kept(self) -> _Kept | None:
        """The snapshot, if there is one that these rules can go on with."""
        try:
            kept = self._way.shelf.read(self._snapshot)
            if kept is None:
                return None
            head, _, data = kept.partition(b"\n")
            values = json.loads(head)
            if (values["format"], values["origin"]) != (FORMAT, self._way.origin):
                raise ConfigError("it is of another log or another version")
            position = int(values["next"]), str(values["hash"])
            if position[0] > self._store.base.size and (
                position[0] > self._store.head().size or position_at(self._store, position[0]) != position
            ):
                raise ConfigError("the log has another history than the one that it was made of")
            if sha256(data).hexdigest() != values["sha256"]:
                raise ConfigError("it is damaged")
            return _Kept(int(values["begin"]), position[0], Engine.restore(self._settings.rules, data))
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as problem:
            _log.warning("%s: the engine's state is not used: %s", self._way.shelf.shown(self._snapshot), problem)
            return None

    def _save(self, *, at_once: bool = False) -> None:
        """Keeps the engine, not more often than every few seconds: what is missing is fed again."""
        now = time.monotonic()
        if self._engine is None or not self._changed or (now - self._saved_at < self._pause and not at_once):
            return
        digest = position_at(self._store, self._next)[1]
        data = self._engine.snapshot()
        head = {
            "format": FORMAT, "origin": self._way.origin, "begin": self._begun, "next": self._next, "hash": digest,
            "sha256": sha256(data).hexdigest(),
        }  # fmt: skip
        self._way.shelf.write(self._snapshot, json.dumps(head).encode() + b"\n" + data)
        self._saved_at, self._changed = time.monotonic(), False
        self._pause = max(_SAVE_S, _SAVE_SHARE * (self._saved_at - now))


def _bounded(extra: dict[str, Json]) -> dict[str, Json]:
    """What fits a record whatever a client put into the fields that a rule groups by; almost always as it is."""
    if len(msgspec.json.encode(extra)) <= _MAX_EXTRA:
        return extra
    return {**extra, "group": {name: clean(text, 256) for name, text in extra["group"].items()}}
