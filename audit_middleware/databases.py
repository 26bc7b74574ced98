"""Reaching a PostgreSQL server: which one a URL means, and a connection on which no wait is longer than its deadline.

Needs psycopg 3 (the extra ``postgres``); only what is about a database imports this.

``schema`` and ``origin`` in a URL are ours, everything else is libpq's (``host``, ``sslmode``, ``passfile`` ...). A
password may stand in the URL; better places are a password file or a client certificate. It never appears in a message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from .errors import ConfigError
from .urls import UNREADABLE, is_plain

SCHEMES = ("postgresql", "postgres")

CONNECT_TIMEOUT = 5
"""Seconds for one attempt to connect to one host; libpq takes no fraction."""

LIBPQ = {
    "application_name": "audit-middleware",
    "client_encoding": "UTF8",
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "target_session_attrs": "any",
}

LATE = "no answer in time"

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_HIDDEN = "***"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where something is in a database.

    Attributes:
        options: libpq's connection parameters.
        schema: The schema of the tables.
        origin: The log's name, if the URL says it.
        place: What it is called in messages: without user, password and parameters.
    """

    options: Mapping[str, str] = field(repr=False)
    schema: str
    origin: str | None
    place: str

    def hide(self, text: str) -> str:
        """A text of the database or its driver without the URL's secrets, on one line."""
        for name in _SECRETS:
            secret = self.options.get(name)
            if secret:
                text = text.replace(secret, _HIDDEN)
        return " ".join(text.split())


def parse_address(
    url: str, what: str, default_schema: str, *, origin: str | None = None, schema: str | None = None
) -> Address:
    """Reads a URL; ``origin`` and ``schema`` go before what it says. ``what`` it is the place of, for messages.

    Raises:
        ConfigError: It is no such URL. Nothing of it is repeated but its place.
    """
    if not is_plain(url) or urlsplit(url).scheme not in SCHEMES:
        raise ConfigError(f"{what}: {UNREADABLE}")
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in ("schema", "origin")}
    rest = [(name, value) for name, value in given if name not in ours]
    hosts = parts.netloc.rpartition("@")[2]
    place = f"postgresql://{hosts}{parts.path}"
    try:
        # libpq itself reads the rest: it knows its parameters, several hosts, and how they are escaped.
        found = conninfo_to_dict(urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(rest), "")))
    except psycopg.ProgrammingError:
        raise ConfigError(f"{place}: the URL has a parameter that libpq does not know, or a malformed one") from None
    options = {name: str(value) for name, value in found.items() if value is not None}
    if not hosts and "host" in options:
        place = f"postgresql://{options['host']}{parts.path}"
    schema = schema or ours.get("schema") or default_schema
    if not _SCHEMA.fullmatch(schema):
        raise ConfigError(f"{place}: schema {schema!r}: must be up to 40 lower-case letters, digits and underscores")
    origin = origin or ours.get("origin") or None
    return Address(options, schema, origin, unquote(place))


class Bounded(psycopg.Connection[Any]):
    """A connection whose every wait ends at a deadline."""

    deadline = float("inf")
    late = False

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        return super().wait(self._until_deadline(gen), *args, **kwargs)

    def _until_deadline(self, gen: PQGen[T]) -> PQGen[T]:
        # psycopg wakes the generator with "nothing ready" several times a second, which is when we look at the clock.
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > self.deadline:
                    self.late = True
                    raise psycopg.OperationalError(LATE)
                state = gen.send(ready)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
