"""Step 0: what is known the moment a request arrives, before anything is asked of the application."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ..context import Notes, new_action_id
from ..identity.correlation import correlate
from ..identity.proxies import ClientAddress
from ..model import Json
from ..protocols import Clock, Scope
from .facts import Facts

_POOL = 256
_pool: list[int] = []  # `list.pop` is atomic: two threads never get the same number
os.register_at_fork(after_in_child=_pool.clear)  # nor do a parent and its child


def _random128() -> int:
    """128 bits from the system's generator, which is asked for many at once: a call costs as much as 256 numbers."""
    try:
        return _pool.pop()
    except IndexError:
        raw = os.urandom(16 * _POOL)
        numbers = [int.from_bytes(raw[at : at + 16], "big") for at in range(0, len(raw), 16)]
        last = numbers.pop()
        _pool.extend(numbers)
        return last


def new_id() -> str:
    """A correlation ID of our own: 128 random bits, lower-case hex."""
    return f"{_random128():032x}"


def fresh_action_id(clock_ns: int) -> str:
    """A UUIDv7 of this moment. Action ids are handed out, so they must not be guessable."""
    return new_action_id(clock_ns, lambda bits: _random128() >> (128 - bits))


def arrive(scope: Scope, clock: Clock, address: ClientAddress, late: Callable[[Notes, dict[str, Json]], None]) -> Facts:
    """The facts of a request so far. ``late`` takes what is annotated after the record was made."""
    arrived = clock()
    headers = scope["headers"]
    if type(headers) is not list:  # an iterator, which ASGI allows, would be spent after the first look
        scope["headers"] = headers = list(headers)
    correlation = correlate(headers, new_id)
    notes = Notes(fresh_action_id(arrived), correlation)
    notes.on_late = lambda given: late(notes, given)
    facts = Facts(
        notes=notes,
        protocol=scope["type"],
        method=scope.get("method", "WS"),
        # What the client sent: middleware may rewrite its own scope, and the record is made later.
        scope={"path": scope["path"], "query_string": scope.get("query_string", b""), "headers": headers.copy()},
        arrived_ns=arrived,
        started_ns=time.perf_counter_ns(),
    )
    facts.initiator_ip, facts.forwarded = address.of(scope)
    return facts


def response_headers(facts: Facts) -> list[tuple[bytes, bytes]]:
    """The two headers every response gets."""
    notes = facts.notes
    return [
        (b"x-correlation-id", notes.correlation.correlation_id.encode()),
        (b"audit-id", notes.action_id.encode()),
    ]
