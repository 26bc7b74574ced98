"""Results into docs/performance.md: ``python -m bench.report [--results bench/results]``.

Takes the newest result of each measurement, writes tables and plots, and says of each comparison who is first and who
is last. What stands outside of the two marks in the page is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import OURS
from bench.measure import RESULTS, shown
from bench.plot import bars

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ORDER = (
    "added_time", "throughput", "steps", "decisions", "appends", "verify", "queries", "growth", "memory", "startup",
)  # fmt: skip
PLOTTED = (
    "FastAPI, 60 routes: time", "FastAPI, 600 routes: time", "uvicorn, 60 routes, 16 connections: throughput",
    "uvicorn, 60 routes, 16 connections: p99", "uvicorn, 600 routes, 16 connections: throughput",
    "event loop, inside requests", "writer's thread, inside requests", "a decision",
    "1 process, 256 records to a commit: durable", "4 processes, 256 records to a commit: durable", "verify",
    f"{OURS}: append to the log", "a service after", "first answer, 60 routes",
)  # fmt: skip
"""How the names of the cases begin that have a plot."""


def newest(results: Path) -> dict[str, dict[str, Any]]:
    """The newest result of each name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("*/*.json")):
        found[path.stem] = json.loads(path.read_text())
    return {name: found[name] for name in ORDER if name in found}


def rendered(results: Mapping[str, dict[str, Any]], plots: Path) -> str:
    """The generated part of the page; writes the plots beside it."""
    if not results:
        return "Nothing was measured yet: run `make bench`.\n"
    lines = [*_where(results), "", "### First and last", "", *_ranks(results)]
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for name, result in results.items():
        lines += ["", f"### {result['title']}", "", *_heading(name, result)]
        for number, case in enumerate(result["cases"]):
            lines += ["", *_table(case)]
            if case["name"].startswith(PLOTTED):
                file = plots / f"{name}-{number}.svg"
                file.write_text(bars(case))
                lines += ["", f"![{case['name']}]({plots.name}/{file.name})"]
    return "\n".join(lines) + "\n"


def _where(results: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    rough = [name for name, result in results.items() if result["quick"]]
    if rough:
        yield f"**A trial, not a measurement: {', '.join(rough)} ran with few rounds and small sizes.**"
        yield ""
    places: dict[tuple[str, ...], tuple[dict[str, Any], list[str]]] = {}
    for name, result in results.items():
        place = result["environment"]
        key = tuple(str(place[part]) for part in ("cpu", "cores", "system", "python", "source"))
        places.setdefault(key, (place, []))[1].append(name)
    for place, names in places.values():
        packages = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
        yield f"{', '.join(names)}: {place['date'][:10]}, {place['cpu']}, {place['cores']} cores, {place['system']},"
        yield f"{place['python']}, commit `{place['source']}`, load {place['load']}; {packages}."


def _ranks(results: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    yield "Who does less than the job (a bare application, a lower limit) is not ranked."
    yield ""
    yield "| what | first | last | we, to the first of the others |"
    yield "|---|---|---|---|"
    for result in results.values():
        for case in result["cases"]:
            ranking = case["ranking"]
            others = [side for side in ranking if not side.startswith(OURS)]
            ours = [side for side in ranking if side.startswith(OURS)]
            if others and ours:
                first, last = _of(case, ranking[0]), _of(case, ranking[-1])
                yield f"| {case['name']} | {first} | {last} | {_we(case, ours, others)} |"


def _of(case: Mapping[str, Any], side: str) -> str:
    return f"{side}: {shown(case['sides'][side]['median'])} {case['unit']}"


def _we(case: Mapping[str, Any], ours: list[str], others: list[str]) -> str:
    """How far our best is from the best of the others, in words that name the loser."""
    mine, theirs = (case["sides"][side]["median"] for side in (ours[0], others[0]))
    better = mine < theirs if case["better"] == "less" else mine > theirs
    times = max(mine, theirs) / min(mine, theirs) if min(mine, theirs) else float("inf")
    return f"{'ahead of' if better else '**behind**'} {others[0]} by {shown(times)}x"


def _heading(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    options = "".join(f", {key} {value}" for key, value in result["options"].items())
    yield f"`python -m bench.{name}`, {result['rounds']} rounds{options}."
    if result["absent"]:
        yield f"Not installed, not measured: {', '.join(result['absent'])}."


def _table(case: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {case['name']} ({case['unit']}; {case['better']} is better) | median | range | to {case['base']} |"
    yield "|---|--:|--:|--:|"
    for side, found in case["sides"].items():
        name = (
            f"**{side}**"
            if side.startswith(OURS)
            else f"*{side}*"
            if side in case["unranked"] and case["ranking"]
            else side
        )
        spread = f"{shown(found['min'])} to {shown(found['max'])}"
        ratio = shown(found["ratio"].get("median", 0))
        yield f"| {name} | {shown(found['median'])} | {spread} | {ratio} |"


def replaced(page: str, generated: str) -> str:
    """The page with another generated part."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has lost its marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    generated = rendered(newest(given.results), given.page.parent / "plots")
    given.page.write_text(replaced(given.page.read_text(), generated))
    print(given.page)


if __name__ == "__main__":
    main()
