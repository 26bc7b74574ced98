"""Checks, while a log's commits pass by, that each key signs only in its time. Pure; streams.

The log's own records say when: see `keys`. What is checked:

* a commit that announces a new key (``audit.key_rotated``) is signed by the old key and by the new one;
* no checkpoint that covers the retirement of a key (``audit.key_retired``) carries a line of that key.

These records are as believable as the log: a thief who can append can announce a key of his own, but the announcement
is then in the log for ever, under the signature of the stolen key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from ..errors import NoteError, RecordError
from ..ledger.canonical import decode
from ..ledger.examine import RawFrame
from ..ledger.note import Verifier, open_note, parse_vkey
from ..ledger.report import Finding, Report
from ..model import Json

ROTATED, RETIRED = "audit.key_rotated", "audit.key_retired"

F = TypeVar("F", bound=RawFrame)

_LIMIT = 100  # findings kept; a log can be wrong in every commit


class KeyWatch:
    """Watches frames on their way to a verifier.

    Attributes:
        since: Log index of the record that announced each key.
        retired: Log index of the record that retired each key.
        findings: What contradicts these records, by log index; at most 100.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.since: dict[str, int] = {}
        self.retired: dict[str, int] = {}
        self.findings: list[Finding] = []
        self._late: dict[str, Verifier] = {}

    def over(self, frames: Iterable[F]) -> Iterator[F]:
        """Yields the frames as they are, having looked at each."""
        for frame in frames:
            self._look(frame)
            yield frame

    def amend(self, report: Report) -> Report:
        """Returns the verifier's report with what was found here."""
        if not self.findings:
            return report
        merged = sorted((*report.findings, *self.findings), key=lambda one: -1 if one.index is None else one.index)
        first = self.findings[0]
        earlier = report.index is not None and first.index is not None and report.index <= first.index
        index, cause = (report.index, report.cause) if earlier else (first.index, first.cause)
        claim = report.claim if not report.holds else "none: a key signed out of its time"
        return replace(report, holds=False, findings=tuple(merged), index=index, cause=cause, claim=claim)

    # --- inside --------------------------------------------------------------------------------------------------

    def _look(self, frame: RawFrame) -> None:
        commit = frame.commit
        if commit is None or frame.torn:
            return
        for position, entry in enumerate(frame.entries):
            # A substring costs a fraction of decoding, and nearly no entry has it.
            if b'"audit.key_r' in entry:
                self._take(commit.first + position, entry, frame)
        for vkey, verifier in self._late.items():
            if _signed(commit.checkpoint, verifier):
                text = f"signed by the key {verifier.key_id.hex()}, which entry {self.retired[vkey]} retired"
                self._find(commit.first, text, frame.where)

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
        elif record.get("action") == RETIRED and (verifier := _verifier(extra.get("vkey"))):
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
