"""Everything a log holds about somebody, as a folder to give out (GDPR Art. 15, 20): readable, and with proofs.

::

    README.txt              what this is, and how to check it
    records.jsonl           one line a record: {"index": n, "record": {...}}, opened with this person's keys alone
    entries.jsonl           the same entries as the log has them, byte for byte
    proofs/<index>.tlog-proof   each entry with the proof that it is in the log
    checkpoint              the log's newest signed checkpoint
    keys.txt                the log's verifier keys
    disclosure.json         on request: the person's keys, and the proof of the entry that told their commitments

What is sealed for others stays sealed; what stands in the log in clear about them is in these files, too.

``audit.subject_exported`` (``tokens``, ``because``, ``records``, ``with_key``, ``by``) is in the log before the first
file is written. *If we die then*: a record of an export that is not whole; its folder lacks ``README.txt``, which comes
last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..archives.local import Folder
from ..errors import ConfigError
from ..ledger.checkpoint import CHECKPOINT
from ..ledger.note import parse_vkey
from ..ledger.proof import format_proof
from ..model import Json
from ..privacy.key_store import KeyStore
from ..privacy.opening import Opener
from ..protocols import Clock
from ..stores.filesystem import sync_directory, write_side_file
from ..stores.opening import Place, Store, folder_of
from .changes import append_control
from .erasures import commitment_in, erasures_of
from .holdings import Chosen, holdings, matches
from .prove import Prover
from .receipts import proof_of
from .retention import writing
from .rights import check_text, reading_keys

__all__ = ["EXPORTED", "Disclosed", "disclose"]

EXPORTED = "audit.subject_exported"


@dataclass(frozen=True, slots=True)
class Disclosed:
    """How many records were exported, of which so many name the person in clear, and the entry that tells it."""

    records: int
    in_clear: int
    entry: int


def disclose(
    log: Place,
    key_file: Path,
    place: str,
    master: str,
    chosen: Chosen,
    target: Path,
    because: str,
    by: str,
    *,
    with_key: bool = False,
    clock: Clock = time.time_ns,
    progress: Callable[[int], object] | None = None,
) -> Disclosed:
    """Records the export, then writes it into a new or empty folder, for its owner alone.

    Raises:
        ConfigError: The folder is not empty, or the reason is missing or names the person.
        KeyFileError, NoteError, StoreError: The log cannot be read or written.
        SubjectKeysError: The keys cannot be read.
        OSError: The folder cannot be written.
    """
    because = check_text(because, chosen, "--because")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there already; name a new folder")
    with writing(log, key_file) as (store, signers):
        size = store.head().size
        found = holdings(store, chosen, size, progress=progress)
        extra: dict[str, Json] = {
            "tokens": [*chosen.tokens], "because": because, "records": found.records, "with_key": with_key, "by": by,
        }  # fmt: skip
        entry = append_control(store, signers, EXPORTED, extra, clock) - 1
    _make(target, log)
    with reading_keys(log, place, master) as (store, keys):
        _Writer(store, keys, chosen, target, log).write(size, with_key=with_key)
    return Disclosed(found.records, found.in_clear, entry)


def _make(target: Path, log: Place) -> None:
    """The folder. Root reads the log and the keys as their owner, and writes as that one, too."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and isinstance(log, Path):
        owner = log.stat()
        os.chown(target, owner.st_uid, owner.st_gid)


class _Writer:
    """Writes one export."""

    def __init__(self, store: Store, keys: KeyStore, chosen: Chosen, target: Path, log: Place) -> None:
        self.store, self.keys, self.chosen, self.target = store, keys, chosen, target
        folder = Folder(folder_of(log))
        verifiers = [parse_vkey(text) for text in store.vkeys]
        self.prover = Prover(store, verifiers, folder if folder.has(CHECKPOINT) else None)
        commitments = {token: found for token in chosen.held if (found := commitment_in(store, token)) is not None}
        self.commitments = commitments
        erased = frozenset(erasures_of(store, chosen.tokens))
        self.opener = Opener(
            keys, store.origin, erased, {token: told for token, (_, told) in commitments.items()},
            only=frozenset(chosen.tokens),
        )  # fmt: skip

    def write(self, size: int, *, with_key: bool) -> None:
        """Writes all files; the README last."""
        proofs = self.target / "proofs"
        proofs.mkdir(mode=0o700)
        with _created(self.target / "records.jsonl") as records, _created(self.target / "entries.jsonl") as entries:
            for match in matches(self.store, self.chosen, size):
                records.write(_line({"index": match.index, "record": self.opener.opened(match.record)}))
                entries.write(match.entry + b"\n")
                with _created(proofs / f"{match.index}.tlog-proof") as proof:
                    proof.write(format_proof(proof_of(self.prover, match.index, entry=True)))
            for file in (records, entries):
                file.flush()
                os.fsync(file.fileno())
        write_side_file(self.target / "checkpoint", self.store.head().checkpoint)
        write_side_file(self.target / "keys.txt", "".join(f"{vkey}\n" for vkey in self.store.vkeys).encode())
        if with_key:
            write_side_file(self.target / "disclosure.json", msgspec.json.format(_line(self._keys())))
        write_side_file(self.target / "README.txt", _readme(self.store.origin, self.store.vkeys, with_key).encode())
        sync_directory(proofs)
        sync_directory(self.target)

    def _keys(self) -> dict[str, Any]:
        """What opens and checks the values: whoever has this reads all that was ever sealed for the person."""
        said: list[dict[str, Any]] = []
        for token in self.chosen.held:
            found = self.keys.named(token)
            if found is None:
                continue
            index, told = self.commitments.get(token, (None, None))
            proof = None if index is None else format_proof(proof_of(self.prover, index, entry=True)).decode()
            said.append(
                {
                    "token": token, "key": found[1].secret.hex(), "salt": found[1].salt.hex(), "commitment": told,
                    "told_in": index, "proof": proof,
                }
            )  # fmt: skip
        return {"origin": self.store.origin, "keys": said}


def _created(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _readme(origin: str, vkeys: Sequence[str], with_key: bool) -> str:
    key = vkeys[-1] if vkeys else "KEY"
    text = f"""What the audit log {origin} holds about one person
{"=" * (42 + len(origin))}

records.jsonl   the records, one a line, with the number of their place in the log. What was sealed is opened.
                "token abcdef...", "sealed (abcdef...)": data of somebody else, which is not opened here.
                "committed (abcdef...)": the log holds a digest of that value alone.
entries.jsonl   the same records as the log holds them: sealed.
proofs/         for each record the proof that it is in the log, unchanged since it was written.
checkpoint      what the log's key signed over the whole log when this was made.
keys.txt        the keys that sign the log, as its operator names them. Have them confirmed by somebody else.

To check a record, with the free program audit-middleware and without any access to the log:

    audit-middleware verify-proof proofs/NUMBER.tlog-proof --vkey '{key}'

Records may name other persons. Whoever passes them on has to see to their rights (GDPR Art. 15(4)).
"""
    if not with_key:
        return text
    return (
        text
        + """
disclosure.json holds the keys themselves. They show that records.jsonl says what was sealed: the SHA-256 of
"audit key commit v1" and the key is the commitment that the log has held since the key was first used (see "proof"
there); a value "sealed.v1.TOKEN.DATA" is 12 bytes of nonce and AES-256-GCM under that key, with the log's name, the
record's action_id and the field's path, separated by zero bytes, as additional data. Keep this file secret: whoever
has it and the log can read everything that was sealed for this person, also after an erasure.
"""
    )
