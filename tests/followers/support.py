"""A log, followers of it in this process, and sinks that do as they are told."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from audit_middleware.followers.config import FollowersConfig, FollowerSpec, load_followers
from audit_middleware.followers.runner import Follower
from audit_middleware.followers.sink import Item, Sent, Sink, Way
from audit_middleware.formats import FORMATS
from audit_middleware.stores.journal import JournalStore
from tests.followers.receivers import Receiver
from tests.stores.samples import SEAL, entry, new_journal

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw"


@dataclass
class Scripted:
    """A destination that answers as a function says, and remembers what was settled."""

    answer: Callable[[Sequence[Item]], Sent] = field(default=lambda items: Sent(len(items)))
    calls: list[list[int]] = field(default_factory=list)

    def open(self, way: Way) -> Sink:
        return self

    def send(self, items: Sequence[Item]) -> Sent:
        self.calls.append([item.index for item in items])
        return self.answer(items)

    def idle(self) -> None:
        pass

    def close(self) -> None:
        pass


def way(folder: Path, origin: str = "example.com/log") -> Way:
    """To a destination that is opened without a follower; it may not write records."""

    def tell(action: str, extra: Mapping[str, Any]) -> None:
        raise AssertionError(f"told {action}")

    return Way(origin, "one", folder, tell)


def spec(destination: Any, name: str = "one", **more: Any) -> FollowerSpec:
    return FollowerSpec(name, "scripted", destination, **{"first_pause": 0.01, "longest_pause": 0.05} | more)


def journal(folder: Path, size: int = 10, *, batch: int = 5) -> JournalStore:
    """A log with records, some commits long."""
    store = new_journal(folder / "log")
    append(store, size, batch=batch)
    return store


def append(store: JournalStore, count: int, *, batch: int = 500, **changes: Any) -> None:
    start = store.head().size
    for first in range(start, start + count, batch):
        store.append([entry(n, **changes) for n in range(first, min(first + batch, start + count))], SEAL)


def follower(store: JournalStore, folder: Path, destination: Any, **more: Any) -> tuple[Follower, list[Any]]:
    """A follower, and the control records that it asks for."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    told: list[Any] = []

    def tell(action: str, extra: Mapping[str, Any]) -> None:
        told.append((action, dict(extra)))

    reader = JournalStore.open(store.path, writable=False)
    made = Follower(spec(destination, **more), reader, state, tell, dice=random.Random(1), interval=0.01, grace=30.0)
    return made, told


def once(made: Follower) -> None:
    """One round: as a follower that was told to stop before it began."""
    stop = threading.Event()
    stop.set()
    made.run(stop)


@contextmanager
def running(made: Follower) -> Iterator[Follower]:
    """The follower at work beside a block."""
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()


def cursor(folder: Path, name: str = "one") -> int:
    try:
        return int(json.loads((folder / "state" / f"{name}.json").read_text())["next"])
    except FileNotFoundError:
        return 0


def dead(folder: Path, name: str = "one") -> list[dict[str, Any]]:
    path = folder / "state" / f"{name}.dead.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def configured(folder: Path, text: str) -> FollowersConfig:
    path = folder / "followers.yaml"
    path.write_text(text)
    return load_followers(path)


def items(*numbers: int, **changes: Any) -> list[Item]:
    return [Item(number, entry(number, **changes)) for number in numbers]


def arrived(server: Receiver, form: str) -> list[int]:
    """The indexes of what a receiver took, in order; a repetition has the record's own id."""
    locate = FORMATS[form].locate
    assert locate is not None
    return [locate(one["text"].encode()).index for one in server.taken()]


def ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def dies_at(number: int) -> None:
    """kill -9 at the n-th call that changes the disk: half of them before, half after it."""
    numbers = count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            here = next(numbers)
            if here == number and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **options)
            finally:
                if here == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        return run

    for name in ("fsync", "fdatasync", "replace", "rename", "unlink", "write", "ftruncate", "open"):
        setattr(os, name, counted(getattr(os, name)))
