"""A log and its signing keys: creation, rotation, overlap, retirement, and the check that a retired key signs no more.

Where a key stands, and what each place means:

* the **key file** holds one ``PRIVATE+KEY`` line for each *active* key; a writer signs every checkpoint with all of
  them. Running services read it at their start;
* ``config.json`` lists the verifier keys of all keys that ever were active, so that old checkpoints open for ever. It
  only grows;
* the **log** itself says when: ``audit.key_rotated`` (``old_vkey``, ``new_vkey``, ``size``) in a commit that both keys
  sign, ``audit.key_retired`` (``vkey``, ``size``). ``size`` is what the log held when the command looked; a retirement
  takes effect with its own record: a checkpoint that covers the record and carries the retired key's line is late.

A thief of a retired key can still sign. Whoever trusts the old verifier key alone believes that; `KeyWatch` reports it
in the log, and verifiers drop the old key from their trust files.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConfigError, LogExists, StoreError
from ..ledger.note import format_signer_key, parse_vkey
from ..model import Json
from ..protocols import Clock
from ..signing import SEED_SIZE, Ed25519Signer, read_key_file, replace_key_file, write_key_file
from ..stores.journal import JournalStore
from ..stores.opening import Database, Place, Store, folder_of, key_of, open_log
from ..stores.tail import Repair
from .changes import append_control, changing
from .heads import open_compared
from .keywatch import RETIRED, ROTATED, KeyWatch
from .signers import signers_of, vkey_of
from .standing import carried_keys


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a change left: the verifier keys that sign from the next start on, and the log's size after its record."""

    active: tuple[str, ...]
    size: int | None


def _refuse_existing(log: Database, origin: str) -> None:
    """Before a key is made that would be no log's. What else is wrong, who makes the log finds and says."""
    from ..stores.postgres import PostgresStore  # here: it needs psycopg

    try:
        PostgresStore.open(log.url, origin=origin, writable=False).close()
    except StoreError:
        return
    raise LogExists(f"{log}: there is a log {origin} already")


def new_key(origin: str, path: Path) -> str:
    """Makes a key in a new file, 0600, and returns its verifier key. Raises `KeyFileError`, `NoteError`."""
    text = format_signer_key(origin, secrets.token_bytes(SEED_SIZE))
    write_key_file(path, text)
    return vkey_of(signers_of(text)[0])


def rotate(log: Place, key_file: Path, new_file: Path, *, clock: Clock = time.time_ns) -> KeyChange:
    """Makes the key in ``new_file`` one that signs this log, beside those that do.

    1. ``config.json`` gets its verifier key. *If we die here*: verifiers know a key that never signed.
    2. The record, signed by the old keys and the new one. *If we die here*: the old keys sign on alone.
    3. The key file gets its line. From their next start on, services sign with all keys.

    After a crash the same command completes the work; the record may then be there twice, which is harmless.

    Raises:
        ConfigError: The new key is of another log, active already, or was retired.
        KeyFileError, NoteError, StoreError: The keys or the log cannot be read or written.
    """
    with changing(log, "keys"):
        repairs: list[Repair] = []
        store = open_compared(log, repairs.append)
        with contextlib.closing(store):
            text = read_key_file(key_file)
            active = _active(text, store.origin, key_file)
            added = read_key_file(new_file)
            new, *more = _active(added, store.origin, new_file)
            if more:
                raise ConfigError(f"{new_file}: holds {len(more) + 1} keys; rotate to one at a time")
            _check_fresh(log, store, active, vkey_of(new))
            store.list_vkey(vkey_of(new))
            extra = {"old_vkey": vkey_of(active[0]), "new_vkey": vkey_of(new), "size": store.head().size}
            size = append_control(store, [*active, new], ROTATED, extra, clock, repairs)
            replace_key_file(key_file, "\n".join([*text.split(), added]))
            return KeyChange(tuple(vkey_of(one) for one in (*active, new)), size)


