"""A witness over HTTP: the paths of C2SP tlog-witness v1.0.0 and nothing else.

* ``POST /add-checkpoint``: what `evidence.witness.Witness.add_checkpoint` answers. A body larger than `LARGEST` gets
  413, one that does not arrive in `PATIENCE` seconds 408.
* ``GET /<lowercase hex SHA-256 of an origin>/checkpoint``: the newest checkpoint that was cosigned for that origin,
  with the log's verified lines and the witness's own; 404 if there is none.

Nothing here is secret, and nobody is asked who they are: what is not signed by a trusted log's key is refused.
"""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import StoreError
from ..evidence.witness import TEXT, Answer, Witness

LARGEST = 2**17
"""Bytes of a request: 63 hashes, and a checkpoint with some dozens of post-quantum lines."""

PATIENCE = 30.0
"""Seconds a client has for sending its request."""

_NAME = re.compile(r"[0-9a-f]{64}")
_SHOWN = {"Cache-Control": "public, max-age=1, must-revalidate", "X-Content-Type-Options": "nosniff"}
_UNCACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def serve_witness(witness: Witness, *, patience: float = PATIENCE) -> Starlette:
    """Returns the ASGI application of a witness; mount it or run it."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(patience):
                body = await _read(request)
        except TimeoutError:
            return _response(Answer(408, b"the request did not arrive in time\n"))
        except ClientDisconnect:
            return _response(Answer(400, b"the request was cut short\n"))
        if body is None:
            return _response(Answer(413, b"the request is larger than %d bytes\n" % LARGEST))
        return _response(await run_in_threadpool(witness.add_checkpoint, body))

    def checkpoint(request: Request) -> Response:  # not async: Starlette runs it in a thread, where files may be read
        name = request.path_params["name"]
        try:
            note = witness.newest(name) if _NAME.fullmatch(name) else None
        except StoreError:
            return _response(Answer(503, b"the witness cannot use its memory now\n"))
        # Starlette's own pattern drops a newline at the end, which would be a second spelling of the path.
        if note is None or not request.scope["path"].endswith("/checkpoint"):
            return _response(Answer(404, b"not found\n"))
        tag = f'"{sha256(note).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, {**_SHOWN, "ETag": tag})
        return Response(note, 200, {**_SHOWN, "ETag": tag, "Content-Type": TEXT})

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{name}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )


async def _read(request: Request) -> bytes | None:
    """The body; ``None`` once it is too large, however it was announced."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            return None
    return bytes(body)


def _response(answer: Answer) -> Response:
    # Set here because Starlette would add a charset, and the type of a size is to be exactly that.
    response = Response(answer.body, answer.status, _UNCACHED)
    response.headers["Content-Type"] = answer.content_type
    return response
