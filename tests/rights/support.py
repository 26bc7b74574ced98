"""What tests of persons' rights share: a service, a log that it filled, and what is left of somebody."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.evidence.examining import examined
from audit_middleware.frameworks.marks import action
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.verify import fold_examined
from audit_middleware.model import Subject
from audit_middleware.persons import Person, SubjectKey
from audit_middleware.stores.opening import open_log, place_of
from tests.kit import Log, call
from tests.sealing.support import ACTIONS, GDPR, HEAD, Sealed

BECAUSE = ["--because", "case 4711"]
BASIS = ["--basis", "Art. 17(1)(b)", *BECAUSE]
ALICE = Person("user", "alice")


def identify(scope: Any) -> Subject:
    """Everyone is the clerk that a header names."""
    user = next((value.decode() for name, value in scope["headers"] if name == b"x-user"), "alice")
    return Subject(user, roles=("clerk",))


def app() -> Starlette:
    """One route for each of two actions."""

    def route(name: str) -> Route:
        @action(f"note.{name}", resource="note/{id}")
        async def handle(request: Request) -> PlainTextResponse:
            return PlainTextResponse("done")

        return Route(f"/{name}/{{id}}", handle, methods=["GET"])

    return Starlette(routes=[route(name) for name in ("write", "before", "sealed", "soft")])


async def ask(guarded: Any, name: str = "write", user: str = "alice", note: str = "7") -> None:
    """One request."""
    assert (await call(guarded, "GET", f"/{name}/{note}", [(b"x-user", user.encode())])).status == 200


def serve(sealed: Sealed, *asked: tuple[str, str], policy: str = HEAD + GDPR + ACTIONS, **settings: Any) -> None:
    """Starts the service, asks as (user, note), and stops it."""
    guarded = sealed.guard(app(), policy, identify=identify, **settings)

    async def drive() -> None:
        for user, note in asked:
            await ask(guarded, user=user, note=note)

    sealed.run(guarded, drive)


def fill(sealed: Sealed) -> Sealed:
    """Two records in clear, then four that are sealed."""
    serve(sealed, ("alice", "7"), ("bob", "8"), policy=HEAD + ACTIONS)
    serve(sealed, ("alice", "7"), ("alice", "8"), ("bob", "7"), ("bob", "8"))
    return sealed


def key_of(sealed: Sealed, person: Person = ALICE) -> SubjectKey | None:
    """A person's key, if there is one."""
    with sealed.keys() as keys:
        return keys.find(person)


def verified(log: Log | str, vkey: str | None = None) -> Report:
    """The report of a whole verification, which must hold."""
    place = place_of(log) if isinstance(log, str) else log.path
    with contextlib.closing(open_log(place)) as store:
        verifiers = [parse_vkey(vkey or store.vkeys[0])]
        report = fold_examined(
            examined(store, verifiers, processes=1), store.origin, verifiers, entries_checked=True, base=store.base
        )
    assert report.holds, report.findings
    return report
