"""What a verification proves, and what it leaves open, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from .anchors import Anchor, Anchors, Outside
from .records import Records
from .report import Claim
from .start import Start

_ALONE = "only a later checkpoint kept elsewhere can show that"


def claims_of(anchors: Anchors, start: Start, size: int) -> tuple[Claim, ...]:
    """Returns what was proved of a log without errors, the weakest claim first."""
    outside = (*_kept(anchors, start, size), *_archived(anchors), *_stamped(anchors), *_seen(anchors, size))
    return _local(start, size), *outside


def _local(start: Start, size: int) -> Claim:
    if start.size == 0:
        text = f"all {size} entries are what the log's key signed, in that order"
    elif size == start.size:
        text = f"the log still ends with the {size} entries that {start.words}"
    else:
        text = (
            f"entries {start.size} to {size - 1} are what the log's key signed, in that order, and continue the "
            f"{start.size} entries that {start.words}"
        )
    return Claim("locally consistent", size, f"locally consistent: {text}")


def _kept(anchors: Anchors, start: Start, size: int) -> Iterator[Claim]:
    agreed = anchors.newest("kept elsewhere")
    if agreed is None:
        return
    size_kept = agreed.newest.size
    rest = f"; all {size} entries are what the log's key signed" if start.size == 0 else ""
    yield Claim(
        "kept elsewhere",
        size_kept,
        f"consistent with the checkpoint kept elsewhere: none of the first {size_kept} entries was changed, "
        f"removed, inserted or moved{rest}",
    )


def _archived(anchors: Anchors) -> Iterator[Claim]:
    for (kind, label), agreed in anchors.agreed.items():
        if kind == "archived":
            size, at = agreed.newest.size, _moment(agreed.newest.time)
            text = f"{label}: agrees with {_counted(agreed.count, 'checkpoint')} there, up to size {size}"
            if at is not None:
                text += f", which was there at {at} by the archive's clock"
            yield Claim("archived", size, text, time=at)


def _stamped(anchors: Anchors) -> Iterator[Claim]:
    agreed = anchors.newest("time-stamped")
    if agreed is not None:
        at = _moment(agreed.newest.time)
        size = agreed.newest.size
        stamps = _counted(agreed.count, "time stamp says", "time stamps say")
        text = f"time-stamped: the first {size} entries existed at {at}; {stamps} so"
        yield Claim("time-stamped", size, text, time=at)


def _seen(anchors: Anchors, size: int) -> Iterator[Claim]:
    agreed = anchors.newest("witnessed")
    if agreed is not None:
        best, at = agreed.newest, _moment(agreed.newest.time)
        newest = "" if at is None else f", newest cosignature at {at}"
        text = f"witnessed by {len(best.by)} ({', '.join(best.by)}), up to size {best.size} of {size}{newest}"
        yield Claim("witnessed", best.size, text, best.by, at)


def open_questions(
    anchors: Anchors, start: Start, records: Records, outside: Outside, damaged: Sequence[str]
) -> Iterator[str]:
    """Yields what was not checked. ``damaged``: about entries that could not be checked by themselves."""
    yield from damaged
    yield from _not_read(start, records)
    was = "were pruned" if start.resume is None else "were not read again"
    for unmet, why in (
        (anchors.below, f"entries below were not compared, because the first {start.size} {was}"),
        (anchors.passed, "entries below it are damaged"),
    ):
        if unmet.newest is not None:
            yield f"{_named(unmet.count, unmet.newest)}: {why}"
    known = [one.newest.size for (kind, _), one in anchors.agreed.items() if kind not in ("beside the log", "cosigned")]
    if start.resume is not None:
        known.append(start.size)
    beyond = f" after entry {max(known) - 1}" if known else ""
    yield (
        f"whether entries{beyond} were cut off at the end of a commit, or all written anew and signed again with "
        f"the log's key: {_ALONE}"
    )
    yield from outside.limits


def _not_read(start: Start, records: Records) -> Iterator[str]:
    if start.resume is not None and start.pruned < start.size:
        yield (
            f"entries {start.pruned} to {start.size - 1}: they were not read again. An earlier verification accepted "
            "them; damage done to these bytes since then shows only in a verification from the start"
        )
    if start.pruned:
        pruned = records.coherence.pruned
        says = f", as entry {pruned[1]} says" if pruned is not None and pruned[0] >= start.pruned else ""
        yield f"entries 0 to {start.pruned - 1}: they were pruned{says}; what they said, only a copy can show"
    if records.counters.midway:
        yield (
            f"whether {_counted(records.counters.midway, 'process', 'processes')} whose first records were pruned had "
            "a record that is missing there"
        )
    if records.coherence.undecided is not None:
        yield f"whether a retention rule was set before entry {records.coherence.undecided}: its record may be pruned"


def _named(count: int, newest: Anchor) -> str:
    if count == 1:
        return f"the checkpoint {newest.label} (size {newest.size})"
    return f"{count} checkpoints, the largest {newest.label} (size {newest.size})"


def contradiction(anchor: Anchor) -> str:
    """What is to be said of an anchor that the log does not lead to."""
    return f"the first {anchor.size} entries do not lead to the root of the checkpoint {anchor.label}"


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _moment(seconds: int | None) -> str | None:
    """POSIX seconds as RFC 3339; beyond the year 9999 as the number itself."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"POSIX time {seconds}"
