"""Dead letters, sent again through their destination: after what was wrong there was put right.

What is sent is the log's entry: a letter that says something else is refused, because its file is nobody's evidence. In
batches, and of each the steps, with what a crash after each leaves:

1. It is sent. *If we die here*: it is sent again, with the same ids, as everything may be.
2. What became of it is told to the log. *If we die here*: it is told again.
3. What was delivered leaves the file, and what was rejected again stays with its new reason, durably.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..errors import FollowerError
from ..protocols import Clock, LogStore
from ..stores.shelf import Shelf
from .config import FollowerSpec
from .cursor import Cursor
from .deadletters import DeadLetters, Letter
from .runner import BATCH_BYTES
from .showing import OpenPersons, Showing
from .sink import Item, Sent, Sink, Tell, Way


@dataclass(slots=True)
class Replayed:
    """What became of the letters, by their indexes; ``problem`` says why the rest was left as it was."""

    delivered: list[int] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    left: int = 0
    problem: str | None = None


Report = Callable[[Replayed], None]
"""Tells the log what became of one batch."""


def replay(
    spec: FollowerSpec,
    store: LogStore,
    state: Path,
    tell: Tell,
    report: Report,
    indexes: Collection[int] = (),
    *,
    kept: Shelf | None = None,
    clock: Clock = time.time_ns,
    persons: OpenPersons | None = None,
) -> Replayed:
    """Sends a follower's dead letters again: those of these indexes, or all. The caller holds the followers' lock.
    ``persons``: see `Follower`.

    Raises:
        FollowerError: There is no such letter, the file or a letter is not what was written, or the log is another one;
            nothing was sent.
        OSError: The file cannot be written; what it still holds is sent again next time.
    """
    dead = DeadLetters(state / f"{spec.name}.dead.jsonl")
    letters = dead.read()
    wanted = _wanted(letters, indexes, dead.path)
    way = Way(store.origin, spec.name, state, tell, clock, replay=True, kept=kept)
    Cursor(way.shelf, spec.name, store.origin).read()  # refuses the state of another log
    for letter in wanted:
        _compare(store, letter, dead.path)
    told = Replayed(left=len(wanted))
    if not wanted:
        return told
    showing = spec.showing(store, tell, persons)
    sink = spec.destination.open(way)
    try:
        while wanted and told.problem is None:
            showing.begin()
            batch = _batch(wanted, spec.batch, showing)
            sent = _send(sink, batch)
            done, told.problem = batch[: sent.settled], sent.retry
            if done:
                part = Replayed([one.index for one in done if one.index not in sent.rejected])
                part.rejected = {one.index: sent.rejected[one.index] for one in done if one.index in sent.rejected}
                report(part)
                letters = _after(letters, part, clock())
                dead.keep(letters)
                told.delivered += part.delivered
                told.rejected |= part.rejected
            wanted = wanted[len(done) :]
            told.left = len(wanted)
    finally:
        showing.close()
        sink.close()
    return told


def _wanted(letters: Sequence[Letter], indexes: Collection[int], path: Path) -> list[Letter]:
    """Each once, in the log's order: a crash may have left a letter twice."""
    known = {letter.index: letter for letter in letters}
    unknown = sorted(set(indexes) - set(known))
    if unknown:
        raise FollowerError(f"{path}: holds no dead letter of entry {', '.join(map(str, unknown))}")
    return [known[index] for index in sorted(set(indexes) or known)]


def _compare(store: LogStore, letter: Letter, path: Path) -> None:
    """Raises unless a letter holds the log's entry; of one that was pruned nothing is left to compare with."""
    if letter.index >= store.head().size:
        raise FollowerError(
            f"{path}: the log has no entry {letter.index}: the letters are of another log, or it was cut"
        )
    for frame in store.frames(letter.index, letter.index + 1) if letter.index >= store.base.size else ():
        if frame.entries[letter.index - frame.first] != bytes(letter.record):
            raise FollowerError(f"{path}: what it holds of entry {letter.index} is not the log's: it was changed")


def _batch(letters: Sequence[Letter], most: int, showing: Showing) -> list[Item]:
    items, weight = list[Item](), 0
    for letter in letters[:most]:
        weight += len(letter.record)
        if items and weight > BATCH_BYTES:
            break
        items.append(showing.item(letter.index, bytes(letter.record)))
    return items


def _send(sink: Sink, batch: Sequence[Item]) -> Sent:
    try:
        sent = sink.send(batch)
    except FollowerError as problem:
        return Sent(0, retry=str(problem))
    except OSError as problem:
        return Sent(0, retry=f"{problem.strerror}: {problem.filename}")
    if not sent.settled and sent.retry is None:
        return Sent(0, retry="the destination settled nothing and gave no reason")
    return sent


def _after(letters: Sequence[Letter], part: Replayed, now_ns: int) -> list[Letter]:
    at = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    gone, kept = set(part.delivered), dict[int, Letter]()
    for letter in letters:
        if letter.index in part.rejected:
            letter = msgspec.structs.replace(letter, at=at, why=part.rejected[letter.index])
        if letter.index not in gone:
            kept[letter.index] = letter
    return list(kept.values())
