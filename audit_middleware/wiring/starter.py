"""When the parts of one middleware start and stop in one process."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.routing import Router

from ..context import listen
from ..detectors.blocklist import BlockList, list_beside
from ..errors import AuditError, RouteError, StoreError
from ..evidence.history import last_started, remember_start
from ..evidence.policies import ARCHIVED, is_archived, parts_of, remember
from ..frameworks.guard import install
from ..frameworks.inventory import list_routes
from ..frameworks.starlette import inner_router
from ..model import Json
from ..pipeline.inventory import Inventory, examine
from ..pipeline.statement import Statement
from ..policy.evaluate import Policy
from ..privacy.redact import Redactor
from ..protocols import ASGIApp, Identifier, Receive, Scope, Send
from ..settings import load_settings
from ..stores.opening import Database, origin_of
from ..version import __version__
from .account import changes, configuration, manifest_parts
from .background import following, watching
from .blocking import Blocking
from .parts import Parts, build_parts, open_log, place_for, signers_for
from .reload import Reload
from .subjects import check_subjects, names_by
from .work import RUNNING

_PATIENCE = 10.0
"""Seconds in which the first record of a process must be durable, where ``patience`` is not more."""

logger = logging.getLogger("audit_middleware")


class _Process:
    """Which process this is, without a system call for each request."""

    def __init__(self) -> None:
        self.pid = os.getpid()


_process = _Process()
os.register_at_fork(after_in_child=_process.__init__)  # type: ignore[misc]  # this very object, anew


class Starter:
    """Starts and stops the parts of one middleware in one process, by the lifespan or at the first request."""

    def __init__(
        self, app: ASGIApp, identify: Identifier | None, predicates: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._app = app
        self._identify = identify
        self._predicates = predicates
        self._options = options
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._parts: Parts | None = None
        self._started = False
        self._problem: AuditError | None = None

    def ready(self, scope: Scope) -> Parts | None:
        """The running parts; ``None`` when they could not be started. Starts them where no lifespan did."""
        if self._started and self._pid == _process.pid:
            return self._parts
        with self._lock:
            if self._pid != os.getpid():  # forked after the start: this process needs a writer of its own
                self._pid, self._started, self._parts, self._problem = os.getpid(), False, None, None
            if not self._started and self._problem is None:
                try:
                    self._build(scope)
                    self._start()
                except AuditError as problem:
                    self._fail(problem)
            return self._parts if self._started else None

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application's lifespan around our start and stop.

        Parts are built before the application starts and the inventory is taken after, so that routes added at start
        count. What is wrong goes to the server as ``lifespan.startup.failed``, as some swallow exceptions here; then it
        is raised, as Starlette does: who waits for the end of a failed start, such as its `TestClient`, must see one.
        """
        try:
            self._build(scope)
        except AuditError as problem:
            self._fail(problem)
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(problem)})
            raise
        failed = False

        async def sending(message: Any) -> None:
            nonlocal failed
            if failed:
                return  # the application's own shutdown, after we reported the failed start
            if message["type"] == "lifespan.startup.complete":
                try:
                    self._start()
                except AuditError as problem:
                    failed = True
                    self._fail(problem)
                    message = {"type": "lifespan.startup.failed", "message": str(problem)}
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                if self._parts is not None and self._parts.limits is not None:
                    await self._parts.limits.close()
                self.stop()
            await send(message)

        async def receiving() -> Any:
            return {"type": "lifespan.shutdown"} if failed else await receive()

        await self._app(scope, receiving, sending)
        if failed and self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """Writes what is queued and a last record; safe to call twice."""
        with self._lock:
            parts, started = self._parts, self._started
            self._started, self._parts = False, None
        if parts is not None and started and self._pid == os.getpid():
            RUNNING.pop(id(self), None)
            listen(id(self), False)
            for work in parts.watching:
                work.stop()
            parts.writer.stop_beating()
            parts.put(parts.state("audit.stopped"))
            left = parts.writer.close(10)
            if left:
                logger.critical("%d records are lost: the log took none until the process ended", left)
            for work in parts.following:
                work.stop()

    def _fail(self, problem: AuditError) -> None:
        parts, self._parts, self._problem = self._parts, None, problem
        if parts is not None:
            parts.writer.close(1)  # what it was given so far is true all the same
        logger.critical("audit_middleware cannot start, every request will be refused:\n%s", problem)

    def _build(self, scope: Scope) -> None:
        parts = build_parts(load_settings(self._options), self._identify, self._predicates)
        parts.open_limits(parts.policy)
        parts.watching = [*watching(parts.settings, parts.tell_low_space)]
        if parts.settings.reload is not None:
            parts.watching.append(Reload(parts, partial(adopt, parts), parts.settings.reload / 1000))
        if parts.settings.block_interval:
            parts.watching.append(blocking(parts))
        parts.following = following(parts.settings, partial(signers_for, parts.settings), lambda: parts.policy)
        parts.router = self._find_router(scope)
        if parts.router is not None:
            install(parts.router, narrow=parts.settings.narrow)
        self._parts = parts

    def _find_router(self, scope: Scope) -> Router | None:
        """The router behind the middleware: along ``.app``, else the one of the application whose stack we are in.

        What stands in front of it, also an application's own ``__call__``, is middleware: what it answers by itself is
        recorded without a decision.
        """
        router = None
        layer: Any = self._app
        for _ in range(64):
            router = layer.router if isinstance(layer, Starlette) else inner_router(layer)
            if router is not None or layer is None:
                break
            layer = getattr(layer, "app", None)
        app = scope.get("app")
        if router is None and isinstance(app, Starlette) and any(
            getattr(entry.cls, "__name__", "") == "AuditMiddleware" for entry in app.user_middleware
        ):  # fmt: skip
            router = app.router
        return router

    def _start(self) -> None:
        parts = self._parts
        assert parts is not None
        parts.inventory = fitting(parts, parts.policy)
        _tell_start(parts)
        RUNNING[id(self)] = parts
        listen(id(self), True)
        self._started, self._problem = True, None
        atexit.register(self.stop)
        for work in (*parts.watching, *parts.following):
            work.start()


