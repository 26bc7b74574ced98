"""Values as they go to the server, made in a few steps: a batch costs the interpreter little more than a join."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256

import msgspec
from psycopg.adapt import Dumper
from psycopg.pq import Format

from ..columns import Row, row_of

_ARRAY = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i").pack
_BYTEA, _BYTEA_ARRAY, _JSONB = 17, 1001, 3802

LONGEST = 256
"""Most characters of a column: an index of PostgreSQL takes about 2,700 bytes of one value."""

_NULL = b"\\u0000"


class ByteaArray(bytes):
    """A ``bytea[]`` in PostgreSQL's binary form."""


class BinaryJson(bytes):
    """A ``jsonb`` as it is sent: a version number and the text."""


class _ArrayDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEA_ARRAY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _JsonDumper(_ArrayDumper):
    oid = _JSONB


DUMPERS = ((ByteaArray, _ArrayDumper), (BinaryJson, _JsonDumper))


def bytea_array(values: Sequence[bytes]) -> ByteaArray:
    """One dimension, no nulls."""
    pieces = [_ARRAY.pack(1, 0, _BYTEA, len(values), 1)]
    for value in values:
        pieces += (_LENGTH(len(value)), value)
    return ByteaArray(b"".join(pieces))


def columns_of(entries: Sequence[bytes]) -> BinaryJson:
    """The columns of these entries, without their index."""
    rows = [stored_row(row_of(0, entry))[1:] for entry in entries]
    text = msgspec.json.encode(rows)
    if _NULL in text:  # PostgreSQL's text holds every character but this
        text = msgspec.json.encode([[_without_null(cell) for cell in row] for row in rows])
    return BinaryJson(b"\x01" + text)


def stored_row(row: Row) -> Row:
    """A row as the database holds it: texts too long for an index are cut, with a hash of the whole."""
    for cell in row:
        if cell.__class__ is str and len(cell) > LONGEST:
            return tuple(map(stored, row))
    return row


def stored(cell: object) -> object:
    """One value of a row, or of a query, as the database holds it."""
    if not isinstance(cell, str) or len(cell) <= LONGEST:
        return cell
    return f"{cell[:100]} {sha256(cell.encode(errors='surrogatepass')).hexdigest()}"


def as_found(cell: object) -> object:
    """One value of a row, or of a query, as it comes back."""
    return _without_null(stored(cell))


def _without_null(cell: object) -> object:
    return cell.replace("\0", "\ufffd") if isinstance(cell, str) else cell
