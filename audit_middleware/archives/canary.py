"""Does the bucket hold what it says? An examination that tries to break the lock of objects made for it.

Servers accept ``x-amz-object-lock-mode: COMPLIANCE`` and do not keep to it: some still delete, some let the date be
moved or the mode be lowered, some forget all when versioning is suspended. So each attempt gets a canary of its own, a
small object locked for some minutes, tries one thing on it, and reads the locked version back: its bytes, its mode, its
date. At the end all canaries are read once more, for effects that come late.

**Refused by the lock, or by the permissions?** Both answer AccessDenied. Credentials that may not delete anything are
refused whatever the server does, and prove nothing. So each thing that an attempt needs is done first where no lock
forbids it: an unlocked version is deleted, one in the mode GOVERNANCE is deleted and its retention made shorter with
``BypassGovernanceRetention``, a canary's retention is made longer, the settings that the bucket has are set again. Only
where that was accepted does a refusal of the attempt show the lock. Otherwise the attempt is reported as *not shown*.

Only objects below ``canary/`` are touched, and of the bucket its versioning and default retention, which are put back
as they were. Deleting the bucket is not tried: a server that does it would take the archive along.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ..errors import ArchiveError
from .canary_attempts import TRIES, Answer, Answered, Bench, Canary, Try
from .s3 import S3Archive
from .s3_bucket import S3Refusal

Shows = Literal["yes", "no", "not shown"]
Immutable = Literal["yes", "no", "unclear"]

SECONDS = 300
"""How long canaries are locked."""
_SLACK_S = 15
"""An examination must be over this long before the canaries' locks end."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried.

    ``answer`` is the server's, ``code`` S3's word for a refusal or an error. ``kept``: the locked version had its bytes
    and its lock afterwards; ``None``: it could not be read. ``able``: the credentials may do such a thing where no lock
    forbids it. ``shows``: whether this shows that the lock holds; if it does not, ``why``.
    """

    name: str
    what: str
    answer: Answer
    code: str | None
    kept: bool | None
    able: bool
    shows: Shows
    why: str | None = None


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What an examination found.

    ``at`` is in seconds since the epoch. ``conditional``: the server honours ``If-None-Match``, ``None`` if that is not
    known; a property, no part of the verdict. ``left`` names settings of the bucket that could not be put back.
    """

    place: str
    at: float
    immutable: Immutable
    attempts: tuple[Attempt, ...]
    conditional: bool | None
    left: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(archive: S3Archive, seconds: int = SECONDS) -> CanaryReport:
    """Tries to break the locks of canaries. Takes some seconds, and leaves canaries that are locked for ``seconds``.

    Needs credentials that may do all that an attacker might: see docs/archive.md. With those of a service that
    archives, which should have few permissions, the result is ``unclear``.

    Raises:
        ArchiveError: The bucket cannot be reached or written, so there is nothing to examine.
    """
    at = time.time()
    deadline = time.monotonic() + seconds - _SLACK_S
    run = f"{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    bench = Bench(archive, run, seconds)
    try:
        bench.try_permissions()
        canaries = {one.name: bench.canary(one.name) for one in TRIES}
    except S3Refusal:
        raise
    except ArchiveError as error:  # the server took an object and does not show it locked: no need to break anything
        return CanaryReport(archive.place, at, "no", (_not_locked(error),), None, tuple(bench.left))
    answers = {one.name: one.act(bench, canaries[one.name]) for one in TRIES}
    conditional = _conditional(bench, canaries["shorten"])
    # Only now, so that what a server does later than it says is seen, too.
    attempts = tuple(_attempts(bench, canaries, answers, deadline))
    return CanaryReport(archive.place, at, _verdict(attempts), attempts, conditional, tuple(bench.left))


def _attempts(
    bench: Bench, canaries: dict[str, Canary], answers: dict[str, Answered], deadline: float
) -> Iterator[Attempt]:
    for one in TRIES:
        kept = bench.kept(canaries[one.name])
        able = bench.able.issuperset(one.needs)
        answered = answers[one.name]
        shows, why = _judge(one, answered, kept, able)
        if kept is not True and time.monotonic() > deadline:
            shows, why = "not shown", "the examination took so long that the lock may have ended before it"
        yield Attempt(one.name, one.what, answered.answer, answered.code, kept, able, shows, why)


def _judge(one: Try, answered: Answered, kept: bool | None, able: bool) -> tuple[Shows, str | None]:
    if kept is False:
        return "no", "the locked version is gone, has other bytes, or a weaker lock"
    if answered.broken is not None:
        return "no", answered.broken
    if kept is None:
        return "not shown", "the locked version could not be read back"
    if answered.answer == "error":
        return "not shown", "neither done nor refused"
    if answered.answer == "accepted":
        return ("yes", None) if one.harmless else ("not shown", "the server said yes, and nothing that is seen changed")
    if not able:
        return "not shown", "these credentials are refused, or were not tried, where no lock forbids it"
    return "yes", None


def _verdict(attempts: tuple[Attempt, ...]) -> Immutable:
    found = {one.shows for one in attempts}
    return "no" if "no" in found else "unclear" if "not shown" in found else "yes"


def _not_locked(error: ArchiveError) -> Attempt:
    return Attempt("lock", "put an object with a retention", "accepted", None, False, True, "no", str(error))


def _conditional(bench: Bench, canary: Canary) -> bool | None:
    answered = bench.ask("put_object", Key=bench.key(canary.name), Body=b"another", IfNoneMatch="*")
    return {"refused": True, "accepted": False}.get(answered.answer)
