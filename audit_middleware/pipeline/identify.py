"""Step 2: who asks. Turns whatever an identifier does into a subject and, at most, one problem."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import UnionType

from ..errors import AuditError, IdentityError, IdentityUnavailable
from ..model import NOBODY, Source, Subject
from ..protocols import Identifier, Scope
from .facts import Problem


async def identify(identifier: Identifier, scope: Scope) -> tuple[Subject, Problem | None]:
    """The subject of a request; `NOBODY` with a problem when a credential was offered but gave no subject.

    Only this package's errors are caught: anything else an identifier raises is a bug in it, passes through as an
    unhandled exception (the handler does not run) and is recorded as an error.
    """
    try:
        subject = identifier(scope)
        if inspect.isawaitable(subject):
            subject = await subject
    except IdentityError:
        return NOBODY, "credential_refused"
    except IdentityUnavailable:
        return NOBODY, "identity_unavailable"
    except AuditError:
        return NOBODY, "identity_error"
    return (NOBODY if subject is None else _checked(subject)), None


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


_FIELDS: dict[str, type | UnionType] = {
    "id": str,
    "type": str,
    "roles": tuple | list,
    "tenant": str | None,
    "session": str | None,
    "properties": Mapping,
    "source": Source,
}