def fitting(parts: Parts, policy: Policy) -> Inventory:
    """The routes under a policy. Raises `RouteError` where they do not fit together, if that is enforced."""
    routes = list_routes(parts.router) if parts.router is not None else []
    inventory = examine(routes, policy, parts.today())
    if parts.router is not None and inventory.problems:
        report = "\n".join(inventory.problems)
        if parts.settings.inventory == "enforce" and policy.mode == "enforce":
            raise RouteError(f"routes and policy do not fit together:\n{report}")
        logger.warning("routes and policy do not fit together; such routes are decided by the default:\n%s", report)
    return inventory


def adopt(parts: Parts, policy: Policy, cause: str) -> None:
    """Puts another policy in force, from the next request on. Raises `RouteError` if it does not fit the routes."""
    inventory = fitting(parts, policy)
    declared = check_subjects(parts.settings, origin_of(place_for(parts.settings)), policy)
    parts.open_limits(policy)
    previous = parts.policy.digest
    if changed := sorted(name for name, one in policy.channels.items() if parts.policy.channels.get(name) != one):
        logger.warning("policy %s: new or changed channels count from the next start on: %s", policy.name, changed)
    parts.recorder.redact_by(Redactor(policy.redact.keys, policy.redact.patterns))
    if parts.recorder.custody is not None:
        parts.recorder.custody.declared = declared
    parts.policy, parts.inventory = policy, inventory
    _tell_policy(parts, cause=cause, previous=previous)


def blocking(parts: Parts) -> Blocking:
    """What keeps the list of blocks up to date, with the list read. Raises `BlocksError`."""
    log = place_for(parts.settings)

    def tell(problem: str) -> None:
        parts.put(parts.state("audit.blocks_refused", "high", {"problem": problem, "kept": True}))

    if isinstance(log, Database):
        source = list_beside(log, open_log(parts.settings, writable=False))  # keeps the connection that it reads by
    else:
        source = BlockList(log, origin_of(log))
    names = names_by(parts.settings, origin_of(log))
    return Blocking(source, parts.blocks, tell, parts.settings.block_interval / 1000, parts.clock, names)


def _tell_policy(parts: Parts, **more: Json) -> None:
    """The policy in force, in full unless the log holds it, and the routes under it."""
    policy, inventory = parts.policy, parts.inventory
    assert inventory is not None
    try:
        with contextlib.closing(open_log(parts.settings, writable=False)) as store:
            if not is_archived(store, policy.digest):
                *pieces, last = _archived(parts, policy)
                for piece in pieces:
                    parts.put(piece)
                with contextlib.suppress(StoreError):  # it is queued, and will be there; only the hint is missing
                    remember(store, policy.digest, parts.writer.submit_wait(last, _PATIENCE).index)
    except StoreError as problem:  # the policy is in force: the log is told so as soon as it can be
        logger.error("not known whether the log holds the policy %s, it is added: %s", policy.digest, problem)
        for piece in _archived(parts, policy):
            parts.put(piece)
    parts.put(parts.state("audit.policy_loaded", extra={"policy": policy.name, "digest": policy.digest, **more}))
    for extra in manifest_parts(inventory):
        parts.put(parts.state("audit.routes_listed", extra=extra))


def _archived(parts: Parts, policy: Policy) -> list[Statement]:
    """The records that hold a policy."""
    return [replace(parts.state(ARCHIVED), verbatim=piece) for piece in parts_of(policy.digest, policy.canonical)]


def _tell_start(parts: Parts) -> None:
    """The first records of a process. The very first must come back durable: a log that takes none stops the start.

    Raises:
        StoreError: The log did not take the record, or not in time.
    """
    settings = parts.settings
    now = configuration(settings, parts.recorder.redactor)
    with contextlib.closing(open_log(settings, writable=False)) as store:
        last = last_started(store, settings.service)
        heads = [head.to_json() for head in parts.heads]
        started = parts.state("audit.started", extra={"version": __version__, "configuration": now, "heads": heads})
        receipt = parts.writer.submit_wait(started, max(_PATIENCE, settings.patience / 1000))
        remember_start(store, settings.service, receipt.index)
    before = last["extra"].get("configuration") if last is not None else None
    if last is not None and isinstance(before, dict) and before.get("digest") != now["digest"]:
        extra = {
            "changed": changes(before, now),
            "since": last["action_id"],
            "old_digest": before.get("digest"),
            "new_digest": now["digest"],
        }
        parts.put(parts.state("audit.configuration_changed", "medium", extra))
    _tell_policy(parts)
