"""What an application and the record look like: ``routes`` and ``schema``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..frameworks.inventory import list_routes
from ..pipeline.inventory import Inventory, examine
from ..policy.json_schema import policy_schema, policy_test_schema
from ..schema import Record
from .imports import PREDICATES, load_policy, load_router
from .output import DOES_NOT_HOLD, HOLDS, out, print_json, row, table
from .reports import junit, sarif


def routes(
    app: Annotated[str, typer.Argument(help="The application, as for uvicorn: MODULE:APP.", show_default=False)],
    policy: Annotated[Path, typer.Option(help="The policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sarif_file: Annotated[Path | None, typer.Option("--sarif", help="Also write the problems as SARIF 2.1.0.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Also write the routes as JUnit XML.")] = None,
    predicates: PREDICATES = None,
) -> None:
    """List every route with its action and rule; exit 1 if a route or a policy entry does not fit."""
    loaded = load_policy(policy, predicates)
    inventory = examine(list_routes(load_router(app)), loaded, datetime.now(UTC).date(), strict=True)
    if sarif_file is not None:
        sarif_file.write_text(json.dumps(sarif(inventory, policy), indent=2, ensure_ascii=False) + "\n")
    if junit_file is not None:
        junit_file.write_text(junit(inventory, policy))
    if as_json:
        print_json({"routes": _json(inventory), "problems": list(inventory.problems), "digest": inventory.digest})
    else:
        _print(inventory)
    raise SystemExit(DOES_NOT_HOLD if inventory.problems else HOLDS)


def _json(inventory: Inventory) -> list[dict[str, Any]]:
    return [
        {
            "method": entry.route.method,
            "route": entry.route.template,
            "endpoint": entry.route.endpoint,
            "action": entry.action,
            "rule": entry.rule,
            "problem": entry.problem,
            "code": entry.code,
        }
        for entry in inventory.rows
    ]


def _print(inventory: Inventory) -> None:
    listing = table(None, "method", "route", "action", "allowed by")
    for entry in inventory.rows:
        cells = (entry.route.method, entry.route.template, entry.action, entry.rule)
        row(listing, *cells, style="red" if entry.problem else None)
    out.print(listing)
    for problem in inventory.problems:
        out.print(f"problem: {problem}", style="red", soft_wrap=True)
    count = len(inventory.problems)
    out.print(f"{len(inventory.rows)} routes, {count} problem{'' if count == 1 else 's'}; manifest {inventory.digest}")


class Described(StrEnum):
    """What there is a schema of."""

    record = "record"
    policy = "policy"
    policy_test = "policy-test"


def schema(
    what: Annotated[Described, typer.Argument(help="Of a record, a policy, or a policy's tests.")] = Described.record,
) -> None:
    """Print a JSON Schema (2020-12)."""
    makers = {Described.record: record_schema, Described.policy: policy_schema}
    print_json(makers.get(what, policy_test_schema)())


def record_schema() -> dict[str, Any]:
    """The record's JSON Schema, as published in ``docs/record.schema.json``."""
    made = Record.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
