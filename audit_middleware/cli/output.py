"""How commands speak: tables and colour on a terminal, JSON on request, one line for an error.

Everything a command prints about records came from outside at some time, so no text is ever interpreted: Rich markup
and names of emoji are off, and control characters are shown as escapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..urls import hide, secrets_in

HOLDS, DOES_NOT_HOLD, USAGE, COULD_NOT_RUN = 0, 1, 2, 3

WIDE = 175
_WHOLE = frozenset({"index", "time", "status", "audit id", "entry", "method"})  # columns that are not folded

# Into a file or pipe a table is as wide as it likes: nobody's terminal folds it.
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def fail(problem: object, code: int = COULD_NOT_RUN) -> NoReturn:
    """Prints one clear error and ends with its exit code."""
    err.print("error:", style="bold red", end=" ")
    err.print(shown(str(problem), newlines=True))
    raise SystemExit(code)


def shown(text: str, *, newlines: bool = False) -> str:
    """Text with control characters as escapes: what a client sent must not steer a terminal."""
    return "".join(
        char if char.isprintable() or (newlines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text
    )


def print_json(value: Any, *, lines: bool = False) -> None:
    """JSON on stdout; with ``lines`` on one line, for streams."""
    indent = None if lines else 2
    separators = (",", ":") if lines else None
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent, separators=separators) + "\n")


def table(title: str | None, *columns: str) -> Table:
    """A plain table; cells are added with `row`."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False, box=None)
    for name in columns:
        made.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
    return made


def row(target: Table, *cells: object, style: str | None = None) -> None:
    """Adds one row; ``None`` is shown as a dash."""
    target.add_row(*("-" if cell is None else Text(shown(str(cell))) for cell in cells), style=style)


class Hiding:
    """A stream of text that no password of these gets through: not in a parser's error, nor in a traceback."""

    def __init__(self, stream: TextIO, secrets: frozenset[str]) -> None:
        self._stream, self._secrets = stream, secrets

    def write(self, text: str) -> int:
        """Writes what may be shown of it."""
        self._stream.write(hide(text, self._secrets))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def without_passwords(texts: Iterable[str]) -> Iterator[None]:
    """Nothing on standard error shows a password of the URLs in these texts, nor of any other URL of a database."""
    before = sys.stderr
    sys.stderr = cast(TextIO, Hiding(before, secrets_in(texts)))
    try:
        yield
    finally:
        if not isinstance(sys.exception(), Exception):  # else the traceback is still to come, and the process ends
            sys.stderr = before


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Any]:
    """A progress bar on stderr, on terminals only; yields ``advance(completed)``."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda completed: bar.update(task, completed=completed)
