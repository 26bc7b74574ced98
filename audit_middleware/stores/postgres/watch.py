"""Waiting for a log in a database to grow: LISTEN, on a connection of its own.

Each commit notifies the channel of its log. While there is no such connection (it broke, a standby or a pooler refuses
LISTEN) the time alone wakes, as with a journal, and another connection is tried now and then.
"""

from __future__ import annotations

import logging
import select
import threading
import time

import psycopg
from psycopg import sql

from ...databases import Address
from ...errors import StoreError
from .reading import Log
from .session import TIMEOUT, Lost, Session

REST = 0.1
"""Seconds between two wakings: commits that follow one another closely are looked at together."""

_SLICE = 0.2  # seconds after which `stop` is looked at
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0

_log = logging.getLogger(__name__)


class Listening:
    """See `Watch`."""

    def __init__(self, address: Address, log: Log) -> None:
        """Connects nothing yet."""
        self._session = Session(address, lock_timeout=None, timeout=TIMEOUT, force=True)
        self._channel = f"{address.schema}.{log.log_id}"
        self._generation = 0  # of the connection that listens
        self._pause, self._again = _FIRST_PAUSE, 0.0
        self._woke = float("-inf")

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """See `Watch`."""
        until = time.monotonic() + seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if not self._listens():
                if time.monotonic() < self._again:
                    stop.wait(min(left, self._again - time.monotonic()))
                elif self._listen():
                    break  # what came before that was told to nobody: look once
            elif self._told(min(left, _SLICE)):
                stop.wait(min(until - time.monotonic(), self._woke + REST - time.monotonic()))
                self._told(0.0)  # what came meanwhile is seen by the same look
                break
        self._woke = time.monotonic()

    def close(self) -> None:
        """See `Watch`."""
        self._session.drop()

    def _listens(self) -> bool:
        return self._session.connected and self._session.generation == self._generation

    def _listen(self) -> bool:
        try:
            with self._session.talking():
                connection = self._session.connect()
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            self._generation = self._session.generation
        except (Lost, StoreError) as problem:
            self._failed(str(problem))
            return False
        if self._pause > _FIRST_PAUSE:
            _log.info("%s: new entries are told again", self._session.address.place)
        self._pause = _FIRST_PAUSE
        return True

    def _told(self, seconds: float) -> bool:
        """Whether there was a message within the time; all there are are taken."""
        told = False
        try:
            connection = self._session.connect().pgconn
            ready = select.poll()
            ready.register(connection.socket, select.POLLIN)
            if ready.poll(seconds * 1000):
                connection.consume_input()
            while connection.notifies() is not None:
                told = True
        except (psycopg.Error, StoreError, OSError) as problem:
            self._failed(self._session.address.hide(str(problem)))
        return told

    def _failed(self, problem: str) -> None:
        if self._pause == _FIRST_PAUSE:
            _log.warning(
                "%s: new entries are not told, the log is looked at in turn: %s", self._session.address.place, problem
            )
        self._session.drop()
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
