"""What all measurements share: works that take turns, results as JSON, a table on the terminal.

A *case* is one comparison: several *sides* measured in turns within one process, the same number of rounds each. What
is told is the median over the rounds, the range, and the median of each round's ratio to the case's base, which noise
of the machine moves least. What was measured while other machines took processor time from this one is measured
again; the machine's own count of that time decides, nobody looks at the values (`Undisturbed`). A result is written
to ``bench/results/<date>/<name>.json`` with the versions of everything.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from bench import OURS

RESULTS = Path(__file__).parent / "results"
FAILURES = "failures.json"
"""What a day's run could not measure, and why."""
PACKAGES = (
    "audit-middleware", "starlette", "fastapi", "pydantic", "msgspec", "pynacl", "cryptography", "opentelemetry-api",
    "uvicorn", "uvloop", "httptools", "asgi-correlation-id", "opentelemetry-instrumentation-fastapi", "casbin",
    "fastapi-authz", "cedarpy", "structlog", "pymerkle", "psycopg",
)  # fmt: skip

MOST_STOLEN = 0.03
"""What was measured while more than this share of the machine's processor time went elsewhere is measured again."""
_TICK = 0.01  # seconds: in what Linux counts

Better = Literal["less", "more"]
Work = Callable[[], Mapping[str, float]]
"""One round of one side: what was measured, by the metric's name."""


@dataclass
class Case:
    """One comparison. ``unranked`` sides do less than the job: a bare application, a lower limit."""

    name: str
    unit: str
    base: str
    sides: Mapping[str, Sequence[float]]
    better: Better = "less"
    unranked: tuple[str, ...] = ()
    note: str = ""

    def ratios(self, side: str) -> list[float]:
        """Of each round: this side to the base."""
        return [value / base for value, base in zip(self.sides[side], self.sides[self.base], strict=True) if base]

    def ranking(self) -> list[str]:
        """Sides that do the job, the best first."""
        ranked = [side for side in self.sides if side not in self.unranked]
        return sorted(ranked, key=lambda side: statistics.median(self.sides[side]), reverse=self.better == "more")

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return {
            "name": self.name, "unit": self.unit, "better": self.better, "base": self.base, "note": self.note,
            "ranking": self.ranking(), "unranked": list(self.unranked),
            "sides": {
                side: _spread(values) | {"ratio": _spread(self.ratios(side)), "rounds": [_short(one) for one in values]}
                for side, values in self.sides.items()
            },
        }  # fmt: skip


@dataclass
class Result:
    """What one file of measurements has found. ``absent``: sides that were asked for and are not installed."""

    name: str
    title: str
    cases: list[Case]
    options: Mapping[str, Any] = field(default_factory=dict)
    absent: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "name": self.name, "title": self.title, "options": dict(self.options), "absent": list(self.absent),
            "environment": environment(), "cases": [case.to_json() for case in self.cases],
        }  # fmt: skip


class Undisturbed:
    """Runs works, and those again during which the hypervisor ran others instead of this machine (``steal`` in proc(5),
    ``/proc/stat``): up to three times each, and together no more than half as often as was planned."""

    again = 0
    """Works that were run again in this process."""

    def __init__(self, planned: int) -> None:
        self._left = planned // 2

    def run(self, work: Work) -> Mapping[str, float]:
        """Returns what the least disturbed attempt has measured."""
        attempts = [self._attempt(work)]
        while attempts[-1][0] > MOST_STOLEN and len(attempts) < 3 and self._left:
            self._left -= 1
            Undisturbed.again += 1
            attempts.append(self._attempt(work))
        return min(attempts, key=lambda attempt: attempt[0])[1]

    def _attempt(self, work: Work) -> tuple[float, Mapping[str, float]]:
        gc.collect()
        began, before = time.monotonic(), stolen_s()
        found = work()
        lost = stolen_s() - before
        return max(0.0, lost - _TICK) / ((time.monotonic() - began) * (os.cpu_count() or 1)), found


def stolen_s() -> float:
    """Seconds, of all processors together, that this machine wanted to run and was not let; 0 where nobody counts."""
    try:
        return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) * _TICK
    except (OSError, IndexError, ValueError):
        return 0.0


def take_turns(
    works: Mapping[str, Work], rounds: int, *, warm: bool = True, timed: bool = True
) -> dict[str, dict[str, list[float]]]:
    """Measures each work once per round, in another order each time; returns metric -> side -> values.

    ``warm``: run each once before, uncounted. ``timed``: what is measured are times, which other machines disturb.
    """
    for work in works.values() if warm else ():
        work()
    found: dict[str, dict[str, list[float]]] = {}
    names = list(works)
    undisturbed = Undisturbed(rounds * len(names) if timed else 0)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            for metric, value in undisturbed.run(works[name]).items():
                found.setdefault(metric, {side: [] for side in names})[name].append(value)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": _short(statistics.median(values)), "min": _short(min(values)), "max": _short(max(values))}


# --- where it was measured ---------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Machine, interpreter, packages and the state of the source."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "repeated": Undisturbed.again,
        "source": _source(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _source() -> str:
    """The commit, with ``+`` where files differ from it, other than the results that are being written."""
    root = RESULTS.parent.parent
    try:
        return _git(root, "rev-parse", "--short", "HEAD") + ("+" if _git(root, *_CHANGES) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


_CHANGES = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)bench/results")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()


# --- the command line --------------------------------------------------------------------------------------------


def parser(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Options that every measurement has. ``rounds`` is the default."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"rounds to measure (default {rounds})")
    made.add_argument("--quick", action="store_true", help="few rounds and small sizes: does it run at all?")
    made.add_argument("--results", type=Path, default=RESULTS, help="where results go")
    return made


def finish(result: Result, given: argparse.Namespace) -> Path:
    """Prints the tables and writes the file; returns its path."""
    console = Console()
    for case in result.cases:
        console.print(table(case))
    for name in result.absent:
        console.print(f"not installed, not measured: {name}", style="yellow")
    told = result.to_json() | {"quick": given.quick, "rounds": given.rounds}
    folder = Path(given.results) / told["environment"]["date"][:10]
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"{result.name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    console.print(f"{path}", style="dim")
    return path


def note_failure(folder: Path, name: str, problem: str) -> None:
    """Keeps in a day's results why a measurement is missing; without a problem, forgets that it was."""
    path = folder / FAILURES
    noted: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    known = noted.pop(name, None)
    if problem:
        noted[name] = problem
    if known != (problem or None):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(noted, indent=1) + "\n")


def table(case: Case) -> Table:
    """One case as a table."""
    made = Table(title=f"{case.name} ({case.unit}; {case.better} is better)", title_justify="left")
    made.add_column("side")
    for heading in ("median", "min", "max", f"ratio to {case.base}"):
        made.add_column(heading, justify="right")
    told = case.to_json()["sides"]
    for side, found in told.items():
        spread = [shown(found[name]) for name in ("median", "min", "max")]
        style = "bold" if side.startswith(OURS) else "dim" if side in case.unranked else None
        made.add_row(side, *spread, shown(found["ratio"].get("median", 0)), style=style)
    return made


def shown(value: float) -> str:
    """A number with three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"
