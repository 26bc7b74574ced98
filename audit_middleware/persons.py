"""Persons: whose data a field of a record is, what is done with it before it is hashed, and the keys of one person.

Plain values; `privacy` carries out what they say, `policy` reads it from a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .model import ANONYMOUS

How = Literal["clear", "token", "seal", "commit", "drop"]
"""From the weakest to the strictest: recorded as it is; a pseudonym of the whole value stands for it; encrypted under
the person's key; an HMAC under the person's salt; replaced by ``[redacted]``."""

HOWS: tuple[How, ...] = ("clear", "token", "seal", "commit", "drop")

Whose = Literal["subject", "resource"]
"""Whose data a field is: of who asked, or of what was acted on (a patient's file that a clerk opens)."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done with one field. ``of`` says whose key, salt or token is taken."""

    how: How
    of: Whose = "subject"


USER = "user"
"""The type of a resource that is a person who also asks: what is done to ``user/ann`` is data of the user ``ann``."""

Personal = Mapping[str, Treatment]
"""By the dotted path of the field in a record: ``user_id``, ``request.body.content.email``. What is not named is clear;
a path that names a part with members stands for all of it."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whose key it is.

    ``kind`` is ``user`` (``id`` is the record's ``user_id``), ``resource`` (``id`` is ``type/id``) or ``day``: what
    nobody in particular sent on one day (UTC, ``2026-11-23``) is sealed under a key of that day. See `acted_on`.
    """

    kind: Literal["user", "resource", "day"]
    id: str

    @property
    def name(self) -> str:
        """What a request calls it: of a resource the id without its type, of ``initiator_ip/192.0.2.7`` the address."""
        return self.id if self.kind == "user" else self.id.partition("/")[2] or self.id


def acted_on(kind: str, id: str) -> Person:
    """Whose data it is when a resource was acted on: ``user/ann`` is the person who is ``ann`` as a ``user_id``."""
    return Person("user", id) if kind == USER else Person("resource", f"{kind}/{id}")


_SYSTEM = "system"


class About(NamedTuple):
    """Whose data a record holds: the user's id and type, and what was acted on."""

    user_id: str
    user_type: str
    resource_type: str | None = None
    resource_id: str | None = None

    @property
    def nobody(self) -> bool:
        """True where the id says of nobody in particular who it was, and stays as it is."""
        return self.user_id == self.user_type and self.user_id in (ANONYMOUS, _SYSTEM)

    def user(self, day: str) -> Person:
        """Whose key covers what the caller sent: a person's, or that of the day (``2026-11-23``)."""
        if self.user_type == ANONYMOUS or self.nobody:
            return Person("day", day)
        return Person("user", self.user_id)

    def resource(self, day: str) -> Person:
        """Whose key covers what was acted on; of a thing without a name, that of the day."""
        if self.resource_id is None:
            return Person("day", day)
        return acted_on(self.resource_type or "", self.resource_id)


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The keys of one person. ``token`` (26 characters of lower-case base32, 128 random bits) stands for the person in
    records; ``secret`` (32 bytes) is the AES-256-GCM key, ``salt`` (32 bytes) the key of commitments.

    ``told``: the log is known to hold the key's commitment.
    """

    token: str
    secret: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    told: bool = True
    restricted: bool = False


MARK = re.compile(r"(token|sealed|commit)\.v1\.([a-z2-7]{26})(?:\.([A-Za-z0-9_-]+))?")
"""A text that stands for a value of a record: what was done, whose token, and what it holds; see `privacy.sealed`."""


def pseudonym(text: str | None) -> str | None:
    """What stands for a person or thing in indexes, tables and exports: of a marked text its token alone, as
    ``token.v1.<token>``; of any other value the value itself."""
    if text is None or not text.startswith(("token.v1.", "sealed.v1.", "commit.v1.")):
        return text
    found = MARK.fullmatch(text)
    return text if found is None else pseudonym_of(found[2])


def token_of(text: str | None) -> str | None:
    """The token of a text that is a token and nothing else, as lists and findings have it."""
    if text is None or not text.startswith("token.v1."):
        return None
    found = MARK.fullmatch(text)
    return None if found is None or found[3] is not None else found[2]


def pseudonym_of(token: str) -> str:
    """A token as records write it."""
    return f"token.v1.{token}"
