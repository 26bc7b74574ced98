"""The policy by itself, without an application: ``policy check`` and ``policy test``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PolicyError
from ..policy.suite import EXIT_FAILED, EXIT_OK, run
from .imports import PREDICATES, load_policy, load_predicates
from .output import DOES_NOT_HOLD, err, fail, out, print_json, shown
from .policy_analysis import diff, lint, matrix, mutate
from .policy_evidence import backtest, reperform
from .policy_explain import explain

app = typer.Typer(
    no_args_is_help=True, help="Check, test, explain, lint and compare policies; make recorded decisions again."
)
app.command()(explain)
app.command()(lint)
app.command()(matrix)
app.command()(diff)
app.command()(mutate)
app.command()(reperform)
app.command()(backtest)
POLICY = Annotated[Path, typer.Argument(help="The policy file.", show_default=False)]


class Format(StrEnum):
    """How results are printed."""

    tree = "tree"
    json = "json"
    junit = "junit"


@app.command()
def check(
    policy: POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    predicates: PREDICATES = None,
) -> None:
    """Load a policy as the service would; exit 1 with every finding if it is wrong."""
    try:
        loaded = load_policy(policy, predicates)
    except PolicyError as problem:
        if as_json:
            print_json({"holds": False, "findings": str(problem).splitlines()})
        else:
            err.print(shown(str(problem), newlines=True))
        raise SystemExit(DOES_NOT_HOLD) from None
    counts = {"roles": len(loaded.roles), "actions": len(loaded.actions), "routes": len(loaded.routes)}
    if as_json:
        print_json({"holds": True, "name": loaded.name, "digest": loaded.digest, "mode": loaded.mode, **counts})
    else:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        out.print(f"{policy}: policy {loaded.name} is well formed: {listed}; {loaded.mode}s, default {loaded.default}")
        out.print(f"digest {loaded.digest}")


@app.command("test")
def run_tests(
    policy: POLICY,
    tests: Annotated[
        list[Path] | None, typer.Argument(help="Test files. Default: every *_test.yaml beside the policy.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only tests whose name contains this, or matches it (*, ?).")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print results.")] = Format.tree,
    coverage: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Fail below this percentage of rules, and of conditions and requirements both ways."
        ),
    ] = 0,
    scenarios: Annotated[
        bool, typer.Option(help="Also check malformed actions, unknown roles, empty subjects and edge values.")
    ] = True,
    junit: Annotated[Path | None, typer.Option(help="Also write the results to this file, as JUnit XML.")] = None,
    predicates: PREDICATES = None,
) -> None:
    """Run a policy's tests, and the checks that are generated from it.

    Exit codes: 0 all passed, 1 a test failed or coverage is too low, 2 wrong usage, 3 no tests found, 4 the policy is
    broken, 5 a test file is broken.
    """
    result = run(policy, tests or None, only=only, scenarios=scenarios, predicates=load_predicates(predicates))
    if junit is not None:
        junit.write_text(result.junit() + "\n")
    if form is Format.tree:
        sys.stdout.write(shown(result.tree(), newlines=True) + "\n")
    elif form is Format.junit:
        sys.stdout.write(result.junit() + "\n")
    else:
        print_json(result.to_dict())
    covered = result.coverage
    if result.exit_code == EXIT_OK and covered and covered.ratio * 100 < coverage:
        fail(
            f"coverage is below {coverage} %: the lowest of rules, conditions and requirements counts",
            EXIT_FAILED,
        )
    raise SystemExit(result.exit_code)
