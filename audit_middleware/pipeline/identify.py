"""Step 2: who asks. Turns whatever an identifier does into a subject and, at most, one problem."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from types import MappingProxyType, UnionType
from typing import Any, TypeGuard

from ..errors import AuditError, IdentityError, IdentityUnavailable
from ..model import NOBODY, Source, Subject
from ..protocols import Identifier, Scope
from .facts import Problem

Known = tuple[Subject, Problem | None]


def identify(identifier: Identifier, scope: Scope) -> Known | Awaitable[Known]:
    """The subject of a request; `NOBODY` with a problem when a credential was offered but gave no subject.

    To be awaited only where the identifier is. Only this package's errors are caught: anything else an identifier
    raises is a bug in it, passes through as an unhandled exception (the handler does not run) and is recorded as an
    error.
    """
    try:
        subject = identifier(scope)
    except AuditError as error:
        return NOBODY, _problem_of(error)
    if subject is not None and type(subject) is not Subject and inspect.isawaitable(subject):
        return _awaited(subject)
    if subject is None:
        return NOBODY, None
    return subject if _is_plain(subject) else _checked(subject), None


async def _awaited(pending: Awaitable[Subject | None]) -> Known:
    try:
        subject = await pending
    except AuditError as error:
        return NOBODY, _problem_of(error)
    return NOBODY if subject is None else _checked(subject), None


def _problem_of(error: AuditError) -> Problem:
    if isinstance(error, IdentityError):
        return "credential_refused"
    return "identity_unavailable" if isinstance(error, IdentityUnavailable) else "identity_error"


def _checked(subject: Subject) -> Subject:
    """The subject, if a policy can decide about it and a record can hold it.

    Raises:
        TypeError: the identifier returned something else; a bug in it, as above.
    """
    if not isinstance(subject, Subject):
        raise TypeError(f"identify= returned {type(subject).__name__}, not a Subject or None")
    wrong = [name for name, kinds in _FIELDS.items() if not isinstance(getattr(subject, name), kinds)]
    if wrong or not all(isinstance(role, str) for role in subject.roles):
        raise TypeError(f"identify= returned a Subject with a wrong type of {', '.join(wrong) or 'roles'}")
    return subject


def _is_plain(subject: Any) -> TypeGuard[Subject]:
    """Is everything of the very type that it should be, as with most subjects? Quicker than `_checked`."""
    return (
        type(subject) is Subject
        and type(subject.id) is str
        and type(subject.type) is str
        and type(subject.roles) is tuple
        and (subject.tenant is None or type(subject.tenant) is str)
        and (subject.session is None or type(subject.session) is str)
        and type(subject.properties) in _MAPPINGS
        and type(subject.source) is Source
        and set(map(type, subject.roles)) <= _TEXT
    )


_MAPPINGS = (dict, MappingProxyType)
_TEXT = {str}
_FIELDS: dict[str, type | UnionType] = {
    "id": str,
    "type": str,
    "roles": tuple | list,
    "tenant": str | None,
    "session": str | None,
    "properties": Mapping,
    "source": Source,
}
