"""What a verification remembers, so that the next one reads only what was appended since.

A JSON file that belongs to the auditor. Nothing in it is secret, and nothing protects it but the place where it is
kept: whoever can change it can make the next verification look away. It holds the log's signed checkpoint, so a state
of another log, or one that does not belong to what the log signed, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from ..errors import FormatError, NoteError
from ..model import Head
from . import tree
from .checkpoint import Checkpoint, open_checkpoint
from .note import Verifier

FORMAT = 1


class Process(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the records of one process had come.

    ``next``: the sequence number due; ``interval``: the seconds it promised between signs of life, 0 if it did not.
    """

    next: int
    recorded_at: str = ""
    index: int = 0
    interval: int = 0
    stopped: bool = False


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Everything that was true after entry ``size - 1``.

    Attributes:
        origin: The log.
        size: How many entries were read, by this verification and those before it.
        root: Root of the tree of that size.
        peaks: Its peaks, largest first.
        checkpoint: The log's signed note over it.
        newest: The newest ``recorded_at``.
        processes: By ``service.instance``.
        keys: By ``since`` and ``retired``: which entry announced or retired which verifier key.
        retention: Log index of the first record that set a retention rule.
        pruned: The largest minimum index that a record of a pruning names, and that record's index.
        witnessed: Size of the newest checkpoint found cosigned by a quorum.
        whole: Everything from entry 0 on was read by some verification; False if it began after a pruning.
    """

    origin: str
    size: int
    root: bytes
    peaks: tuple[bytes, ...]
    checkpoint: str
    newest: str = ""
    processes: dict[str, Process] = {}
    keys: dict[str, dict[str, int]] = {}
    retention: int | None = None
    pruned: tuple[int, int] | None = None
    witnessed: int = 0
    whole: bool = True
    kind: Literal["verification state"] = "verification state"
    format: int = FORMAT

    @property
    def head(self) -> Head:
        """What is needed to go on from here."""
        return Head(self.size, self.peaks, self.checkpoint.encode())

    def open(self, origin: str, verifiers: Iterable[Verifier]) -> Checkpoint:
        """Returns the checkpoint, after checking that the state belongs to what this log signed.

        Raises:
            FormatError: It does not.
        """
        if self.origin != origin:
            raise FormatError(f"state: is of the log {self.origin!r}, not of {origin!r}")
        try:
            checkpoint = open_checkpoint(self.checkpoint.encode(), origin, verifiers)[0]
        except NoteError as error:
            raise FormatError(f"state: its checkpoint is not signed by a trusted key of {origin!r}: {error}") from error
        if (checkpoint.size, checkpoint.root) != (self.size, self.root):
            raise FormatError("state: size and root are not those of its checkpoint")
        if not leads_to(self.head, checkpoint):
            raise FormatError("state: its peaks do not lead to the root of its checkpoint")
        return checkpoint


def leads_to(head: Head, checkpoint: Checkpoint) -> bool:
    """True when the peaks of a head lead to a checkpoint's root at its size."""
    fits = len(head.peaks) == head.size.bit_count() and all(len(peak) == tree.HASH_SIZE for peak in head.peaks)
    return head.size == checkpoint.size and fits and tree.root(head.peaks) == checkpoint.root


def is_state(data: bytes) -> bool:
    """True when a file is meant to be a state and not a checkpoint note, which is never one JSON object."""
    return data.lstrip().startswith(b"{") and data.rstrip().endswith(b"}")


def format_state(state: State) -> bytes:
    """Returns the file: JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(state)) + b"\n"


def parse_state(data: bytes) -> State:
    """Returns the state in a file. Raises `FormatError` if it is none of a format known here."""
    try:
        state = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"state: not a file that verify --remember wrote: {error}") from error
    if state.format != FORMAT:
        raise FormatError(f"state: has format {state.format}, and this version knows {FORMAT}; verify from the start")
    if state.size < 1 or any(one.next < 0 for one in state.processes.values()):
        raise FormatError("state: sizes and numbers must not be negative, and the log not empty")
    return state


_decode = msgspec.json.Decoder(State).decode
