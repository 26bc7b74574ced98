"""The parts that requests need, made of settings: the only place that knows which driver a setting means."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs
from starlette.routing import Router

from ..context import Notes
from ..errors import LogBusy, LogSpooled, LogUnavailable, RecordError, StoreError
from ..evidence.control import repaired, statement
from ..evidence.heads import AskWitnesses, Compared, KnownHead, compare_heads
from ..evidence.signers import check_signers, signers_of
from ..identity.correlation import join_span
from ..identity.proxies import ClientAddress
from ..identity.starlette_user import from_scope
from ..limiting import open_limits
from ..model import Json, Severity
from ..pipeline.append import Writer
from ..pipeline.arrive import fresh_action_id
from ..pipeline.blocks import Blocks
from ..pipeline.facts import Facts, Intent
from ..pipeline.inventory import Inventory
from ..pipeline.pulse import Pulse
from ..pipeline.record import Recorder, Service, wanted
from ..pipeline.seal import make_sealer
from ..pipeline.statement import Statement, amendment
from ..policy.evaluate import Policy
from ..policy.load import load
from ..privacy.redact import Redactor
from ..protocols import Clock, Identifier, LimitStore, LogStore
from ..settings import Settings
from ..signing import Ed25519Signer, read_key_file
from ..stores import opening
from ..stores.journal import LOCK_TIMEOUT
from ..stores.opening import Place, Store
from ..stores.spool import Spool
from ..stores.tail import Repair
from .background import Background
from .subjects import check_subjects, custody_for

if TYPE_CHECKING:
    from ..ledger.trust import Policy as Trust

logger = logging.getLogger("audit_middleware")


@dataclass(slots=True)
class Parts:
    """What the steps need while requests run; made once per process."""

    settings: Settings
    policy: Policy
    identify: Identifier
    address: ClientAddress
    writer: Writer
    recorder: Recorder
    clock: Clock = time.time_ns
    predicates: Mapping[str, Any] = field(default_factory=dict)
    heads: tuple[Compared, ...] = ()
    watching: list[Background] = field(default_factory=list)
    following: list[Background] = field(default_factory=list)
    limits: LimitStore | None = None
    blocks: Blocks = field(default_factory=Blocks)
    router: Router | None = None
    inventory: Inventory | None = None
    late: Callable[[Notes, dict[str, Json]], None] = field(init=False)  # `amend`, made once

    def __post_init__(self) -> None:
        self.late = self.amend

    def today(self) -> date:
        """The day by which exemptions end (UTC)."""
        return datetime.fromtimestamp(self.clock() / 1e9, UTC).date()

    async def log_available(self, facts: Facts) -> bool:
        """Can the log take a record? Waits for room for at most the set patience. An action that may degrade goes on
        without the log, and its record says so."""
        writer = self.writer
        if facts.degrade:
            if not writer.available:
                facts.flag("log_degraded")
            return True
        if not writer.available:
            return False
        if writer.full:
            try:
                await writer.room(self.settings.patience / 1000)
            except LogBusy:
                return False
        return True

    async def announce(self, facts: Facts) -> bool:
        """Makes an intent record durable before the handler runs; False where it must not run."""
        intent = Intent(fresh_action_id(self.clock()), structs.replace(facts))
        facts.intent_id, facts.announced = intent.action_id, None
        durable = await self._durable(intent, facts)
        if durable:
            facts.announced = facts.aim
        return durable

    async def seal(self, facts: Facts) -> bool:
        """Hands a request's facts to the writer, once, and waits until the record is durable. False where it is not in
        time: the client must not get the response's last byte. Then the log will say so, too."""
        if not self._complete(facts) or await self._durable(facts, facts):
            return True
        told = {"amends": facts.notes.action_id, "response": "withheld: the record was not durable in time"}
        self.put(self.state("audit.amended", "high", told))
        return False

    async def _durable(self, item: Facts | Intent, facts: Facts) -> bool:
        try:
            await self.writer.commit(item, self.settings.patience / 1000, reserve=True)
        except LogSpooled:
            return facts.degrade
        except RecordError:  # an intent that cannot be written down; any other item has a stand-in
            return False
        except StoreError as problem:
            if facts.degrade:
                facts.flag("log_degraded")
                logger.warning("%s: goes on without a durable record: %s", facts.event, problem)
            return facts.degrade
        return True

    def finish(self, facts: Facts) -> None:
        """Hands a request's facts to the writer, once. Never awaits, so nothing can cancel it."""
        if self._complete(facts):
            self.put(facts)

    def _complete(self, facts: Facts) -> bool:
        """Fixes what is known when a request ends; True the first time, if it is to be recorded."""
        if facts.finished:
            return False
        facts.finished = True
        facts.ended_ns = time.perf_counter_ns()
        facts.unread = None
        if facts.leases:
            facts.release()
        notes = facts.notes
        notes.action, notes.about = facts.action, facts.known_resource
        notes.params = facts.found.path_params if facts.found else None
        notes.close()
        notes.correlation = join_span(notes.correlation)
        if facts.found is None and facts.outcome == "success":
            facts.flag("not_routed")  # a middleware answered: a preflight, a cache, or something nobody annotated
        return wanted(facts)

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

    def open_limits(self, policy: Policy) -> None:
        """Opens the place where limits are counted, once a policy has any. Raises `ConfigError`."""
        if self.limits is None and any(action.limit is not None for action in policy.actions.values()):
            settings = self.settings
            url, lease = settings.limit_store.get_secret_value(), settings.limit_lease
            self.limits = open_limits(url, timeout_ms=settings.limit_timeout, lease_ms=lease)

    def tell_low_space(self, free: int) -> None:
        """Records that the log's disk has fewer than ``min_free`` bytes left."""
        self.put(self.state("audit.low_space", "high", {"free": free, "min_free": self.settings.min_free}))

    def state(
        self, action: str, severity: Severity = "info", extra: Mapping[str, Json] | None = None, **fields: Json
    ) -> Statement:
        """A control record of this moment."""
        return statement(action, severity, extra, clock=self.clock, fields=fields)


