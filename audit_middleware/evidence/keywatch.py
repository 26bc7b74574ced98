"""Checks, while a log's commits pass by, that each key signs only in its time. Pure; streams.

The log's own records say when: see `keys`. What is checked:

* a commit that announces a new key (``audit.key_rotated``) is signed by the old key and by the new one;
* no checkpoint that covers the retirement of a key (``audit.key_retired``) carries a line of that key.

In a pruned log the records of older keys are gone; the record of the prune carries them (`standing`), and whoever
watches hands them over at the start.

These records are as believable as the log: a thief who can append can announce a key of his own, but the announcement
is then in the log for ever, under the signature of the stolen key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..errors import NoteError, RecordError
from ..ledger.canonical import decode
from ..ledger.controls import RETIRED, ROTATED
from ..ledger.note import Verifier, open_note, parse_vkey
from ..ledger.report import Finding, Report
from ..model import Json

if TYPE_CHECKING:  # a service watches keys at its start, and verifies nothing
    from ..ledger.examine import Examined, RawFrame

__all__ = ["RETIRED", "ROTATED", "KeyWatch", "may_mention"]

MENTION = b'"audit.key_r'
"""Without these bytes an entry has nothing to do with keys."""

F = TypeVar("F", bound="RawFrame")

_LIMIT = 100  # findings kept; a log can be wrong in every commit


class KeyWatch:
    """Watches frames on their way to a verifier.

    Attributes:
        since: Log index of the record that announced each key.
        retired: Log index of the record that retired each key.
        findings: What contradicts these records, by log index; at most 100.
    """

    def __init__(self, remembered: Mapping[str, Mapping[str, int]] | None = None, size: int = 0) -> None:
        """Nothing seen yet but what is ``remembered`` of the first ``size`` entries; their frames are not looked at."""
        remembered = remembered or {}
        self.since: dict[str, int] = dict(remembered.get("since", {}))
        self.retired: dict[str, int] = dict(remembered.get("retired", {}))
        self.findings: list[Finding] = []
        self._late = {vkey: verifier for vkey in self.retired if (verifier := _verifier(vkey)) is not None}
        self._size = size

    def over(self, frames: Iterable[F]) -> Iterator[F]:
        """Yields the frames as they are, having looked at each."""
        for frame in frames:
            self.look(frame)
            yield frame

    def look(self, frame: RawFrame, *, mentions_keys: bool = True) -> None:
        """Looks at one frame. ``mentions_keys`` is False if it is known that none of its records mentions keys."""
        commit = frame.commit
        if commit is None or frame.torn or commit.size <= self._size:
            return
        for position, entry in enumerate(frame.entries if mentions_keys else ()):
            # A substring costs a fraction of decoding, and nearly no entry has it.
            if MENTION in entry:
                self._take(commit.first + position, entry, frame)
        for vkey, verifier in self._late.items():
            if _signed(commit.checkpoint, verifier):
                text = f"signed by the key {verifier.key_id.hex()}, which entry {self.retired[vkey]} retired"
                self._find(commit.first, text, frame.where)

    def remember(self) -> dict[str, dict[str, int]]:
        """What was seen, for another verification that goes on from the end of this one."""
        return {"since": self.since, "retired": self.retired}

    def amend(self, report: Report) -> Report:
        """Returns the verifier's report with what was found here."""
        if not self.findings:
            return report
        merged = sorted((*report.findings, *self.findings), key=lambda one: -1 if one.index is None else one.index)
        first = self.findings[0]
        earlier = report.index is not None and first.index is not None and report.index <= first.index
        index, cause = (report.index, report.cause) if earlier else (first.index, first.cause)
        claim = report.claim if not report.holds else "none: a key signed out of its time"
        found = replace(report, holds=False, findings=tuple(merged), index=index, cause=cause)
        return replace(found, claim=claim, claims=(), state=None)

    # --- inside --------------------------------------------------------------------------------------------------

    def _take(self, index: int, entry: bytes, frame: RawFrame) -> None:
        try:
            record = decode(entry)
        except RecordError:
            return  # the verifier says so
        extra = record.get("extra")
        if record.get("kind") != "control" or not isinstance(extra, dict):
            return
        if record.get("action") == ROTATED:
            self._rotation(index, extra, frame)
        elif record.get("action") == RETIRED:
            self._retire(index, extra)

    def _retire(self, index: int, extra: Mapping[str, Json]) -> None:
        if verifier := _verifier(extra.get("vkey")):
            self.retired.setdefault(verifier.vkey, index)
            self._late.setdefault(verifier.vkey, verifier)

    def _rotation(self, index: int, extra: dict[str, Json], frame: RawFrame) -> None:
        for name in ("old_vkey", "new_vkey"):
            verifier = _verifier(extra.get(name))
            if verifier is None or frame.commit is None or not _signed(frame.commit.checkpoint, verifier):
                self._find(index, f"a key was rotated, but its {name} did not sign that", frame.where)
            elif name == "new_vkey":
                self.since.setdefault(verifier.vkey, index)

    def _find(self, index: int, text: str, where: str) -> None:
        if len(self.findings) < _LIMIT:
            self.findings.append(Finding(5, "wrong key", index, text, where))


def may_mention(examined: Examined) -> bool:
    """False if it is known that no entry of a frame is one of those that `KeyWatch` acts on."""
    return not examined.all_records or bool(examined.controls)


def _verifier(vkey: Json) -> Verifier | None:
    try:
        return parse_vkey(vkey) if isinstance(vkey, str) else None
    except NoteError:
        return None


def _signed(note: bytes, verifier: Verifier) -> bool:
    """True if this key signed the note. A line of it that does not hold is the verifier's business."""
    try:
        open_note(note, [verifier])
    except NoteError:
        return False
    return True
