"""What others hold of a log, collected for a verification: cosigned, archived and time-stamped checkpoints.

Everything here is read before the log itself: a log that grows meanwhile is never shorter than what was said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ..archives.local import Folder
from ..archives.opening import open_archive
from ..errors import ConfigError, FormatError, NoteError, StoreError
from ..ledger.anchors import Anchor, Outside, anchor_of
from ..ledger.checkpoint import CHECKPOINT, open_checkpoint
from ..ledger.note import Verifier
from ..ledger.report import Finding
from ..ledger.trust import Policy
from ..ledger.witnessed import weigh
from ..stores.opening import Place, folder_of
from .anchors import COSIGNED, cosigned_notes, stamped_notes
from .archive_objects import TRUST
from .archive_report import lock_words
from .archived import ArchiveReader
from .published import verify_published

CHECKPOINTS = "checkpoints"
"""Folder of an archive with one file per checkpoint that was ever put there."""

TILES = "tile"
_ATTEMPTS = 5  # at tiles that a publisher is changing
_LIMIT = 100  # files named that count for nothing

CheckStamp = Callable[[bytes, bytes, Sequence[bytes]], datetime]
"""``check_stamp(note, response, roots)`` returns when the note was stamped, or raises a `FormatError`.

``response``: DER of an RFC 3161 response over the note's bytes; ``roots``: certificates of the trusted authorities.
"""


def cosigned_outside(log: Place, files: Sequence[Path], policy: Policy, origin: str) -> Outside:
    """What witnesses said: in the notes kept beside the log, its published checkpoint, and these files."""
    return weigh(_cosigned(log, files), policy, origin)


def _cosigned(log: Place, files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for note in cosigned_notes(log):
        yield str(folder_of(log) / COSIGNED), note
    published = folder_of(log) / CHECKPOINT
    if published.is_file():
        yield str(published), published.read_bytes()
    for file in files:
        yield str(file), file.read_bytes()


def archived_outside(place: Path, origin: str, verifiers: Sequence[Verifier]) -> Outside:
    """The checkpoints in a published or archived folder: ``checkpoint``, and what lies in ``checkpoints/``.

    Raises:
        ConfigError: There are none.
    """
    files = [path for path in (place / CHECKPOINT, *sorted((place / CHECKPOINTS).rglob("*"))) if path.is_file()]
    if not files:
        raise ConfigError(f"{place}: holds no checkpoint: neither a file {CHECKPOINT} nor any in {CHECKPOINTS}/")
    anchors, findings, label = list[Anchor](), list[Finding](), f"archived in {place}"
    for path in files:
        try:
            anchors.append(anchor_of(open_checkpoint(path.read_bytes(), origin, verifiers)[0], label, "archived"))
        except FormatError as error:
            findings.append(Finding(11, "not counted", None, str(error), str(path), "note"))
    if not anchors:
        text = f"no key trusted for {origin} signed any of the {len(files)} checkpoints in this archive"
        findings.append(Finding(11, "wrong key", None, text, str(place)))
    limits = (f"whether {place} is immutable, as an archive has to be: from here nobody can tell",)
    return Outside(tuple(anchors), (*findings[: _LIMIT - 1], *findings[_LIMIT - 1 :][-1:]), limits=limits)


def is_archive(place: str) -> bool:
    """True for what `archiving` writes, and not for a published folder or one with checkpoints alone."""
    if "://" in place:
        return True
    ours = any((Path(place) / part).is_dir() for part in (TILES, TRUST))
    return ours and not (Path(place) / CHECKPOINT).exists()


def locked_outside(place: str, origin: str, verifiers: Sequence[Verifier]) -> Outside:
    """The checkpoints in an archive of the log, and whether all else there is what they sign. Reads all of it.

    Raises:
        ConfigError: This is not the name of an archive, or it holds no checkpoint at all.
        ArchiveError: It cannot be read.
    """
    archive = open_archive(place, writable=False)
    reader = ArchiveReader(archive, origin, verifiers)
    report = reader.run()
    if not reader.anchors and next(iter(archive.names(CHECKPOINTS)), None) is None:
        raise ConfigError(f"{place}: holds no checkpoint: nothing was archived there yet")
    words = lock_words(report)
    anchors = tuple(replace(one, label=f"{one.label}{words}") for one in reader.anchors)
    limits = [one for one in report.not_checked if "--log" not in one]  # the log is what is being verified
    return Outside(anchors, report.findings, limits=tuple(limits))


def tiles_outside(place: Path, origin: str, verifiers: Sequence[Verifier]) -> Outside:
    """Whether the tiles and bundles in a published folder are what its checkpoint signs; nothing where it has none.

    Reads all of them. A publisher may be at work: what does not fit is looked at again if the checkpoint has moved on.
    """
    if not (place / CHECKPOINT).is_file() or not (place / TILES).is_dir():
        return Outside()
    folder = Folder(place)
    for _ in range(_ATTEMPTS):
        before = (place / CHECKPOINT).read_bytes()
        try:
            verify_published(folder, origin, verifiers)
            return Outside()
        except NoteError as error:  # a checkpoint that no trusted key signed says nothing about its tiles
            return Outside(limits=(f"the tiles in {place}: {error}",))
        except (FormatError, StoreError) as error:
            problem = str(error)
        if (place / CHECKPOINT).read_bytes() == before:
            return Outside(findings=(Finding(17, "altered", None, problem, str(place)),))
    return Outside(limits=(f"the tiles in {place}: they changed all the time",))


def stamped_outside(
    log: Place, origin: str, verifiers: Sequence[Verifier], roots: Sequence[bytes], check_stamp: CheckStamp
) -> Outside:
    """The time stamps kept beside the log that one of these authorities made over a checkpoint of this log."""
    anchors, findings = list[Anchor](), list[Finding]()
    for stamped in stamped_notes(log):
        try:
            checkpoint = open_checkpoint(stamped.note, origin, verifiers)[0]
            at = check_stamp(stamped.note, stamped.response, roots)
        except FormatError as error:
            findings.append(Finding(11, "not counted", None, str(error), stamped.where, "note"))
            continue
        label = f"time-stamped at {at.isoformat().replace('+00:00', 'Z')}"
        time = int(at.timestamp())
        anchors.append(Anchor(checkpoint.size, checkpoint.root, label, "time-stamped", time=time))
    limits = () if anchors else ("when the entries existed: no time stamp beside the log holds under the given roots",)
    return Outside(tuple(anchors), tuple(findings[:_LIMIT]), limits=limits)
