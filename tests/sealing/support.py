"""What tests of sealing in a service share: a log with keys, a service whose policy seals everything, its records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from audit_middleware.evidence.erasures import Told, told_of
from audit_middleware.evidence.masters import set_up
from audit_middleware.middleware import AuditMiddleware
from audit_middleware.privacy.keys import open_keys
from audit_middleware.privacy.masters import open_master
from audit_middleware.privacy.opening import Opener
from audit_middleware.protocols import SubjectKeys
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log, Running, write_policy

HEAD = "roles: {clerk: {}}\n"
ACTIONS = """
actions:
  note.write: {allow: [clerk], record: response}
  note.before: {allow: [clerk], record: response, guarantee: before}
  note.sealed: {allow: [clerk], guarantee: sealed}
  note.soft: {allow: [clerk], on_log_failure: degrade}
"""
GDPR = "personal: {profile: gdpr, subject.roles: seal, response.error: seal}\n"


@dataclass
class Sealed:
    """A log and the keys of its persons, in a folder of their own."""

    folder: Path
    log: Log

    @property
    def place(self) -> str:
        """Where the keys are."""
        return f"{self.log.path}.subjects"

    @property
    def master(self) -> str:
        """The key over them."""
        return f"file:{self.log.path}.master"

    def make_keys(self) -> Sealed:
        """As `subject init` does."""
        set_up(self.log.path, self.place, self.master)
        return self

    @contextlib.contextmanager
    def keys(self, origin: str = ORIGIN) -> Iterator[SubjectKeys]:
        """The store, as a reader opens it."""
        with contextlib.closing(open_keys(self.place, origin, open_master(self.master, origin))) as keys:
            yield keys

    def told(self) -> Told:
        """What the log tells of keys."""
        with contextlib.closing(JournalStore.open(self.log.path, writable=False)) as store:
            return told_of(store)

    def opened(self, origin: str = ORIGIN) -> list[dict[str, Any]]:
        """Every record, with the values that were sealed; every key must be the one that the log was told of."""
        told = self.told()
        with self.keys(origin) as keys:
            opener = Opener(keys, origin, told.erased, told.commitments)
            return [opener.opened(record) for record in self.log.records()]

    def guard(self, app: Any, policy: str = HEAD + GDPR + ACTIONS, **settings: Any) -> Any:
        """The application with the middleware."""
        given = {"policy": write_policy(self.folder, policy), "log": str(self.log.path), "service": "notes"}
        app.add_middleware(AuditMiddleware, **given | {"inventory": "warn", "patience": 20_000} | settings)
        return app

    def run(self, app: Any, drive: Callable[[], Awaitable[Any]]) -> Any:
        """Starts the application, drives it and stops it."""

        async def main() -> Any:
            async with Running(app) as running:
                assert running.failed is None, running.failed
                return await drive()

        return asyncio.run(main())


def failed_start(app: Any) -> str | None:
    """Why an application does not start."""

    async def main() -> str | None:
        async with Running(app) as running:
            return running.failed

    return asyncio.run(main())


def api() -> FastAPI:
    """An application without documentation routes, which no policy here names."""
    return FastAPI(openapi_url=None)
