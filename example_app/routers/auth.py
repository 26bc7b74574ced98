"""Signing in: people with a password, services with a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel

from audit_middleware import action, annotate

from ..billing import Caller, Parts
from ..passwords import matches
from ..tokens import LIFETIME

router = APIRouter(prefix="/auth", tags=["auth"])


class Token(BaseModel):
    """A bearer token."""

    access_token: str
    token_type: str = "bearer"
    expires_in: int = LIFETIME


class ServiceKey(BaseModel):
    """A service account and its key."""

    name: str
    key: str


@router.post("/login")
@action("auth.login")
def login(form: Annotated[OAuth2PasswordRequestForm, Depends()], parts: Parts) -> Token:
    """Exchanges a user's password for a token."""
    # Nobody is authenticated yet, so the record's user is anonymous: who it claims to be is a note of ours.
    annotate(extra={"sign_in_as": form.username})
    with parts.storage.transaction() as db:
        user = db.one("SELECT * FROM users WHERE name = ?", form.username)
    if not matches(form.password, user["password"] if user else None) or user is None:
        raise HTTPException(401, "Wrong user name or password", {"WWW-Authenticate": "Bearer"})
    return Token(access_token=parts.tokens.issue(user["name"], user["roles"].split(), user["tenant"]))


@router.post("/token")
@action("auth.token")
def service_token(given: ServiceKey, parts: Parts) -> Token:
    """Exchanges a service account's key for a token."""
    annotate(extra={"sign_in_as": given.name})
    with parts.storage.transaction() as db:
        account = db.one("SELECT * FROM service_accounts WHERE name = ?", given.name)
    if not matches(given.key, account["key"] if account else None) or account is None:
        raise HTTPException(401, "Wrong name or key", {"WWW-Authenticate": "Bearer"})
    return Token(access_token=parts.tokens.issue(account["name"], [account["role"]], "head-office", "service"))


@router.get("/me")
@action("auth.whoami")
def whoami(name: Caller) -> dict[str, str]:
    """Who the service takes you for."""
    return {"name": name}
