"""Who Starlette's ``AuthenticationMiddleware`` says is calling: ``scope["user"]`` and ``scope["auth"]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import IdentityError
from ..model import Source, Subject
from ..protocols import Scope
from .claims import properties_of, resolve_roles, text_of, type_of

__all__ = ["from_scope"]

_SOURCE = Source("starlette")


def from_scope(
    roles: str | Callable[[Any], Iterable[str] | None] = "roles",
    *,
    id: str = "identity",
    type: str = "type",
    tenant: str = "tenant",
    properties: Sequence[str] = (),
) -> Callable[[Scope], Subject | None]:
    """An identifier that reads the user an authentication middleware has put into the scope.

    Args:
        roles: the user's attribute that holds its roles, or a callable ``(user) -> names``. A user without that
            attribute has the scopes of ``scope["auth"]`` (``AuthCredentials``) as roles.
        id: the user's attribute that identifies it; ``display_name`` where it has none (Starlette's ``SimpleUser``).
        type: the attribute with the subject's type; ``user`` where there is none.
        tenant: the attribute with the subject's tenant, if any.
        properties: further attributes to copy into the subject's properties.
    """

    def identify(scope: Scope) -> Subject | None:
        user = scope.get("user")
        if user is None:
            return None
        try:
            authenticated = user.is_authenticated
        except AttributeError:
            raise IdentityError("scope['user'] has no is_authenticated: give identify= your own callable") from None
        if not authenticated:
            return None
        name, owner = _attribute(user, id), _attribute(user, tenant)
        return Subject(
            id=text_of(_attribute(user, "display_name") if name is None else name, "id"),
            type=type_of(_attribute(user, type)),
            roles=resolve_roles(_roles(user, scope, roles)),
            tenant=None if owner is None else text_of(owner, "tenant"),
            properties=properties_of(properties, lambda name: _attribute(user, name)),
            source=_SOURCE,
        )

    return identify


def _roles(user: Any, scope: Scope, roles: str | Callable[[Any], Iterable[str] | None]) -> Any:
    if callable(roles):
        names = roles(user)
        return names if names is None or isinstance(names, str) else list(names)
    names = _attribute(user, roles)
    return names if names is not None else getattr(scope.get("auth"), "scopes", None)


def _attribute(user: Any, name: str) -> Any:
    """An attribute or ``None``. Starlette's ``BaseUser`` declares ``identity`` and lets it raise."""
    try:
        return getattr(user, name, None)
    except NotImplementedError:
        return None
