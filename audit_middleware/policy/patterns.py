"""Patterns: RE2 only, compiled once, with a bound on the work one match may cost.

RE2 has no backtracking: time grows linearly with input length times program size. The product is what we bound, so
that no pattern takes more than a few milliseconds on any input: a pattern of at most 16 instructions reads 64 KiB, one
of 256 reads 4 KiB (measured: docs/policy.md). Longer input is an error, and errors deny.

Patterns search; write ``^`` and ``$`` to match the whole value. ``$`` is the end of the text, not the place before a
last newline.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConditionError

__all__ = ["MAX_INPUT", "MAX_PROGRAM", "Pattern", "PatternError"]

MAX_INPUT = 65_536  # bytes of UTF-8
MAX_PROGRAM = 2_000  # RE2 instructions; a bounded repetition of a Unicode class has tens of thousands
MAX_WORK = 1 << 20  # bytes times instructions
_MEMORY = 1 << 20  # a small DFA cache gives up early on exponential automata, which is faster than thrashing

_HINTS = {
    "invalid escape sequence: \\Z": "write \\z or $",
    "invalid perl operator: (?=": "RE2 has no lookaround",
    "invalid perl operator: (?!": "RE2 has no lookaround",
    "invalid perl operator: (?<": "RE2 has no lookaround; a named group is (?P<name>...)",
}


class PatternError(ValueError):
    """The pattern cannot be used; the message ends a finding. Never leaves this package."""


class Pattern:
    """A compiled pattern; immutable and safe to share between threads."""

    __slots__ = ("_search", "limit", "text")

    def __init__(self, text: str) -> None:
        import re2  # here: it takes 2 MB, and many policies have no patterns

        options = re2.Options()
        options.max_mem = _MEMORY
        options.never_capture = True
        options.log_errors = False  # RE2 would write to stderr
        try:
            # Bytes, not text: for text the binding also maps match offsets back to characters.
            compiled = re2.compile(text.encode(), options)
            size = max(compiled.programsize, compiled.reverseprogramsize)
        except re2.error as error:
            raise PatternError(_reason(error)) from None
        if size > MAX_PROGRAM or size < 1:
            raise PatternError(
                f"the pattern compiles to more than {MAX_PROGRAM} instructions: simplify its repetitions"
            )
        self.text = text
        self.limit = min(MAX_INPUT, MAX_WORK // size)
        self._search: Callable[[bytes], object] = compiled.search

    def search(self, value: str, path: str) -> bool:
        """Whether the pattern occurs in ``value``; `ConditionError` when ``value`` is too long or not Unicode."""
        if len(value) > self.limit:
            raise ConditionError(f"{path} is longer than its pattern may read ({self.limit} bytes)")
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise ConditionError(f"{path} is not valid Unicode") from None
        if len(data) > self.limit:
            raise ConditionError(f"{path} is longer than its pattern may read ({self.limit} bytes)")
        return self._search(data) is not None


def _reason(error: Exception) -> str:
    raw = error.args[0] if error.args else b""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    hint = next((hint for start, hint in _HINTS.items() if text.startswith(start)), "")
    if text.startswith("invalid escape sequence: \\") and text[-1:].isdigit():
        hint = "RE2 has no backreferences"
    return f"RE2 refuses the pattern: {text}" + (f" ({hint})" if hint else "")
