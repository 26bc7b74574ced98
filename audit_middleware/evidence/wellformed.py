"""Check 2 of a verification: an entry is canonical and a record of the published schema.

The schema exists once, as the pydantic models of `schema`. Validating with them costs 10 us and more an entry; here
decoders are derived from the same models that do the same work in one C pass over many entries, and encoding what was
read again shows whether the bytes are canonical: members are declared in the order of their names. They only ever say
yes. Whatever they do not take is looked at again by `canonical.decode` and the models, which have the last word and the
better messages.

Where the schema allows any JSON, the first decoder takes what is nested a few levels deep and holds no number out of
range: that is in its types, so nothing is left to be looked at but names that are not ASCII. The second one takes
anything there; its entries are searched for what the canonical form forbids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from annotated_types import MaxLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import RecordError
from ..ledger.canonical import MAX_ENTRY, MAX_INTEGER, decode, has_non_ascii_name, suspicious
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


_DEEP = 5  # levels of free JSON that have a type; each one more doubles what the decoder is built of


class _Derived(NamedTuple):
    """A struct with the fields of a model, and the patterns of its own texts."""

    struct: type[msgspec.Struct]
    patterns: dict[str, str]


def _derive(model: type[BaseModel], free: Any = Any) -> _Derived:
    """Follows a model; ``free`` is what its places of any JSON take."""
    patterns: dict[str, str] = {}
    fields = []
    for name, field in sorted(model.model_fields.items()):
        if not field.is_required():
            raise TypeError(f"{model.__name__}.{name} has a default: the encoder would not know whether it was there")
        pattern = next((one.pattern for one in field.metadata if getattr(one, "pattern", None)), None)
        if pattern is not None:
            patterns[name] = pattern
        fields.append((name, _translated(field.annotation, field.metadata, name, free)))
    struct = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True, gc=False)
    return _Derived(struct, patterns)


def _nested(levels: int) -> Any:
    """The type of JSON that is nested so deep at most, without numbers that have no canonical form."""
    free: Any = Union[None, bool, _INTEGER, str]  # noqa: UP007 - as below
    for _ in range(levels):
        free = Union[None, bool, _INTEGER, str, list[free], dict[str, free]]  # noqa: UP007 - built of types
    return free


def _translated(annotation: Any, metadata: list[Any], name: str, free: Any) -> Any:
    """The msgspec type that takes no more than this annotation of a pydantic field does."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _translated(arguments[0], list(_constraints(arguments[1:])), name, free)
    if origin in (Union, UnionType):
        parts = [_translated(one, [], name, free) for one in arguments]
        return Union[tuple(parts)]  # noqa: UP007 - built from a list
    if origin is list:
        return list[_translated(arguments[0], [], name, free)]  # type: ignore[misc]
    if origin is dict and arguments[0] is str:
        return dict[str, _translated(arguments[1], [], name, free)]  # type: ignore[misc]
    if annotation is Any:
        return free
    if annotation is str:
        longest = next((one.max_length for one in metadata if isinstance(one, MaxLen)), None)
        if longest == MAX_SEALED:
            longest = MAX_TEXT  # a longer one must begin as what is sealed does: the models look
        return Annotated[str, msgspec.Meta(max_length=longest)]
    if annotation is int:
        return _INTEGER
    if origin is Literal or annotation in (bool, NoneType):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = _derive(annotation, free)
        if inner.patterns:
            raise TypeError(f"{annotation.__name__}: patterns are looked at in the record itself only")
        return inner.struct
    raise TypeError(f"{name}: {annotation!r} has no counterpart here")


def _constraints(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else (one,)


_INTEGER = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def _no_float(text: str) -> Any:
    raise ValueError("a number with a fraction or an exponent")


def _make_reader() -> Callable[[Sequence[bytes]], list[Any] | None]:
    derived = _derive(Record, _nested(_DEEP))
    read = msgspec.json.Decoder(derived.struct, float_hook=_no_float).decode_lines
    read_any = msgspec.json.Decoder(_derive(Record).struct, float_hook=_no_float).decode_lines
    # Struct members as declared, names of dicts sorted.
    write = msgspec.json.Encoder(order="deterministic").encode_lines
    # One search for all texts of one pattern; none of them can hold the newlines between them.
    patterned = [
        (re.compile(f"(?:{pattern.removeprefix('^').removesuffix('$')}\\n)*+", re.ASCII).fullmatch, getters)
        for pattern, getters in _by_pattern(derived.patterns).items()
    ]

    def read_records(entries: Sequence[bytes]) -> list[Any] | None:
        """Returns the records that these entries are, if that could be told of all of them in the quick way."""
        data = b"\n".join((*entries, b""))
        plain = True
        try:
            try:
                records: list[Any] = read(data)
            except msgspec.ValidationError:  # it is JSON, as far as was read
                records, plain = read_any(data), False
            # Each is written as one line: where bytes and number are the same, each line is one entry and one record.
            if len(records) != len(entries) or write(records) != data:
                return None
        except _REFUSED:
            return None
        for match, getters in patterned:
            texts = [text for get in getters for text in map(get, records)]
            texts.append("")
            joined = "\n".join(texts)
            if not match(joined) or joined.count("\n") != len(texts) - 1:
                return None
        if max(map(len, entries), default=0) > MAX_ENTRY:
            return None
        doubted = has_non_ascii_name(data) if plain else any(map(suspicious, entries))
        return None if doubted else records

    return read_records


def _by_pattern(patterns: dict[str, str]) -> dict[str, list[Callable[[Any], str]]]:
    """What gets the texts of each pattern."""
    found: dict[str, list[Callable[[Any], str]]] = {}
    for name, pattern in patterns.items():
        found.setdefault(pattern, []).append(attrgetter(name))
    return found


read_records = _make_reader()