def retire(log: Place, key_file: Path, old: str, *, prepare: bool = False, clock: Clock = time.time_ns) -> KeyChange:
    """Ends the use of a key, named by its verifier key or its key ID (8 hex digits).

    1. The key file loses its line. *If we die here*: as after ``prepare``.
    2. The record, signed by the keys that remain; not with ``prepare``, which leaves time to restart every service
       first. What the old key signs from that record on is reported.

    Raises:
        ConfigError: No such key, or no other key would be left.
        KeyFileError, NoteError, StoreError: The keys or the log cannot be read or written.
    """
    with changing(log, "keys"):
        repairs: list[Repair] = []
        store = open_compared(log, repairs.append)
        with contextlib.closing(store):
            vkey = _named(store.vkeys, old)
            text = read_key_file(key_file)
            active = _active(text, store.origin, key_file)
            remaining = [one for one in active if vkey_of(one) != vkey]
            if not remaining:
                raise ConfigError(f"{key_file}: holds no other key; rotate first: audit-middleware keys rotate {log}")
            if len(remaining) < len(active):
                lines = zip(text.split(), active, strict=True)
                replace_key_file(key_file, "\n".join(line for line, one in lines if one in remaining))
            size = None
            if not prepare:
                extra: dict[str, Json] = {"vkey": vkey, "size": store.head().size}
                # Services that were not started anew since the rotation still sign with the old key alone.
                size = append_control(store, remaining, RETIRED, extra, clock, repairs, [parse_vkey(vkey)])
            return KeyChange(tuple(map(vkey_of, remaining)), size)


def key_history(log: Place) -> KeyWatch:
    """Reads the whole log and returns what it says of its keys, and what contradicts it."""
    store = open_log(log)
    watch = KeyWatch(carried_keys(store))
    for _ in watch.over(store.raw_frames()):
        pass
    return watch


# --- inside ----------------------------------------------------------------------------------------------------------


def _active(text: str, origin: str, where: Path) -> tuple[Ed25519Signer, ...]:
    signers = signers_of(text)
    if signers[0].name != origin:
        raise ConfigError(f"{where}: is for {signers[0].name!r}, but the log is {origin!r}")
    return signers


def _check_fresh(log: Place, store: Store, active: Sequence[Ed25519Signer], vkey: str) -> None:
    if vkey in map(vkey_of, active):
        raise ConfigError(f"{vkey}: signs this log already")
    # Listed but not active: a rotation that was cut short, or a key that was retired. The log knows which.
    if vkey in store.vkeys and vkey in key_history(log).retired:
        raise ConfigError(f"{vkey}: was retired; make a new key: audit-middleware keys new")


def _named(vkeys: Iterable[str], wanted: str) -> str:
    found = [vkey for vkey in vkeys if wanted in (vkey, parse_vkey(vkey).key_id.hex())]
    if len(found) != 1:
        raise ConfigError(f"{wanted}: is no key of this log; see: audit-middleware keys list")
    return found[0]


def create_log(log: Place, origin: str, key: Path | None = None) -> str:
    """Makes an empty log and its signing key, and returns the verifier key (vkey).

    An existing key file is used if it is this origin's, so that a log can be made with a key made elsewhere. The key is
    written first: a log whose key was lost could never be continued.

    Raises:
        LogExists, KeyFileError, NoteError: nothing was changed, or only the key file was made.
    """
    key = key or key_of(log)
    if isinstance(log, Database):
        _refuse_existing(log, origin)
    for folder in (folder_of(log).parent, key.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not key.exists():
        seed = secrets.token_bytes(32)
        write_key_file(key, format_signer_key(origin, seed) + "\n")
    signers = signers_of(read_key_file(key))
    for signer in signers:
        if signer.name != origin:
            raise ConfigError(f"the key in {key} is for {signer.name!r}, not for {origin!r}; give another --key")
    vkeys = [vkey_of(signer) for signer in signers]
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(log, Database):
        from ..stores.postgres import initialise  # here: it needs psycopg

        initialise(log.url, origin, vkeys, created)
    else:
        JournalStore.create(log, origin, vkeys, created)
    return vkeys[-1]
