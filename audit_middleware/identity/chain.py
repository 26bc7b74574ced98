"""Several identifiers as one."""

from __future__ import annotations

from collections.abc import Awaitable

from ..errors import ConfigError
from ..model import Subject
from ..protocols import Identifier, Scope

__all__ = ["first_of"]


def first_of(*identifiers: Identifier) -> Identifier:
    """Asks each in turn until one knows the caller: ``first_of(JWTIdentifier(...), from_scope())``.

    Only "no credential for me" (``None``) goes on to the next. A credential that does not verify ends the search, so
    that a forged token cannot fall back to a weaker way to sign in; so does a provider that could not be asked.
    """
    if not identifiers:
        raise ConfigError("first_of() needs at least one identifier")

    def identify(scope: Scope) -> Awaitable[Subject | None] | Subject | None:
        # No coroutine where none is needed: the identifiers that answer at once are asked right here.
        for at, one in enumerate(identifiers):
            answer = one(scope)
            if isinstance(answer, Subject):
                return answer
            if answer is not None:
                return _rest(answer, identifiers[at + 1 :], scope)
        return None

    return identify


async def _rest(pending: Awaitable[Subject | None], remaining: tuple[Identifier, ...], scope: Scope) -> Subject | None:
    found = await pending
    for one in remaining:
        if found is not None:
            return found
        answer = one(scope)
        found = answer if answer is None or isinstance(answer, Subject) else await answer
    return found
