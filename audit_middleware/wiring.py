"""From settings to parts: the only place that knows which driver a setting means, and when things start and stop."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Router

from .context import Notes, listen, noted
from .errors import AuditError, ConfigError, LogBusy, LogUnavailable, RouteError
from .evidence.keys import signers_of
from .frameworks.guard import install
from .frameworks.inventory import list_routes
from .frameworks.starlette import inner_router
from .identity.correlation import join_span
from .identity.proxies import ClientAddress
from .identity.starlette_user import from_scope
from .model import Json, Outcome, Resource, Severity, Source, Subject
from .pipeline.append import Writer, make_sealer
from .pipeline.arrive import fresh_action_id
from .pipeline.facts import Facts
from .pipeline.inventory import Inventory, examine
from .pipeline.record import Recorder, Service, wanted
from .pipeline.statement import Statement, amendment, work_fields
from .policy.evaluate import Policy
from .policy.load import load
from .privacy.redact import Redactor
from .protocols import ASGIApp, Clock, Identifier, LogStore, Receive, Scope, Send
from .settings import Settings, load_settings
from .signing import Ed25519Signer, read_key_file
from .stores.journal import JournalStore
from .version import __version__

logger = logging.getLogger("audit_middleware")


@dataclass(slots=True)
class Parts:
    """What the steps need while requests run; made once per process."""

    settings: Settings
    policy: Policy
    identify: Identifier
    address: ClientAddress
    writer: Writer
    clock: Clock = time.time_ns
    router: Router | None = None
    inventory: Inventory | None = None

    def today(self) -> date:
        """The day by which exemptions end (UTC)."""
        return datetime.fromtimestamp(self.clock() / 1e9, UTC).date()

    async def log_available(self) -> bool:
        """Can the log take a record? Waits for room for at most the set patience."""
        writer = self.writer
        if not writer.available:
            return False
        if writer.full:
            try:
                await writer.room(self.settings.patience / 1000)
            except LogBusy:
                return False
        return True

    def finish(self, facts: Facts) -> None:
        """Hands a request's facts to the writer, once. Never awaits, so nothing can cancel it."""
        if facts.finished:
            return
        facts.finished = True
        facts.ended_ns = time.perf_counter_ns()
        notes = facts.notes
        notes.close()
        notes.correlation = join_span(notes.correlation)
        if facts.found is None and facts.outcome == "success":
            facts.flag("not_routed")  # a middleware answered: a preflight, a cache, or something nobody annotated
        if wanted(facts):
            self.put(facts)

    def amend(self, notes: Notes, given: dict[str, Json]) -> None:
        """Records what was annotated after the request's own record was handed over."""
        now = self.clock()
        self.put(amendment(notes, given, fresh_action_id(now), now))

    def put(self, item: Facts | Statement) -> None:
        """Queues a record of something that has happened and can no longer be refused; a loss becomes a gap record."""
        try:
            self.writer.submit(item, reserve=True)
        except LogUnavailable as problem:  # closed: there is no log any more to tell of the gap
            logger.critical("a record is lost: %s", problem)
        except LogBusy as problem:
            logger.critical("a record is lost: %s", problem)
            self.writer.lost("queue full")

    def state(
        self, action: str, severity: Severity = "info", extra: Mapping[str, Json] | None = None, **fields: Json
    ) -> Statement:
        """A control record of this moment."""
        now = self.clock()
        event = action.upper().replace(".", "_")
        return Statement(fresh_action_id(now), now, action, event, severity, extra, fields)


def open_log(settings: Settings, *, writable: bool = True) -> JournalStore:
    """The store that ``log`` names."""
    return JournalStore.open(Path(settings.log), writable=writable)


def load_signers(settings: Settings, origin: str) -> tuple[Ed25519Signer, ...]:
    """The log's active signing keys, from the setting itself or from its file; more than one during a rotation.

    Raises:
        KeyFileError, NoteError, ConfigError: no readable key there, or keys of another log.
    """
    text = settings.signing_key.get_secret_value() if settings.signing_key else read_key_file(settings.key_path)
    signers = signers_of(text)
    for signer in signers:
        if signer.name != origin:
            raise ConfigError(f"the signing key is for {signer.name!r}, but the log {settings.log} is {origin!r}")
    return signers


