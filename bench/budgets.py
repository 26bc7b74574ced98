"""The design's budgets beside what was measured, as the table of README.md; `report` writes it.

Each row names who of the others is best and worst, our median with its range, and who is last of all. A row without a
result says why it is missing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import OURS
from bench.appends import JOURNAL, LIMIT, POSTGRES
from bench.decisions import BY_CONDITION, BY_ROLE
from bench.measure import shown
from bench.memory import IDLE
from bench.queries import COMMAND, PLAIN
from bench.sealing import THREE
from bench.services import UNTOUCHED, WHOLE
from bench.verify import HASHED, ONE, TWO

BEGIN, END = "<!-- budgets: begin -->", "<!-- budgets: end -->"

Results = Mapping[str, Mapping[str, Any]]
Rounds = Mapping[str, list[float]]
"""What each side has in each round."""


class Missing(Exception):
    """There is no result for a row; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line: which side of which case, told how, and what the design asks for (``least``: at least, else at most).

    ``case`` is how the case's name begins; ``{...}`` in ``what`` stands for an option of the result. ``limits``: sides
    that do less than the job, named where nobody else does it.
    """

    what: str
    result: str
    case: str
    side: str
    unit: str
    budget: float | None
    least: bool = False
    told: Callable[[Rounds, str], Rounds] = lambda rounds, base: rounds
    limits: tuple[str, ...] = ()
    exclusive: bool = False
    """Below the budget, not at it."""

    def met(self, value: float) -> bool | None:
        """Is this within the budget? ``None`` where there is none."""
        if self.budget is None:
            return None
        if self.exclusive:
            return value < self.budget
        return value >= self.budget if self.least else value <= self.budget

    @property
    def asked(self) -> str:
        """The budget in words."""
        if self.budget is None:
            return "none"
        sign = "<" if self.exclusive else ">=" if self.least else "<="
        return f"{sign} {shown(self.budget)}{self.unit}"


def ratio(rounds: Rounds, base: str) -> Rounds:
    """Of each round: to the base."""
    return {
        side: [value / other for value, other in zip(values, rounds[base], strict=True)]
        for side, values in rounds.items()
        if side != base
    }


def added(rounds: Rounds, base: str) -> Rounds:
    """Of each round: more than the base."""
    return {
        side: [value - other for value, other in zip(values, rounds[base], strict=True)]
        for side, values in rounds.items()
        if side != base
    }


def _uvicorn(
    what: str, routes: int, metric: str, side: str, budget: float | None, *, least: bool, last: bool = False
) -> Row:
    case = f"uvicorn, {'the last of ' if last else ''}{routes} routes, 16 connections: {metric}"
    return Row(what, "throughput", case, side, "", budget, least, ratio)


def _in_process(
    what: str, routes: int, side: str, budget: float | None, *, exclusive: bool = False, measured: str = "time"
) -> Row:
    case = f"FastAPI, {routes} routes: {measured}"
    return Row(what, "added_time", case, side, " µs", budget, told=added, exclusive=exclusive)


def _durable(processes: int, side: str, budget: float | None, *, late: bool = False) -> Row:
    where = f"{processes} process{'es' if processes > 1 else ''}"
    case = f"{where}, 256 records to a commit: {'p99 of a commit' if late else 'durable records'}"
    place = side.rpartition(", ")[2]
    what = f"{'p99 of a commit' if late else 'durable records a second'}, {where}, {place}"
    return Row(what, "appends", case, side, " ms" if late else "", budget, not late, limits=(LIMIT,))


ROWS: tuple[Row, ...] = (
    _uvicorn("uvicorn, 60 routes asked evenly: throughput to the bare app's", 60, "throughput", OURS, 1.15, least=True),
    _uvicorn("the same, routers not narrowed", 60, "throughput", UNTOUCHED, 0.92, least=True),
    _uvicorn("the same, nothing narrowed", 60, "throughput", WHOLE, 0.92, least=True),
    _uvicorn("uvicorn, the last of 60 routes: throughput to the bare app's", 60, "throughput", OURS, 1.15, least=True,
        last=True),
    _uvicorn("uvicorn, 600 routes asked evenly: throughput to the bare app's", 600, "throughput", OURS, None,
        least=True),
    _uvicorn("p99 at 16 connections, 60 routes asked evenly, to the bare app's", 60, "p99 latency", OURS, 1.05,
        least=False),
    _uvicorn("the same, 600 routes", 600, "p99 latency", OURS, 1.05, least=False),
    _in_process("added to a request in process, 60 routes", 60, OURS, 0.0, exclusive=True),
    _in_process("added to a request in process, 600 routes", 600, OURS, 0.0, exclusive=True),
    _in_process("the same, processor time of all threads, 60 routes", 60, OURS, None,
        measured="processor time with all threads"),
    _in_process("the same, routers not narrowed, 60 routes", 60, UNTOUCHED, 30.0),
    _in_process("the same, routers not narrowed, 600 routes", 600, UNTOUCHED, 30.0),
    _in_process("the same, nothing narrowed, 60 routes", 60, WHOLE, 30.0),
    Row("policy decision by role", "decisions", "a decision", BY_ROLE, " µs", 1.0),
    Row("policy decision with three conditions", "decisions", "a decision", BY_CONDITION, " µs", 5.0),
    _durable(1, JOURNAL, 80_000),
    _durable(4, JOURNAL, 80_000),
    _durable(1, POSTGRES, None),
    _durable(4, POSTGRES, None),
    _durable(1, JOURNAL, 15.0, late=True),
    _durable(4, JOURNAL, 15.0, late=True),
    Row("full verification, entries a second, 1 process", "verify", "verify", ONE, "", 280_000, True, limits=(HASHED,)),
    Row("full verification, entries a second, 2 processes", "verify", "verify", TWO, "", 500_000, True,
        limits=(HASHED,)),
    Row("newest 50 of a user among {entries:,} records, as the command does it", "queries", "newest 50", COMMAND, " ms",
        5.0, limits=(PLAIN,)),
    Row("memory over the bare app, after {requests:,} requests", "memory", "a service after", OURS, " MB", 8.0,
        told=added),
    Row("memory at most while {entries:,} entries are verified", "memory", "verification: peak",
        f"{OURS}, {{entries:,}}", " MB", 100.0, limits=(IDLE,)),
    Row("sealing three fields of a record", "sealing", "covering a record", THREE, " µs", None),
)  # fmt: skip


def table(results: Results, failures: Mapping[str, str]) -> Iterator[str]:
    """The lines of the table."""
    yield "| what | others: best; worst | budget | ours: median (range) | met or missed; last |"
    yield "|---|---|--:|--:|---|"
    for row in ROWS:
        yield "| " + " | ".join(_cells(row, results, failures)) + " |"


def _cells(row: Row, results: Results, failures: Mapping[str, str]) -> tuple[str, ...]:
    result = results.get(row.result)
    what = row.what.format_map(_Options((result or {}).get("options", {})))
    try:
        rounds, side, unranked = _rounds(row, result, failures)
    except Missing as reason:
        return what, "-", row.asked, "-", f"not measured: {reason}"
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    value, values = medians[side], rounds[side]
    ours = f"**{shown(value)}{row.unit}** ({shown(min(values))} to {shown(max(values))})"
    verdict = {True: "met", False: "**missed**", None: "no budget"}[row.met(value)]
    others = {name: found for name, found in medians.items() if not name.startswith(OURS) and name not in unranked}
    ranking = sorted(others, key=others.__getitem__, reverse=row.least)
    if not ranking:
        limit = next((name for name in row.limits if name in medians), None)
        told = f"none; *{limit}* {shown(medians[limit])}" if limit else "none"
        return what, told, row.asked, ours, verdict
    best = [f"{name} {shown(others[name])}" for name in dict.fromkeys((ranking[0], ranking[-1]))]
    ahead = [name for name in ranking if (others[name] > value if row.least else others[name] < value)]
    place = "us" if len(ahead) == len(ranking) else ranking[-1]
    before = f"behind {len(ahead)} of {len(ranking)}, " if ahead else ""
    return what, "; ".join(best), row.asked, ours, f"{verdict}; {before}last: {place}"


def _rounds(row: Row, result: Mapping[str, Any] | None, failures: Mapping[str, str]) -> tuple[Rounds, str, list[str]]:
    """What each side has, told as the row tells it; our side's name; those that do less than the job."""
    if result is None:
        raise Missing(failures.get(row.result, "this was not run"))
    case = next((one for one in result["cases"] if one["name"].startswith(row.case)), None)
    if case is None:
        raise Missing(f"the result of {row.result} has no case '{row.case}'")
    start = row.side.format_map(_Options(result["options"]))
    side = next((name for name in case["sides"] if name == start or name.startswith(f"{start} ")), None)
    if side is None:
        absent = ", ".join(result["absent"])
        raise Missing(f"not installed: {absent}" if absent else f"the result has no side '{start}'")
    rounds = {name: found["rounds"] for name, found in case["sides"].items() if found["rounds"]}
    return row.told(rounds, case["base"]), side, case["unranked"]


class _Unknown(str):
    def __format__(self, _: str) -> str:
        return str(self)


class _Options(dict[str, Any]):
    """Options of a result; where there is none, a name stands for N."""

    def __missing__(self, key: str) -> _Unknown:
        return _Unknown("N")
