"""What is wrong with a file: collected, so that one run reports everything.

Every finding is one line, ``file:line: key.path: text``; a hint at the nearest valid name ends it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from ..errors import PolicyError

__all__ = ["Findings", "join", "nearest"]

MAX_FINDINGS = 100  # a file of garbage must not turn into a message of megabytes
_ESCAPES = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}  # a key may hold them; a finding is one line


class Findings:
    """Collects findings about one file; `close` raises them all as one `PolicyError`."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, path: str, text: str, hint: str = "") -> None:
        """Notes that the value at ``path``, on ``line`` (from 1), is wrong."""
        where = f"{self._filename}:{line}: {path}: " if path else f"{self._filename}:{line}: "
        finding = (line, f"{where}{text}{hint}".translate(_ESCAPES))
        # The same mistake may be met twice, by the check of a name and by the check of its use.
        if finding not in self._found:
            self._found.append(finding)

    def fail(self, line: int, path: str, text: str) -> NoReturn:
        """Notes a finding after which the rest of the file cannot be read, and raises."""
        self.add(line, path, text)
        raise self._error()

    def __len__(self) -> int:
        return len(self._found)

    def close(self) -> None:
        """Raises `PolicyError` when anything was found."""
        if self._found:
            raise self._error()

    def _error(self) -> PolicyError:
        lines = [text for _, text in sorted(self._found, key=lambda finding: finding[0])]
        if len(lines) > MAX_FINDINGS:
            left = len(lines) - MAX_FINDINGS
            lines = [*lines[:MAX_FINDINGS], f"{self._filename}: {left} more findings are not shown"]
        return PolicyError("\n".join(lines))


def join(path: str, key: str) -> str:
    """The path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else key


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing when no valid name is near."""
    from difflib import get_close_matches  # here: most policies are right

    close = get_close_matches(name, list(valid), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
