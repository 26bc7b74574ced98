"""Signed notes: a text and the signature lines under it.

C2SP signed-note v1.0.0. All of it is UTF-8; no character below U+0020 but newline occurs::

    <text: one or more lines, may hold empty ones>
    <empty line>
    — <key name> <base64(4 bytes of key ID || body)>\\n         1 to 100 such lines; the dash is U+2014

* The text ends with a newline, is separated from the lines by the *last* empty line, and is what is signed.
* Key name: not empty, no Unicode space, no "+". Lines end with "\\n", the last one too.
* Key ID: the first 4 bytes of SHA-256(name || "\\n" || type byte || public key).
* Verifier key: ``<name>+<key ID as 8 lowercase hex digits>+<base64(type byte || public key)>``.
* Signer key, a convention of Go's sumdb/note: ``PRIVATE+KEY+<name>+<hex>+<base64(type byte || 32-byte seed)>``.
  The type says what the key is for: 0x01 signs a log, 0x04 and 0x06 cosign for a witness; none is taken for the other.

What `open_note` decides: a line whose name and key ID match no verifier is unverified and ignored; one that matches a
verifier must hold, or the whole note is refused; a second line of the same key is skipped; a note without any line that
holds is refused. Types and algorithms: `signatures`; timestamped types: `cosignature`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256

import msgspec

from ..errors import NoteError
from . import cosignature
from .lines import check_text, from_base64, has_control, is_name, to_base64
from .signatures import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    KEY_SIZE,
    SEED_SIZE,
    SIGNATURE_SIZE,
    Signer,
    public_key_of,
    usable,
    valid,
)

__all__ = [
    "COSIGNATURE_ED25519",
    "COSIGNATURE_MLDSA44",
    "ED25519",
    "Note",
    "Signature",
    "Signer",
    "Verifier",
    "cosignature_line",
    "format_signer_key",
    "format_vkey",
    "key_id",
    "open_note",
    "parse_cosigner_key",
    "parse_signer_key",
    "parse_vkey",
    "read_note",
    "sign",
]

MAX_SIGNATURES = 100
"""More lines than this are refused, so that a note cannot be made to cost without bound."""

_DASH = "\N{EM DASH} "
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True)
class Verifier:
    """A public key that may sign notes: its name, signature type and raw bytes."""

    name: str
    type: int
    public_key: bytes

    @cached_property
    def key_id(self) -> bytes:
        """The 4 bytes that stand before each of its signatures."""
        return key_id(self.name, self.type, self.public_key)

    @property
    def vkey(self) -> str:
        """The verifier key as text."""
        return format_vkey(self.name, self.public_key, self.type)

    def holds(self, text: str, body: bytes) -> bool:
        """True when ``body``, what follows the key ID in a line, is this key's signature of the text."""
        if self.type == ED25519:
            return valid(ED25519, self.public_key, text.encode(), body)
        return cosignature.verify(self.type, self.name, self.public_key, text, body)


class Signature(msgspec.Struct, frozen=True):
    """One signature line. ``type`` is known only for a verified line."""

    name: str
    key_id: bytes
    body: bytes
    type: int | None = None

    @property
    def time(self) -> int | None:
        """POSIX seconds at which a verified cosignature was made; ``None`` for other lines."""
        if self.type in (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44):
            return cosignature.cosignature_time(self.body)
        return None

    @property
    def line(self) -> bytes:
        """The line as it stands in a note, with its newline."""
        return f"{_DASH}{self.name} {to_base64(self.key_id + self.body)}\n".encode()


class Note(msgspec.Struct, frozen=True):
    """A note that was opened: at least one line holds under a known key."""

    text: str
    verified: tuple[Signature, ...]
    unverified: tuple[Signature, ...] = ()


@lru_cache(maxsize=256)
def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Returns the 4 bytes of key ID for a name, a type byte and a raw public key."""
    return sha256(b"%s\n%c%s" % (name.encode(), kind, public_key)).digest()[:4]


def format_vkey(name: str, public_key: bytes, kind: int = ED25519) -> str:
    """Returns the verifier key as text. Raises `NoteError` for a bad name, type or key length."""
    _check_key(name, kind, public_key, KEY_SIZE.get(kind))
    return f"{name}+{key_id(name, kind, public_key).hex()}+{to_base64(bytes((kind,)) + public_key)}"


def parse_vkey(text: str) -> Verifier:
    """Returns the verifier that a vkey stands for; types 0x01, 0x04 and 0x06.

    Raises `NoteError` for other types, a key ID that does not belong to the key, any other spelling, and for bytes that
    are nobody's key.
    """
    # The base64 part may hold "+" itself.
    name, _, rest = text.partition("+")
    identifier, _, encoded = rest.partition("+")
    material = from_base64(encoded, f"verifier key of {name!r}", NoteError)
    if not material:
        raise NoteError(f"verifier key of {name!r}: empty")
    kind, public_key = material[0], material[1:]
    if format_vkey(name, public_key, kind) != text:
        raise NoteError(f"verifier key of {name!r}: key ID {identifier[:8]!r} does not belong to this name and key")
    if not usable(kind, public_key):
        raise NoteError(f"verifier key of {name!r}: no point of Ed25519's main group; use the key its owner gave you")
    return Verifier(name, kind, public_key)


def format_signer_key(name: str, seed: bytes, kind: int = ED25519) -> str:
    """Returns a seed of 32 bytes in the ``PRIVATE+KEY+`` form. Keep it secret."""
    _check_key(name, kind, seed, SEED_SIZE)
    identifier = key_id(name, kind, public_key_of(kind, seed))
    return f"{_PRIVATE}{name}+{identifier.hex()}+{to_base64(bytes((kind,)) + seed)}"


def parse_signer_key(text: str) -> tuple[str, bytes]:
    """Returns name and 32-byte seed of a log's ``PRIVATE+KEY+`` text. No error repeats any part of the secret."""
    name, _, seed = _parse_private(text, (ED25519,), "signer key")
    return name, seed


