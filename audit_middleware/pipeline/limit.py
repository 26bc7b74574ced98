"""Step 3b: counts an allowed request against its action's limit, and takes its place among those in flight.

Only what passed rules, requirements and the log comes here. The place is taken first: a request that finds none uses
up no rate. A place is given back once, when the response's last byte is out or the application has ended, whichever
comes first; a client that goes away does not free it while its handler still runs, or a limit could be outrun by
hanging up.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
from dataclasses import replace

from ..errors import AttributesError, LimitUnavailable
from ..model import Decision
from ..policy.evaluate import CompiledAction
from ..protocols import LimitStore
from .facts import Facts, Lease

__all__ = ["enter"]

_UNCOUNTED = "limit_not_counted"
_STORE = "limit_store_unavailable"


async def enter(store: LimitStore | None, policy: str, rule: CompiledAction, facts: Facts) -> Decision:
    """The decision about an allowed request once its limit was asked. ``policy`` is the policy's name: services that
    share one store are counted apart."""
    limit = rule.limit
    assert limit is not None
    allowed = facts.decision
    try:
        key = _key(policy, rule.name, limit.per, facts)
        if store is None:
            raise LimitUnavailable("no store for limits was opened")
        if limit.concurrent is not None and not await _place(store, key, limit.concurrent, facts):
            return _reached(allowed, f"concurrent per {limit.per}", 1)
        if limit.rate is not None:
            wait_s = await store.hit(key, limit.rate.count, limit.rate.seconds)
            if wait_s > 0:
                return _reached(allowed, f"rate per {limit.per}", math.floor(wait_s) + 1)
    except (LimitUnavailable, AttributesError) as problem:
        unavailable = isinstance(problem, LimitUnavailable)
        if limit.on_limit_error == "allow":
            facts.flag(_STORE if unavailable else _UNCOUNTED)
            return allowed
        return replace(allowed, effect="deny", cause="error", detail=_STORE if unavailable else str(problem))
    return allowed


def _reached(allowed: Decision, which: str, retry_after: int) -> Decision:
    return replace(allowed, effect="deny", cause="limit", detail=which, retry_after=retry_after)


async def _place(store: LimitStore, key: str, places: int, facts: Facts) -> bool:
    # Held before it is asked for: if we are cancelled meanwhile, or the answer is lost, it is given back all the same,
    # at the end of the request, as every place is.
    lease = Lease(store, key, secrets.token_hex(8))
    facts.hold(lease)
    taken = await store.take(key, lease.name, places)
    if facts.finished:  # a middleware has answered in the meantime: who would give it back was here already
        facts.release()
    return taken


def _key(policy: str, action: str, per: str, facts: Facts) -> str:
    """Whom a limit counts, as a hash: the store learns no names.

    Raises:
        AttributesError: the subject has no tenant, or nobody knows the address.
    """
    subject = facts.subject
    if per == "subject" and subject.anonymous:
        per = "address"  # nobody is many people: one of them must not use up the limit of all
    if per == "action":
        who = ""
    elif per == "subject":
        who = f"{subject.type}\n{subject.source.issuer}\n{subject.id}"
    elif per == "tenant":
        if subject.tenant is None:
            raise AttributesError("limit: subject.tenant is missing")
        who = subject.tenant
    else:
        who = _network(facts.initiator_ip)
    return hashlib.sha256(f"{policy}\n{action}\n{per}\n{who}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: one customer has all of that."""
    if address is None:
        raise AttributesError("limit: the caller's address is not known")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)
