"""Whom a verifier trusts: log keys, witnesses, and how many of them must have cosigned.

C2SP tlog-policy (July 2026). A file of lines; items are separated by spaces and tabs; empty lines and lines that start
with "#" are ignored. Octets: tab, newline, 0x20 to 0x7e, 0x80 to 0xff::

    # The log under audit. The key's name is the log's origin; several lines with one name allow key rotation.
    log audit.example/billing+da314cf4+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c

    # Who else must have seen the checkpoint: one of our two other sites, and the auditor.
    witness site-b witness.example/site-b+56b9f9f0+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU https://b.example/
    witness site-c witness.example/site-c+5dde1065+BO1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR https://c.example/
    witness auditor auditor.example+4b20f211+BMqTrBcFGHBx1nuDx/8O/oEI6OxFMFdddyaHkzPb2r58
    group sites any site-b site-c
    group both all sites auditor
    quorum both

* ``log <vkey> [<url>]``: type 0x01 or 0x06. ``witness <name> <vkey> [<url>]``: type 0x04 or 0x06. No public key twice.
* ``group <name> all|any|<k> <name>...``: k of n members, 1 <= k <= n, have cosigned.
* ``quorum <name>|none``: exactly once. ``none`` asks for no cosignature: then the log's operator is trusted not to have
  rewritten everything.
* Witnesses and groups share one set of names; names are opaque octets and mean nothing outside the file. A name is
  defined before it is used, and is a member at most once, so that a witness counts in one way only.

Stricter than the specification in one point: a key cannot be a log's and a witness's at once, because a log that
watches itself is not a witness.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..errors import FormatError, NoteError
from .checkpoint import Checkpoint, parse_checkpoint
from .lines import from_decimal
from .note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, ED25519, Note, Verifier, open_note, parse_vkey

NONE = "none"
"""The quorum that asks for no cosignature."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log: its key, whose name is the log's origin, and where the log is found."""

    verifier: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """A cosigner: the file's name for it, its key, and where it takes submissions."""

    name: str
    verifier: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """``threshold`` of the members (names of witnesses and groups) must have cosigned."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that a trusted log signed: what it says, its note, and the names of the witnesses that cosigned."""

    checkpoint: Checkpoint
    note: Note
    witnesses: frozenset[str]

    @property
    def time(self) -> int | None:
        """POSIX seconds of the newest cosignature; ``None`` without one."""
        return max((line.time for line in self.note.verified if line.time is not None), default=None)


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed trust file; groups stand in the order of their definition."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = NONE

    def log_keys(self, origin: str) -> tuple[Verifier, ...]:
        """Returns the keys that may sign for this origin."""
        return tuple(log.verifier for log in self.logs if log.verifier.name == origin)

    def satisfied_by(self, names: Collection[str]) -> bool:
        """True when cosignatures of these witnesses (by their names in the file) make up the quorum."""
        if self.quorum == NONE:
            return True
        met = {witness.name for witness in self.witnesses if witness.name in names}
        for group in self.groups:
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met

    def open(self, note: bytes, origin: str | None = None) -> Opened:
        """Returns the checkpoint in a note if a listed log signed it and the quorum cosigned it.

        ``origin`` narrows the listed logs to one. Raises `NoteError` if signatures are wrong or missing, `FormatError`
        if the note holds no checkpoint or one of another origin.
        """
        opened = self.look(note, origin)
        if not self.satisfied_by(opened.witnesses):
            seen = ", ".join(sorted(opened.witnesses)) or "nobody"
            raise NoteError(f"checkpoint: quorum {self.quorum!r} is not reached, cosigned by {seen}")
        return opened

    def look(self, note: bytes, origin: str | None = None) -> Opened:
        """Like `open`, but whoever cosigned suffices, even nobody; whether that is a quorum, `satisfied_by` says."""
        cosigners = {(one.verifier.name, one.verifier.key_id): one.name for one in self.witnesses}
        keys = [log.verifier for log in self.logs] + [witness.verifier for witness in self.witnesses]
        opened = open_note(note, keys)
        checkpoint = parse_checkpoint(opened.text)
        signed = {(line.name, line.key_id) for line in opened.verified}
        if origin not in (None, checkpoint.origin):
            raise FormatError(f"checkpoint: origin is {checkpoint.origin!r}, not {origin!r}")
        if not any((key.name, key.key_id) in signed for key in self.log_keys(checkpoint.origin)):
            raise NoteError(f"checkpoint: not signed by a trusted key of the log {checkpoint.origin!r}")
        return Opened(checkpoint, opened, frozenset(name for key, name in cosigners.items() if key in signed))


