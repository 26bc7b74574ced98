"""How Starlette reports a client that went away, and how it answers an unhandled exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any, Protocol

from starlette._utils import is_async_callable
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from ..protocols import Scope

__all__ = ["ClientDisconnect", "ErrorPage", "WebSocketDisconnect", "await_error_page"]

_PAGE = "audit_middleware.error_page"
_WATCHED = "_audit_middleware_watched"


class ErrorPage(Protocol):
    """What wants to know how an unhandled exception is answered."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer carries besides its own headers."""
        ...

    def answering(self) -> AbstractContextManager[Callable[[int, int], None]]:
        """Around the making of the answer; called with its status and size once they are known."""
        ...


def await_error_page(app: Any, scope: Scope, page: ErrorPage) -> bool:
    """Asks the layer that answers ``app``'s unhandled exceptions to tell ``page`` of its answer; call it, then raise.

    Starlette sends that answer from its outermost layer, past every middleware, so headers added to ``send`` would be
    missing on exactly these responses. The layer's handlers are wrapped, once: the answer stays the application's own
    and is made once, where and when it always is. ``False`` where there is no such layer: the server answers.
    """
    layers = _error_layers(app)
    for layer in layers:
        if _WATCHED not in vars(layer):
            _watch(layer)
    if layers:
        scope[_PAGE] = page
    return bool(layers)


def _error_layers(app: Any) -> list[ServerErrorMiddleware]:
    """Starlette's own, and one more that instrumentation may have put around it: the inner one answers."""
    found: list[ServerErrorMiddleware] = []
    layer: Any = app.middleware_stack if isinstance(app, Starlette) else None
    for _ in range(8):
        if isinstance(layer, ServerErrorMiddleware):
            found.append(layer)
        layer = getattr(layer, "app", None)
    return found


def _watch(layer: Any) -> None:
    """Wraps the three ways in which the layer makes an answer: the application's handler, the default, debug."""
    handler, default, debug = layer.handler, layer.error_response, layer.debug_response

    async def watched_handler(request: Request, error: Exception) -> Any:
        with _answering(request) as answered:
            if is_async_callable(handler):
                return answered(await handler(request, error))
            return answered(await run_in_threadpool(handler, request, error))

    def watched_default(request: Request, error: Exception) -> Any:
        with _answering(request) as answered:
            return answered(default(request, error))

    def watched_debug(request: Request, error: Exception) -> Any:  # in a thread of its own: the headers only
        page = request.scope.pop(_PAGE, None)
        return _with_headers(debug(request, error), page.headers if page else [])

    if handler is not None:
        layer.handler = watched_handler
    layer.error_response, layer.debug_response = watched_default, watched_debug
    setattr(layer, _WATCHED, True)


@contextmanager
def _answering(request: Request) -> Iterator[Callable[[Any], Any]]:
    """The making of one answer, told to the page that waits for it, if one does."""
    page: ErrorPage | None = request.scope.pop(_PAGE, None)
    if page is None:
        yield lambda response: response
        return
    with page.answering() as tell:

        def answered(response: Any) -> Any:
            if isinstance(response, Response):
                tell(response.status_code, len(getattr(response, "body", b"")))
            return _with_headers(response, page.headers)

        yield answered


def _with_headers(response: Any, headers: list[tuple[bytes, bytes]]) -> Any:
    """A copy of a response with more headers: an application may return one object again and again."""
    if not isinstance(response, Response):
        return response
    response = copy(response)
    vars(response).pop("_headers", None)  # a view of the old list
    response.raw_headers = [*response.raw_headers, *headers]
    return response
