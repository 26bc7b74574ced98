"""The bare applications that all measurements share. Nothing here imports this project: bare is bare."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from bench import OURS, peers

ROUTERS = 5
UNTOUCHED, WHOLE = f"{OURS}, routers not narrowed", f"{OURS}, nothing narrowed"
NARROWING: Mapping[str, Any] = {OURS: True, UNTOUCHED: "guard", WHOLE: False}
"""Our sides, and their setting ``narrow``."""

Mark = Callable[[str], Callable[[Any], Any]]
"""``mark(name)`` decorates a handler with its action."""


def unmarked(name: str) -> Callable[[Any], Any]:
    """No decoration."""
    return lambda handler: handler


def path_of(number: int, routes: int, levels: int = 1) -> str:
    """The path of a request. Any hundred in a row are spread over all routes: later ones cost the bare router more."""
    router, route = number % ROUTERS, number // ROUTERS * 7 % (routes // ROUTERS)
    above = "".join(f"/l{level}" for level in reversed(range(levels - 1)))
    return f"{above}/r{router}/items{route}/{number}"


def application(routes: int = 60, levels: int = 1, *, forbid: bool = False, mark: Mark = unmarked) -> FastAPI:
    """FastAPI with so many routes in 5 routers, each included ``levels`` times, one in the other.

    ``forbid``: the handlers themselves refuse, as an application without any guard would.
    """
    app = FastAPI(openapi_url=None)
    for number in range(ROUTERS):
        router = APIRouter(prefix=f"/r{number}")
        for route in range(routes // ROUTERS):

            @router.get(f"/items{route}/{{item_id}}")
            @mark(f"r{number}.i{route}")
            async def endpoint(item_id: str) -> dict[str, str]:
                if forbid:
                    raise HTTPException(403)
                return {"id": item_id}

        for level in range(levels - 1):
            outer = APIRouter(prefix=f"/l{level}")
            outer.include_router(router)
            router = outer
        app.include_router(router)
    return app


def plain(routes: int = 60, *, mark: Mark = unmarked) -> Starlette:
    """Starlette with so many routes below 5 mounts."""

    def endpoint(number: int, route: int) -> Any:
        @mark(f"r{number}.i{route}")
        async def answer(request: Request) -> JSONResponse:
            return JSONResponse({"id": request.path_params["item_id"]})

        return answer

    def below(number: int) -> Mount:
        each = range(routes // ROUTERS)
        return Mount(
            f"/r{number}", routes=[Route(f"/items{route}/{{item_id}}", endpoint(number, route)) for route in each]
        )

    return Starlette(routes=[below(number) for number in range(ROUTERS)])


def create() -> FastAPI:
    """For a server: what ``BENCH_VARIANT`` says (bare, ours, not narrowed, a peer) with ``BENCH_ROUTES`` routes."""
    return variant(os.environ["BENCH_VARIANT"], Path(os.environ["BENCH_FOLDER"]), int(os.environ["BENCH_ROUTES"]))


def variant(name: str, folder: Path, routes: int = 60) -> FastAPI:
    """The FastAPI application bare, behind us, or behind one of the peers."""
    if name in NARROWING:
        from bench.apps import guard, marked

        return guard(application(routes, mark=marked), folder, routes, narrow=NARROWING[name])
    app = application(routes)
    if name != "bare":
        peers.PEERS[name](app, folder, routes)
    return app


def settle(app: Starlette) -> None:
    """Waits for what an application still does in the background, so that it is not charged to the next one."""
    getattr(app.state, "settle", bool)()


def stop(app: Starlette) -> None:
    """Ends what an application does in the background."""
    getattr(app.state, "stop", bool)()
