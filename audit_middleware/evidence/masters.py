"""The keys of the persons in a log, and the master key over them: set-up and rotation.

A rotation is a record of the log, ``audit.master_key_rotated``: ``old_master``, ``new_master`` (their URLs, no
secrets), ``renewed`` (whether the store's own key was made anew, too), ``by`` and ``size`` of the log before it. It is
written first. *If we die after it*: the old master key is still the one, and the same command does the rest; the record
is there twice then. A command that died at its very end finds that the new one is in force, and only says so.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, MasterKeyError
from ..model import Json
from ..privacy.key_store import KeyStore
from ..privacy.keys import create_keys, open_keys, renew, rotate_master
from ..privacy.masters import make_master, master_file, open_master
from ..protocols import Clock, MasterKey
from ..signing import read_key_file
from ..stores.opening import Place, origin_of
from ..stores.tail import Repair
from .changes import append_control, changing
from .control import as_owner
from .heads import open_compared
from .signers import signers_of

ROTATED = "audit.master_key_rotated"
LOCK = "subject_keys"
"""Name of the lock under which the keys of persons are changed by commands."""


@dataclass(frozen=True, slots=True)
class MasterChange:
    """What a rotation left: the master key in force, how many persons' rows were encrypted anew (``None``: none were
    to be), and the log's size after its record (``None``: it had been done before)."""

    master: str
    renewed: int | None
    size: int | None


def set_up(log: Place, place: str, master: str) -> bool:
    """Makes an empty store for the persons in a log, and the file of its master key where there is none.

    Returns whether that file was made. If we die in between: a master key without a store, which the next attempt uses.

    Raises:
        StoreError: There is no log.
        SubjectKeysError, MasterKeyError, ConfigError: There is a store already, or it or the key cannot be made.
    """
    origin = origin_of(log)
    with as_owner(log):
        made = _make_file(master)
        create_keys(place, origin, open_master(master, origin))
    return made


def rotate(
    log: Place,
    key_file: Path,
    place: str,
    master: str,
    new_master: str | None,
    by: str,
    *,
    deep: bool = False,
    clock: Clock = time.time_ns,
) -> MasterChange:
    """Puts a new master key in place of the old one, makes a new store key (``deep``), or both; and records it.

    Args:
        log: The log.
        key_file: Its signing key.
        place: Where the keys of its persons are.
        master: The URL of the master key in force.
        new_master: That of the one to come; a file is made where there is none. ``None``: the same stays.
        by: Who.
        deep: Encrypt every row anew. Without it only the key of the store is wrapped anew.
        clock: The time.

    Raises:
        ConfigError: Nothing is to be changed, or the signing key is another log's.
        MasterKeyError, SubjectKeysError, KeyFileError, NoteError, StoreError: Something cannot be read or written.
    """
    if new_master is None and not deep:
        raise ConfigError("nothing to do: name a new master key, or have the store's own key renewed (--deep)")
    origin = origin_of(log)
    with as_owner(log), changing(log, LOCK):
        old = open_master(master, origin)
        if new_master is not None:
            _make_file(new_master)
        new = old if new_master is None else open_master(new_master, origin)
        try:
            keys = open_keys(place, origin, old)
        except MasterKeyError:
            if new_master is None or deep:
                raise
            _is_done(place, origin, new)
            return MasterChange(new.name, None, None)
        with contextlib.closing(keys):
            if new_master is not None:
                keys.check_other(new)
            size = _record(log, key_file, origin, old, new, by, deep, clock)
            return MasterChange(new.name, _carry_out(keys, old, new, deep), size)


def _carry_out(keys: KeyStore, old: MasterKey, new: MasterKey, deep: bool) -> int | None:
    if new is not old:
        rotate_master(keys, new)
    return renew(keys) if deep else None


def _is_done(place: str, origin: str, new: MasterKey) -> None:
    """Raises `MasterKeyError` unless the new master key is the one in force."""
    open_keys(place, origin, new).close()


def _make_file(master: str) -> bool:
    path = master_file(master)
    if path is None or Path(path).exists():
        return False
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    make_master(master)
    return True


def _record(
    log: Place, key_file: Path, origin: str, old: MasterKey, new: MasterKey, by: str, deep: bool, clock: Clock
) -> int:
    signers = signers_of(read_key_file(key_file))
    if signers[0].name != origin:
        raise ConfigError(f"{key_file}: is for {signers[0].name!r}, but the log is {origin!r}")
    repairs: list[Repair] = []
    store = open_compared(log, repairs.append)
    with contextlib.closing(store):
        extra: dict[str, Json] = {
            "old_master": old.name,
            "new_master": new.name,
            "renewed": deep,
            "by": by,
            "size": store.head().size,
        }
        return append_control(store, signers, ROTATED, extra, clock, repairs)
