"""What a destination sends of an entry: a format's own shape, with log and index beside it where the format has room.

There is one shape for each format in the product; destinations choose one and add nothing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ConfigError
from ..formats import FORMATS, Format, Place, jsonl
from ..formats.text import canonical
from .config import Options
from .sink import Item

Before = Callable[[Mapping[str, Any]], bytes]


class Shapes:
    """Entries of one log in one format."""

    def __init__(self, form: str, origin: str, before: Before | None = None, **options: object) -> None:
        """``before`` makes what stands before the shape. Raises `ConfigError` for an option that there is not."""
        self._before = before
        self._format, self._origin = FORMATS[form], origin
        self._encode = self._format.placing(**options)

    def shape(self, item: Item) -> bytes:
        """One entry. Raises what the format raises for a record that is not of a version it knows."""
        place = Place(self._origin, item.index)
        if self._before is not None:
            return self._before(item.record) + self._encode(item.record, place)
        if self._format.function is jsonl.encode:
            if item.show is not None:
                return jsonl.placed(canonical(item.record), place)
            return jsonl.placed(item.entry, place)  # the entry's own bytes: what a reader hashes is what the tree holds
        return self._encode(item.record, place)

    def shapes(self, items: Iterable[Item]) -> tuple[list[tuple[Item, bytes]], dict[int, str]]:
        """Those that can be shown, and by index why one cannot: it will not be taken, until a release that can."""
        made, rejected = list[tuple[Item, bytes]](), dict[int, str]()
        for item in items:
            try:
                made.append((item, self.shape(item)))
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
                # The class alone: its text may quote the record.
                rejected[item.index] = f"cannot be shown as {self._format.name}: {type(error).__name__}"
        return made, rejected


def lines() -> tuple[str, ...]:
    """The formats of which an entry is one line."""
    return tuple(form.name for form in FORMATS.values() if form.framing == "lines")


def json_lines() -> tuple[str, ...]:
    """Those of them that are JSON."""
    return tuple(name for name in lines() if FORMATS[name].is_json)


def checked(options: Options, key: str, form: Format, option: str, value: object) -> None:
    """Makes what a format says against one of its options a finding about the configuration's key."""
    try:
        form.encoder(**{option: value})
    except ConfigError as problem:
        options.finding(key, str(problem))
