"""The application that the measurements share, bare and behind the middleware."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from audit_middleware import AuditMiddleware, action
from audit_middleware.evidence.keys import create_log

ROUTERS = 5


def application(routes: int = 60) -> FastAPI:
    """So many routes in 5 included routers."""
    app = FastAPI(openapi_url=None)
    for number in range(ROUTERS):
        router = APIRouter(prefix=f"/r{number}")
        for route in range(routes // ROUTERS):

            @router.get(f"/items{route}/{{item_id}}")
            @action(f"r{number}.i{route}", resource="item/{item_id}")
            async def endpoint(item_id: str) -> dict[str, str]:
                return {"id": item_id}

        app.include_router(router)
    return app


def guarded(folder: Path, routes: int = 60, **settings: Any) -> FastAPI:
    """The same behind the middleware, everything on, with a durable log in this folder."""
    names = [(router, route) for router in range(ROUTERS) for route in range(routes // ROUTERS)]
    policy = folder / "policy.yaml"
    if not policy.exists():
        create_log(folder / "audit", "example.com/bench")
        actions = "".join(f"  r{router}.i{route}: {{allow: [anyone]}}\n" for router, route in names)
        policy.write_text(f"version: 1\nname: bench\nactions:\n{actions}")
    app = application(routes)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(folder / "audit"), service="bench", **settings)
    return app


def create() -> FastAPI:
    """For a server: what ``BENCH_VARIANT`` says (bare, guarded, not narrowed) with ``BENCH_ROUTES`` routes."""
    variant, routes = os.environ["BENCH_VARIANT"], int(os.environ["BENCH_ROUTES"])
    if variant == "bare":
        return application(routes)
    return guarded(Path(os.environ["BENCH_FOLDER"]), routes, narrow=variant == "guarded")
