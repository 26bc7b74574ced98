"""What an application and the record look like: ``routes`` and ``schema``."""

from __future__ import annotations

import importlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from starlette.routing import Router

from ..frameworks.inventory import list_routes
from ..frameworks.starlette import inner_router
from ..model import Record
from ..pipeline.inventory import Inventory, examine
from ..policy.load import load
from .output import DOES_NOT_HOLD, HOLDS, fail, out, print_json, row, table


def routes(
    app: Annotated[str, typer.Argument(help="The application, as for uvicorn: MODULE:APP.", show_default=False)],
    policy: Annotated[Path, typer.Option(help="The policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every route with its action and rule; exit 1 if a route or a policy entry does not fit."""
    inventory = examine(list_routes(load_router(app)), load(policy), datetime.now(UTC).date())
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


def load_router(target: str) -> Router:
    """The router of ``MODULE:APP``, imported as a server would from the current folder."""
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in (attribute or "app").split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as problem:
        fail(f"{target} cannot be loaded: {problem}")
    router = inner_router(found() if callable(found) and inner_router(found) is None else found)
    if router is None:
        fail(f"{target} is neither a Starlette nor a FastAPI application")
    return router


def schema() -> None:
    """Print the JSON Schema (2020-12) of a record."""
    print_json(record_schema())


def record_schema() -> dict[str, Any]:
    """The record's JSON Schema, as published in ``docs/record.schema.json``."""
    made = Record.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
