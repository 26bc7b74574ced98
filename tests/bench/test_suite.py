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

from bench import OURS, budgets, decisions, growth, logs, queries, report
from bench.__main__ import PLAN, run
from bench.added_time import Bench
from bench.check import BUDGETS, Bound, judge
from bench.measure import FAILURES, Case, Result, Undisturbed, finish, note_failure, parser, stolen_s, take_turns
from bench.plot import bars
from bench.services import NARROWING, application, path_of
from bench.stopwatch import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_without_the_peers(name: str) -> None:
    assert importlib.import_module(f"bench.{name}").__doc__


def test_what_was_disturbed_is_measured_again_whatever_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before and after each attempt; far apart, as each is divided by the time that it took.
    stolen = iter([0.0, 9e15, 0.0, 5e6, 0.0, 9e15, *[0.0] * 100])
    monkeypatch.setattr("bench.measure.stolen_s", lambda: next(stolen))
    values = iter(range(100))
    undisturbed = Undisturbed(planned=6)
    assert undisturbed.run(lambda: {"time": next(values)}) == {"time": 1}, "the least disturbed one of three"
    assert undisturbed.run(lambda: {"time": next(values)}) == {"time": 3}
    stolen = iter([0.0, 9e15, 0.0, 5e6, 0.0, 5e6])
    assert undisturbed.run(lambda: {"time": next(values)}) == {"time": 5}, "three may be, and this was one"
    assert undisturbed.run(lambda: {"time": next(values)}) == {"time": 6}, "so this one was not"


def test_stolen_time_is_counted_by_the_machine() -> None:
    assert 0 <= stolen_s() <= stolen_s()


def test_every_measurement_is_run_by_make_bench_and_has_help() -> None:
    sources = {name: (ROOT / "bench" / f"{name}.py").read_text() for name in MODULES}
    measured = {name for name, source in sources.items() if "parser(__doc__, rounds=" in source}
    assert measured == set(report.ORDER) == PLAN.keys()
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
        cases = bench.cases("tiny", bench.sides(application, 60), partial(path_of, routes=60))
    finally:
        bench.close()
    given = parser(None, rounds=2).parse_args(["--results", str(tmp_path / "results"), "--quick"])
    path = finish(Result("added_time", "Tiny", cases), given)
    told = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name)
    assert told["rounds"] == 2
    assert told["quick"]
    assert {"python", "cpu", "cores", "load", "source", "packages"} <= told["environment"].keys()
    assert [set(one["sides"]) for one in told["cases"]] == [{"bare", *NARROWING}] * 3
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


def test_a_measurement_that_fails_or_takes_too_long_says_why(tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    kept = ["--quick", "--results", results, "--keep", str(tmp_path)]
    (tmp_path / "log").mkdir()
    assert "holds a log already" in run("queries", kept, 60)
    assert run("appends", ["--results", results], 1) == "stopped after 0.0 minutes"


def test_why_a_result_is_missing_stands_on_the_pages_until_there_is_one(tmp_path: Path) -> None:
    note_failure(tmp_path / "2026-01-01", "verify", "no disk")
    note_failure(tmp_path / "2026-01-01", "steps", "no time was left")
    note_failure(tmp_path / "2026-01-01", "steps", "")
    assert json.loads((tmp_path / "2026-01-01" / FAILURES).read_text()) == {"verify": "no disk"}
    assert report.unmeasured(tmp_path) == {"verify": "no disk"}
    told = "\n".join(budgets.table({}, report.unmeasured(tmp_path)))
    assert told.count("not measured: no disk") == 2
    assert told.count("not measured: this was not run") == len(budgets.ROWS) - 2

    given = parser(None, rounds=1).parse_args(["--results", str(tmp_path)])
    finish(Result("verify", "Verification", []), given)
    assert report.unmeasured(tmp_path) == {}


def decided(ours: list[float]) -> dict[str, dict[str, Any]]:
    sides = {decisions.BY_ROLE: ours, "casbin": [300.0, 400.0, 500.0], "cedarpy": [100.0, 110.0, 120.0]}
    case = Case("a decision, 60 actions", "us", decisions.BY_ROLE, sides)
    return {"decisions": Result("decisions", "Policy decisions", [case]).to_json() | {"quick": False, "rounds": 3}}


def row_of(results: dict[str, dict[str, Any]], what: str) -> str:
    return next(line for line in budgets.table(results, {}) if line.startswith(f"| {what}"))


def test_the_budgets_name_the_others_and_the_last_us_included() -> None:
    by_role = "policy decision by role"
    assert row_of(decided([0.3, 0.2, 0.4]), by_role) == (
        f"| {by_role} | cedarpy 110; casbin 400 | <= 1 µs | **0.3 µs** (0.2 to 0.4) | met; last: casbin |"
    )
    assert row_of(decided([200.0] * 3), by_role).endswith("**missed**; behind 1 of 2, last: casbin |")
    assert row_of(decided([900.0] * 3), by_role).endswith("**missed**; behind 2 of 2, last: us |")
    assert "no side" in row_of(decided([0.3] * 3), "policy decision with three")


def test_budgets_are_ratios_and_differences_of_each_round() -> None:
    rounds = {"bare": [10.0, 20.0], OURS: [11.0, 18.0]}
    assert budgets.ratio(rounds, "bare") == {OURS: [1.1, 0.9]}
    assert budgets.added(rounds, "bare") == {OURS: [1.0, -2.0]}


def test_the_readme_has_a_place_for_the_budgets_and_keeps_the_rest(tmp_path: Path) -> None:
    page, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    page.parent.mkdir()
    page.write_text(report.PAGE.read_text())
    readme.write_text(report.README.read_text())
    report.write(tmp_path / "results", page, readme)
    assert readme.read_text() == report.README.read_text()
    given = parser(None, rounds=3).parse_args(["--results", str(tmp_path / "results")])
    finish(Result("added_time", "Added", [case()]), given)
    report.write(tmp_path / "results", page, readme)
    before, _, rest = report.README.read_text().partition(budgets.BEGIN)
    now = readme.read_text()
    assert now.startswith(before)
    assert now.endswith(rest.partition(budgets.END)[2])
    assert now.count("not measured") == len(budgets.ROWS)
    assert "**Not measured: verify**: this was not run." in page.read_text()


def test_a_log_made_by_two_processes_has_every_entry_in_its_place(tmp_path: Path) -> None:
    store = logs.build_log(tmp_path / "log", 702, batch=5)
    entries = [entry for frame in store.frames() for entry in frame.entries]
    assert entries == logs.entries(0, 702)
    store.close()


def test_growth_goes_on_with_the_log_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in queries.build(tmp_path / "kept", 3_000, 256)[:3]:
        one.close()
    monkeypatch.setattr(growth, "MOST_ROWS", 5_500)
    (tmp_path / "own").mkdir()
    measured = growth.measure(tmp_path / "own", tmp_path / "kept", 6_000, 3)
    found = [[(case.name, list(case.sides)) for case in cases] for cases in measured]
    assert growth.sizes(6_000) == [1_000, 3_000, 6_000]
    assert growth.sizes(10**7) == [10**3, 10**4, 10**5, 10**6, 5 * 10**6, 10**7]
    assert [len(cases[0][1]) for cases in found] == [1, 2, 3]
    rows = next(sides for name, sides in found[-1] if name.startswith("SQLite"))
    assert rows == ["1,000 records", "3,000 records"]
    assert not (tmp_path / "kept" / "rows.sqlite").exists()
