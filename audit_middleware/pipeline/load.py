"""What rules read of the resource and nobody knows yet: asked of the action's loader, before the decision.

A loader is the application's own: given Starlette's `HTTPConnection` with the path parameters, it answers with a
mapping. A plain function runs in a worker thread, an ``async def`` on the event loop. It cannot read the body.
Whatever goes wrong denies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette._utils import is_async_callable
from starlette.requests import HTTPConnection

from ..errors import AttributesError
from ..model import Resource
from ..policy.evaluate import Needs
from ..protocols import Scope

__all__ = ["load_properties", "unknown"]

# Threads of our own: a database that hangs must not take the threads in which the application's handlers run.
_THREADS = 16
_limiter: RunVar[CapacityLimiter] = RunVar("audit_middleware_loaders")


def unknown(needs: Needs, resource: Resource) -> bool:
    """Does a rule read a property that the path parameters do not tell?"""
    return needs.anything or not needs.properties <= resource.properties.keys()


async def load_properties(loader: Callable[..., Any], resource: Resource, scope: Scope, timeout_s: float) -> Resource:
    """The resource with what its loader says.

    Raises:
        AttributesError: it raised, took too long, gave no mapping, or contradicts a path parameter: a rule could then
            be asked about another thing than the handler acts on.
    """
    connection = HTTPConnection({**scope, "path_params": dict(resource.properties)})
    try:
        async with asyncio.timeout(timeout_s):
            found = await _called(loader, connection)
    except TimeoutError:
        raise AttributesError("loader timeout") from None
    except Exception as error:  # foreign code: whatever it raises means that the properties are not known
        raise AttributesError(f"loader raised {type(error).__name__}") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise AttributesError("loader gave no mapping of names")
    for name, value in resource.properties.items():
        if name in found and str(found[name]) != str(value):
            raise AttributesError(f"loader contradicts the path parameter {name}")
    return replace(resource, properties={**resource.properties, **found})


async def _called(loader: Callable[..., Any], connection: HTTPConnection) -> Any:
    if is_async_callable(loader):
        return await loader(connection)
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(loader, connection, abandon_on_cancel=True, limiter=limiter)