def service_of(settings: Settings) -> Service:
    """This process as the records name it; its instance is new at every start, so its sequence starts at 0."""
    instance = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
    return Service(settings.service, settings.service_version, instance, settings.environment)


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
        if self._started and self._pid == os.getpid():
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
        count. What is wrong goes to the server as ``lifespan.startup.failed``: servers swallow exceptions here.
        """
        try:
            self._build(scope)
        except AuditError as problem:
            self._fail(problem)
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(problem)})
            return
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
                self.stop()
            await send(message)

        async def receiving() -> Any:
            return {"type": "lifespan.shutdown"} if failed else await receive()

        await self._app(scope, receiving, sending)

    def stop(self) -> None:
        """Writes what is queued and a last record; safe to call twice."""
        with self._lock:
            parts, started = self._parts, self._started
            self._started, self._parts = False, None
        if parts is not None and started and self._pid == os.getpid():
            _RUNNING.pop(id(self), None)
            listen(id(self), False)
            parts.put(parts.state("audit.stopped"))
            left = parts.writer.close(10)
            if left:
                logger.critical("%d records are lost: the log took none until the process ended", left)

    def _fail(self, problem: AuditError) -> None:
        self._problem = problem
        logger.critical("audit_middleware cannot start, every request will be refused:\n%s", problem)

    def _build(self, scope: Scope) -> None:
        parts = build_parts(load_settings(self._options), self._identify, self._predicates)
        parts.router = self._find_router(scope)
        if parts.router is not None:
            install(parts.router)
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
        routes = list_routes(parts.router) if parts.router is not None else []
        parts.inventory = inventory = examine(routes, parts.policy, parts.today())
        if parts.router is not None and inventory.problems:
            report = "\n".join(inventory.problems)
            if parts.settings.inventory == "enforce" and parts.policy.mode == "enforce":
                raise RouteError(f"routes and policy do not fit together:\n{report}")
            logger.warning("routes and policy do not fit together; such routes are decided by the default:\n%s", report)
        for statement in (
            parts.state("audit.started", extra={"version": __version__}),
            parts.state("audit.policy_loaded", extra={"policy": parts.policy.name, "digest": parts.policy.digest}),
            parts.state("audit.routes_listed", extra={"routes": len(routes), "digest": inventory.digest}),
        ):
            parts.put(statement)
        _RUNNING[id(self)] = parts
        listen(id(self), True)
        self._started, self._problem = True, None
        atexit.register(self.stop)


_RUNNING: dict[int, Parts] = {}


def record(
    action: str,
    *,
    subject: Subject | None = None,
    resource: Resource | None = None,
    outcome: Outcome = "success",
    reason: str | None = None,
    impact: Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
    wait: bool = False,
) -> str:
    """Records work that no request asked for: a job, a migration, a command. Nothing is decided about it.

    In a service it goes through the running middleware. In a process without one, the log, policy and service are taken
    from ``AUDIT_*`` variables at the first call. Works from any thread.

    Args:
        action: an action of the policy: ``invoice.archive``.
        subject: on whose behalf; default: the system itself.
        resource: what was acted on.
        outcome: ``success``, ``failure``, ``denied``, ``error`` or ``aborted``.
        reason, impact, extra: as for `annotate`.
        wait: return only when the record is under a signature on disk.

    Returns:
        The record's ``action_id``.

    Raises:
        ConfigError: the action is unknown, or no middleware runs here and the environment names no log.
        StoreError: the log cannot take the record.
    """
    parts = _parts_of_this_process()
    rule = parts.policy.actions.get(action)
    if rule is None:
        raise ConfigError(f"record(): the policy {parts.policy.name} has no action {action!r}")
    fields = work_fields(subject or _SYSTEM, resource or Resource(), outcome, noted(reason, impact, extra))
    now = parts.clock()
    statement = Statement(fresh_action_id(now), now, action, rule.event, rule.severity, None, fields)
    if wait:
        parts.writer.submit_wait(statement)
    else:
        parts.writer.submit(statement)
    return statement.action_id


def _parts_of_this_process() -> Parts:
    with _ENVIRONMENT_LOCK:
        running = next(reversed(list(_RUNNING.values())), None)
        if running is None:
            running = build_parts(_INHERITED.pop() if _INHERITED else load_settings({}))
            _RUNNING[0] = running
            atexit.register(running.writer.close, 10)
        return running


_ENVIRONMENT_LOCK = threading.Lock()
_INHERITED: list[Settings] = []


def _forget_the_parents() -> None:
    """A forked child has the parent's settings and no more: a writer, and the sequence it counts, are one process's."""
    _INHERITED[:] = [parts.settings for parts in list(_RUNNING.values())[-1:]]
    _RUNNING.clear()


os.register_at_fork(after_in_child=_forget_the_parents)
_SYSTEM = Subject("system", "system", source=Source("system"))


def build_parts(
    settings: Settings, identify: Identifier | None = None, predicates: Mapping[str, Any] | None = None
) -> Parts:
    """Everything but the application: policy, key, log and writer, checked.

    Raises:
        ConfigError, StoreError: with a message that says what to do.
    """
    policy = load(settings.policy, predicates=predicates or {})
    store = open_log(settings)  # before the key: without a log, its message is the one that helps
    signers = load_signers(settings, store.origin)
    redactor = Redactor(policy.redact.keys, policy.redact.patterns)
    recorder = Recorder(service_of(settings), redactor, frozenset(settings.subject_properties))
    clock = time.time_ns

    def reopen() -> LogStore:
        return JournalStore.open(Path(settings.log), lock_timeout=None)  # waiting in line is fair; the writer bounds it

    def make_gap(count: int, first_ns: int, last_ns: int, cause: str) -> Statement:
        now = clock()
        extra = {
            "count": count,
            "from": recorder.timestamp(first_ns),
            "to": recorder.timestamp(last_ns),
            "cause": cause,
        }
        return Statement(fresh_action_id(now), now, "audit.gap", "AUDIT_GAP", "critical", extra)

    writer = Writer(
        reopen,
        make_sealer(store.origin, signers),
        recorder.encode,
        clock=clock,
        max_records=settings.queue,
        linger_ms=settings.linger,
        on_unencodable=recorder.unencodable,
        make_gap=make_gap,
    )
    store.close()
    depth = settings.trusted_proxy_depth or None
    address = ClientAddress(settings.trusted_proxies, depth=depth, header=settings.forwarded_header)
    return Parts(settings, policy, identify or from_scope(), address, writer, clock)
