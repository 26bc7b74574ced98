"""The audit commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

from .errors import Surprise
from .teller import Teller


class Commands:
    """Shows a command, runs it, and compares its exit code."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._environment = {**os.environ, "COLUMNS": str(teller.width)}

    def show(self, *arguments: str, expect: int = 0, lines: int | None = None) -> None:
        """Runs a command with its output where ours goes, or with only its first lines."""
        self._teller.command(shlex.join(arguments))
        pipe = None if lines is None else subprocess.PIPE
        done = subprocess.run(self._line(arguments), env=self._environment, check=False, stdout=pipe, text=True)  # noqa: S603
        if done.returncode != expect:
            raise Surprise(f"audit-middleware {arguments[0]} ended with exit code {done.returncode}, not {expect}")
        if lines is not None:
            print(*done.stdout.splitlines()[:lines], "...", sep="\n", flush=True)

    def ask(self, *arguments: str, expect: int = 0) -> Any:
        """Runs a command in silence and returns the JSON it prints: one value, or a list of one for each line."""
        line = self._line((*arguments, "--json"))
        done = subprocess.run(line, env=self._environment, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode != expect:
            raise Surprise(f"audit-middleware {arguments[0]}: exit code {done.returncode}, not {expect}\n{done.stderr}")
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return [json.loads(text) for text in done.stdout.splitlines()]

    @staticmethod
    def _line(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "audit_middleware", *arguments]
