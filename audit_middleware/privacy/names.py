"""Secrets that are known by their name: ``password``, ``card.*``, ``*.pin``.

Names are compared without case, ``-``, ``_`` and spaces: ``apiKey``, ``api_key`` and ``API-Key`` are one name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from ..errors import ConfigError

__all__ = ["DEFAULT_KEYS", "Names", "Path"]

Path = tuple[str, ...]
"""Normal names from the outermost member to the innermost. List positions are not part of it."""

DEFAULT_KEYS = (
    *("password", "passwd", "pwd", "passphrase", "passcode", "pin", "otp", "secret", "credential", "credentials"),
    *("token", "jwt", "bearer", "api_key", "x_api_key", "private_key", "secret_key", "client_assertion"),
    *("authorization", "proxy_authorization", "auth", "cookie", "set_cookie", "session", "session_id", "sid"),
    *("csrf", "xsrf", "signature", "sig", "x_amz_signature", "x_goog_signature", "x_amz_credential"),
    *("cvv", "cvc", "cvv2", "cvc2", "csc", "security_code", "card_number", "pan", "ssn"),
)
"""Always redacted, besides every name that ends in one of `_ENDINGS` (``newPassword``, ``refresh_token``)."""

_ENDINGS = ("password", "passwd", "passphrase", "secret", "token", "apikey", "privatekey", "secretkey")
_BETWEEN = str.maketrans("", "", "-_ ")
_MAX_REMEMBERED = 64  # characters: names come from clients, what is kept of them must be small


def normal(name: str) -> str:
    """The name as it is compared."""
    return name.lower().translate(_BETWEEN)


class Names:
    """Decides by name and place whether a member is secret.

    A key is a name, or a dotted path that is compared with the innermost names (``card.*``: every member of any
    ``card``). ``*`` is any one name.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        if isinstance(keys, str):
            raise ConfigError("redact: keys must be a list of names")
        paths = [_path(key) for key in keys]
        self._names = frozenset({normal(key) for key in DEFAULT_KEYS} | {path[0] for path in paths if len(path) == 1})
        self._backwards = [path[::-1] for path in paths if len(path) > 1]
        self._remembered: Callable[[str], tuple[bool, Path]] = lru_cache(2048)(self._read)

    def secret(self, name: str, above: Path = ()) -> tuple[bool, Path]:
        """(whether the member of this name below ``above`` is secret, its own path)."""
        hit, parts = self._remembered(name) if len(name) <= _MAX_REMEMBERED else self._read(name)
        if not self._backwards:
            return hit, above  # nobody asks for the path: do not build it
        path = above + parts
        if hit or len(parts) == 1:
            return hit or self._ends(path), path
        return any(self._ends(path[:end]) for end in range(len(above) + 1, len(path) + 1)), path

    def secret_item(self, above: Path) -> bool:
        """Whether a plain value in a list below ``above`` is secret: for ``card.*``, the items of a list ``card``."""
        return bool(self._backwards) and self._ends((*above, ""))

    def _read(self, name: str) -> tuple[bool, Path]:
        """A name with dots or brackets (``card.number``, ``card[number]``) is a path of its own."""
        parts = tuple(normal(part) for part in name.replace("[", ".").replace("]", "").split("."))
        return any(part in self._names or part.endswith(_ENDINGS) for part in parts), parts

    def _ends(self, path: Path) -> bool:
        size = len(path)
        for backwards in self._backwards:
            if len(backwards) > size:
                continue
            for at, want in enumerate(backwards, 1):
                if want not in ("*", path[-at]):
                    break
            else:
                return True
        return False


def _path(key: str) -> Path:
    path = tuple(part if part == "*" else normal(part) for part in key.split(".")) if isinstance(key, str) else ()
    if not all(path) or all(part == "*" for part in path):
        raise ConfigError(f"redact: {key!r} is no key: it must be a name or a dotted path with a name in it")
    return path