def parse_cosigner_key(text: str) -> tuple[str, int, bytes]:
    """Returns name, type and 32-byte seed of a witness's ``PRIVATE+KEY+`` text; a log's key is refused."""
    return _parse_private(text, (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44), "cosigner key")


def _parse_private(text: str, kinds: tuple[int, ...], what: str) -> tuple[str, int, bytes]:
    name, _, rest = text.removeprefix(_PRIVATE).partition("+")
    _, _, encoded = rest.partition("+")
    if not text.startswith(_PRIVATE):
        raise NoteError(f"{what}: does not start with PRIVATE+KEY+")
    material = from_base64(encoded, what, NoteError)
    # Nothing of a garbled key is repeated: where its name ends and its secret begins is then anybody's guess.
    if not is_name(name) or not material or material[0] not in kinds or len(material) != 1 + SEED_SIZE:
        allowed = " or ".join(f"0x{kind:02x}" for kind in kinds)
        raise NoteError(f"{what}: not <name>+<key ID>+<base64 of {allowed} and a 32-byte seed> after PRIVATE+KEY+")
    if format_signer_key(name, material[1:], material[0]) != text:
        raise NoteError(f"{what}: the key ID does not belong to this name and key")
    return name, material[0], material[1:]


def sign(text: str, signers: Iterable[Signer]) -> bytes:
    """Returns the note with one Ed25519 line (type 0x01) per signer."""
    check_text(text, "note text", NoteError)
    message = text.encode()
    lines = [_line(signer, ED25519, signer.sign(message)) for signer in signers]
    if not lines:
        raise NoteError("a note needs at least one signer")
    return b"%s\n%s" % (message, "".join(lines).encode())


def cosignature_line(text: str, signer: Signer, kind: int, time: int) -> bytes:
    """Returns one signature line with a cosignature of this checkpoint text, to be appended to the note."""
    return _line(signer, kind, cosignature.cosign(kind, signer, time, text)).encode()


def open_note(note: bytes, verifiers: Iterable[Verifier]) -> Note:
    """Returns text and signatures of a note after checking every line of a known key.

    Raises `NoteError` if the note is malformed, a known key's signature does not hold, or no known key signed.
    """
    known = _index(verifiers)
    text, signatures = read_note(note)
    verified: dict[tuple[str, bytes], Signature] = {}
    unverified: dict[Signature, None] = {}
    for line in signatures:
        key = line.name, line.key_id
        if key not in known:
            unverified[line] = None
        elif key not in verified:
            if not known[key].holds(text, line.body):
                raise NoteError(f"note: signature of {line.name} ({line.key_id.hex()}) does not hold")
            verified[key] = Signature(line.name, line.key_id, line.body, known[key].type)
    if not verified:
        raise NoteError("note: not signed by any known key")
    return Note(text, tuple(verified.values()), tuple(unverified))


def _index(verifiers: Iterable[Verifier]) -> dict[tuple[str, bytes], Verifier]:
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise NoteError(f"verifiers: two keys share the name {verifier.name} and the ID {verifier.key_id.hex()}")
    return known


def read_note(note: bytes) -> tuple[str, list[Signature]]:
    """Returns text and signature lines of a note. Nothing is verified: for telling malformed from unknown."""
    try:
        content = note.decode()
    except UnicodeDecodeError as error:
        raise NoteError(f"note: not UTF-8 at byte {error.start}") from error
    if has_control(content):
        raise NoteError("note: holds a control character")
    text, separator, block = content.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise NoteError("note: no blank line followed by whole signature lines")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"note: {len(lines)} signatures, at most {MAX_SIGNATURES} are allowed")
    return text + "\n", [_parse_line(line, number) for number, line in enumerate(lines, 1)]


def _parse_line(line: str, number: int) -> Signature:
    where = f"note: signature line {number}"
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not is_name(name):
        raise NoteError(f"{where}: not of the form '{_DASH}<key name> <base64>'")
    data = from_base64(encoded, where, NoteError)
    if len(data) < 5:
        raise NoteError(f"{where}: too short for a key ID and a signature")
    return Signature(name, data[:4], data[4:])


def _line(signer: Signer, kind: int, body: bytes) -> str:
    if kind == ED25519 and len(body) != SIGNATURE_SIZE[ED25519]:
        raise NoteError(f"signature of {signer.name}: {len(body)} bytes, not {SIGNATURE_SIZE[ED25519]}")
    _check_key(signer.name, kind, signer.public_key, KEY_SIZE.get(kind))
    return Signature(signer.name, key_id(signer.name, kind, signer.public_key), body).line.decode()


def _check_key(name: str, kind: int, key: bytes, size: int | None) -> None:
    if not is_name(name):
        raise NoteError(f'key name {name!r}: must not be empty nor hold spaces, control characters or "+"')
    if size is None:
        raise NoteError(f"key of {name!r}: type 0x{kind:02x} is not supported")
    if len(key) != size:
        raise NoteError(f"key of {name!r}: {len(key)} bytes, not {size}")
