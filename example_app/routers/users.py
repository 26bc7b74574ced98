"""Users and their roles."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from audit_middleware import Resource, action, annotate

from ..billing import Parts, found
from ..passwords import hashed
from ..storage import Row

router = APIRouter(prefix="/users", tags=["users"])

Role = Literal["viewer", "clerk", "support", "admin", "auditor"]
_BY_NAME = "SELECT name, tenant, roles FROM users WHERE name = ?"


class User(BaseModel):
    """What is asked of a new user."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    tenant: str = Field(pattern=r"^[a-z-]{1,20}$")
    roles: list[Role]
    password: str = Field(min_length=8)


class Roles(BaseModel):
    """A user's roles."""

    roles: list[Role]


@router.get("")
@action("user.list")
def list_users(parts: Parts) -> list[Row]:
    """All users, without passwords."""
    with parts.storage.transaction() as db:
        return db.all("SELECT name, tenant, roles FROM users ORDER BY name")


@router.post("", status_code=201)
@action("user.create")
def create_user(given: User, parts: Parts) -> Row:
    """Makes a user. The policy has the body recorded; the password in it is redacted before anything is hashed."""
    with parts.storage.transaction() as db:
        if db.one(_BY_NAME, given.name):
            raise HTTPException(409, "The name is taken")
        values = (given.name, given.tenant, " ".join(given.roles), hashed(given.password))
        db.insert("INSERT INTO users VALUES (?, ?, ?, ?)", *values)
        user = found(db.one(_BY_NAME, given.name), "user")
    annotate(resource=Resource("user", given.name), impact={"before": None, "after": user})
    return user


@router.put("/{user}/roles")
@action("user.set_roles", resource="user/{user}")
def set_roles(user: str, given: Roles, parts: Parts) -> Row:
    """Changes what a user may do, from the next token on."""
    with parts.storage.transaction() as db:
        before = found(db.one(_BY_NAME, user), "user")
        db.change("UPDATE users SET roles = ? WHERE name = ?", " ".join(given.roles), user)
        after = found(db.one(_BY_NAME, user), "user")
    annotate(impact={"before": {"roles": before["roles"].split()}, "after": {"roles": after["roles"].split()}})
    return after
