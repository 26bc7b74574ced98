"""Check 2 of a verification: an entry is canonical and a record of the published schema.

The schema exists once, as the pydantic models of `schema`. Validating with them costs 10 us and more an entry; here a
decoder is derived from the same models that does the same work in one C pass over many entries, and encoding what it
read again shows whether the bytes are canonical: its members are declared in the order of their names. It only ever
says yes. Whatever it does not take is looked at again by `canonical.decode` and the models, which have the last word
and the better messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from annotated_types import MaxLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import RecordError
from ..ledger.canonical import MAX_ENTRY, MAX_INTEGER, decode, suspicious
from ..schema import MAX_SEALED, MAX_TEXT, Record


def check_record(entry: bytes) -> Any:
    """Returns the record that these bytes are, if that could be told in the quick way; else ``None``.

    Raises:
        RecordError: with what is wrong, and nothing of what the entry says.
    """
    records = read_records((entry,))
    if records is not None:
        return records[0]
    value = decode(entry)
    try:
        Record.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{where}: {first['msg']}") from None
    return None


class _Derived(NamedTuple):
    """A struct with the fields of a model, the patterns of its own texts, and where in it anything may stand."""

    struct: type[msgspec.Struct]
    patterns: dict[str, str]
    free: list[str]


def _derive(model: type[BaseModel]) -> _Derived:
    patterns: dict[str, str] = {}
    free: list[str] = []
    fields = []
    for name, field in sorted(model.model_fields.items()):
        if not field.is_required():
            raise TypeError(f"{model.__name__}.{name} has a default: the encoder would not know whether it was there")
        pattern = next((one.pattern for one in field.metadata if getattr(one, "pattern", None)), None)
        if pattern is not None:
            patterns[name] = pattern
        fields.append((name, _translated(field.annotation, field.metadata, name, free)))
    struct = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True, gc=False)
    return _Derived(struct, patterns, free)


def _translated(annotation: Any, metadata: list[Any], path: str, free: list[str]) -> Any:
    """The msgspec type that takes no more than this annotation of a pydantic field does."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _translated(arguments[0], list(_constraints(arguments[1:])), path, free)
    if origin in (Union, UnionType):
        optional = NoneType in arguments
        parts = [_translated(one, [], f"{path}?" if optional else path, free) for one in arguments]
        return Union[tuple(parts)]  # noqa: UP007 - built from a list
    if origin is list:
        return list[_translated(arguments[0], [], path, free)]  # type: ignore[misc]
    if origin is dict and arguments[0] is str:
        free.append(path)
        return dict[str, Any if arguments[1] is Any else _translated(arguments[1], [], path, free)]  # type: ignore[misc]
    if annotation is Any:
        free.append(path)
        return Any
    if annotation is str:
        longest = next((one.max_length for one in metadata if isinstance(one, MaxLen)), None)
        if longest == MAX_SEALED:
            longest = MAX_TEXT  # a longer one must begin as what is sealed does: the models look
        return Annotated[str, msgspec.Meta(max_length=longest)]
    if annotation is int:
        return Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    if origin is Literal or annotation in (bool, NoneType):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = _derive(annotation)
        if inner.patterns:
            raise TypeError(f"{annotation.__name__}: patterns are looked at in the record itself only")
        free += [f"{path}.{one}" for one in inner.free]
        return inner.struct
    raise TypeError(f"{path}: {annotation!r} has no counterpart here")


def _constraints(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else (one,)


def _no_float(text: str) -> Any:
    raise ValueError("a number with a fraction or an exponent")


def _make_reader() -> Callable[[Sequence[bytes]], list[Any] | None]:
    derived = _derive(Record)
    read = msgspec.json.Decoder(derived.struct, float_hook=_no_float).decode_lines
    # Struct members as declared, names of dicts sorted.
    write = msgspec.json.Encoder(order="deterministic").encode_lines
    # One search for all patterned texts; none of them can hold the newlines between them.
    patterned = attrgetter(*derived.patterns)
    pattern = "".join(one.removeprefix("^").removesuffix("$") + r"\n" for one in derived.patterns.values())
    match = re.compile(f"(?:{pattern})*+", re.ASCII).fullmatch
    # Only what may be of any shape can hold a big integer, a name that is not ASCII, or deep nesting.
    free = attrgetter(*sorted({path.partition("?")[0] for path in derived.free}))
    refused = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

    def read_records(entries: Sequence[bytes]) -> list[Any] | None:
        """Returns the records that these entries are, if that could be told of all of them in the quick way."""
        data = b"\n".join((*entries, b""))
        try:
            records: list[Any] = read(data)
            # Each is written as one line: where bytes and number are the same, each line is one entry and one record.
            if len(records) != len(entries) or write(records) != data:
                return None
        except refused:
            return None
        texts = "\n".join((*chain.from_iterable(map(patterned, records)), ""))
        if not match(texts) or texts.count("\n") != len(derived.patterns) * len(records):
            return None
        if max(map(len, entries), default=0) > MAX_ENTRY:
            return None
        parts = list(filter(None, chain.from_iterable(map(free, records))))
        if data.isascii() and _flat(parts):
            return records
        doubted = [entry for entry, record in zip(entries, records, strict=True) if _doubted(entry, free(record))]
        return None if any(map(suspicious, doubted)) else records

    return read_records


_DICT, _TEXT = {dict}, {str}


def _flat(parts: Sequence[Any]) -> bool:
    """True if these are dicts that hold nothing but texts."""
    return _DICT.issuperset(map(type, parts)) and _TEXT.issuperset(
        map(type, chain.from_iterable(map(dict.values, parts)))
    )


def _doubted(entry: bytes, parts: Iterable[Any]) -> bool:
    found = list(filter(None, parts))
    return bool(found) and not (entry.isascii() and _flat(found))


read_records = _make_reader()
