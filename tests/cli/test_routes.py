"""The command ``routes`` as a gate: what makes it fail, and the files that it writes for CI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.pipeline.inventory import PROBLEMS
from tests.kit import write_policy

ROOT = Path(__file__).parents[2]
Routes = Callable[..., tuple[int, str]]

HEAD = """
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from audit_middleware import action


@action("a.b", resource="thing/{n}")
def good(request): return Response()


def bare(request): return Response()


async def foreign(scope, receive, send): ...


"""
ACTIONS = "actions: {a.b: {allow: [anyone]}}\n"


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Routes:
    """Runs the command over these routes and this policy."""
    monkeypatch.chdir(tmp_path)

    def work(listed: str, policy: str, *options: str) -> tuple[int, str]:
        module = f"shop_{len(list(tmp_path.glob('shop_*.py')))}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(f"{HEAD}app = Starlette(routes=[{listed}])\n")
        write_policy(tmp_path, policy)
        done = CliRunner().invoke(app, ["routes", f"{module}:app", "--policy", "policy.yaml", *options])
        return done.exit_code, done.output

    return work


GOOD = "Route('/good/{n}', good)"


def test_what_fits_passes(routes: Routes) -> None:
    assert routes(GOOD, ACTIONS)[0] == 0


@pytest.mark.parametrize("default", ["", "default: allow\n", "mode: monitor\n"], ids=["deny", "allow", "monitor"])
@pytest.mark.parametrize(
    ("listed", "policy", "code", "words"),
    [
        (f"{GOOD}, Route('/bare', bare)", "", "unannotated", "bare): has no action: add @action(...)"),
        (f"{GOOD}, Mount('/m', foreign)", "", "opaque", "is opaque: which action happens behind it cannot be seen"),
        (
            f"{GOOD}, Mount('/static', StaticFiles(directory='.'))",
            "",
            "opaque",
            "{match: '* /static/{path}', action: <name>}",
        ),
        ("", "", "no-routes", "the application has no routes: is this the right application object?"),
        (
            f"{GOOD}, Route('/bare', bare)",
            "routes: [{match: GET /bare, exempt: it was late, until: 2020-02-29}]\n",
            "exemption-ended",
            "the route's exemption ended on 2020-02-29",
        ),
        (
            "Route('/bare', bare)",
            "routes: [{match: GET /bare, exempt: a probe}]\n",
            "nothing-annotated",
            "none of 1 routes has an action",
        ),
    ],
    ids=["unannotated", "opaque", "static-files", "no-routes", "exemption-ended", "nothing-annotated"],
)
def test_what_does_not_fit_fails_with_one_clear_line(
    routes: Routes, default: str, listed: str, policy: str, code: str, words: str
) -> None:
    status, output = routes(listed, default + ACTIONS + policy)
    assert status == 1
    [line] = [line for line in output.splitlines() if line.startswith("problem: ")]
    assert words in line
    status, output = routes(listed, default + ACTIONS + policy, "--sarif", "s.json", "--junit", "j.xml")
    assert status == 1
    [result] = json.loads(Path("s.json").read_text())["runs"][0]["results"]
    assert result["ruleId"] == f"audit-routes/{code}"
    root = ElementTree.parse("j.xml").getroot()
    assert root.attrib["failures"] == "1"
    [failure] = root.iter("failure")
    assert failure.attrib["type"] == code


def test_an_exemption_that_holds_and_a_mapped_mount_pass(routes: Routes) -> None:
    policy = ACTIONS + (
        "routes:\n  - {match: GET /bare, exempt: a probe, until: 2999-01-01}\n  - {match: '* /m/{path}', action: a.b}\n"
    )
    assert routes(f"{GOOD}, Route('/bare', bare), Mount('/m', foreign)", policy)[0] == 0


def test_a_policy_with_predicates_is_compared(routes: Routes) -> None:
    Path("route_predicates.py").write_text("def on_call(request):\n    return True\n")
    policy = "actions: {a.b: {allow: [{name: r, when: {predicate: on_call}}]}}\n"
    assert routes(GOOD, policy, "--predicates", "route_predicates:on_call")[0] == 3, "a function is no mapping"
    assert routes(GOOD, policy, "--predicates", "route_predicates")[0] == 0


def test_the_files_say_where(routes: Routes) -> None:
    listed = f"{GOOD}, Route('/bare', bare), Mount('/m', foreign), Route('/x', good)"
    policy = ACTIONS + "routes:\n  - {match: GET /typo, action: a.b}\n"
    assert routes(listed, policy, "--sarif", "s.json", "--junit", "j.xml")[0] == 1
    document = json.loads(Path("s.json").read_text())
    assert (document["version"], len(document["runs"])) == ("2.1.0", 1)
    run = document["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {f"audit-routes/{code}" for code in PROBLEMS}
    places = [place(result) for result in run["results"]]
    module = next(name for name in (file for file, _ in places) if name.startswith("shop_"))
    lines = (HEAD).splitlines()
    assert places == [
        (module, 1 + lines.index("def bare(request): return Response()")),
        (module, 1 + lines.index("async def foreign(scope, receive, send): ...")),
        (module, 1 + lines.index('@action("a.b", resource="thing/{n}")')),
        ("policy.yaml", 5),
    ]
    root = ElementTree.parse("j.xml").getroot()
    assert (root.attrib["tests"], root.attrib["failures"]) == ("5", "4")
    assert [(case.attrib["name"], case.find("failure") is None) for case in root.iter("testcase")] == [
        ("GET /good/{n}", True),
        ("GET /bare", False),
        ("* /m/{path}", False),
        ("GET /x", False),
        ("no-such-route", False),
    ]


def place(result: dict[str, Any]) -> tuple[str, int]:
    [location] = result["locations"]
    where = location["physicalLocation"]
    return where["artifactLocation"]["uri"], where["region"]["startLine"]


def test_the_example_passes_and_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("BILLING_DATA", str(tmp_path))
    files = ["--sarif", str(tmp_path / "s.json"), "--junit", str(tmp_path / "j.xml")]
    done = CliRunner().invoke(app, ["routes", "example_app.app:app", "--policy", "policies/billing.yaml", *files])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"] == []
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert int(root.attrib["tests"]) > 20
    assert root.attrib["failures"] == "0"


def test_what_cannot_be_loaded_could_not_be_checked(routes: Routes, tmp_path: Path) -> None:
    write_policy(tmp_path, ACTIONS)
    done = CliRunner().invoke(app, ["routes", "no_such_module_anywhere:app", "--policy", "policy.yaml"])
    assert done.exit_code == 3
