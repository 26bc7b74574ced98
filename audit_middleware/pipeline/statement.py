"""Records that no request makes: about the log itself, and about work outside of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ..context import Notes, clean, plain
from ..model import NOBODY, Json, Outcome, Resource, Severity, Subject
from ..persons import About
from .facts import resource_of

_SHORT, _PROPERTIES = 256, 4096  # bytes of text, bytes of JSON


class Amends(NamedTuple):
    """What an amendment is about: the action of the request it amends, and whose data it holds."""

    action: str | None
    whose: About


class Statement(msgspec.Struct, frozen=True):
    """A record about the log itself or about work outside a request; ``fields`` overrides the record's defaults.

    ``verbatim`` joins ``extra`` as it is: what the log keeps byte for byte and nobody from outside has written.
    """

    action_id: str
    at_ns: int
    action: str
    event: str
    severity: Severity = "info"
    extra: Mapping[str, Json] | None = None
    fields: Mapping[str, Json] | None = None
    verbatim: Mapping[str, Json] | None = None
    amends: Amends | None = None


def amendment(notes: Notes, given: Mapping[str, Json], action_id: str, at_ns: int) -> Statement:
    """The record of what was annotated after the request's own record was made: it names that one."""
    extra = {"amends": notes.action_id, **{name: given[name] for name in given if name in ("resource", "extra")}}
    impact = given.get("impact")
    whole = None if impact is None else {"before": None, "after": None, "count": None} | impact
    fields = {"reason": given.get("reason"), "impact": whole}
    return Statement(
        action_id, at_ns, "audit.amended", "AUDIT_AMENDED", "info", extra, fields, amends=_amends(notes, given)
    )


def _amends(notes: Notes, given: Mapping[str, Json]) -> Amends:
    subject, about = notes.subject or NOBODY, notes.about or resource_of(notes.action, notes.params or {})
    named = notes.resource | given.get("resource", {})
    kind, name = named.get("type", about.type), named.get("id", about.id)
    whose = About(
        clean(subject.id, _SHORT), clean(subject.type, _SHORT), kind, None if name is None else clean(name, _SHORT)
    )
    return Amends(notes.action.name if notes.action else None, whose)


def work_fields(subject: Subject, resource: Resource, outcome: Outcome, given: Mapping[str, Json]) -> dict[str, Json]:
    """The fields by which work outside a request differs from a statement about the log. ``given``: see `annotate`."""
    impact = given.get("impact")
    return {
        "kind": "outcome",
        "user_id": clean(subject.id, _SHORT),
        "subject": {
            "type": clean(subject.type, _SHORT),
            "roles": [clean(role, _SHORT) for role in subject.roles[:64]],
            "tenant": None if subject.tenant is None else clean(subject.tenant, _SHORT),
            "session": None if subject.session is None else clean(subject.session, _SHORT),
            "properties": {},
        },
        "source": source_part(subject),
        "resource": {
            "type": None if resource.type is None else clean(resource.type, _SHORT),
            "id": None if resource.id is None else clean(resource.id, _SHORT),
            "properties": plain(resource.properties, limit=_PROPERTIES),
        },
        "reason": given.get("reason"),
        "impact": None if impact is None else {"before": None, "after": None, "count": None} | impact,
        "extra": given.get("extra", {}),
        "outcome": outcome,
    }


def source_part(subject: Subject) -> dict[str, Json]:
    source = subject.source
    if subject is NOBODY:
        return {"method": "none", "issuer": None, "detail": None}
    return {
        "method": clean(source.method, _SHORT),
        "issuer": None if source.issuer is None else clean(source.issuer, _SHORT),
        "detail": None if source.detail is None else clean(source.detail, _SHORT),
    }
