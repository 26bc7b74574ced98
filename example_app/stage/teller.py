"""How the demo speaks: chapters, one line for each request with what it shows below, and commands as one types them."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

WIDEST = 120


class Teller:
    """Prints to stdout; colours on a terminal only."""

    def __init__(self) -> None:
        self.width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), WIDEST)
        self._console = Console(width=self.width, highlight=False, markup=False)
        self._chapter = 0

    @property
    def on_terminal(self) -> bool:
        """Is a person reading along?"""
        return self._console.is_terminal

    def chapter(self, title: str, why: str) -> None:
        """A new part of the story."""
        self._chapter += 1
        self._console.print()
        self._console.print(Text(f"{self._chapter}. {title}", style="bold"))
        self._below(why, 3)
        self._console.print()

    def heading(self, text: str) -> None:
        """A part of a chapter."""
        self._console.print(Text(f"\n   {text}", style="bold underline"))

    def request(self, status: int, who: str, method: str, path: str, shows: str) -> None:
        """One request, what came back, and what that shows."""
        colour = "green" if status < 400 else "yellow" if status < 500 else "red"
        line = Text("   ").append(f"{status}", style=f"bold {colour}").append(f"  {who:<15} ")
        self._console.print(line.append(f"{method:<6} {path}", style="bold"), soft_wrap=True)
        self._below(shows, 8)

    def command(self, line: str) -> None:
        """A command that is about to run."""
        self._console.print(
            Text("$ ", style="dim").append(f"audit-middleware {line}", style="bold cyan"), soft_wrap=True
        )
        sys.stdout.flush()  # its output goes straight to where ours goes

    def note(self, text: str, style: str = "") -> None:
        """A remark."""
        self._console.print(Text("   ").append(text, style=style), soft_wrap=True)

    def problem(self, text: str) -> None:
        """Why the demo ends early."""
        self._console.print(Text("\nThe demo failed: ", style="bold red").append(text, style="default"))

    def blank(self) -> None:
        """An empty line."""
        self._console.print()

    def _below(self, text: str, indent: int) -> None:
        self._console.print(Padding(Text(text, style="dim"), (0, 0, 0, indent), expand=False))
