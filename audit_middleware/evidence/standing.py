"""The control records of a log that hold until later ones replace them: retention, legal holds, keys, policies.

A prune removes old entries, these records among them. So the record of a prune, ``audit.pruned``, *carries* those that
still stand and lie below the new base, each with its index, time and content: the log that is left explains itself, and
its state is always derived from its own records, never from the search index, which is not trusted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import RecordError, StoreError
from ..ledger.canonical import decode
from ..ledger.controls import RETIRED, ROTATED
from ..model import Json
from ..protocols import LogStore
from ..stores.opening import Store
from .policies import LOADED

RETENTION, HELD, RELEASED, PRUNED = (
    "audit.retention_set", "audit.hold_placed", "audit.hold_released", "audit.pruned",
)  # fmt: skip
RESTRICTED, UNRESTRICTED = "audit.subject_restricted", "audit.subject_released"
_NEWEST = frozenset({LOADED, "audit.routes_listed"})  # of each service
_ACTIONS = frozenset({RETENTION, HELD, RELEASED, PRUNED, RESTRICTED, UNRESTRICTED, ROTATED, RETIRED, *_NEWEST})
_MARK = b'"action":"audit.'  # a substring costs a fraction of decoding, and nearly no entry has it


@dataclass(frozen=True, slots=True)
class Standing:
    """A control record: where it stands or stood in the log, when it was made, by which service, what it says."""

    index: int
    action: str
    at: str
    service: str
    extra: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """As ``audit.pruned`` carries it."""
        return {
            "index": self.index, "action": self.action, "at": self.at, "service": self.service,
            "extra": dict(self.extra),
        }  # fmt: skip


class Standings:
    """What stands, as far as a log was read.

    Attributes:
        retention: The newest ``audit.retention_set``.
        holds: ``audit.hold_placed`` of every hold that was not released, by name.
        restrictions: ``audit.subject_restricted`` of every person who was not released, by token.
        pruned: Every ``audit.pruned`` that was read, oldest first.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.retention: Standing | None = None
        self.holds: dict[str, Standing] = {}
        self.restrictions: dict[str, Standing] = {}
        self.pruned: list[Standing] = []
        self._keys: dict[int, Standing] = {}
        self._newest: dict[tuple[str, str], Standing] = {}

    def take(self, one: Standing) -> None:
        """Takes the next record of the log."""
        if one.action == PRUNED:
            self.pruned.append(one)
            for earlier in carried(one):
                self.take(earlier)
        elif one.action == RETENTION and (self.retention is None or one.index > self.retention.index):
            self.retention = one
        elif one.action == HELD:
            self.holds[str(one.extra.get("name"))] = one
        elif one.action == RELEASED:
            self.holds.pop(str(one.extra.get("name")), None)
        elif one.action in (RESTRICTED, UNRESTRICTED):
            for token in _texts(one.extra.get("tokens")):
                if one.action == RESTRICTED:
                    self.restrictions[token] = one
                else:
                    self.restrictions.pop(token, None)
        elif one.action in (ROTATED, RETIRED):
            self._keys[one.index] = one
        elif one.action in _NEWEST:
            place = (one.action, one.service)
            one = replace(one, extra={name: one.extra[name] for name in one.extra if name != "manifest"})  # too long
            self._newest[place] = max(one, self._newest.get(place, one), key=lambda found: found.index)

    def in_force(self) -> list[str]:
        """The digests of the policies that the services loaded last."""
        loaded = (one for (action, _), one in self._newest.items() if action == LOADED)
        return [str(one.extra.get("digest")) for one in loaded]

    def below(self, base: int) -> list[Standing]:
        """What a prune to this base must carry, in the log's order."""
        everything = [*self.holds.values(), *self._keys.values(), *self._newest.values()]
        if self.retention is not None:
            everything.append(self.retention)
        everything += self._restricting()
        return sorted((one for one in everything if one.index < base), key=lambda one: one.index)

    def _restricting(self) -> list[Standing]:
        """Each record of a restriction with those of its tokens that were not released."""
        held: dict[int, list[Json]] = {}
        for token, one in self.restrictions.items():
            held.setdefault(one.index, []).append(token)
        records = {one.index: one for one in self.restrictions.values()}
        return [replace(records[at], extra={**records[at].extra, "tokens": held[at]}) for at in held]


