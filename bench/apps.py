"""The applications behind this middleware."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette

from audit_middleware import AuditMiddleware, Subject, action
from bench.services import ROUTERS

CLERK = Subject("clerk-1", roles=("clerk",))

RULES = {
    "role": "{allow: [{name: clerks, roles: [clerk]}]}",
    "denied": "{allow: [{name: admins, roles: [admin]}]}",
    "conditions": "{allow: [{name: near, roles: [clerk], when: {context.ip: {in_cidr: [127.0.0.0/8]}, "
    "resource.item_id: {exists: true}, context.method: {in: [GET, HEAD]}}}]}",
    "before": "{allow: [{name: clerks, roles: [clerk]}], guarantee: before}",
}
"""What the policy says of every action."""

App = TypeVar("App", bound=Starlette)


def marked(name: str) -> Callable[[Any], Any]:
    """Marks a handler with its action."""
    return action(name, resource="item/{item_id}")


def guard(app: App, folder: Path, routes: int = 60, rules: str = "role", **settings: Any) -> App:
    """The application behind the middleware, everything on, with a durable log in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = folder / "policy.yaml"
    if not policy.exists():
        from audit_middleware.evidence.keys import create_log  # here: a service finds its log made

        create_log(folder / "audit", "example.com/bench")
        names = [(router, route) for router in range(ROUTERS) for route in range(routes // ROUTERS)]
        actions = "".join(f"  r{router}.i{route}: {RULES[rules]}\n" for router, route in names)
        policy.write_text(f"version: 1\nname: bench\nroles: {{clerk: {{}}, admin: {{}}}}\nactions:\n{actions}")
    settings = {"policy": policy, "log": str(folder / "audit"), "service": "bench"} | settings
    app.add_middleware(AuditMiddleware, identify=lambda scope: CLERK, **settings)
    app.state.settle = lambda: _settle(app)
    app.state.stop = lambda: middleware_of(app).stop()
    return app


def middleware_of(app: Starlette) -> AuditMiddleware:
    """The middleware of an application that has served a request."""
    layer: Any = app.middleware_stack
    while not isinstance(layer, AuditMiddleware):
        layer = layer.app
    return layer


def parts_of(app: Starlette) -> Any:
    """What the middleware's steps work with, while it runs."""
    return middleware_of(app)._starter._parts


def _settle(app: Starlette) -> None:
    """Waits until the records of all requests are durable."""
    while parts_of(app).writer.backlog:
        time.sleep(0.001)
