"""Changes of a log by a command: one of a kind at a time, each recorded in the log and signed like everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from ..errors import RecordError
from ..ledger.canonical import decode
from ..ledger.note import Verifier
from ..model import Json
from ..protocols import Clock
from ..signing import Ed25519Signer
from ..stores.opening import Place, Store, exclusive, origin_of
from ..stores.tail import Repair
from .control import ControlWriter, repaired, statement

_PATIENCE = 10.0


@contextlib.contextmanager
def changing(log: Place, what: str) -> Iterator[None]:
    """Excludes other changes of one kind: two would each decide on what they read before. Services go on.

    Raises:
        LogNotFound: There is no log.
        LogBusy: Another process makes such a change.
    """
    origin_of(log)  # raises unless there is a log
    with exclusive(log, what, _PATIENCE):
        yield


def append_control(
    store: Store,
    signers: Sequence[Ed25519Signer],
    action: str,
    extra: Mapping[str, Json],
    clock: Clock,
    repairs: Sequence[Repair] = (),
    trusted: Sequence[Verifier] = (),
) -> int:
    """Appends a control record signed by these keys, after those of ``repairs`` that were met on the way; returns the
    log's size after it: its index is one less. ``trusted``: see `make_sealer`.

    Raises:
        RecordError: ``extra`` does not fit or would be redacted; nothing was written.
    """
    told = statement(action, "high", extra, clock=clock)
    writer = ControlWriter(signers, clock, trusted)
    # What a command decides later, it decides on these values: a record that lost some of them must not be written.
    if decode(writer.encode(told))["extra"] != extra:
        raise RecordError(
            f"{action}: its content is too long for a record, or looks like a secret; nothing was written"
        )
    return writer.write(store, [*(repaired(one, clock) for one in repairs), told]).size