def read_standings(store: LogStore) -> Standings:
    """Reads the whole log; raises `StoreError`. A second for some 200,000 records of 1.3 kB."""
    found = Standings()
    read_on(store, found, None)
    return found


def read_on(store: LogStore, found: Standings, start: int | None) -> int:
    """Reads what was committed from entry ``start`` on, where a commit begins; returns where to go on."""
    size = start or 0
    for frame in store.frames(start):
        for index, entry in enumerate(frame.entries, frame.first):
            if _MARK in entry and (one := _parse(index, entry)) is not None:
                found.take(one)
        size = frame.head.size
    return size


def carried(record: Standing) -> list[Standing]:
    """Returns the records that an ``audit.pruned`` carries; what is malformed is left out."""
    listed = record.extra.get("carried")
    return [one for value in (listed if isinstance(listed, list) else ()) if (one := _from_json(value)) is not None]


def explains(record: Standing, checkpoint: bytes) -> bool:
    """True if an ``audit.pruned`` says that the log begins at the base with this checkpoint."""
    return record.action == PRUNED and record.extra.get("checkpoint") == checkpoint.decode()


def explanation(store: Store) -> Standing | None:
    """Returns the record that explains the log's base; ``None`` if nothing was pruned or no record says so.

    The store says where to look; without it, or if it is wrong, the whole log is read.
    """
    base = store.base
    if not base.size:
        return None
    hint = store.pruned_by()
    if hint is not None and base.size <= hint < store.head().size:
        for frame in store.frames(hint, hint + 1):
            one = _parse(hint, frame.entries[hint - frame.first])
            if one is not None and explains(one, base.checkpoint):
                return one
    return newest_explanation(read_standings(store).pruned, base.checkpoint)


def newest_explanation(pruned: Iterable[Standing], checkpoint: bytes) -> Standing | None:
    """Returns the last of these records that explains this base."""
    return next((one for one in reversed(list(pruned)) if explains(one, checkpoint)), None)


def carried_keys(store: Store) -> dict[str, dict[str, int]]:
    """Returns, for `KeyWatch`, at which entries the keys came and went whose records were pruned.

    None of a damaged log: a verifier says where the damage is.
    """
    since, retired = dict[str, int](), dict[str, int]()
    record = None
    with contextlib.suppress(StoreError):
        record = explanation(store)
    for one in carried(record) if record is not None else ():
        if one.action == ROTATED:
            since.setdefault(str(one.extra.get("new_vkey")), one.index)
        elif one.action == RETIRED:
            retired.setdefault(str(one.extra.get("vkey")), one.index)
    return {"since": since, "retired": retired}


def _parse(index: int, entry: bytes) -> Standing | None:
    try:
        record = decode(entry)
    except RecordError:
        return None  # the verifier says so
    if record.get("kind") != "control" or record.get("action") not in _ACTIONS:
        return None
    service = record.get("service")
    name = service.get("name") if isinstance(service, dict) else None
    return _from_json({**record, "index": index, "at": record.get("timestamp"), "service": name})


def _texts(value: Json) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _from_json(value: Json) -> Standing | None:
    if not isinstance(value, dict):
        return None
    index, extra = value.get("index"), value.get("extra")
    texts = [value.get(name) for name in ("action", "at", "service")]
    if not isinstance(index, int) or not isinstance(extra, dict) or not all(isinstance(one, str) for one in texts):
        return None
    return Standing(index, str(texts[0]), str(texts[1]), str(texts[2]), extra)
