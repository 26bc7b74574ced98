"""Cosignatures: timestamped signatures over a checkpoint, by a witness or as the log's post-quantum second line.

C2SP tlog-cosignature v1.0.1 (Ed25519) and v1.1.0-rc.1 (ML-DSA-44). The body of the signature line, after the 4-byte
key ID, is::

    uint64 big-endian     POSIX seconds, at most 2^63-1
    64 or 2,420 bytes     the signature

Ed25519 (type 0x04, key 32 bytes) signs two lines and the whole checkpoint text, extension lines included::

    cosignature/v1\\n
    time <decimal>\\n
    <checkpoint text>

It does not bind the cosigner's name, so a key serves one cosigner only. ML-DSA-44 (type 0x06, key 1,312 bytes, FIPS
204 pure, empty context) binds the name but not the extension lines; it signs::

    "subtree/v1\\n\\0"                         12 bytes
    uint8 length || cosigner name             1 to 255 bytes
    uint64 big-endian time                    the same as in the line
    uint8 length || origin                    1 to 255 bytes
    uint64 big-endian start = 0
    uint64 big-endian end = tree size
    root                                      32 bytes

Meaning: at that time this was the largest tree the cosigner had seen for the origin, and consistent with all before.
The statement about time is only made by a time other than 0; a type 0x04 cosignature always makes it.
"""

from __future__ import annotations

from ..errors import FormatError, NoteError
from .lines import LARGEST, from_base64, from_decimal
from .signatures import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, SIGNATURE_SIZE, Signer, valid

TIME_SIZE = 8


def message(kind: int, name: str, time: int, text: str) -> bytes:
    """Returns the bytes a cosigner of this type and name signs for a checkpoint's text at this time.

    Raises `NoteError` if the text is not a checkpoint or the time is out of range.
    """
    if not 0 < time <= LARGEST:
        raise NoteError(f"cosignature of {name}: time {time} is not between 1 and 2^63-1")
    if kind == COSIGNATURE_ED25519:
        return b"cosignature/v1\ntime %d\n" % time + text.encode()
    if kind == COSIGNATURE_MLDSA44:
        return _subtree_message(name, time, text)
    raise NoteError(f"cosignature of {name}: type 0x{kind:02x} is not a cosignature")


def cosign(kind: int, signer: Signer, time: int, text: str) -> bytes:
    """Returns the body of a signature line: 8 bytes of time and the signature."""
    signature = signer.sign(message(kind, signer.name, time, text))
    if len(signature) != SIGNATURE_SIZE[kind]:
        raise NoteError(f"cosignature of {signer.name}: {len(signature)} bytes, not {SIGNATURE_SIZE[kind]}")
    return time.to_bytes(TIME_SIZE, "big") + signature


def verify(kind: int, name: str, public_key: bytes, text: str, body: bytes) -> bool:
    """True when the body of a signature line holds for this checkpoint text under this cosigner's key."""
    try:
        signed = message(kind, name, cosignature_time(body), text)
    except NoteError:
        return False
    return valid(kind, public_key, signed, body[TIME_SIZE:])


def cosignature_time(body: bytes) -> int:
    """Returns the POSIX seconds a cosignature claims; believe them only after `verify`."""
    return int.from_bytes(body[:TIME_SIZE], "big")


def _subtree_message(name: str, time: int, text: str) -> bytes:
    try:
        origin, size, root = text.split("\n")[:3]
        end = from_decimal(size, "tree size")
        root_hash = from_base64(root, "root hash")
    except (ValueError, FormatError) as error:
        raise NoteError(f"cosignature of {name}: the text is not a checkpoint") from error
    if len(root_hash) != 32:
        raise NoteError(f"cosignature of {name}: the root hash is not 32 bytes")
    return b"".join(
        (
            b"subtree/v1\n\0",
            _opaque(name.encode(), "cosigner name"),
            time.to_bytes(8, "big"),
            _opaque(origin.encode(), "origin"),
            bytes(8),
            end.to_bytes(8, "big"),
            root_hash,
        )
    )


def _opaque(data: bytes, what: str) -> bytes:
    if not 1 <= len(data) <= 255:
        raise NoteError(f"ML-DSA-44 cosignature: {what} must have 1 to 255 bytes")
    return bytes((len(data),)) + data
