"""Changes of a log by a command: one of a kind at a time, each recorded in the log and signed like everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import RecordError
from ..ledger.canonical import decode
from ..model import Json
from ..protocols import Clock
from ..signing import Ed25519Signer
from ..stores.journal import JournalStore
from ..stores.layout import Layout, read_config
from ..stores.lock import ProcessLock
from ..stores.tail import Repair
from .control import ControlWriter, repaired, statement

_PATIENCE = 10.0


@contextlib.contextmanager
def changing(log: Path, what: str) -> Iterator[None]:
    """Excludes other changes of one kind: two would each decide on what they read before. Services go on.

    Raises:
        LogNotFound: There is no log.
        LogBusy: Another process makes such a change.
    """
    layout = Layout(log)
    read_config(layout)  # raises unless there is a log
    lock = ProcessLock(layout.state / f"{what}.lock")
    try:
        with lock.held(_PATIENCE):
            yield
    finally:
        lock.forget()


def append_control(
    store: JournalStore,
    signers: Sequence[Ed25519Signer],
    action: str,
    extra: Mapping[str, Json],
    clock: Clock,
    repairs: Sequence[Repair] = (),
) -> int:
    """Appends a control record signed by these keys, after those of ``repairs`` that were met on the way; returns the
    log's size after it: its index is one less.

    Raises:
        RecordError: ``extra`` does not fit or would be redacted; nothing was written.
    """
    told = statement(action, "high", extra, clock=clock)
    writer = ControlWriter(signers, clock)
    # What a command decides later, it decides on these values: a record that lost some of them must not be written.
    if decode(writer.encode(told))["extra"] != extra:
        raise RecordError(
            f"{action}: its content is too long for a record, or looks like a secret; nothing was written"
        )
    return writer.write(store, [*(repaired(one, clock) for one in repairs), told]).size
