"""The billing service, put together: parts, routes, and the audit middleware around them.

``uvicorn example_app.app:app`` serves it, from the project's folder, once there is a log
(``audit-middleware init var/audit --origin billing.example/audit``) and keys for the persons in it
(``audit-middleware subject init var/audit``).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

from audit_middleware import AuditMiddleware

from .admin import create_admin
from .billing import Billing
from .identity import DemoIdentity
from .payments import Payments
from .routers import auth, customers, exports, feed, internal, invoices, refunds, reports, system, users
from .routers import service_accounts as accounts
from .storage import Storage
from .tokens import Tokens

HERE = Path(__file__).parent


def create_app(data: Path, payments_url: str | None = None) -> FastAPI:
    """The service alone. ``data`` is its folder; ``payments_url`` another service than itself for payouts."""
    app = FastAPI(title="Billing", version="1.0", lifespan=lifespan)
    tokens = Tokens(data / "token-key.pem")
    parts = Billing(Storage(data / "billing.sqlite"), tokens, Payments(app, tokens, payments_url))
    app.state.billing = parts
    app.include_router(auth.router)
    app.include_router(version_1(), prefix="/v1")
    app.include_router(invoices.router, prefix="/v2")  # the same router again: same actions, other paths
    app.include_router(internal.router)
    app.include_router(system.router)
    app.mount("/admin", create_admin(parts))
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    return app


def version_1() -> APIRouter:
    """Version 1 of the interface: routers within a router, one of them below a path with a parameter."""
    api = APIRouter()
    tenant = APIRouter(prefix="/tenants/{tenant}")
    tenant.include_router(refunds.router)
    for module in (customers, invoices, users, accounts, exports, reports, feed):
        api.include_router(module.router)
    api.include_router(tenant)
    return api


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Every worker runs this; the first makes the tables."""
    app.state.billing.storage.create()
    yield


def guard(app: FastAPI) -> FastAPI:
    """Adds the middleware: this is all that a service needs. `DemoIdentity` stands where the identity provider is."""
    app.add_middleware(
        AuditMiddleware,
        policy=os.environ.get("AUDIT_POLICY", "policies/billing.yaml"),
        log=os.environ.get("AUDIT_LOG", "var/audit"),
        service=os.environ.get("AUDIT_SERVICE", "billing"),
        identify=DemoIdentity(app.state.billing.tokens),
    )
    return app


app = guard(create_app(Path(os.environ.get("BILLING_DATA", "var/billing")), os.environ.get("BILLING_PAYMENTS_URL")))
