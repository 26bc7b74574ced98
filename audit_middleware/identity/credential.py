"""Where in a request the token is. Offered twice in one place it is refused: readers could pick different ones."""

from __future__ import annotations

from urllib.parse import parse_qsl

from ..errors import ConfigError, IdentityError
from ..protocols import Scope

__all__ = ["Credential"]

_MAX_TOKEN = 16 * 1024
_MAX_QUERY = 64 * 1024


class Credential:
    """Takes the token from the header, else from the cookie, else (WebSocket) from the query; ``None``: not offered."""

    def __init__(self, header: str = "authorization", cookie: str | None = None, query: str | None = None) -> None:
        if not header.strip() or cookie == "" or query == "":
            raise ConfigError("the names of the header, cookie and query parameter with the token must not be empty")
        self._header = header.strip().lower().encode()
        self._schemed = self._header == b"authorization"
        self._cookie = cookie.encode() if cookie else None
        self._query = query.encode() if query else None

    def of(self, scope: Scope) -> bytes | None:
        """The token offered, at most 16 KiB; raises `IdentityError` for two of them and for one that is larger."""
        token = self._from_header(scope)
        if token is None and self._cookie is not None:
            token = self._from_cookie(scope, self._cookie)
        if token is None and self._query is not None and scope["type"] == "websocket":
            token = self._from_query(scope, self._query)
        if token is not None and len(token) > _MAX_TOKEN:
            raise IdentityError("the token is larger than 16 KiB")
        return token

    def _from_header(self, scope: Scope) -> bytes | None:
        found: bytes | None = None
        for name, value in scope["headers"]:
            if name == self._header:
                if found is not None:
                    raise IdentityError("the request has more than one header with a credential")
                found = value
        if found is None or not self._schemed:
            return _bare(found) if found else None
        scheme, _, token = found.strip().partition(b" ")
        # Another scheme (Basic, ...) is not a credential for us: another identifier may know it.
        return token.strip() if scheme.lower() == b"bearer" else None

    def _from_cookie(self, scope: Scope, wanted: bytes) -> bytes | None:
        lines = b";".join(value for name, value in scope["headers"] if name == b"cookie")
        pairs = (part.partition(b"=") for part in lines.split(b";"))
        return _single([value.strip().strip(b'"') for name, _, value in pairs if name.strip() == wanted])

    def _from_query(self, scope: Scope, wanted: bytes) -> bytes | None:
        query: bytes = scope.get("query_string", b"")
        if len(query) > _MAX_QUERY:
            raise IdentityError("the query is too long to look for a token in it")
        return _single([value for name, value in parse_qsl(query) if name == wanted])


def _bare(value: bytes) -> bytes:
    value = value.strip()
    return value[7:].strip() if value[:7].lower() == b"bearer " else value


def _single(found: list[bytes]) -> bytes | None:
    if len(found) > 1:
        raise IdentityError("the request has more than one credential of the same name")
    return found[0] if found and found[0] else None