def open_log(
    settings: Settings,
    *,
    writable: bool = True,
    lock_timeout: float | None = LOCK_TIMEOUT,
    repaired: Callable[[Repair], None] | None = None,
) -> Store:
    """The store that ``log`` names; see `opening.open_log`."""
    place = place_for(settings)
    return opening.open_log(place, writable=writable, lock_timeout=lock_timeout, repaired=repaired)


def place_for(settings: Settings) -> Place:
    """Where the log is. Raises `ConfigError` where the URL is of something else."""
    return opening.place_of(settings.log, settings.state)


def load_signers(settings: Settings, origin: str, vkeys: Collection[str]) -> tuple[Ed25519Signer, ...]:
    """The log's active signing keys, from the setting itself or from its file; more than one during a rotation.

    ``vkeys`` are those that the log lists.

    Raises:
        KeyFileError, NoteError, ConfigError: no readable key there, or keys of another log.
    """
    text = settings.signing_key.get_secret_value() if settings.signing_key else read_key_file(settings.key_path)
    signers = signers_of(text)
    check_signers(signers, place_for(settings), origin, vkeys)
    return signers


def signers_for(settings: Settings) -> tuple[Ed25519Signer, ...]:
    """`load_signers` of the log that is there now. Raises `StoreError` besides."""
    return load_signers(settings, *opening.origin_and_vkeys(place_for(settings)))


def service_of(settings: Settings) -> Service:
    """This process as the records name it; its instance is new at every start, so its sequence starts at 0."""
    instance = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
    return Service(settings.service, settings.service_version, instance, settings.environment)


def _ask_witnesses(trust: Trust, origin: str, timeout: float) -> Sequence[KnownHead]:
    from ..evidence.witness_client import witness_heads  # here: few services ask any at their start

    return witness_heads(trust, origin, timeout)


def build_parts(
    settings: Settings,
    identify: Identifier | None = None,
    predicates: Mapping[str, Any] | None = None,
    *,
    ask_witnesses: AskWitnesses | None = _ask_witnesses,
) -> Parts:
    """Everything but the application: policy, key, log and writer, checked; and the log's heads compared.

    Raises:
        ConfigError, StoreError: with a message that says what to do.
    """
    policy = load(settings.policy, predicates=predicates or {})
    repairs: list[Repair] = []
    # Before the key: without a log, its message is the one that helps.
    with contextlib.closing(open_log(settings, repaired=repairs.append)) as store:
        signers = load_signers(settings, store.origin, store.vkeys)
        declared = check_subjects(settings, store.origin, policy)
        heads = _compare_heads(settings, store, ask_witnesses)
    redactor = Redactor(policy.redact.keys, policy.redact.patterns)
    recorder = Recorder(service_of(settings), redactor, frozenset(settings.subject_properties))
    recorder.custody = custody_for(settings, store.origin)
    recorder.custody.declared = declared
    writer = _make_writer(settings, store.origin, signers, recorder)
    for repair in repairs:
        writer.submit(repaired(repair), reserve=True)
    depth = settings.trusted_proxy_depth or None
    address = ClientAddress(settings.trusted_proxies, depth=depth, header=settings.forwarded_header)
    return Parts(
        settings, policy, identify or from_scope(), address, writer, recorder,
        predicates=predicates or {}, heads=heads,
    )  # fmt: skip


def _compare_heads(settings: Settings, store: Store, ask: AskWitnesses | None) -> tuple[Compared, ...]:
    """Refuses a log that is shorter than, or differs from, what is known of it elsewhere."""
    known = list(settings.published)
    if settings.publish_to is not None and settings.publish_to.is_dir():
        known.append(settings.publish_to)
    heads = compare_heads(store, known, settings.trust, ask, archive=settings.archive_to)
    for head in heads:
        if head.state == "unknown":
            logger.warning("not compared with the log: %s: %s", head.place, head.problem)
    return heads


def _make_writer(
    settings: Settings, origin: str, signers: Sequence[Ed25519Signer], recorder: Recorder, clock: Clock = time.time_ns
) -> Writer:
    def reopen() -> LogStore:
        # Waiting in line is fair; the writer bounds it. What it repairs is told in the next commit.
        return open_log(settings, lock_timeout=None, repaired=tell_repair)

    def tell_repair(repair: Repair) -> None:
        writer.submit(repaired(repair, clock), reserve=True)

    def make_gap(count: int, first_ns: int, last_ns: int, cause: str) -> Statement:
        extra = {
            "count": count,
            "from": recorder.timestamp(first_ns),
            "to": recorder.timestamp(last_ns),
            "cause": cause,
        }
        return statement("audit.gap", "critical", extra, clock=clock)

    def make_replayed(count: int) -> Statement:
        return statement("audit.spool_replayed", "medium", {"count": count}, clock=clock)

    writer = Writer(
        reopen,
        make_sealer(origin, signers),
        recorder.encode,
        clock=clock,
        max_records=settings.queue,
        linger_ms=settings.linger,
        on_unencodable=recorder.unencodable,
        make_gap=make_gap,
        open_spool=partial(Spool, settings.spool_path),
        make_replayed=make_replayed,
        custody=recorder.custody,
        make_pulse=partial(Pulse, settings.heartbeat, clock, recorder.timestamp),
    )
    return writer
