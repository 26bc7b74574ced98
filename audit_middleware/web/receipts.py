"""Receipts over HTTP: whoever made a request gets the proof that its record is in the log.

Mount it where you like; its one route has the action ``receipt.read``, which the policy allows to whom it likes::

    app.mount("/audit/receipts", receipts_app())

``GET /audit/receipts/{audit_id}`` answers:

* 200, ``application/octet-stream``: the ``.tlog-proof``. It holds the record's leaf hash, not the record, unless
  ``entry=True``.
* 202 with ``Retry-After``: not in the log, but the ID is so young that it may still be on its way.
* 404: not in the log, or no Audit-ID. Records that the policy leaves out (``record: none``) end here, too.

`receipts_app` gives a receipt to the subject who made the request and to nobody else: all others get what an unknown ID
gets. `receipts` gives it to whoever has the ID and passes the policy; an Audit-ID has 74 random bits and is given to
the caller alone, but a log that many can read shows it to them. `receipt` is for handlers.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from ..context import clean, current_subject
from ..evidence.prove import Prover
from ..evidence.receipts import receipt as make_receipt
from ..frameworks.marks import action as mark
from ..ledger.canonical import decode
from ..ledger.note import parse_vkey
from ..model import NOBODY, Subject
from ..protocols import Clock
from ..stores.opening import Place, as_place, open_index, open_log
from ..wiring import running_log

PENDING_MS = 10_000
"""An Audit-ID younger than this may be of a record that is not committed yet."""

_AUDIT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_SHORT = 256  # bytes of an id in a record
_TEXT = "text/plain; charset=utf-8"
# A receipt concerns one caller, and a later one may stand under another checkpoint.
_HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}


def receipts_app(
    log: Place | str | None = None,
    *,
    action: str = "receipt.read",
    entry: bool = False,
    clock: Clock = time.time_ns,
) -> Router:
    """Returns an application to mount, which gives each subject the receipts of their own requests.

    Args:
        log: The log's directory; default: that of the middleware that runs in this process.
        action: The action of its route.
        entry: Put the record itself into the receipt.
        clock: To tell a young Audit-ID from an unknown one.
    """
    drawer = _Drawer(log, clock)

    def endpoint(request: Request) -> Response:  # not async: Starlette runs it in a thread, where it may read files
        return drawer.answer(request.path_params["audit_id"], entry, current_subject() or NOBODY)

    return Router([Route("/{audit_id}", mark(action)(endpoint), methods=["GET"])])


def receipts(
    log: Place | str, *, entry: bool = False, clock: Clock = time.time_ns, parameter: str = "audit_id"
) -> Callable[[Request], Response]:
    """Returns an endpoint for ``GET .../{audit_id}`` that gives receipts to everyone whom the policy lets in.

    Args:
        log: The log's directory. It is opened for reading at the first request, so that importing costs nothing.
        entry: Put the record itself into the receipt.
        clock: To tell a young Audit-ID from an unknown one.
        parameter: Name of the path parameter.
    """
    drawer = _Drawer(log, clock)

    def endpoint(request: Request) -> Response:
        return drawer.answer(request.path_params[parameter], entry, None)

    return endpoint


async def receipt(
    action_id: str, *, subject: Subject | None = None, entry: bool = False, log: Place | str | None = None
) -> bytes | None:
    """Returns the ``.tlog-proof`` of an earlier record, for a handler; ``None`` if the log has none (yet).

    Args:
        action_id: What the response carried as ``Audit-ID``, or `record` returned.
        subject: Only if this subject made the request; default: whoever did.
        entry: Put the record itself into the receipt.
        log: The log's directory; default: that of the middleware that runs in this process.

    Raises:
        ConfigError: No log was named and no middleware runs here.
        StoreError: The log cannot be read.
    """
    if not _AUDIT_ID.fullmatch(action_id):
        return None
    drawer = _drawers.setdefault(str(log or running_log()), _Drawer(log or running_log()))
    return await run_in_threadpool(drawer.find, action_id, entry, subject)


class _Drawer:
    """Looks receipts up in one log; each thread has a search index of its own."""

    def __init__(self, log: Place | str | None, clock: Clock = time.time_ns) -> None:
        self._log = log
        self._clock = clock
        self._local = threading.local()

    def answer(self, action_id: str, entry: bool, subject: Subject | None) -> Response:
        """The response for an ID; with ``subject`` only for their own."""
        if not _AUDIT_ID.fullmatch(action_id):
            return _answer("no Audit-ID\n", 404)
        proof = self.find(action_id, entry, subject)
        if proof is not None:
            name = {"Content-Disposition": f'attachment; filename="{action_id}.tlog-proof"'}
            return Response(proof, 200, {**_HEADERS, **name, "Content-Type": "application/octet-stream"})
        if abs(self._clock() // 1_000_000 - _made_at(action_id)) < PENDING_MS:
            return _answer("not committed yet\n", 202, {"Retry-After": "1"})
        return _answer("not in the log\n", 404)

    def find(self, action_id: str, entry: bool, subject: Subject | None) -> bytes | None:
        """The proof, if there is a record and, with ``subject``, if it is theirs."""
        local = self._local
        if not hasattr(local, "index"):
            local.store = open_log(as_place(self._log or running_log()))
            local.index = open_index(local.store)
        local.index.catch_up()
        verifiers = [parse_vkey(text) for text in local.store.vkeys]
        if subject is not None:
            found = local.index.with_action_id(action_id)
            if not found or not _is_of(decode(Prover(local.store, verifiers).entry(found[0])), subject):
                return None
        return make_receipt(local.store, local.index.with_action_id, action_id, verifiers, entry=entry)


_drawers: dict[str, _Drawer] = {}


def _is_of(record: dict[str, Any], subject: Subject) -> bool:
    """Did this subject make the request? One id of two identity providers, or in two tenants, is two subjects."""
    if subject is NOBODY or record["kind"] != "outcome":
        return False
    theirs, issuer, tenant = record["subject"], subject.source.issuer, subject.tenant
    return bool(
        record["user_id"] == clean(subject.id, _SHORT)
        and theirs["type"] == clean(subject.type, _SHORT)
        and theirs["tenant"] == (None if tenant is None else clean(tenant, _SHORT))
        and record["source"]["issuer"] == (None if issuer is None else clean(issuer, _SHORT))
    )


def _made_at(action_id: str) -> int:
    """Milliseconds since the epoch at which a UUIDv7 was made."""
    return int(action_id[:8] + action_id[9:13], 16)


def _answer(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, {**_HEADERS, **(headers or {}), "Content-Type": _TEXT})
