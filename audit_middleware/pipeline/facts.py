"""What becomes known about one request while it runs; the record is made of it afterwards.

Facts are gathered on the event loop as cheaply as possible (references, integers) and turned into a record later, in
the writer's thread. Nothing here may be mutated once the request is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

from ..context import Notes
from ..model import NOBODY, Action, Cause, Decision, Found, Level, Resource, Severity, Subject
from ..policy.evaluate import CompiledAction
from ..protocols import LimitStore, Message
from .offered import Headers

NOT_DECIDED = Decision("not_applicable", "no_route")
UNFINISHED = Decision("deny", "error", detail="the decision was not completed")

Problem = Literal["credential_refused", "identity_unavailable", "identity_error"]
"""What can be wrong with a caller's identity."""


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """The action of a route, or the reason why no rule is asked (``cause``)."""

    action: Action | None = None
    rule: CompiledAction | None = None
    cause: Cause | None = None
    detail: str | None = None


class Capture(msgspec.Struct):
    """A bounded copy of a body on its way: at most ``limit`` bytes are kept, all are counted and hashed."""

    limit: int
    content_type: str | None = None
    kept: bytearray = msgspec.field(default_factory=bytearray)
    size: int = 0
    digest: Any = None
    complete: bool = False

    def feed(self, chunk: bytes) -> None:
        """Takes one chunk; never raises, never blocks."""
        self.size += len(chunk)
        self.digest.update(chunk)
        room = self.limit - len(self.kept)
        if room > 0:
            self.kept += chunk[:room]


class Lease(msgspec.Struct, frozen=True):
    """A place among the requests in flight that one limit counts."""

    store: LimitStore
    key: str
    name: str


class Facts(msgspec.Struct, eq=False):
    """One request. Times are nanoseconds; ``arrived_ns`` is wall clock, the other two are monotonic.

    Hundreds of them wait for the writer at a time. Python's collector of cycles walks over every container among what
    waits, and over all of the service's memory the sooner the more there are: so there are few, and what is mostly
    empty is a tuple, of which there is but one.
    """

    notes: Notes
    protocol: str
    method: str
    path: str
    query: bytes
    headers: Headers
    arrived_ns: int
    started_ns: int
    ended_ns: int = 0

    initiator_ip: str | None = None
    forwarded: Mapping[str, Any] | None = None

    found: Found | None = None
    action: Action | None = None
    event: str | None = None
    severity: Severity = "info"
    level: Level = "metadata"
    known_resource: Resource | None = None  # see `resource`
    subject: Subject = NOBODY
    decision: Decision = NOT_DECIDED
    inputs: Mapping[str, Any] | None = None  # what the decision's rules read
    verified: bool = True  # False between an admission and the router selecting what was admitted

    status: int | None = None
    started: bool = False  # the response has begun
    finished: bool = False  # the record has been handed over
    sealed: bool = False  # the response's last byte waits until the record is durable
    degrade: bool = False  # without the log, the spool will do
    intent_id: str | None = None  # of the record that announced this request before it ran
    announced: tuple[str | None, ...] | None = None  # what a durable intent was about: `aim`, then
    # messages that a rule read and nobody else, of a refused request
    unread: list[Message] | None = None
    aborted: bool = False
    error: str | None = None
    request_size: int = 0
    response_size: int = 0
    request_body: Capture | None = None
    response_body: Capture | None = None
    flags: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()

    @property
    def resource(self) -> Resource:
        """What is acted on. Made when it is first asked for: where only roles count, that is by the writer."""
        known = self.known_resource
        if known is None:
            known = self.known_resource = resource_of(self.action, self.found.path_params if self.found else {})
        return known

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self.known_resource = resource

    @property
    def acts_on(self) -> tuple[str | None, str | None]:
        """Type and id of `resource`, which need not be made for that."""
        known = self.known_resource
        if known is None:
            return _named(self.action, self.found.path_params if self.found else {})
        return known.type, known.id

    @property
    def action_id(self) -> str:
        """The record's identity."""
        return self.notes.action_id

    @property
    def aim(self) -> tuple[str | None, ...]:
        """What an intent is about."""
        return (self.action.name if self.action else None, self.resource.type, self.resource.id)

    def hold(self, lease: Lease) -> None:
        """Remembers a place to give back."""
        self.leases = (*self.leases, lease)

    def release(self) -> None:
        """Gives back every place, each once."""
        leases, self.leases = self.leases, ()
        for lease in leases:
            lease.store.give_back(lease.key, lease.name)

    @property
    def outcome(self) -> str:
        """``success``, ``failure`` (4xx), ``denied`` (by the policy), ``error`` (5xx, exception) or ``aborted``."""
        if self.decision.refused:
            return "denied"
        if self.aborted:
            return "aborted"
        if self.error is not None or self.status is None or self.status >= 500:
            return "error"
        return "failure" if self.status >= 400 else "success"

    def flag(self, name: str) -> None:
        """Notes an anomaly once."""
        if name not in self.flags:
            self.flags = (*self.flags, name)


def resource_of(action: Action | None, params: Mapping[str, Any]) -> Resource:
    """The resource that an action's template names: ``invoice/{invoice_id}`` is type ``invoice`` and that id.

    The path parameters are the resource's properties for conditions. A template that names a parameter the route does
    not have leaves the id unknown; the inventory refuses such a template at start.
    """
    return Resource(*_named(action, params), params)


def _named(action: Action | None, params: Mapping[str, Any]) -> tuple[str | None, str | None]:
    if action is None or action.resource is None:
        return None, None
    kind, template, name = _parts(action.resource)
    if not template:
        return kind, None
    if name and type(text := params.get(name)) is str:
        return kind, text
    try:
        return kind, template.format_map({key: str(value) for key, value in params.items()})
    except (KeyError, ValueError, IndexError):
        return kind, None


@lru_cache(4096)
def _parts(resource: str) -> tuple[str, str, str]:
    """The type, the template of the id, and the parameter that it is, where it is but one."""
    kind, _, template = resource.partition("/")
    name = template[1:-1] if template[:1] == "{" and template[-1:] == "}" else ""
    return kind, template, name if name.isidentifier() else ""


class Intent(msgspec.Struct, frozen=True):
    """A request that was admitted and has not run yet; ``facts`` is a copy of what was known then."""

    action_id: str
    facts: Facts
