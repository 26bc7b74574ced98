"""Receipts over HTTP: whoever holds an ``Audit-ID`` gets the proof that its record is in the log.

Mount it where you like, and name its action like that of any route::

    app.add_route("/receipts/{audit_id}", action("receipt.read")(receipts("var/audit")))

Answers:

* 200, ``application/octet-stream``: the ``.tlog-proof``. It holds the record's leaf hash, not the record, unless
  ``entry=True``.
* 202 with ``Retry-After``: not in the log, but the ID is so young that it may still be on its way.
* 404: not in the log, or no Audit-ID. Records that the policy leaves out (``record: none``) end here, too.

An Audit-ID has 74 random bits and is given to the caller alone, but a log that many can read shows it to them: an
endpoint with ``entry=True`` needs a rule that looks at who asks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ..evidence.receipts import receipt
from ..ledger.note import parse_vkey
from ..protocols import Clock
from ..stores.index import SearchIndex
from ..stores.journal import JournalStore

PENDING_MS = 10_000
"""An Audit-ID younger than this may be of a record that is not committed yet."""

_AUDIT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TEXT = "text/plain; charset=utf-8"
# A receipt concerns one caller, and a later one may stand under another checkpoint.
_HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}


def receipts(
    log: Path | str, *, entry: bool = False, clock: Clock = time.time_ns, parameter: str = "audit_id"
) -> Callable[[Request], Response]:
    """Returns an endpoint for ``GET .../{audit_id}``.

    Args:
        log: The log's directory. It is opened for reading at the first request, so that importing costs nothing.
        entry: Put the record itself into the receipt.
        clock: To tell a young Audit-ID from an unknown one.
        parameter: Name of the path parameter.
    """
    local = threading.local()  # a search index serves one thread

    def endpoint(request: Request) -> Response:  # not async: Starlette runs it in a thread, where it may read files
        action_id = request.path_params[parameter]
        if not _AUDIT_ID.fullmatch(action_id):
            return _answer("no Audit-ID\n", 404)
        if not hasattr(local, "index"):
            local.store = JournalStore.open(log, writable=False)
            local.index = SearchIndex(local.store.layout.index, local.store)
        local.index.catch_up()
        verifiers = [parse_vkey(text) for text in local.store.config.vkeys]
        proof = receipt(local.store, local.index.with_action_id, action_id, verifiers, entry=entry)
        if proof is not None:
            name = {"Content-Disposition": f'attachment; filename="{action_id}.tlog-proof"'}
            return Response(proof, 200, {**_HEADERS, **name, "Content-Type": "application/octet-stream"})
        if abs(clock() // 1_000_000 - _made_at(action_id)) < PENDING_MS:
            return _answer("not committed yet\n", 202, {"Retry-After": "1"})
        return _answer("not in the log\n", 404)

    return endpoint


def _made_at(action_id: str) -> int:
    """Milliseconds since the epoch at which a UUIDv7 was made."""
    return int(action_id[:8] + action_id[9:13], 16)


def _answer(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, {**_HEADERS, **(headers or {}), "Content-Type": _TEXT})
