"""A witness's keys: one ``PRIVATE+KEY`` line each in a file of mode 0600, of type 0x04 (Ed25519) or 0x06 (ML-DSA-44).

The type byte keeps the two kinds of key apart: a log's key (0x01) is refused here, a witness's is refused where a log
is written. Several lines are several cosignatures: Ed25519 beside ML-DSA-44, or an old key beside a new one.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ..errors import KeyFileError, NoteError
from ..ledger.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    Signer,
    format_signer_key,
    parse_cosigner_key,
    parse_signer_key,
)
from ..signing import SEED_SIZE, Ed25519Signer, MLDSA44Signer, read_key_file, write_key_file
from .witness import Cosigner


def new_cosigner_key(name: str, path: Path, *, ml_dsa: bool = False) -> tuple[str, ...]:
    """Makes a witness's keys in a new file, 0600, and returns their verifier keys.

    Args:
        name: The witness's name, a URL without scheme.
        path: Never overwritten.
        ml_dsa: Make an ML-DSA-44 key beside the Ed25519 key.

    Raises:
        KeyFileError, NoteError: There is a file already, the name is none, or ML-DSA-44 cannot be had here.
    """
    kinds = (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44) if ml_dsa else (COSIGNATURE_ED25519,)
    text = "\n".join(format_signer_key(name, secrets.token_bytes(SEED_SIZE), kind) for kind in kinds)
    vkeys = tuple(one.verifier.vkey for one in cosigners_of(text, str(path)))
    write_key_file(path, text)
    return vkeys


def read_cosigners(path: Path) -> tuple[Cosigner, ...]:
    """Returns the keys in a witness's key file. Raises `KeyFileError` for anything else, a log's key above all."""
    return cosigners_of(read_key_file(path), f"key file {path}")


def cosigners_of(text: str, where: str) -> tuple[Cosigner, ...]:
    """Returns the keys in a key file's text; ``where`` is for messages. Raises `KeyFileError`."""
    found = []
    for line in text.split():
        try:
            name, kind, seed = parse_cosigner_key(line)
        except NoteError as problem:
            raise KeyFileError(f"{where}: {_other(line) or problem}") from None
        found.append(Cosigner(kind, _signer(name, kind, seed)))
    if not found:
        raise KeyFileError(f"{where}: holds no key")
    if len({one.signer.public_key for one in found}) < len(found):
        raise KeyFileError(f"{where}: the same key is there twice")
    return tuple(found)


def _signer(name: str, kind: int, seed: bytes) -> Signer:
    return MLDSA44Signer(name, seed) if kind == COSIGNATURE_MLDSA44 else Ed25519Signer(name, seed)


def _other(line: str) -> str | None:
    try:
        name, _ = parse_signer_key(line)
    except NoteError:
        return None
    return (
        f"is the signing key of the log {name}; a log that watches itself is no witness. Make a key for the witness: "
        "audit-middleware keys new --cosigner"
    )
