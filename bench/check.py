"""Has it become slower? ``python -m bench.check``, which is ``make bench-check``: under two minutes, ratios only.

The sides of a ratio are measured in turns in one run, in processor time, or counted. Each is held to its present value
less a margin for noise; the budget beside it is what the design asks for. Where the present value misses the budget,
the line says "known miss": the bound holds what there is, is raised with every improvement, and is never lowered.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audit_middleware.ledger.canonical import decode, encode_trusted
from audit_middleware.pipeline import record
from audit_middleware.pipeline.facts import Facts
from audit_middleware.privacy.redact import Redactor
from bench import OURS, decisions, logs, memory, steps, verify
from bench.apps import guard, marked
from bench.drive import Driver
from bench.measure import Work, shown, take_turns
from bench.services import NARROWING, UNTOUCHED, WHOLE, application, path_of, stop

ROUNDS = 7


TIMES, COUNTS = 0.12, 0.03
"""Margins: how far a ratio of times, or of counts, may be off before it counts as worse."""


@dataclass(frozen=True)
class Bound:
    """One ratio: what it was when this line was last written, how far it may be off, and what the design asks for.

    ``least``: more is better, so it must not fall; else it must not rise.
    """

    name: str
    present: float
    margin: float
    budget: float | None
    least: bool = True

    @property
    def bound(self) -> float:
        """What the ratio is held to."""
        return self.present * (1 - self.margin if self.least else 1 + self.margin)

    def holds(self, value: float) -> bool:
        """Is it within the bound?"""
        return value >= self.bound if self.least else value <= self.bound

    def missed(self, value: float) -> bool:
        """Does it fall short of what the design asks for?"""
        return self.budget is not None and not (value >= self.budget if self.least else value <= self.budget)


# Two shared cores of an AMD EPYC, Python 3.11, FastAPI 0.165. Budgets are those of the design that are ratios, or
# become ratios by what the other side was when they were written: verification 280,000 of 385,000 entries/s, memory 8
# MB over a bare service of 46 MB, at most 1 us for a decision by role where casbin's Enforcer takes 338 us.
BUDGETS: tuple[Bound, ...] = (
    Bound("event loop, 60 routes: bare / guarded", 1.1, TIMES, 1.15),
    Bound("event loop, 600 routes: bare / guarded", 5.0, TIMES, 1.15),
    Bound("event loop, 60 routes: bare / routers not narrowed", 0.66, TIMES, 0.92),
    Bound("event loop, 600 routes: bare / routers not narrowed", 0.79, TIMES, 0.92),
    Bound("all threads, 60 routes: bare / guarded", 0.89, TIMES, 1.0),
    Bound("all threads, 600 routes: bare / guarded", 3.88, TIMES, 1.0),
    Bound("narrowing, 60 routes: none / all", 2.1, TIMES, None),
    Bound("narrowing, 600 routes: none / all", 9.7, TIMES, None),
    Bound("Python calls on the event loop: guarded / bare", 0.6, COUNTS, 1.0, least=False),
    Bound("C calls on the event loop: guarded / bare", 0.277, COUNTS, 1.0, least=False),
    Bound("decision: casbin Enforcer / by role", 1250.0, 2 * TIMES, 338.0),
    Bound("decision: casbin FastEnforcer / by role", 158.0, 2 * TIMES, None),
    Bound("decision: three conditions / by role", 6.6, 2 * TIMES, None, least=False),
    Bound("writer: encoded without a look / a whole record", 0.34, 2 * TIMES, None),
    Bound("verification: 1 process / leaf hashes alone", 0.33, TIMES, 0.73),
    Bound("memory of a service: guarded / bare", 1.22, COUNTS, 1.17, least=False),
)


def of_requests(folder: Path, rounds: int) -> dict[str, float]:
    """Ratios of requests in process."""
    found: dict[str, float] = {}
    driver = Driver()
    for routes in (60, 600):
        apps = {"bare": application(routes)}
        for name, narrow in NARROWING.items():
            apps[name] = guard(application(routes, mark=marked), folder / f"{routes}-{narrow}", routes, narrow=narrow)
        path = partial(path_of, routes=routes)
        works: dict[str, Work] = {name: partial(driver.run, app, path, 300) for name, app in apps.items()}
        times = take_turns(works, rounds)
        for app in apps.values():
            stop(app)
        loop, cpu = times["loop"], times["cpu"]
        found[f"event loop, {routes} routes: bare / guarded"] = ratio(loop["bare"], loop[OURS])
        found[f"event loop, {routes} routes: bare / routers not narrowed"] = ratio(loop["bare"], loop[UNTOUCHED])
        found[f"all threads, {routes} routes: bare / guarded"] = ratio(cpu["bare"], cpu[OURS])
        found[f"narrowing, {routes} routes: none / all"] = ratio(loop[WHOLE], loop[OURS])
    driver.close()
    return found


def of_calls(folder: Path) -> dict[str, float]:
    """Counts, which are the same in every run."""
    cases = {case.name: case for case in steps.counted(folder)}
    return {
        f"{kind} calls on the event loop: guarded / bare": statistics.median(
            cases[f"event loop: {kind} function calls"].ratios(OURS)
        )
        for kind in ("Python", "C")
    }


def of_records(folder: Path, rounds: int) -> dict[str, float]:
    """How near a record is to its limit: what encoding alone takes, of building, redacting, checking and encoding."""
    app, driver = guard(application(mark=marked), folder), Driver()
    items = [item for item in steps.kept_facts(app, driver) if isinstance(item, Facts)]
    stop(app)
    driver.close()
    recorder = record.Recorder(record.Service("bench", None, "bench:1:0", None), Redactor())
    entries = [recorder.encode(item, 1, item.arrived_ns) for item in items]
    built = [decode(entry) for entry in entries]

    def timed(work: Callable[[], object]) -> Mapping[str, float]:
        started = time.thread_time()
        work()
        return {"time": time.thread_time() - started}

    works: dict[str, Work] = {
        "alone": lambda: timed(lambda: [encode_trusted(one) for one in built]),
        "whole": lambda: timed(lambda: [recorder.encode(item, 1, item.arrived_ns) for item in items]),
    }
    times = take_turns(works, 5 * rounds)["time"]
    return {"writer: encoded without a look / a whole record": ratio(times["alone"], times["whole"])}


def of_decisions(folder: Path, rounds: int) -> dict[str, float]:
    """Ratios of decisions."""
    times = take_turns(decisions.works(folder, 400), rounds)["time"]
    ours = times[decisions.BY_ROLE]
    found = {f"decision: {name} / by role": ratio(times[name], ours) for name in times if name.startswith("casbin")}
    return found | {"decision: three conditions / by role": ratio(times[decisions.BY_CONDITION], ours)}


def of_verification(folder: Path, rounds: int, entries: int = 30_000) -> dict[str, float]:
    """How near the verification is to its limit."""
    store = logs.build_log(folder / "log", entries)
    works = {
        name: work
        for name, work in verify.works(store, entries, records=True).items()
        if name in (verify.HASHED, verify.ONE)
    }
    rates = take_turns(works, rounds)["rate"]
    store.close()
    return {"verification: 1 process / leaf hashes alone": ratio(rates[verify.ONE], rates[verify.HASHED])}


def of_memory(folder: Path) -> dict[str, float]:
    """Resident memory of a process after 1,000 requests."""
    ours, bare = (memory.apart("serve", name, "1000")["resident"] for name in (OURS, "bare"))
    return {"memory of a service: guarded / bare": ours / bare}


def ratio(values: list[float], base: list[float]) -> float:
    """The median of each round's ratio."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def judge(found: Mapping[str, float], budgets: tuple[Bound, ...] = BUDGETS) -> tuple[Table, list[str]]:
    """A table of all ratios, and what is wrong. A ratio that was not measured is wrong."""
    table = Table(title="ratios", title_justify="left")
    for heading in ("ratio", "now", "bound", "budget", ""):
        table.add_column(heading, justify="left" if heading in ("ratio", "") else "right")
    wrong: list[str] = []
    for bound in budgets:
        value = found.get(bound.name)
        if value is None:
            wrong.append(f"{bound.name}: not measured")
            continue
        holds, missed = bound.holds(value), bound.missed(value)
        if not holds:
            wrong.append(f"{bound.name} is {shown(value)}, the bound is {shown(bound.bound)}")
        verdict = "worse" if not holds else "known miss" if missed else "holds"
        sign = ">=" if bound.least else "<="
        limits = [f"{sign} {shown(limit)}" if limit is not None else "-" for limit in (bound.bound, bound.budget)]
        style = {"worse": "bold red", "known miss": "yellow"}.get(verdict)
        table.add_row(bound.name, shown(value), *limits, verdict, style=style)
    return table, wrong


def main() -> None:
    """Measures, prints, exits 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    found: dict[str, float] = {}
    works: tuple[Callable[[Path], dict[str, float]], ...] = (
        partial(of_requests, rounds=rounds),
        of_calls,
        partial(of_records, rounds=rounds),
        partial(of_decisions, rounds=rounds),
        partial(of_verification, rounds=rounds),
        of_memory,
    )
    try:
        for number, work in enumerate(works):
            place = folder / str(number)
            place.mkdir()
            found |= work(place)
    finally:
        shutil.rmtree(folder)
    console = Console()
    table, wrong = judge(found)
    console.print(table)
    for problem in wrong:
        console.print(problem, style="bold red")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
