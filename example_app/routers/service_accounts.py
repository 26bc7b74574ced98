"""Service accounts and their keys; the key of one is a class-based endpoint."""

from __future__ import annotations

import secrets
from typing import Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from audit_middleware import Resource, action, annotate

from ..billing import Billing, Parts, billing_of
from ..passwords import hashed
from ..storage import Row

router = APIRouter(prefix="/service-accounts", tags=["service accounts"])


class Account(BaseModel):
    """What is asked of a new service account."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    role: Literal["exporter", "payouts"]


@router.get("")
@action("service_account.list")
def list_accounts(parts: Parts) -> list[Row]:
    """All service accounts, without keys."""
    with parts.storage.transaction() as db:
        return db.all("SELECT name, role, key IS NOT NULL AS active FROM service_accounts ORDER BY name")


@router.post("", status_code=201)
@action("service_account.create")
def create_account(given: Account, parts: Parts) -> dict[str, str]:
    """Makes an account; its key is shown here and never again."""
    key = secrets.token_urlsafe(24)
    with parts.storage.transaction() as db:
        if db.one("SELECT name FROM service_accounts WHERE name = ?", given.name):
            raise HTTPException(409, "The name is taken")
        db.insert("INSERT INTO service_accounts VALUES (?, ?, ?)", given.name, given.role, hashed(key))
    made = {"name": given.name, "role": given.role}
    annotate(resource=Resource("service_account", given.name), impact={"before": None, "after": made})
    return {"name": given.name, "key": key}


class AccountKey(HTTPEndpoint):
    """The key of one account. Each method is an action of its own."""

    @action("service_account.rotate_key", resource="service_account/{account}")
    def post(self, request: Request) -> Response:
        """A new key; the old one ends."""
        key = secrets.token_urlsafe(24)
        return _answer(_set_key(billing_of(request), request.path_params["account"], hashed(key)), {"key": key})

    @action("service_account.revoke_key", resource="service_account/{account}")
    def delete(self, request: Request) -> Response:
        """No key: the account can no longer sign in."""
        return _answer(_set_key(billing_of(request), request.path_params["account"], None), {"key": None})


def _set_key(parts: Billing, name: str, key: str | None) -> bool:
    with parts.storage.transaction() as db:
        changed = db.change("UPDATE service_accounts SET key = ? WHERE name = ?", key, name)
    annotate(impact={"count": changed})
    return changed == 1


def _answer(known: bool, body: dict[str, str | None]) -> Response:
    return JSONResponse(body) if known else JSONResponse({"detail": "No such service account"}, 404)


router.routes.append(Route(f"{router.prefix}/{{account}}/key", AccountKey))
