"""A published log over HTTP: read-only, the paths of C2SP tlog-tiles v0.1.0 and nothing else.

* ``/checkpoint``: ``text/plain; charset=utf-8``, to be asked for again after a moment.
* ``/tile/...``: ``application/octet-stream``, immutable, so any cache may keep it for ever.

A path is parsed, and the file is opened under the name that the parsed place has: there is exactly one spelling for
each file, so nothing outside the layout can be named, whatever a client encodes. Answers have a strong ``ETag``
(SHA-256 of the bytes) and honour ``If-None-Match``.

Entries are audit records: whoever may reach this server may read them. Put it behind what guards them.
"""

from __future__ import annotations

from hashlib import sha256

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..archives.local import Folder
from ..errors import FormatError
from ..ledger import tiles

_CHECKPOINT = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "public, max-age=1, must-revalidate"}
_IMMUTABLE = {"Content-Type": "application/octet-stream", "Cache-Control": "public, max-age=31536000, immutable"}


def serve_tiles(folder: Folder) -> Starlette:
    """Returns the ASGI application that serves a published log; mount it or run it."""

    def serve(request: Request) -> Response:  # not async: Starlette runs it in a thread, where files may be read
        path = request.path_params["path"]
        # Starlette's own pattern drops a newline at the end, which would be a second spelling of the file.
        data = _read(folder, path) if request.scope["path"].endswith(path) else None
        if data is None:
            return Response("not found\n", 404, {"Content-Type": "text/plain; charset=utf-8"})
        tag = f'"{sha256(data).hexdigest()}"'
        common = _CHECKPOINT if path == "checkpoint" else _IMMUTABLE
        headers = {**common, "ETag": tag, "X-Content-Type-Options": "nosniff"}
        if _matches(request.headers.getlist("if-none-match"), tag):
            del headers["Content-Type"]
            return Response(None, 304, headers)
        if request.method == "HEAD":
            return Response(None, 200, {**headers, "Content-Length": str(len(data))})
        return Response(data, 200, headers)

    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "HEAD"])])


def _read(folder: Folder, path: str) -> bytes | None:
    """A file of the layout; ``None`` for everything else."""
    if path == "checkpoint":
        return folder.get(path)
    try:
        return folder.get(tiles.parse_path(path).path)
    except FormatError:
        return None


def _matches(lines: list[str], tag: str) -> bool:
    """True if a client that sent these If-None-Match headers has the bytes already (RFC 9110 13.1.2, weak)."""
    candidates = [one.strip().removeprefix("W/") for line in lines for one in line.split(",")]
    return "*" in candidates or tag in candidates
