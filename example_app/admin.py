"""The administration: a sub-application of its own, plain Starlette, mounted at ``/admin``."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from audit_middleware import action, annotate

from .billing import Billing, billing_of

_TABLES = ("customers", "invoices", "refunds", "users", "service_accounts")


@action("admin.statistics")
def statistics(request: Request) -> JSONResponse:
    """How many rows there are of what."""
    with billing_of(request).storage.transaction() as db:
        counts = {table: len(db.all(f"SELECT 1 FROM {table}")) for table in _TABLES}  # noqa: S608  # our own names
    return JSONResponse(counts)


@action("admin.settings_read", resource="settings")
def read_settings(request: Request) -> JSONResponse:
    """The service's settings."""
    return JSONResponse(_settings(billing_of(request)))


@action("admin.settings_update", resource="settings")
async def update_settings(request: Request) -> JSONResponse:
    """Changes settings that there are."""
    parts = billing_of(request)
    try:
        given = dict(await request.json())
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError):
        raise HTTPException(422, "Expected a JSON object") from None
    before = _settings(parts)
    if unknown := sorted(set(given) - set(before)):
        raise HTTPException(422, f"No such setting: {unknown[0]}")
    with parts.storage.transaction() as db:
        for name, value in given.items():
            db.change("UPDATE settings SET value = ? WHERE name = ?", str(value), name)
    after = _settings(parts)
    annotate(impact={"before": before, "after": after})
    return JSONResponse(after)


def _settings(parts: Billing) -> dict[str, str]:
    with parts.storage.transaction() as db:
        return {row["name"]: row["value"] for row in db.all("SELECT * FROM settings ORDER BY name")}


def create_admin(parts: Billing) -> Starlette:
    """The sub-application."""
    admin = Starlette(
        routes=[
            Route("/statistics", statistics),
            Route("/settings", read_settings),
            Route("/settings", update_settings, methods=["PUT"]),
        ]
    )
    admin.state.billing = parts
    return admin
