"""Results into docs/performance.md and README.md: ``python -m bench.report [--results bench/results]``.

Takes the newest result of each measurement, writes tables and plots, and says of each comparison who is first and who
is last; into README.md the table of budgets. What stands outside of the marks in the pages is written by hand and
stays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import OURS, budgets
from bench.measure import FAILURES, RESULTS, shown
from bench.plot import bars

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ORDER = (
    "added_time", "throughput", "steps", "decisions", "appends", "busy", "verify", "queries", "growth", "memory",
    "startup", "sealing",
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


def unmeasured(results: Path) -> dict[str, str]:
    """Why there is no result of a measurement on the newest day on which it was tried; nothing where there is one."""
    found: dict[str, str] = {}
    for day in sorted(path for path in results.glob("*") if path.is_dir()):
        found = {name: why for name, why in found.items() if not (day / f"{name}.json").exists()}
        if (day / FAILURES).exists():
            found |= json.loads((day / FAILURES).read_text())
    return found


def rendered(results: Mapping[str, dict[str, Any]], plots: Path, failures: Mapping[str, str] | None = None) -> str:
    """The generated part of the page; writes the plots beside it."""
    if not results:
        return "Nothing was measured yet: run `make bench`.\n"
    lines = [*_where(results), *_missing(results, failures or {}), "", "### First and last", "", *_ranks(results)]
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


def _where(results: Mapping[str, dict[str, Any]], *, packages: bool = True) -> Iterator[str]:
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
        versions = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
        load = f"load {place['load']}{f'; {versions}' if packages else ''}"
        yield f"{', '.join(names)}: {place['date'][:10]}, {place['cpu']}, {place['cores']} cores, {place['system']},"
        again = sum(results[name]["environment"].get("repeated", 0) for name in names)
        yield f"{place['python']}, commit `{place['source']}`, {load}."
        if again:
            yield f"Disturbed by other machines on the same host, and therefore measured again: {again:,} times."


def _missing(results: Mapping[str, dict[str, Any]], failures: Mapping[str, str]) -> Iterator[str]:
    for name in ORDER:
        older = f"; the numbers are of {results[name]['environment']['date'][:10]}" if name in results else ""
        if name in failures or name not in results:
            yield ""
            not_done = "Not measured to its end" if name in results else "Not measured"
            yield f"**{not_done}: {name}**: {failures.get(name, 'this was not run')}{older}."


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


def replaced(page: str, generated: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with another generated part."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise SystemExit(f"the page has lost its marks {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n\n{generated}\n{end}{after}"


def summary(results: Mapping[str, dict[str, Any]], failures: Mapping[str, str]) -> str:
    """The generated part of the README."""
    lines = [*_where(results, packages=False), "", *budgets.table(results, failures), ""]
    return "\n".join(lines)


def write(results: Path, page: Path = PAGE, readme: Path = README) -> None:
    """Writes the page, its plots, and the README's table. Without any result, the README stays as it is."""
    found, failures = newest(results), unmeasured(results)
    generated = rendered(found, page.parent / "plots", failures)
    page.write_text(replaced(page.read_text(), generated))
    print(page)
    if found:
        told = summary(found, failures)
        readme.write_text(replaced(readme.read_text(), told, (budgets.BEGIN, budgets.END)))
        print(readme)


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--readme", type=Path, default=README)
    given = parser.parse_args()
    write(given.results, given.page, given.readme)


if __name__ == "__main__":
    main()
