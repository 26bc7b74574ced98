"""One at a time among all hosts: an advisory lock, held by a connection of its own for as long as it lives.

*If we die here*: the server frees the lock as soon as it notices, at the latest when the keep-alives say so. A holder
whose connection breaks does not hold it any more; `Held.lost` says so, and whoever works under the lock ends its term.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256

from ...errors import LogBusy, LogUnavailable, StoreError
from .address import parse_url
from .reading import find_log
from .session import TIMEOUT, Lost, Session

PULSE = 1.0
"""Seconds between two looks whether the connection, and with it the lock, is still there."""

_NAP = 0.1


@contextlib.contextmanager
def advisory_lock(url: str, names: str | Sequence[str], timeout: float) -> Iterator[threading.Event]:
    """Holds the lock of this name of a log, or all of these; yields an event that is set when they are lost.

    Raises:
        LogBusy: Another session held one for all of ``timeout`` seconds.
        StoreError: The database cannot be reached, or there is no such log.
    """
    session = Session(parse_url(url), lock_timeout=None, timeout=TIMEOUT, force=True)
    place = session.address.place
    lost, done = threading.Event(), threading.Event()
    try:
        log = find_log(session)
        names = [names] if isinstance(names, str) else names
        numbers = [_number(session.address.schema, log.origin, name) for name in names]
        deadline = time.monotonic() + timeout
        while (busy := _try(session, numbers)) is not None:
            if time.monotonic() >= deadline:
                raise LogBusy(f"{place} ({log.origin}): another process holds the lock {names[busy]!r}")
            time.sleep(_NAP)
        generation = session.generation
        watch = threading.Thread(target=_watch, args=(session, generation, lost, done), name="audit-lock", daemon=True)
        watch.start()
        try:
            yield lost
        finally:
            done.set()
            watch.join()
    except Lost as problem:
        raise LogUnavailable(f"{place}: {problem}") from None
    finally:
        session.drop()  # which frees the lock


def _number(schema: str, origin: str, name: str) -> int:
    # The schema is part of the name: logs of two schemas may have one number.
    digest = sha256(f"{schema}\0{origin}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _try(session: Session, numbers: Sequence[int]) -> int | None:
    """Takes all of these locks, or none: then it returns which one is held by others."""
    with session.talking():
        for at, number in enumerate(numbers):
            row = session.connect().execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone()
            if row != (True,):
                session.connect().execute("SELECT pg_advisory_unlock_all()")
                return at
    return None


def _watch(session: Session, generation: int, lost: threading.Event, done: threading.Event) -> None:
    while not done.wait(PULSE):
        try:
            with session.talking():
                if not session.connected or session.generation != generation:
                    break
                session.connect().execute("SELECT 1")
        except (Lost, StoreError):
            break
    else:
        return
    lost.set()
