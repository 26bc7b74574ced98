"""What others put in front of the same application, each with what makes it comparable and nothing else.

A peer that is not installed is left out, and the result says so. ``SQLite row a request`` and ``BaseHTTPMiddleware``
are a few lines of our own that stand for a common way to do it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

Peer = Callable[[FastAPI, Path, int], None]

ROLES = ("clerk", "auditor", "admin")
RBAC = """
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && r.act == p.act
"""


def correlation_id(app: FastAPI, folder: Path, routes: int) -> None:
    """One ID a request, and its header."""
    from asgi_correlation_id import CorrelationIdMiddleware

    app.add_middleware(CorrelationIdMiddleware)


def opentelemetry(app: FastAPI, folder: Path, routes: int) -> None:
    """Spans of the contributed instrumentation, batched, for an exporter that throws them away."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discard(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    app.state.settle = provider.force_flush


def casbin_authz(app: FastAPI, folder: Path, routes: int) -> None:
    """A decision by role, over three roles' rules for every route; the caller comes from the scope."""
    from fastapi_authz import CasbinMiddleware
    from starlette.authentication import SimpleUser

    app.add_middleware(CasbinMiddleware, enforcer=enforcer(routes))
    app.add_middleware(partial(_Caller, user=SimpleUser("clerk-1")))


def rules(routes: int, routers: int = 5) -> list[tuple[str, str, str]]:
    """(role, path, method): three roles for every route."""
    each = [(router, route) for router in range(routers) for route in range(routes // routers)]
    return [(role, f"/r{router}/items{route}/:id", "GET") for router, route in each for role in ROLES]


def enforcer(routes: int, *, fast: bool = False) -> Any:
    """casbin with `rules` and five users; ``fast``: its FastEnforcer, keyed by path and method."""
    import casbin

    if fast:
        from casbin.model import FastModel

        model = FastModel([1, 2])
        model.load_model_from_text(RBAC)
        made = casbin.FastEnforcer(model, cache_key_order=[1, 2])
    else:
        made = casbin.Enforcer(casbin.Enforcer.new_model(text=RBAC))
    made.add_policies(rules(routes))
    for user in ("clerk-1", "clerk-2", "clerk-3"):
        made.add_grouping_policy(user, "clerk")
    made.add_grouping_policy("auditor-1", "auditor")
    made.add_grouping_policy("admin-1", "admin")
    return made


def structlog_lines(app: FastAPI, folder: Path, routes: int) -> None:
    """One JSON line a request into a file, unsynced."""
    import structlog

    folder.mkdir(parents=True, exist_ok=True)
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    file = (folder / "access.log").open("ab")
    log = structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[stamp, structlog.processors.JSONRenderer(serializer=lambda value, **_: json.dumps(value).encode())],
    )
    app.add_middleware(partial(_Lines, log=log))


def base_http(app: FastAPI, folder: Path, routes: int) -> None:
    """An empty BaseHTTPMiddleware."""

    @app.middleware("http")
    async def nothing(request: Request, call_next: Any) -> Any:
        return await call_next(request)


def sqlite_rows(app: FastAPI, folder: Path, routes: int) -> None:
    """One durable row a request, each with the hash of the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    app.add_middleware(partial(SQLiteAudit, path=folder / "audit.sqlite"))


def full_stack(app: FastAPI, folder: Path, routes: int) -> None:
    """All of them: what a service has that does all of this with one package each."""
    sqlite_rows(app, folder, routes)
    casbin_authz(app, folder, routes)
    structlog_lines(app, folder, routes)
    correlation_id(app, folder, routes)
    opentelemetry(app, folder, routes)


class SQLiteAudit:
    """An audit trail in one table: a chained hash, an index on the user, one commit a request."""

    def __init__(self, app: Any, path: Path) -> None:
        self.app = app
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        self._database.execute("CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, user, record, hash)")
        self._database.execute("CREATE INDEX IF NOT EXISTS by_user ON audit (user)")
        self._last = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.time(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            user = getattr(scope.get("user"), "username", "anonymous")
            record = json.dumps({
                "id": str(uuid.uuid4()), "at": started, "took": time.time() - started, "user": user,
                "method": scope["method"], "path": scope["path"], "status": status,
            })  # fmt: skip
            self._last = hashlib.sha256((self._last + record).encode()).hexdigest()
            row = (user, record, self._last)
            self._database.execute("INSERT INTO audit (user, record, hash) VALUES (?, ?, ?)", row)


class _Caller:
    def __init__(self, app: Any, user: Any) -> None:
        self.app, self._user = app, user

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = self._user
        await self.app(scope, receive, send)


class _Lines:
    def __init__(self, app: Any, log: Any) -> None:
        self.app, self._log = app, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, receive, sending)
        took = time.perf_counter() - started
        self._log.info("request", method=scope["method"], path=scope["path"], status=status, took=took)


_ALL: Mapping[str, tuple[Peer, tuple[str, ...]]] = {
    "asgi-correlation-id": (correlation_id, ("asgi_correlation_id",)),
    "OpenTelemetry": (opentelemetry, ("opentelemetry.instrumentation.fastapi",)),
    "fastapi-authz (casbin)": (casbin_authz, ("fastapi_authz", "casbin")),
    "structlog": (structlog_lines, ("structlog",)),
    "BaseHTTPMiddleware": (base_http, ()),
    "SQLite row a request": (sqlite_rows, ()),
    "full stack of peers": (
        full_stack,
        ("asgi_correlation_id", "opentelemetry.instrumentation.fastapi", "fastapi_authz", "casbin", "structlog"),
    ),
}


def installed(module: str) -> bool:
    """Can it be imported? Looks without importing the module itself."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


PEERS: Mapping[str, Peer] = {name: peer for name, (peer, needs) in _ALL.items() if all(map(installed, needs))}
"""What can be measured here, by name."""

ABSENT: tuple[str, ...] = tuple(name for name in _ALL if name not in PEERS)
