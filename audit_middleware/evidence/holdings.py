"""What a log holds about somebody: every entry is looked at, because the search index knows users and resources only.

An entry is *sealed* for a person where a text in it needs the person's key or is the person's token. It names a person
*in clear* where the user, the resource or another field says so in so many words: it was written before the policy
declared that field, or the policy leaves it clear. Amendments of such an entry belong to it.

Cost: one pass over the log; beside reading about 4 us for an entry of 1.3 kB that is about somebody else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ..context import clean
from ..errors import ConfigError, RecordError
from ..ledger.canonical import decode, encode_trusted
from ..model import Frame
from ..persons import Person, acted_on, pseudonym
from ..privacy.key_store import KeyStore
from ..protocols import LogStore
from ..stores.opening import Store
from .erasures import erasures_of, replay_erasures
from .retention import times

__all__ = ["Chosen", "Holdings", "Match", "choose", "days_before", "holdings", "matches", "person_of"]

_MARKS = re.compile(
    rb"\.v1\.([a-z2-7]{26})"
)  # a mark, but for its first word: a search that begins with letters is slow
_TOKEN = re.compile(r"(?:token\.v1\.)?([a-z2-7]{26})")
_NAME = 256  # bytes of an id in a record
_AMENDED = "audit.amended"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whose data it is about.

    Attributes:
        persons: As far as they are known: by name, or by a token whose key is there.
        tokens: Those that stand for them in records.
        since: By token, the day since when there is a key (``2026-11-23``); erased persons have none.
        restricted: The tokens that must not be erased.
        erased: By token, the entry that tells of the erasure.
    """

    persons: tuple[Person, ...]
    tokens: tuple[str, ...]
    since: Mapping[str, str]
    restricted: frozenset[str]
    erased: Mapping[str, int]

    @property
    def held(self) -> tuple[str, ...]:
        """The tokens whose keys are there."""
        return tuple(self.since)


@dataclass(frozen=True, slots=True)
class Match:
    """One entry about somebody, and in which ways."""

    index: int
    entry: bytes
    record: dict[str, Any]
    as_user: bool
    as_resource: bool
    sealed: bool
    in_clear: bool


@dataclass(slots=True)
class Holdings:
    """What a log holds about somebody, added up. ``others``: neither as user nor as resource; ``held``: how many
    entries lie under each legal hold, by its name. Times are those of records."""

    records: int = 0
    as_user: int = 0
    as_resource: int = 0
    others: int = 0
    sealed: int = 0
    in_clear: int = 0
    first: str | None = None
    last: str | None = None
    first_index: int | None = None
    last_index: int | None = None
    actions: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)

    def add(self, match: Match, holds: Mapping[str, tuple[int, int | None]]) -> None:
        """Takes one more."""
        self.records += 1
        self.as_user += match.as_user
        self.as_resource += match.as_resource
        self.others += not (match.as_user or match.as_resource)
        self.sealed += match.sealed
        self.in_clear += match.in_clear
        at = match.record.get("timestamp")
        if isinstance(at, str):
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)
        if self.first_index is None:
            self.first_index = match.index
        self.last_index = match.index
        self.actions[str(match.record.get("action") or "-")] += 1
        for name, (first, last) in holds.items():
            self.held[name] += first <= match.index and (last is None or match.index <= last)


def person_of(user: str | None = None, resource: str | None = None, day: str | None = None) -> Person:
    """The person that an argument names. Raises `ConfigError` for a resource or day that is none."""
    if user is not None:
        return Person("user", clean(user, _NAME))
    if resource is not None:
        kind, slash, name = resource.partition("/")
        if not slash or not name:
            raise ConfigError(f"{resource[:80]!r}: a resource is its type, a slash and its id: patient/7")
        return acted_on(kind, clean(name, _NAME))
    try:
        return Person("day", date.fromisoformat(day or "").isoformat())
    except ValueError:
        raise ConfigError(f"{str(day)[:80]!r}: a day is a date, such as 2026-11-23") from None


def days_before(store: Store, end: str) -> Iterator[Person]:
    """The days from the log's first to the one before ``end``, a date, or today. Raises `ConfigError`, `StoreError`."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    last = min(date.fromisoformat(person_of(day=end).id), tomorrow)
    said = [str(json.loads(store.described()).get("created"))[:10]]
    said += [earliest[:10] for _, earliest, _ in _first(times(store)) if earliest]
    for one in sorted(said):
        try:
            day = date.fromisoformat(one)
        except ValueError:
            continue
        while day < last:
            yield Person("day", day.isoformat())
            day += timedelta(days=1)
        return


def choose(store: Store, keys: KeyStore, persons: Iterable[Person], tokens: Iterable[str] = ()) -> Chosen:
    """Looks persons up, then carries out what the log tells of erasures and the store of keys does not know yet.

    In that order: else nobody could say whose erasure it was that was cut short.

    Raises:
        ConfigError: A token is none.
        StoreError, SubjectKeysError: The log or the keys cannot be read.
    """
    found, names = dict[str, str](), dict[Person, None]()
    restricted = set[str]()
    for person in persons:
        if person.kind != "day":
            names[person] = None
        if (key := keys.find(person)) is not None:
            found[key.token] = keys.since(key.token) or ""
            names[person] = None
            restricted |= {key.token} if key.restricted else set()
    for text in tokens:
        token = _token(text)
        known = keys.named(token)
        found[token] = "" if known is None else keys.since(token) or ""
        if known is not None:
            names[known[0]] = None
            restricted |= {token} if known[1].restricted else set()
    erased = erasures_of(store, found)
    replay_erasures(store, keys)
    since = {token: day for token, day in found.items() if day and token not in erased}
    return Chosen(tuple(names), tuple(found), since, frozenset(restricted - set(erased)), erased)


def matches(store: LogStore, chosen: Chosen, stop: int | None = None) -> Iterator[Match]:
    """Every entry about them below ``stop``, in the log's order; streams. Raises `StoreError`."""
    look = _Look(chosen)
    for frame in store.frames(None, stop) if stop is None or stop > store.base.size else ():
        yield from _in_frame(frame, look, stop)


