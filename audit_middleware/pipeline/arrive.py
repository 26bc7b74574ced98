"""Step 0: what is known the moment a request arrives, before anything is asked of the application."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from ..context import Notes, action_tail, new_action_id
from ..identity.correlation import CORRELATING, correlate
from ..identity.proxies import FORWARDING, ClientAddress
from ..model import Json
from ..privacy.redact import DEFAULT_HEADERS
from ..protocols import Clock, Scope
from .facts import Facts
from .offered import CONFIRM, REASON, Headers

_TELLING = CORRELATING | FORWARDING
_READ = _TELLING | {b"user-agent", REASON, CONFIRM} | {name.encode() for name in DEFAULT_HEADERS}
_COMMON = frozenset((b"user-agent", b"accept", b"content-type", b"content-length", b"origin"))
_MOST_KEPT, _LONGEST_KEPT = 512, 512  # sets of headers; bytes of one
_kept: dict[Headers, Headers] = {}
_POOL = 256
# `list.pop` is atomic: two threads never get the same number.
_ids: list[str] = []
_tails: list[str] = []
for _pool in (_ids, _tails):
    os.register_at_fork(after_in_child=_pool.clear)  # nor do a parent and its child


def _random() -> list[str]:
    """Numbers of 128 random bits, lower-case hex. The system's generator is asked for many at once: a call costs as
    much as 256 numbers."""
    digits = os.urandom(16 * _POOL).hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def new_id() -> str:
    """A correlation ID of our own: 128 random bits, lower-case hex."""
    try:
        return _ids.pop()
    except IndexError:
        last, *more = _random()
        _ids.extend(more)
        return last


def fresh_action_id(clock_ns: int) -> str:
    """A UUIDv7 of this moment. Action ids are handed out, so they must not be guessable."""
    try:
        tail = _tails.pop()
    except IndexError:
        tail, *more = map(action_tail, _random())
        _tails.extend(more)
    return new_action_id(clock_ns, tail)


def arrive(scope: Scope, clock: Clock, address: ClientAddress, late: Callable[[Notes, dict[str, Json]], None]) -> Facts:
    """The facts of a request so far. ``late`` takes what is annotated after the record was made."""
    arrived = clock()
    headers = scope["headers"]
    if type(headers) is not list:  # an iterator, which ASGI allows, would be spent after the first look
        scope["headers"] = headers = list(headers)
    read, told = _picked(headers)
    initiator, forwarded = address.of(scope, told)
    return Facts(
        notes=Notes(fresh_action_id(arrived), correlate(told, new_id), late),
        protocol=scope["type"],
        method=scope.get("method", "WS"),
        # What the client sent: middleware may rewrite its own scope, and the record is made later.
        path=scope["path"],
        query=scope.get("query_string", b""),
        headers=read,
        arrived_ns=arrived,
        started_ns=time.perf_counter_ns(),
        initiator_ip=initiator,
        forwarded=forwarded,
    )


def _picked(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, Headers]:
    """The headers that are read at all, and those of them that tell where a request comes from.

    A client sends the same ones with most of its requests. They are one object then, of which any number of requests
    wait for the writer; nothing of that kind is secret, or differs each time.
    """
    read = tuple([header for header in headers if header[0] in _READ])
    try:
        known = _kept.get(read)
    except TypeError:  # a server whose headers are lists
        return read, _telling(read)
    if known is not None:
        return known, ()
    told = _telling(read)
    if all(name in _COMMON for name, _ in read) and sum(len(value) for _, value in read) <= _LONGEST_KEPT:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[read] = read
    return read, told


def _telling(headers: Headers) -> Headers:
    return [header for header in headers if header[0] in _TELLING]


def response_headers(facts: Facts) -> list[tuple[bytes, bytes]]:
    """The two headers every response gets."""
    notes = facts.notes
    return [
        (b"x-correlation-id", notes.correlation.correlation_id.encode()),
        (b"audit-id", notes.action_id.encode()),
    ]
