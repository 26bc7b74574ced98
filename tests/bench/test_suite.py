"""The measurements import, measure, and write what the report and the check can read. Nothing here looks at a time."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import OURS, decisions, report
from bench.added_time import Bench
from bench.check import BUDGETS, Bound, judge
from bench.measure import Case, Result, finish, parser, take_turns
from bench.plot import bars
from bench.services import application, path_of
from bench.stopwatch import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_without_the_peers(name: str) -> None:
    assert importlib.import_module(f"bench.{name}").__doc__


def test_every_measurement_is_run_by_make_bench_and_has_help() -> None:
    sources = {name: (ROOT / "bench" / f"{name}.py").read_text() for name in MODULES}
    measured = {name for name, source in sources.items() if "parser(__doc__, rounds=" in source}
    assert measured == set(report.ORDER)
    told = subprocess.run([sys.executable, "-m", "bench.decisions", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "--quick" in told.stdout, told.stderr


def test_bare_is_bare() -> None:
    code = "import sys, bench.inside; bench.inside.serve('bare', 2); print('audit_middleware' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


def case(**other: Any) -> Case:
    sides = {"bare": [1.0, 2.0, 3.0], OURS: [4.0, 4.0, 6.0], "peer": [9.0, 1.0, 9.0]}
    return Case("a case", "us", "bare", sides, unranked=("bare",), **other)


def test_ratios_are_of_each_round_and_the_ranking_knows_what_is_better() -> None:
    assert case().ratios(OURS) == [4.0, 2.0, 2.0]
    assert case().ranking() == [OURS, "peer"]
    assert case(better="more").ranking() == ["peer", OURS]
    assert case().to_json()["sides"][OURS]["ratio"] == {"median": 2.0, "min": 2.0, "max": 4.0}


def test_works_take_turns_in_both_orders() -> None:
    order: list[str] = []

    def work(name: str) -> dict[str, float]:
        order.append(name)
        return {"time": float(len(order))}

    found = take_turns({name: partial(work, name) for name in "ab"}, 2)
    assert "".join(order) == "ababba"
    assert found == {"time": {"a": [3.0, 6.0], "b": [4.0, 5.0]}}


def test_a_tiny_run_writes_a_result_that_the_report_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "apps", rounds=2, requests=10)
    try:
        cases = bench.cases("tiny", bench.three(application, 60), partial(path_of, routes=60))
    finally:
        bench.close()
    given = parser(None, rounds=2).parse_args(["--results", str(tmp_path / "results"), "--quick"])
    path = finish(Result("added_time", "Tiny", cases), given)
    told = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name)
    assert told["rounds"] == 2
    assert told["quick"]
    assert {"python", "cpu", "cores", "load", "source", "packages"} <= told["environment"].keys()
    assert [set(one["sides"]) for one in told["cases"]] == [{"bare", OURS, f"{OURS}, not narrowed"}] * 3
    assert all(
        side["min"] <= side["median"] <= side["max"] and side["median"] > 0
        for one in told["cases"]
        for side in one["sides"].values()
    )

    page = report.rendered(report.newest(tmp_path / "results"), tmp_path / "plots")
    assert "A trial, not a measurement: added_time" in page
    assert f"| **{OURS}** |" in page
    assert "| *bare* |" in page


def test_an_application_that_answers_otherwise_is_no_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1, requests=1)
    with pytest.raises(SystemExit, match="status 404, not 200"):
        bench.cases("wrong", {"bare": application()}, lambda number: "/nowhere")
    bench.close()


def test_decisions_are_asked_and_must_allow(tmp_path: Path) -> None:
    works = decisions.works(tmp_path, 5)
    assert {decisions.BY_ROLE, decisions.BY_CONDITION} <= works.keys()
    assert all(work()["time"] > 0 for work in works.values())
    with pytest.raises(SystemExit, match="denies"):
        decisions.timed(lambda number: number != 30, 1)


def test_the_report_names_the_loser_also_where_it_is_us() -> None:
    told = case().to_json()
    assert report._we(told, [OURS], ["peer"]) == "ahead of peer by 2.25x"
    assert report._we(case(better="more").to_json(), [OURS], ["peer"]) == "**behind** peer by 2.25x"


def test_the_generated_part_is_replaced_and_nothing_else() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.replaced(page, "new\n") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    with pytest.raises(SystemExit, match="lost its marks"):
        report.replaced("before", "new")
    assert report.BEGIN in report.PAGE.read_text()


def test_a_plot_is_an_image_with_every_side() -> None:
    root = ET.fromstring(bars(case(note="<&>").to_json()))
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"bare", OURS, "peer"} <= set(texts)
    kinds = [node.get("class") for node in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert kinds == ["limit", "ours", "last"]


def test_a_ratio_beyond_its_bound_fails_and_a_missing_one_too() -> None:
    present = {bound.name: bound.present for bound in BUDGETS}
    assert judge(present)[1] == []
    for bound in BUDGETS:
        worse = bound.bound * (0.99 if bound.least else 1.01)
        _, wrong = judge(present | {bound.name: worse})
        assert [bound.name in one for one in wrong] == [True]
    name = BUDGETS[0].name
    assert judge({key: value for key, value in present.items() if key != name})[1] == [f"{name}: not measured"]


def test_a_known_miss_is_said() -> None:
    bound = Bound("x", 0.7, 0.1, 1.15)
    table, wrong = judge({"x": 0.7}, (bound,))
    assert wrong == []
    assert list(table.columns[-1].cells) == ["known miss"]


def test_a_stopwatch_gives_each_function_its_own_time_and_puts_it_back() -> None:
    ticks = iter(range(0, 10**9, 1000))
    watch = Stopwatch(lambda: next(ticks))  # every look at the clock takes a microsecond
    watch._inside = watch._outside = 0.0
    place = SimpleNamespace()
    place.inner = lambda: time.sleep(0)
    place.outer = lambda: (place.inner(), place.inner())
    before = place.outer
    watch.watch(place, "inner", "inner")
    watch.watch(place, "outer", "outer")
    watch.begin()
    place.outer()
    assert watch.end(1) == {"inner": 2.0, "outer": 3.0}
    assert watch.calls(1) == {"inner": 2.0, "outer": 1.0}
    watch.restore()
    assert place.outer is before
