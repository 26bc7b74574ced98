"""Control records that no running service writes: those of commands, and of repairs that a command met.

A command is a process like any other: it has an instance and a sequence of its own, and appends under the log's lock
beside running services.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence

from ..errors import LogUnavailable
from ..ledger.note import Verifier
from ..model import Head, Json, Severity
from ..pipeline.arrive import fresh_action_id
from ..pipeline.record import Recorder, Service
from ..pipeline.seal import make_sealer
from ..pipeline.statement import Statement
from ..privacy.redact import Redactor
from ..protocols import Clock, LogStore, Signer
from ..stores.opening import Database, Place
from ..stores.tail import Repair
from ..version import __version__
from .heads import open_compared


def statement(
    action: str,
    severity: Severity = "info",
    extra: Mapping[str, Json] | None = None,
    *,
    clock: Clock = time.time_ns,
    fields: Mapping[str, Json] | None = None,
) -> Statement:
    """A control record of this moment; its event is the action in capitals."""
    now = clock()
    return Statement(fresh_action_id(now), now, action, action.upper().replace(".", "_"), severity, extra, fields)


def repaired(repair: Repair, clock: Clock = time.time_ns) -> Statement:
    """The record of a torn write that was cut off the end of the log."""
    extra: dict[str, Json] = {
        "segment": repair.segment.name,
        "offset": repair.offset,
        "size": repair.size,
        "kept": f"{repair.kept.parent.name}/{repair.kept.name}",
    }
    return statement("audit.log_repaired", "medium", extra, clock=clock)


class ControlWriter:
    """Appends control records of one command to one log; each call is a durable commit."""

    def __init__(
        self, signers: Sequence[Signer], clock: Clock = time.time_ns, trusted: Sequence[Verifier] = ()
    ) -> None:
        """``signers`` are the log's active keys; ``trusted``: see `make_sealer`."""
        self._signers = signers
        self._trusted = trusted
        self._clock = clock
        instance = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._recorder = Recorder(Service("audit-middleware", __version__, instance, None), Redactor())
        self._sequence = 0

    def encode(self, told: Statement) -> bytes:
        """The entry that a record would become."""
        return self._recorder.encode(told, self._sequence, self._clock())

    def write(self, store: LogStore, statements: Sequence[Statement]) -> Head:
        """Appends records in one commit; returns the head after it. Raises `StoreError`."""
        now = self._clock()
        entries = [self._recorder.encode(one, self._sequence + at, now) for at, one in enumerate(statements)]
        head = store.append(entries, make_sealer(store.origin, self._signers, self._trusted))
        self._sequence += len(entries)
        return head


@contextlib.contextmanager
def as_owner(log: Place) -> Iterator[None]:
    """Lets root write to a log as the log's owner, so that a file made on the way is not root's.

    A segment or lock file of root would keep the service from its own log. Nothing changes for others.

    Raises:
        LogUnavailable: The log cannot be looked at.
    """
    if isinstance(log, Database):  # who writes there is the database's to say
        yield
        return
    try:
        found = log.stat()
    except OSError as error:
        raise LogUnavailable(f"{log}: {error.strerror}") from error
    if os.geteuid() != 0 or found.st_uid == 0:
        yield
        return
    group = os.getegid()
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def write_control(
    log: Place, writer: ControlWriter, statements: Sequence[Statement], *, clock: Clock = time.time_ns
) -> Head:
    """Opens a log, appends records and closes it; a repair on the way is recorded before them.

    Raises:
        StoreError: The log cannot be opened or written.
    """
    repairs: list[Repair] = []
    with as_owner(log):
        store = open_compared(log, repairs.append)
        with contextlib.closing(store):
            return writer.write(store, [*(repaired(one, clock) for one in repairs), *statements])
