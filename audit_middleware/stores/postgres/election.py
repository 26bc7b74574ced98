"""One at a time among all hosts: an advisory lock, held by a connection of its own for as long as it lives.

*If we die here*: the server frees the lock as soon as it notices, at the latest when the keep-alives say so. A holder
whose connection breaks does not hold it any more; `Held.lost` says so, and whoever works under the lock ends its term.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from hashlib import sha256

from ...errors import LogBusy, LogUnavailable, StoreError
from .address import parse_url
from .reading import find_log
from .session import TIMEOUT, Lost, Session

PULSE = 1.0
"""Seconds between two looks whether the connection, and with it the lock, is still there."""

_NAP = 0.1


@contextlib.contextmanager
def advisory_lock(url: str, name: str, timeout: float) -> Iterator[threading.Event]:
    """Holds the lock of this name of a log; yields an event that is set when it is lost.

    Raises:
        LogBusy: Another session held it for all of ``timeout`` seconds.
        StoreError: The database cannot be reached, or there is no such log.
    """
    session = Session(parse_url(url), lock_timeout=None, timeout=TIMEOUT, force=True)
    place = session.address.place
    lost, done = threading.Event(), threading.Event()
    try:
        log = find_log(session)
        # The schema is part of the name: logs of two schemas may have one number.
        digest = sha256(f"{session.address.schema}\0{log.origin}\0{name}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        deadline = time.monotonic() + timeout
        while not _try(session, number):
            if time.monotonic() >= deadline:
                raise LogBusy(f"{place} ({log.origin}): another process holds the lock {name!r}")
            time.sleep(_NAP)
        generation = session.generation
        watch = threading.Thread(
            target=_watch, args=(session, generation, lost, done), name=f"audit-lock-{name}", daemon=True
        )
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


def _try(session: Session, number: int) -> bool:
    with session.talking():
        row = session.connect().execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone()
    return row == (True,)


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
