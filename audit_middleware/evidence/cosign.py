"""Getting a log's checkpoints cosigned, and noticing when a witness remembers another log than the one that is here.

One round: the newest checkpoint goes to every witness of the trust file at the same time, each with a proof that it
extends what that witness holds. When those that cosigned make up the quorum, the checkpoint with all their lines is
kept beside the log (`anchors.keep_cosigned`) and, where the log is published at that very size, put in place of the
published checkpoint.

What a witness answers is believed as far as it can be checked: a cosignature if it verifies; a size (409) as a hint
where to start the proof; anything else is a failure of this witness in this round. Real servers answer 409 with an
empty body where 422 is meant, and 500 where 403 is: both are failures, after a look at what the witness shows.

An *alarm* is different: the witness holds more than the log (it was rolled back), or holds what the log does not lead
to (it was forked). Nothing is kept then, and the round ends with an error. A witness's bare word is enough for an
alarm, because silence would be worse; the message says whether the witness could show a checkpoint signed by the log's
own key, which proves it.

If we die anywhere: nothing is kept, or a whole line is. Witnesses that cosigned meanwhile hold that size; the next
round learns it from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..archives.local import Folder
from ..errors import AnchorUnavailable, ConfigError, FormatError, LogBusy, LogDamaged, LogForked, NoteError
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Note, Signature
from ..ledger.submission import Submission, cosignatures_in, parse_size
from ..ledger.trust import NONE, Policy
from ..protocols import LogStore
from ..stores.opening import Place
from .anchors import keep_cosigned, newest_cosigned
from .exchange import Reply
from .prove import Prover
from .published import adopt_cosigned
from .witness_client import Target, WitnessHead, read_head, submit, targets

PATIENCE = 30.0
"""Seconds that a witness has in one round, all attempts together."""

GRACE = 2.0
"""Seconds that the rest have once the quorum is reached."""

ATTEMPTS = 5
CONFLICTS = 4
"""How often a witness may name another size than the one it was asked with: other submitters may be at it."""

_ONE_ANSWER = 10.0  # seconds
_MEANS = {
    403: " (it trusts none of the keys that sign this log: give it the new verifier key)",
    404: " (it was not told of this log)",
}
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_PAUSE = 0.25  # seconds; doubled with each attempt, and a random part of it is waited
_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one witness answered: its signature lines that hold, or what went wrong."""

    name: str
    lines: tuple[Signature, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """What one round led to; ``note`` is what was kept, ``None`` without a quorum."""

    checkpoint: Checkpoint
    outcomes: tuple[Outcome, ...]
    witnesses: tuple[str, ...] = ()
    note: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a round submits, and the proofs it has made by the size they start from."""

    checkpoint: Checkpoint
    opened: Note
    note: bytes
    proofs: dict[int, tuple[bytes, ...] | None] = field(default_factory=dict)
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Alarm(Exception):
    """A witness that remembers another log than the one that is here."""

    def __init__(self, text: str, *, forked: bool) -> None:
        super().__init__(text)
        self.forked = forked


class Submitter:
    """Gets one log's checkpoints cosigned. Use it from one thread, in which no event loop runs."""

    def __init__(
        self,
        store: LogStore,
        log: Place,
        trust: Policy,
        folder: Folder | None = None,
        *,
        patience: float = PATIENCE,
        grace: float = GRACE,
    ) -> None:
        """``log`` is the log's directory, ``folder`` where it is published, if it is.

        Raises:
            ConfigError: The trust file has no key of this log, no witness with a URL, or a quorum that those with a
                URL can never make up.
        """
        keys = trust.log_keys(store.origin)
        if not keys:
            raise ConfigError(f"the trust file has no log line for {store.origin}")
        self._targets = targets(trust)
        asked = [witness.name for target in self._targets for witness in target.witnesses]
        if not asked:
            raise ConfigError("the trust file has no witness with a URL")
        if not trust.satisfied_by(asked):
            raise ConfigError(f"the trust file's quorum {trust.quorum!r} needs witnesses that have no URL")
        self._store = store
        self._log = log
        self._trust = trust
        self._folder = folder
        self._prover = Prover(store, keys, folder)
        self._patience = patience
        self._grace = grace
        self._sizes: dict[str, int] = {}

    def round(self) -> Round | None:
        """Has the newest checkpoint cosigned; ``None`` while the log is empty. Takes `PATIENCE` seconds at most.

        Raises:
            LogDamaged, LogForked: A witness, or the newest cosigned checkpoint that was kept, says that the log was
                rolled back or forked. Nothing was kept.
            NoteError: The log's checkpoint is not signed by a key that the trust file lists.
            StoreError: The log cannot be read, or the note cannot be kept.
        """
        kept = self._kept()  # before the head: the log only grows
        head = self._store.head()
        if not head.size:
            if kept is not None:
                raise LogDamaged(_rollback("the newest cosigned checkpoint", kept.size, self._store.origin, 0))
            return None
        checkpoint, opened = self._open(head.checkpoint)
        if kept is not None:
            self._compare(kept, checkpoint)
        sent = _Sent(checkpoint, opened, head.checkpoint)
        return self._conclude(sent, asyncio.run(self._ask_all(sent)))

    def follow(self, stop: threading.Event, interval: float, notify: Callable[[Round], None]) -> None:
        """Has each new checkpoint cosigned, looking every ``interval`` seconds, until ``stop`` is set."""
        done = -1
        while True:
            if self._store.head().size != done:
                result = self.round()
                if result is not None:
                    notify(result)
                    done = result.checkpoint.size if result.note is not None else -1
            if stop.wait(interval):
                return

    def _open(self, note: bytes) -> tuple[Checkpoint, Note]:
        try:
            return open_checkpoint(note, self._store.origin, self._prover.verifiers)
        except NoteError as error:
            raise NoteError(
                f"{self._log}: its newest checkpoint does not open under the trust file's keys ({error}). After a "
                "rotation the trust file needs a log line with the new verifier key, and so do those of the witnesses"
            ) from error

    # --- what we know ------------------------------------------------------------------------------------------------

    def _kept(self) -> Checkpoint | None:
        """The newest cosigned checkpoint beside the log, if it is one of this log; it also says where witnesses are."""
        note = newest_cosigned(self._log)
        try:
            kept = self._trust.open(note, self._store.origin) if note is not None else None
        except FormatError:
            return None  # of other keys, or damaged: the witnesses themselves will say what they hold
        if kept is None:
            return None
        for target in self._targets:
            if any(witness.name in kept.witnesses for witness in target.witnesses):
                self._sizes.setdefault(target.url, kept.checkpoint.size)
        return kept.checkpoint

    def _compare(self, kept: Checkpoint, now: Checkpoint) -> None:
        if kept.size > now.size:
            raise LogDamaged(_rollback("the newest cosigned checkpoint", kept.size, now.origin, now.size))
        if kept.size == now.size and kept.root != now.root:
            raise LogForked(f"{now.origin}: was cosigned at size {kept.size} with another root: the log was forked")

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _ask_all(self, sent: _Sent) -> list[Outcome | _Alarm]:
        """Asks all witnesses side by side; those that are late when the quorum has been reached get a short grace."""
        tasks = {asyncio.ensure_future(self._ask(target, sent)): target for target in self._targets}
        waiting, limit = set(tasks), None
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            answered = [task.result() for task in tasks if task.done()]
            if self._trust.quorum != NONE and self._trust.satisfied_by(self._names(answered)):
                limit = self._grace
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        late = [Outcome(tasks[task].name, problem="did not answer before the quorum was reached") for task in waiting]
        return [task.result() for task in tasks if task not in waiting] + late

    async def _ask(self, target: Target, sent: _Sent) -> Outcome | _Alarm:
        """Asks one witness until it has answered, the attempts are used up, or its time is over."""
        problem = "it was not asked yet"
        try:
            async with asyncio.timeout(self._patience):
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        return await self._attempt(target, sent)
                    except AnchorUnavailable as unavailable:
                        problem = str(unavailable)
                    # A random part of a growing pause, so that many logs do not ask a witness in step.
                    await asyncio.sleep(_chance.uniform(0, _PAUSE * 2**attempt))
        except TimeoutError:
            problem = f"no cosignature within {self._patience:g} seconds ({problem})"
        except _Alarm as alarm:
            return alarm
        return Outcome(target.name, problem=problem)

    async def _attempt(self, target: Target, sent: _Sent) -> Outcome:
        """Submits, from the size that the witness is known or says to hold. Raises `AnchorUnavailable` to try again."""
        for _ in range(CONFLICTS):
            old = self._sizes.get(target.url, 0)
            submission = Submission(old, await self._proof(target, old, sent), sent.note)
            reply = await submit(target, submission, min(self._patience, _ONE_ANSWER))
            if reply.status == 200:
                return self._accept(target, reply, sent)
            size = parse_size(reply.content_type, reply.body) if reply.status == 409 else None
            if size is None or size == old:
                return await self._refused(target, reply, old)
            if size > sent.checkpoint.size:
                return await self._ahead(target, size)
            self._sizes[target.url] = size
        return Outcome(target.name, problem=f"{target.url}: names another size each time it is asked")

    async def _proof(self, target: Target, old: int, sent: _Sent) -> tuple[bytes, ...]:
        """The proof from what a witness holds. Raises `_Alarm` if the log never signed a checkpoint of that size."""
        async with sent.proving:  # one at a time: most witnesses hold the same size
            if old not in sent.proofs:
                sent.proofs[old] = await asyncio.to_thread(self._prove, old, sent.checkpoint)
        found = sent.proofs[old]
        if found is None:
            shown = await self._shown(target)
            text = f"holds size {old}, at which this log never signed a checkpoint"
            raise _Alarm(_alarm(target, text, self._contradiction(shown)), forked=True)
        return found

    def _prove(self, old: int, new: Checkpoint) -> tuple[bytes, ...] | None:
        before = self._prover.checkpoint_at(old)
        return None if before is None else self._prover.consistency(before, new)

    def _accept(self, target: Target, reply: Reply, sent: _Sent) -> Outcome:
        keys = [witness.verifier for witness in target.witnesses]
        try:
            lines = cosignatures_in(reply.body, sent.opened.text, keys)
        except NoteError as problem:
            return Outcome(
                target.name, problem=f"{target.url}: answered 200 without a cosignature that holds: {problem}"
            )
        self._sizes[target.url] = sent.checkpoint.size
        return Outcome(target.name, lines)

    # --- refusals and alarms -----------------------------------------------------------------------------------------

    async def _refused(self, target: Target, reply: Reply, old: int) -> Outcome:
        """What a refusal means: to try again, a failure of this round, or that it holds another history."""
        said = f"{target.url}: status {reply.status}{_MEANS.get(reply.status, '')}"
        if reply.status in _RETRIED:
            raise AnchorUnavailable(said)
        self._sizes.pop(target.url, None)  # whatever we thought it holds led to this
        if reply.status in (409, 422):
            shown = await self._shown(target)
            proved = self._contradiction(shown)
            if proved is not None or (reply.status == 422 and not shown.verified):
                text = f"refused a proof from size {old} that holds for this log (status {reply.status})"
                raise _Alarm(_alarm(target, text, proved), forked=True)
        return Outcome(target.name, problem=said)

    async def _ahead(self, target: Target, size: int) -> Outcome:
        """A witness names a size beyond the checkpoint: another process was quicker, or the log was rolled back."""
        now = self._store.head().size
        if now >= size:
            return Outcome(
                target.name, problem=f"{target.url}: holds size {size} already; the next round goes on there"
            )
        proved = self._contradiction(await self._shown(target))
        raise _Alarm(_alarm(target, _rollback("it", size, self._store.origin, now), proved), forked=False)

    async def _shown(self, target: Target) -> WitnessHead:
        return await read_head(self._trust, target, self._store.origin, min(self._patience, _ONE_ANSWER))

    def _contradiction(self, shown: WitnessHead) -> str | None:
        """What a checkpoint that this log's key signed proves against the log that is here; ``None``: nothing."""
        if not shown.verified or shown.size is None:
            return None
        now = self._store.head().size
        if shown.size > now:
            return f"it shows a checkpoint of size {shown.size} signed by the log's own key; the log ends at {now}"
        ours = self._prover.checkpoint_at(shown.size)
        if ours is not None and ours.root == shown.root:
            return None
        return (
            f"it shows a checkpoint of size {shown.size} signed by the log's own key, which this log does not lead to"
        )

    # --- the end of a round ------------------------------------------------------------------------------------------

    def _names(self, outcomes: Sequence[Outcome | _Alarm]) -> dict[str, Signature]:
        """The lines that hold, by the trust file's names of the witnesses, in the order of the file."""
        lines = {(line.name, line.key_id): line for one in outcomes if isinstance(one, Outcome) for line in one.lines}
        keys = {one.name: (one.verifier.name, one.verifier.key_id) for one in self._trust.witnesses}
        return {name: lines[key] for name, key in keys.items() if key in lines}

    def _conclude(self, sent: _Sent, outcomes: Sequence[Outcome | _Alarm]) -> Round:
        alarms = [one for one in outcomes if isinstance(one, _Alarm)]
        if alarms:
            kind = LogForked if any(alarm.forked for alarm in alarms) else LogDamaged
            raise kind("\n".join(map(str, alarms)))
        answered = tuple(one for one in outcomes if isinstance(one, Outcome))
        cosigned = self._names(outcomes)
        if not cosigned or not self._trust.satisfied_by(cosigned):
            return Round(sent.checkpoint, answered, tuple(cosigned))
        lines = [*sent.opened.verified, *cosigned.values()]
        note = sent.opened.text.encode() + b"\n" + b"".join(line.line for line in lines)
        self._trust.open(note, self._store.origin)  # what is kept is what a verifier accepts
        keep_cosigned(self._log, note)
        if self._folder is not None:
            with contextlib.suppress(LogBusy):  # its publisher is running and takes it from beside the log
                adopt_cosigned(self._folder, self._log, self._store.origin, self._prover.verifiers)
        return Round(sent.checkpoint, answered, tuple(cosigned), note)


def _rollback(who: str, size: int, origin: str, now: int) -> str:
    return (
        f"{who} has size {size}, but the log {origin} ends at {now}: it was rolled back or truncated. Restore its "
        "newest copy, and let nothing write until then"
    )


def _alarm(target: Target, text: str, proved: str | None) -> str:
    shown = proved or "its word alone: it shows no checkpoint signed by the log's key that proves it"
    return f"witness {target.name}: {text} ({shown})"
