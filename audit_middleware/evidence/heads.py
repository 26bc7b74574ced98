"""The heads of one log compared before anything is written: the log's, and every other that is known.

A log that was put back to an older copy, or cut, looks whole by itself. What shows it is a signed checkpoint elsewhere:
in the published folder, among the cosigned checkpoints, in an archive, with a witness. At a start

* a checkpoint that is larger than the log means that the log was rolled back or cut;
* one of which the log has another root means that there are two histories.

In both cases nothing may be written: the log would sign a second history. What cannot be asked in time, or shows no
checkpoint that the log's key signed, proves nothing; it is noted and blocks nothing.

The log's own size is taken last, so that what running services add meanwhile only makes it larger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..archives.local import Folder
from ..errors import ArchiveError, ConfigError, FormatError, LogDamaged, LogForked, StoreError
from ..ledger import tree
from ..ledger.checkpoint import CHECKPOINT, open_checkpoint
from ..ledger.note import Verifier, parse_vkey
from ..model import Json
from ..stores.opening import Place, Store, open_log
from ..stores.tail import Repair
from .anchors import COSIGNED, newest_cosigned

if TYPE_CHECKING:
    from ..ledger.trust import Policy

TIMEOUT = 3.0
"""Seconds that all witnesses together have to answer."""


class KnownHead(Protocol):
    """What a witness shows of a log."""

    @property
    def name(self) -> str:
        """The trust file's name for the witness."""
        ...

    @property
    def size(self) -> int | None:
        """Of the tree; ``None`` if it shows none, or could not be asked."""
        ...

    @property
    def root(self) -> bytes | None:
        """32 bytes; ``None`` where it is not verified."""
        ...

    @property
    def verified(self) -> bool:
        """The log's own key signed it: then it is evidence, whoever shows it."""
        ...

    @property
    def problem(self) -> str | None:
        """Why there is no size, or why it is not verified."""
        ...


AskWitnesses = Callable[["Policy", str, float], Sequence[KnownHead]]
"""``ask(trust, origin, timeout_s)`` returns what each witness shows, in about that time; never raises for one."""


class _Found(msgspec.Struct, frozen=True):
    """What one place shows: size and root that the log's key signed; no size where it knows nothing, or why."""

    place: str
    size: int | None = None
    root: bytes = b""
    problem: str | None = None


class Compared(msgspec.Struct, frozen=True):
    """One head that was compared with the log's: ``same``, ``older``, ``none`` there, or ``unknown`` and why."""

    place: str
    state: str
    size: int | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Json]:
        """As `audit.started` shows it."""
        return {"place": self.place, "state": self.state, "size": self.size, "problem": self.problem}


def compare_heads(
    store: Store,
    published: Sequence[Path] = (),
    trust: Path | None = None,
    ask: AskWitnesses | None = None,
    timeout: float = TIMEOUT,
    archive: str | None = None,
) -> tuple[Compared, ...]:
    """Compares the log with the published folders, the newest cosigned checkpoint, the archive, and the witnesses.

    Args:
        store: The log.
        published: Folders in the tlog-tiles layout; the log's own is looked at in any case.
        trust: A tlog-policy file; its witnesses are asked.
        ask: How to ask them; without it they are named as not asked.
        timeout: Seconds for all witnesses together, and for the archive.
        archive: What and where the log's archive is; its newest checkpoint of this log is looked for.

    Raises:
        LogDamaged: The log is shorter than a checkpoint that its key signed.
        LogForked: It has another root at that size.
        ConfigError: The trust file cannot be read, or ``archive`` is not the name of one.
    """
    policy = _policy(trust)
    verifiers = [parse_vkey(text) for text in store.vkeys]
    if policy is not None:
        verifiers += [key for key in policy.log_keys(store.origin) if key not in verifiers]
    known = [*_folders(store, published, verifiers), *_cosigned(store, verifiers)]
    if archive is not None:
        known.append(_archive(archive, store.origin, verifiers, timeout))
    if policy is not None:
        known += _witnesses(policy, store.origin, ask, timeout)
    return tuple(_compare(store, found) for found in known)


def open_compared(log: Place, repaired: Callable[[Repair], None] | None = None) -> Store:
    """Opens a log for a command that writes to it, unless what lies beside it shows that it was rolled back or forked.

    Raises:
        LogDamaged, LogForked: As `compare_heads`; nothing was appended.
        StoreError: The log cannot be opened.
    """
    store = open_log(log, writable=True, repaired=repaired)
    try:
        compare_heads(store)
    except BaseException:
        store.close()
        raise
    return store


# --- who is asked ----------------------------------------------------------------------------------------------------


