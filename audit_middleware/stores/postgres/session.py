"""One connection to the database: opened when needed, bounded in time, never shared with a forked child.

* Settings are made for the connection: ``synchronous_commit``, time limits of statements, locks and idle transactions
  on the server, so that a client that is gone does not keep the head locked.
* Whatever happens to the network, no call waits longer than its deadline: a connection that answers nothing is dropped.
* `Lost` is raised when a connection broke: then it is not known what the server made of what it was sent last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import psycopg
from psycopg import sql

from ...databases import CONNECT_TIMEOUT, LATE, LIBPQ, Address, Bounded
from ...errors import LogBusy, LogDamaged, LogNotFound, LogUnavailable, StoreError
from .wire import DUMPERS

OLDEST_SERVER = 14
TIMEOUT = 10.0
"""Seconds for one statement and its answer."""

IDLE_TIMEOUT = 3.0
"""Seconds after which the server ends a transaction in which nothing happens: a client that is gone holds no lock."""

_GRACE = 2.0  # for the server's own time limit to be told before we drop the connection

_BUSY = {"55P03", "40P01", "40001"}  # lock_not_available, deadlock_detected, serialization_failure
_NO_LOG = {"3F000", "42P01", "42883"}  # no schema, no table, no function

_log = logging.getLogger(__name__)
_orphans: list[object] = []  # connections of a parent process: closing them here would end them there


class Lost(Exception):
    """The connection broke or did not answer in time; what was sent may or may not have been done."""


class Session:
    """The connection of one user: a writer or a reader. Not safe for threads; its user has a lock."""

    def __init__(self, address: Address, *, lock_timeout: float | None, timeout: float, force: bool) -> None:
        """Connects nothing yet; ``lock_timeout`` in seconds, ``None``: almost as long as a statement may take."""
        self.address = address
        longest = timeout * 0.8  # the statement's own limit must not come first
        self.timeout = timeout
        self._lock_timeout = longest if lock_timeout is None else min(lock_timeout, longest)
        self._force = force
        self._connection: Bounded | None = None
        self._process = os.getpid()
        self.generation = 0  # counts connections
        self.warned = False  # the server said on its own account that something is not as it should be

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as known."""
        self._leave_to_parent()
        return self._connection is not None and not self._connection.closed

    def name(self, name: str) -> sql.Identifier:
        """A table or function of the log's schema."""
        return sql.Identifier(self.address.schema, name)

    def connect(self) -> Bounded:
        """The connection; a new one where there is none. Raises `LogUnavailable` or another `StoreError`."""
        self._leave_to_parent()
        if self._connection is not None and not self._connection.closed:
            return self._connection
        options = {**LIBPQ, **self.address.options}
        try:
            made = Bounded.connect("", autocommit=True, **options)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise self._unreachable(error) from None
        made.add_notice_handler(self._note)
        made.deadline = time.monotonic() + CONNECT_TIMEOUT
        self._connection = made
        self.generation += 1
        for of, dumper in DUMPERS:
            made.adapters.register_dumper(of, dumper)
        try:
            self._prepare(made)
        except BaseException:
            self.drop()
            raise
        made.deadline = time.monotonic() + self.timeout + _GRACE
        return made

    def _unreachable(self, error: psycopg.Error) -> StoreError:
        text = self.address.hide(str(error)) or type(error).__name__
        if error.sqlstate in ("28000", "28P01", "3D000"):  # who, password, database
            return LogUnavailable(f"{self.address.place}: {text}")
        return LogUnavailable(f"{self.address.place}: {text}")

    def _prepare(self, connection: Bounded) -> None:
        """Makes and checks the settings that durability and locks depend on."""
        settings = {
            "synchronous_commit": "on",
            "statement_timeout": f"{self.timeout * 1000:.0f}",
            "lock_timeout": f"{self._lock_timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT * 1000:.0f}",
            "default_transaction_isolation": "read committed",
            # The server's end of the connection, for a host that is gone without a word.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "search_path": "pg_catalog",
            "bytea_output": "hex",
        }
        if connection.info.server_version >= 170_000:
            # Between two messages of one round trip no other limit counts.
            settings["transaction_timeout"] = f"{(self.timeout + IDLE_TIMEOUT) * 1000:.0f}"
        setting = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        values = [text for pair in settings.items() for text in pair]
        connection.execute(f"SELECT {setting}".encode(), values)
        shown = connection.execute(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('synchronous_commit'), "
            "current_setting('fsync'), current_setting('full_page_writes')"
        ).fetchone()
        version, synchronous, *safe = shown or (0, "", "", "")
        if version < OLDEST_SERVER:
            raise LogUnavailable(f"{self.address.place}: PostgreSQL {version} is too old; {OLDEST_SERVER} is needed")
        if synchronous != "on":
            raise LogUnavailable(f"{self.address.place}: synchronous_commit cannot be set to on for this connection")
        if safe != ["on", "on"] and not self._force:
            raise LogUnavailable(
                f"{self.address.place}: the server runs with fsync={safe[0]}, full_page_writes={safe[1]}: a power cut "
                "can take back what was acknowledged. Set both to on"
            )

    # --- talking -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def talking(self) -> Iterator[None]:
        """Around statements: bounds their time and raises what went wrong as one of our errors, or as `Lost`.

        After any error the connection is in no transaction, or dropped.
        """
        if self._connection is not None:
            self._connection.deadline = time.monotonic() + self.timeout + _GRACE
        try:
            yield
        except psycopg.Error as error:
            self._raise(error)
        except BaseException:  # of the sealer, or Ctrl-C
            self.roll_back()
            raise

    def _raise(self, error: psycopg.Error) -> NoReturn:
        state, text = error.sqlstate, self.address.hide(error.diag.message_primary or str(error))
        place = self.address.place
        if self._connection is not None and self._connection.late:
            state, text = None, LATE  # what leaving a pipeline raises then says less
        severe = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
        if state is None or severe or state.startswith(("08", "57P")) or not self.connected:
            self.drop()
            raise Lost(text) from None
        self.roll_back()
        if state in _BUSY:
            raise LogBusy(f"{place}: a lock was held by others all the time: {text}") from None
        if state in _NO_LOG:
            raise no_log(self.address) from None
        if state == "42501":
            raise LogUnavailable(
                f"{place}: this role may not do that ({text}); see docs/postgres.md for what writers and readers need"
            ) from None
        if state in ("XX001", "XX002"):
            raise LogDamaged(f"{place}: the database is damaged: {text}") from None
        raise LogUnavailable(f"{place}: {text} (SQLSTATE {state})") from None

    def roll_back(self) -> None:
        """Ends a transaction, if there is one; drops the connection where that fails."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.deadline = time.monotonic() + _GRACE
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def query(self, statement: str, *names: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement with ``{}`` for each of our names; a connection that is stale is replaced once.

        Only for statements that change nothing. Raises `StoreError`.
        """
        composed = sql.SQL(statement).format(*map(self.name, names))
        for last in (False, True):
            fresh = not self.connected
            try:
                with self.talking():
                    connection = self.connect()
                    return connection.execute(composed, values, binary=True).fetchall()
            except Lost as lost:
                if last or fresh:
                    raise LogUnavailable(f"{self.address.place}: {lost}") from None
        raise AssertionError

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warned = True
            _log.warning("the log's database: %s", notice.message_primary)

    # --- the end -------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Closes the connection without waiting for anything."""
        self._leave_to_parent()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: lets go of the parent's connection without touching it."""
        if self._process != os.getpid():
            if self._connection is not None:
                _orphans.append(self._connection)
            self._connection, self._process = None, os.getpid()


def no_log(address: Address) -> LogNotFound:
    """The error for a schema without tables, or without this log."""
    name = f" called {address.origin}" if address.origin else ""
    return LogNotFound(
        f"{address.place}: there is no log{name} in schema {address.schema}, or none for this role. A log is created "
        f"once, by hand: audit-middleware init {address.place} --origin ORIGIN"
    )
