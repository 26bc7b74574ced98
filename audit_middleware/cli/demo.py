"""The demonstration: the example service, driven and audited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from .output import COULD_NOT_RUN, fail


def demo(
    keep: Annotated[Path | None, typer.Option(help="Where to leave the log. Default: var/demo")] = None,
) -> None:
    """Run the example service, show its trail, verify it, tamper with a copy."""
    home = example_home()
    if home is None:
        fail("the example application is not here: it comes with the source, where `make demo` runs it", COULD_NOT_RUN)
    options = ["--keep", str(keep.resolve())] if keep else []
    raise SystemExit(subprocess.run([sys.executable, "-m", "example_app.demo", *options], cwd=home).returncode)  # noqa: S603  # our own module


def example_home() -> Path | None:
    """The folder that holds ``example_app``: the source checkout."""
    home = Path(__file__).resolve().parents[2]
    return home if (home / "example_app" / "demo.py").exists() else None