def _policy(trust: Path | None) -> Policy | None:
    if trust is None:
        return None
    from ..ledger.trust import parse_policy  # here, and so on: few services compare with more than the log's folder

    try:
        return parse_policy(trust.read_bytes())
    except OSError as error:
        raise ConfigError(f"trust file {trust}: {error.strerror}") from error
    except FormatError as error:
        raise ConfigError(f"{trust}: {error}") from error


def _folders(store: Store, published: Sequence[Path], verifiers: Sequence[Verifier]) -> Iterable[_Found]:
    own = store.folder.resolve()
    for path in dict.fromkeys([own, *(path.resolve() for path in published)]):
        place = f"published in {'the log itself' if path == own else path}"
        try:
            note = Folder(path).get(CHECKPOINT)
        except OSError as error:
            yield _Found(place, problem=str(error.strerror))
            continue
        if note is not None:
            yield _opened(place, note, store.origin, verifiers)
        elif path != own:
            yield _Found(place, problem=None if path.is_dir() else "there is no such folder")


def _cosigned(store: Store, verifiers: Sequence[Verifier]) -> Iterable[_Found]:
    try:
        note = newest_cosigned(store.folder)
    except OSError as error:
        yield _Found(COSIGNED, problem=str(error.strerror))
        return
    if note is not None:
        yield _opened(COSIGNED, note, store.origin, verifiers)


def _opened(place: str, note: bytes, origin: str, verifiers: Sequence[Verifier]) -> _Found:
    try:
        known, _ = open_checkpoint(note, origin, verifiers)
    except FormatError as error:
        return _Found(place, problem=f"no checkpoint that this log's key signed: {error}")
    return _Found(place, known.size, known.root)


def _archive(place: str, origin: str, verifiers: Sequence[Verifier], timeout: float) -> _Found:
    """In a thread of its own, so that an archive that does not answer holds up nobody for longer than this."""
    from ..archives.opening import open_archive
    from .archive_objects import newest_archived

    answers: list[_Found | ConfigError] = []

    def ask() -> None:
        named = "the archive"
        try:
            archive = open_archive(place, writable=False)
            named = f"archived in {archive.place}"
            found = newest_archived(archive, origin, verifiers)
        except ConfigError as problem:
            answers.append(problem)
        except ArchiveError as problem:
            answers.append(_Found(named, problem=str(problem)))
        else:
            known = found.checkpoint if found is not None else None
            answers.append(_Found(named) if known is None else _Found(named, known.size, known.root))

    thread = threading.Thread(target=ask, name="audit-archive-head", daemon=True)
    thread.start()
    thread.join(timeout)
    answer = answers[0] if answers else _Found("the archive", problem=f"no answer within {timeout:g} seconds")
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def _witnesses(policy: Policy, origin: str, ask: AskWitnesses | None, timeout: float) -> Iterable[_Found]:
    if not any(one.url for one in policy.witnesses):
        return
    if ask is None:
        yield _Found("witnesses", problem="this installation has nothing to ask them with")
        return
    for head in ask(policy, origin, timeout):
        place = f"witness {head.name}"
        if head.verified and head.size is not None and head.root is not None:
            yield _Found(place, head.size, head.root)
        else:
            yield _Found(place, problem=head.problem or "shows no checkpoint that this log's key signed")


# --- what it means ---------------------------------------------------------------------------------------------------


def _compare(store: Store, found: _Found) -> Compared:
    if found.size is None:
        return Compared(found.place, "none" if found.problem is None else "unknown", problem=found.problem)
    head = store.head()
    if found.size > head.size:
        raise LogDamaged(
            f"{store.place}: the log ends at size {head.size}, but there is a checkpoint of size {found.size}, "
            f"signed by this log's key: {found.place}. The log was rolled back or cut; nothing is written, because "
            f"the log would then sign a second history. {_ADVICE}"
        )
    if found.size:
        _check_root(store, found.place, found.size, found.root)
    return Compared(found.place, "same" if found.size == head.size else "older", found.size)


def _check_root(store: Store, place: str, size: int, root: bytes) -> None:
    """A checkpoint is signed at the end of a commit only, so the log's commit there has the same root."""
    try:
        frame = next(iter(store.frames(size - 1, size)))
    except (StoreError, StopIteration):
        return  # no longer in the log, or damaged: what verification is for
    if frame.head.size != size or tree.root(frame.head.peaks) != root:
        raise LogForked(
            f"{store.place}: at size {size} the log has another root than what is known there: {place}. Both are "
            f"signed by this log's key, so there are two histories; nothing is written. {_ADVICE}"
        )


_ADVICE = (
    "Restore the newest copy of the log and verify it: audit-middleware verify LOG --since CHECKPOINT. If what is "
    "missing is lost for good, keep this log as it is, make a new one under another origin, and say so in its first "
    "records"
)
