"""A witness: it cosigns a log's checkpoint if that extends everything it cosigned of that log before.

C2SP tlog-witness v1.0.0. What `Witness.add_checkpoint` decides, in this order:

======  ===============================================================================================
status  when
======  ===============================================================================================
400     the request, the note or the checkpoint is malformed; or ``old`` is larger than the checkpoint
404     the witness trusts no key of this origin
403     no trusted key of the origin signed, or the line of a trusted key does not hold
409     ``old`` is not the size that the witness holds; the body says which one it is
422     the same size with another root, or the consistency proof does not hold
503     the memory cannot be used, or the clock is behind it: nothing was cosigned
200     the cosignature lines
======  ===============================================================================================

A checkpoint of size 0 has the root of the empty tree, or it is malformed. From size 0 every tree is consistent; there
and where the size stays the same, the proof is empty, and one that is not does not hold.

The one rule: comparing with the memory, cosigning and replacing the memory happen under one lock, and the new memory is
on disk before the cosignature leaves. *If we die before the replacement*: nothing happened. *If we die after it*: the
witness holds a checkpoint whose cosignature nobody got; the log asks again, is told that size, and gets a cosignature.

Only lines that were verified are remembered and shown: a line that merely carries a known name is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, FormatError, LogDamaged, NoteError, ProofError, StoreError
from ..ledger import tree
from ..ledger.checkpoint import Checkpoint, parse_checkpoint
from ..ledger.note import COSIGNATURE_MLDSA44, Note, Signer, Verifier, cosignature_line, open_note, read_note
from ..ledger.submission import SIZE_TYPE, Submission, origin_hash, parse_submission
from ..ledger.trust import Policy
from ..protocols import Clock
from .witness_state import WitnessState

TEXT = "text/plain; charset=utf-8"

CLOCK_SLACK = 60
"""Seconds the clock may be behind the newest cosignature; within them that cosignature's time is used again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: status, body, content type."""

    status: int
    body: bytes
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A key that cosigns: its type and what signs with it."""

    kind: int
    signer: Signer

    @property
    def verifier(self) -> Verifier:
        """Its public half."""
        return Verifier(self.signer.name, self.kind, self.signer.public_key)


@dataclass(frozen=True, slots=True)
class _Held:
    """What the memory says of a log: size, root, the newest time it was cosigned at."""

    size: int = 0
    root: bytes = tree.EMPTY_ROOT
    time: int = 0


def check_cosigners(cosigners: Sequence[Cosigner], trust: Policy) -> None:
    """Raises `ConfigError` unless there is a key, none is a log's too, and they can sign for the logs' origins."""
    if not cosigners:
        raise ConfigError("a witness needs a key")
    listed = {log.verifier.public_key for log in trust.logs}
    for one in cosigners:
        if one.signer.public_key in listed:
            raise ConfigError(
                f"{one.signer.name}: the witness's key is also the key of a log in the trust file; a log that "
                "watches itself is no witness. Make another: audit-middleware keys new --cosigner"
            )
    if any(one.kind == COSIGNATURE_MLDSA44 for one in cosigners):
        for log in trust.logs:
            if len(log.verifier.name.encode()) > 255:
                raise ConfigError(f"{log.verifier.name[:80]}: an ML-DSA-44 cosignature takes at most 255 bytes")


class Witness:
    """Cosigns the checkpoints of the logs in a trust file. Safe to use from any thread."""

    def __init__(
        self, cosigners: Sequence[Cosigner], trust: Policy, state: WitnessState, clock: Clock = time.time_ns
    ) -> None:
        """``trust`` lists the logs; its witnesses and quorum play no part. Raises as `check_cosigners`."""
        check_cosigners(cosigners, trust)
        self._cosigners = tuple(cosigners)
        self._trust = trust
        self._state = state
        self._clock = clock
        self._largest: dict[str, int] = {}  # what this process knows to be on disk

    def add_checkpoint(self, body: bytes) -> Answer:
        """Returns the answer to an add-checkpoint request; what it says is on disk by then. Never raises for a body."""
        try:
            asked = parse_submission(body)
            text, _ = read_note(asked.note)
            new = parse_checkpoint(text)
        except FormatError as problem:
            return _refusal(400, problem)
        keys = self._trust.log_keys(new.origin)
        if not keys:
            return _refusal(404, "no log of this origin is known here")
        try:
            opened = open_note(asked.note, keys)
        except NoteError as problem:
            return _refusal(403, problem)
        if asked.old > new.size:
            return _refusal(400, f"old size {asked.old} is larger than the checkpoint's {new.size}")
        try:
            with self._state.held():
                return self._compare_and_cosign(asked, new, opened)
        except StoreError as problem:
            _log.error("nothing was cosigned: %s", problem)
            return _refusal(503, "the witness cannot use its memory now")

    def newest(self, name: str) -> bytes | None:
        """Returns the newest cosigned note of the origin with this hash (`origin_hash`). Raises `LogUnavailable`."""
        known = {origin_hash(log.verifier.name) for log in self._trust.logs}
        return self._state.get(name) if name in known else None

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _compare_and_cosign(self, asked: Submission, new: Checkpoint, opened: Note) -> Answer:
        name = origin_hash(new.origin)
        held = self._read(name, new.origin)
        if asked.old != held.size:
            return Answer(409, b"%d\n" % held.size, SIZE_TYPE)
        try:
            _check_extends(held, new, asked.hashes)
        except ProofError as problem:
            if new.size == held.size and new.root != held.root:
                # Its key signed both: nobody else can cause this. A bad proof anyone can send with a public note.
                _log.error("%s: its key signed two roots at size %d: the log was forked", new.origin, new.size)
            return _refusal(422, problem)
        now = self._clock() // 1_000_000_000
        if now + CLOCK_SLACK < held.time:
            _log.error("the clock says %d, but %s was cosigned at %d", now, new.origin, held.time)
            return _refusal(503, "the witness's clock is behind its memory")
        moment = max(now, held.time)  # two cosignatures must not contradict each other on which tree was the newest
        made = [cosignature_line(opened.text, one.signer, one.kind, moment) for one in self._cosigners]
        lines = b"".join(line.line for line in opened.verified)
        self._state.put(name, opened.text.encode() + b"\n" + lines + b"".join(made))
        self._largest[name] = new.size
        return Answer(200, b"".join(made))

    def _read(self, name: str, origin: str) -> _Held:
        held = self._held(name, origin)
        if held.size < self._largest.get(name, 0):
            # The directory was replaced under our feet: an old copy, or the empty mount point of a lost volume.
            raise LogDamaged(f"{self._state.root / name}: holds size {held.size}, but {self._largest[name]} was kept")
        self._largest[name] = held.size
        return held

    def _held(self, name: str, origin: str) -> _Held:
        note = self._state.get(name)
        if note is None:
            return _Held()
        keys = [*self._trust.log_keys(origin), *(one.verifier for one in self._cosigners)]
        try:
            opened = open_note(note, keys)
            found = parse_checkpoint(opened.text)
        except FormatError as problem:
            raise LogDamaged(f"{self._state.root / name}: is not what this witness wrote: {problem}") from problem
        if found.origin != origin:
            raise LogDamaged(f"{self._state.root / name}: is of {found.origin!r}, not of {origin!r}")
        ours = {(one.verifier.name, one.verifier.key_id) for one in self._cosigners}
        times = [line.time or 0 for line in opened.verified if (line.name, line.key_id) in ours]
        return _Held(found.size, found.root, max(times, default=0))


def _check_extends(held: _Held, new: Checkpoint, hashes: Sequence[bytes]) -> None:
    """Raises `ProofError` unless the checkpoint is consistent with what is held; sizes: ``held.size <= new.size``."""
    if held.size not in (0, new.size):
        tree.verify_consistency(held.size, held.root, new.size, new.root, hashes)
        return
    if held.size == new.size and held.root != new.root:
        raise ProofError(f"another root at size {held.size}")
    if hashes:
        raise ProofError(f"the proof from {held.size} to {new.size} is to be empty")


def _refusal(status: int, why: object) -> Answer:
    return Answer(status, f"{why}\n".encode())
