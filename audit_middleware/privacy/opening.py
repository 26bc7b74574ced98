"""Opening: what sealing put into a record, read again by who holds the keys, and shown by who does not.

A value is *sealed* (its key is there, or may be), *erased* (the log tells of it) or *unreadable*: the key should be
there, and is not, or does not open this value at this place, or is not the key that the log holds the commitment of.
A commitment never opens: `confirms` says whether a value is the one that was committed to.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Set
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..model import Json
from ..persons import Person, SubjectKey
from ..protocols import SubjectKeys
from .guarding import guarded
from .places import USER_ID
from .sealed import Mark, binding, commitment, parse, place_of, text_of
from .sealing import NONCE, json_of, message

__all__ = ["Opener", "State", "display", "marked", "shown"]

State = Literal["sealed", "erased", "unreadable"]

_KEPT = 10_000
_SHORT = 6  # characters of a token that tell persons apart on a screen


def display(mark: Mark, state: State = "sealed") -> str:
    """A mark for a screen: ``token abcdef…``, ``sealed (abcdef…)``, ``committed (abcdef…)``, ``erased (abcdef…)``."""
    token = f"{mark.token[:_SHORT]}…"
    if state != "sealed":
        return f"{state} ({token})"
    words = {"token": f"token {token}", "sealed": f"sealed ({token})", "commit": f"committed ({token})"}
    return words[mark.kind]


def shown(record: Mapping[str, Any], erased: Set[str] = frozenset()) -> dict[str, Any]:
    """A record for a screen, without any key: each mark by its `display`, in its place."""
    found: dict[str, Any] = _each(
        dict(record), "", lambda mark, path: display(mark, "erased" if mark.token in erased else "sealed")
    )
    return found


def marked(record: Mapping[str, Any]) -> list[tuple[str, Mark]]:
    """Every mark of a record, with the path of what it stands for."""
    found: list[tuple[str, Mark]] = []
    _each(dict(record), "", lambda mark, path: found.append((path, mark)))
    return found


class Opener:
    """Opens records of one log. Used by one thread at a time."""

    def __init__(
        self,
        keys: SubjectKeys | None,
        origin: str,
        erased: Set[str] = frozenset(),
        commitments: Mapping[str, str] | None = None,
        only: Set[str] | None = None,
    ) -> None:
        """``erased`` are the tokens whose erasure the log tells of; ``commitments`` are, by token and in hex, those
        that the log holds: a key that is not the one committed to opens nothing. Without ``keys`` nothing opens. With
        ``only`` nothing opens but what these tokens stand for: of others it is said that it is sealed."""
        self._keys = keys
        self._origin = origin
        self._erased = erased
        self._commitments = {} if commitments is None else commitments
        self._only = only
        self._known: dict[str, tuple[Person, SubjectKey] | None] = {}
        self._generation: int | None = None

    def begin(self) -> None:
        """Forgets what was erased since; to be called now and then by who runs for long. Raises `SubjectKeysError`."""
        if self._keys is not None and (generation := guarded(self._keys.generation)) != self._generation:
            self._known.clear()
            self._generation = generation

    def state(self, mark: Mark) -> State:
        """What can be said of a mark without opening it. Raises `SubjectKeysError`."""
        if mark.token in self._erased:
            return "erased"
        if self._keys is None or self._others(mark.token) or self._key(mark.token) is not None:
            return "sealed"
        return "unreadable"

    def opened(self, record: Mapping[str, Any], *, keep: bool = False) -> dict[str, Any]:
        """The record with values in their places, and the `display` of what does not open; with ``keep``, the mark of
        it as it is. Raises `SubjectKeysError`.

        A token opens as the id of the person or thing that it stands for.
        """
        action_id = str(record.get("action_id"))

        def value(mark: Mark, path: str) -> Json:
            try:
                return self.value(mark, action_id, path)
            except LookupError:
                return text_of(mark) if keep else self._closed(mark)

        found: dict[str, Any] = _each(dict(record), "", value)
        return found

    def value(self, mark: Mark, action_id: str, path: str) -> Json:
        """The value behind one mark at its place. Raises `LookupError` where it does not open."""
        found = None if mark.token in self._erased or self._others(mark.token) else self._key(mark.token)
        if found is None:
            raise LookupError(mark.token)
        person, key = found
        if mark.kind == "token":
            return person.id if path == USER_ID else person.name
        if mark.kind == "commit":
            raise LookupError(mark.token)
        place = binding(self._origin, action_id, path)
        try:
            data = AESGCM(key.secret).decrypt(mark.content[:NONCE], mark.content[NONCE:], place)
            return msgspec.json.decode(data)
        except (InvalidTag, ValueError, msgspec.DecodeError):  # ValueError: too short for a nonce
            raise LookupError(mark.token) from None

    def confirms(self, mark: Mark, value: Json, action_id: str, path: str) -> bool:
        """Is this the value that was committed to, at this place? Raises `SubjectKeysError`."""
        found = None if mark.token in self._erased else self._key(mark.token)
        if found is None or mark.kind != "commit":
            return False
        made = hmac.digest(found[1].salt, message(binding(self._origin, action_id, path), json_of(value)), "sha256")
        return hmac.compare_digest(made, mark.content)

    def _closed(self, mark: Mark) -> str:
        state = self.state(mark)
        tried = self._keys is not None and state == "sealed" and mark.kind != "commit"
        tried = tried and not self._others(mark.token)
        return display(mark, "unreadable" if tried else state)

    def _others(self, token: str) -> bool:
        return self._only is not None and token not in self._only

    def _key(self, token: str) -> tuple[Person, SubjectKey] | None:
        """Whom a token stands for; ``None`` also where the key is not the one that the log was told of."""
        if self._keys is None:
            return None
        if token not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = guarded(self._keys.named, token)
            told = self._commitments.get(token)
            if found is not None and told is not None and commitment(found[1].secret).hex() != told:
                found = None
            self._known[token] = found
        return self._known[token]


Replace = Callable[[Mark, str], Json]


def _each(value: Any, path: str, replace: Replace) -> Any:
    """A copy with every mark replaced, whether it stands for a text, an object or a list; given the path of what it
    stands for. Where both an object and its only member could be meant, the object is tried first."""
    if isinstance(value, str):
        mark = parse(value)
        if mark is None:
            return value
        opened = replace(mark, path)
        return _each(opened, path, replace) if isinstance(opened, dict | list) else opened
    if not isinstance(value, dict | list):
        return value
    if len(value) == 1 and (mark := place_of(value)) is not None:
        whole = replace(mark, path)
        if isinstance(whole, type(value)):
            return _each(whole, path, replace)  # a member may be somebody else's, sealed before the whole was
    members = value.items() if isinstance(value, dict) else enumerate(value)
    found = {name: _each(member, f"{path}.{name}" if path else str(name), replace) for name, member in members}
    return found if isinstance(value, dict) else list(found.values())
