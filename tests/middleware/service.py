"""A small guarded service with users, and one way to run requests against it and read its records back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from audit_middleware.errors import IdentityError, IdentityUnavailable
from audit_middleware.model import Source, Subject
from tests.kit import Answer, Log, Running, call
from tests.middleware.support import check_log, guard

Record = dict[str, Any]

POLICY = """
roles: {reader: {}, admin: {inherits: [reader]}}
actions:
  doc.read: {allow: [reader], record: metadata}
  doc.public: {allow: [anyone]}
  doc.quiet: {allow: [reader], record: none}
  doc.create: {allow: [reader], record: request}
  doc.full: {allow: [reader], record: response}
  doc.delete: {event: DOC_DELETED, severity: high, allow: [admin]}
  doc.broken: {allow: [reader], severity: medium}
  doc.watch: {allow: [reader]}
redact: {keys: ['card.*'], patterns: [card-number, email]}
"""


def header(scope: Any, name: bytes) -> str | None:
    """A request's header."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def identify(scope: Any) -> Subject | None:
    """A user is who the header says: ``name`` or ``name:role,role``."""
    user = header(scope, b"x-user")
    if user is None:
        return None
    if user == "forged":
        raise IdentityError("the signature does not verify")
    if user == "outage":
        raise IdentityUnavailable("no answer")
    if user == "bug":
        raise ZeroDivisionError("a bug in the identifier")
    name, _, roles = user.partition(":")
    return Subject(id=name, roles=tuple(roles.split(",")) if roles else (), source=Source("header", "test"))


def as_(user: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Headers of a user."""
    return [(b"x-user", user.encode()), *more]


READER, ADMIN = as_("ann:reader"), as_("root:admin")


@dataclass
class Service:
    """A folder, a log and a policy; `run` makes the requests and returns the log's checked outcome records."""

    folder: Path
    log: Log
    policy: str = POLICY
    settings: dict[str, Any] = field(default_factory=dict)

    def guard(self, app: Any) -> Any:
        """The application with the middleware."""
        return guard(app, self.folder, self.log, self.policy, **{"identify": identify} | self.settings)

    def run(self, app: Any, drive: Callable[[Any], Awaitable[Any]]) -> list[Record]:
        """Guards, starts, drives and stops an application."""

        async def main() -> None:
            async with Running(self.guard(app)) as running:
                assert running.failed is None, running.failed
                await drive(app)

        asyncio.run(main())
        return check_log(self.log)

    def ask(self, app: Any, method: str, path: str, *arguments: Any, **more: Any) -> tuple[Answer, Record]:
        """One request: its answer and its only record."""
        answers: list[Answer] = []

        async def drive(app: Any) -> None:
            answers.append(await call(app, method, path, *arguments, **more))

        records = self.run(app, drive)
        assert len(records) == 1, [(record["request"]["path"], record["outcome"]) for record in records]
        return answers[0], records[0]


def app_of(*routes: BaseRoute, **options: Any) -> Starlette:
    """A Starlette application."""
    return Starlette(routes=list(routes), **options)


def api() -> FastAPI:
    """A FastAPI application without its documentation."""
    return FastAPI(openapi_url=None)