def holdings(
    store: LogStore,
    chosen: Chosen,
    stop: int | None = None,
    holds: Mapping[str, tuple[int, int | None]] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Holdings:
    """Adds up what there is. ``holds``: by name, the first and last entry of each legal hold. Raises `StoreError`."""
    found, look = Holdings(), _Look(chosen)
    for frame in store.frames(None, stop) if stop is None or stop > store.base.size else ():
        for match in _in_frame(frame, look, stop):
            found.add(match, holds or {})
        if progress is not None:
            progress(frame.head.size)
    return found


# --- one entry -------------------------------------------------------------------------------------------------------


class _Look:
    """Looks at one entry after another. Keeps the action ids of those that are in clear: amendments name them."""

    def __init__(self, chosen: Chosen) -> None:
        self._tokens = frozenset(token.encode() for token in chosen.tokens)
        self._marks = frozenset(f"token.v1.{token}" for token in chosen.tokens)
        self._users = frozenset(one.id for one in chosen.persons if one.kind == "user")
        self._things = frozenset(one.id for one in chosen.persons if one.kind == "resource")
        names = [*self._users, *(one.partition("/")[2] for one in self._things)]
        # The id as JSON has it: nearly every entry about somebody else is told by one search.
        spelt = [re.escape(encode_trusted(name)) for name in names]
        self._names = re.compile(b"|".join(spelt)) if spelt else None
        self._clear: set[str] = set()

    def at(self, index: int, entry: bytes) -> Match | None:
        """The match, if it is one."""
        sealed = any(token in self._tokens for token in _MARKS.findall(entry)) if self._tokens else False
        named = self._names is not None and self._names.search(entry) is not None
        amends = bool(self._clear) and entry.startswith(b'{"action":"audit.amended"')
        if not (sealed or named or amends):
            return None
        try:
            record = decode(entry)
        except RecordError:
            return None  # no record of ours
        as_user, user_clear = self._user(record)
        as_resource, clear = self._resource(record)
        clear = clear or user_clear or self._other(record)
        if not (sealed or clear):
            return None
        if clear and isinstance(record.get("action_id"), str):
            self._clear.add(record["action_id"])
        return Match(index, entry, record, as_user, as_resource, sealed, clear)

    def _user(self, record: dict[str, Any]) -> tuple[bool, bool]:
        """Whether it is the user, and whether the entry says so in clear."""
        user = record.get("user_id")
        if not isinstance(user, str):
            return False, False
        clear = user in self._users and record.get("kind") != "control"
        return clear or pseudonym(user) in self._marks, clear

    def _resource(self, record: dict[str, Any]) -> tuple[bool, bool]:
        resource = record.get("resource")
        if not isinstance(resource, dict):
            return False, False
        name = resource.get("id")
        clear = isinstance(name, str) and f"{resource.get('type') or ''}/{name}" in self._things
        return clear or (isinstance(name, str) and pseudonym(name) in self._marks), clear

    def _other(self, record: dict[str, Any]) -> bool:
        """Another field, such as an address; what the log says of a caller; an amendment of what is in clear."""
        for thing in self._things:
            path, _, value = thing.partition("/")
            if _member(record, path) == value:
                return True
        extra = record.get("extra")
        if record.get("kind") != "control" or not isinstance(extra, dict):
            return False
        if record.get("action") == _AMENDED:
            return extra.get("amends") in self._clear
        return any(isinstance(extra.get(name), str) and extra[name] in self._users for name in ("who", "user_id"))


def _in_frame(frame: Frame, look: _Look, stop: int | None) -> Iterator[Match]:
    for index, entry in enumerate(frame.entries, frame.first):
        if (stop is None or index < stop) and (found := look.at(index, entry)) is not None:
            yield found


def _member(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _token(text: str) -> str:
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text[:80]!r}: a token has 26 letters and digits: token.v1.abcdefghijklmnopqrstuvwxyz")
    return found[1]


def _first(found: Iterator[tuple[int, str, str]]) -> Sequence[tuple[int, str, str]]:
    one = next(found, None)
    return () if one is None else (one,)