def parse_policy(data: bytes) -> Policy:
    """Returns the policy in a trust file; raises `FormatError` with the line number for whatever is not one."""
    draft = _Draft()
    for number, line in enumerate(data.split(b"\n"), 1):
        if any((octet < 0x20 and octet != 0x09) or octet == 0x7F for octet in line):
            raise FormatError(f"trust file, line {number}: holds a control character")
        items = [item.decode("utf-8", "surrogateescape") for item in line.split()]
        if not items or items[0].startswith("#"):
            continue
        read = _READERS.get(items[0])
        if read is None:
            raise FormatError(f"trust file, line {number}: {items[0][:40]!r} is not log, witness, group or quorum")
        try:
            read(draft, items[1:])
        except FormatError as error:
            raise FormatError(f"trust file, line {number}: {error}") from error
    if draft.quorum is None:
        raise FormatError("trust file: no quorum line; 'quorum none' asks for no cosignature")
    return Policy(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), draft.quorum)


@dataclass(slots=True)
class _Draft:
    """What the lines so far have defined."""

    logs: list[Log] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorum: str | None = None
    names: set[str] = field(default_factory=lambda: {NONE})
    members: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)

    def define(self, name: str) -> None:
        if name in self.names:
            raise FormatError(f"the name {name!r} is already taken")
        self.names.add(name)

    def key(self, vkey: str, kinds: tuple[int, int]) -> Verifier:
        verifier = parse_vkey(vkey)
        if verifier.type not in kinds:
            allowed = " or ".join(f"0x{kind:02x}" for kind in kinds)
            raise FormatError(f"key {verifier.name!r} has type 0x{verifier.type:02x}, not {allowed}")
        if verifier.public_key in self.keys:
            raise FormatError(f"the public key of {verifier.name!r} is already listed")
        self.keys.add(verifier.public_key)
        return verifier


def _log(draft: _Draft, items: list[str]) -> None:
    if not 1 <= len(items) <= 2:
        raise FormatError("log takes a vkey and at most a URL")
    draft.logs.append(Log(draft.key(items[0], (ED25519, COSIGNATURE_MLDSA44)), items[1] if len(items) == 2 else None))


def _witness(draft: _Draft, items: list[str]) -> None:
    if not 2 <= len(items) <= 3:
        raise FormatError("witness takes a name, a vkey and at most a URL")
    draft.define(items[0])
    verifier = draft.key(items[1], (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44))
    draft.witnesses.append(Witness(items[0], verifier, items[2] if len(items) == 3 else None))


def _group(draft: _Draft, items: list[str]) -> None:
    if len(items) < 3:
        raise FormatError("group takes a name, a threshold (all, any or a number) and one member or more")
    name, wanted, *members = items
    for member in members:
        if member == NONE or member not in draft.names:
            raise FormatError(f"member {member!r} is not defined above")
        if member in draft.members:
            raise FormatError(f"{member!r} is already a member")
        draft.members.add(member)
    draft.define(name)
    threshold = {"all": len(members), "any": 1}.get(wanted) or from_decimal(wanted, "threshold")
    if not 1 <= threshold <= len(members):
        raise FormatError(f"threshold {threshold} is not between 1 and {len(members)}, the number of members")
    draft.groups.append(Group(name, threshold, tuple(members)))


def _quorum(draft: _Draft, items: list[str]) -> None:
    if len(items) != 1:
        raise FormatError("quorum takes one name, or none")
    if draft.quorum is not None:
        raise FormatError("there is a quorum line already")
    if items[0] not in draft.names:
        raise FormatError(f"quorum {items[0]!r} is not defined above")
    draft.quorum = items[0]


_READERS: dict[str, Callable[[_Draft, list[str]], None]] = {
    "log": _log,
    "witness": _witness,
    "group": _group,
    "quorum": _quorum,
}
