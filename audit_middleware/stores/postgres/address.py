"""Which log a URL means: ``postgresql://user@host/database?schema=audit&origin=example.com/billing``.

``schema`` and ``origin`` are ours, everything else is libpq's (``host``, ``sslmode``, ``passfile`` ...). Without
``origin`` it is the one log of that schema that the role may use. A password may stand in the URL; better places are a
password file or a client certificate. It never appears in a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ...errors import ConfigError

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "audit"

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a log is.

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


def is_postgres_url(text: str) -> bool:
    """Whether this names a log in PostgreSQL and not a directory."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def parse_url(url: str, *, origin: str | None = None, schema: str | None = None) -> Address:
    """Reads a URL; ``origin`` and ``schema`` go before what it says.

    Raises:
        ConfigError: It is no such URL. Nothing of it is repeated but its place.
    """
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise ConfigError("the log's URL is not of the form postgresql://user@host:5432/database") from None
    if parts.scheme not in SCHEMES or parts.fragment:
        raise ConfigError("the log's URL is not of the form postgresql://user@host:5432/database")
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
    schema = schema or ours.get("schema") or DEFAULT_SCHEMA
    if not _SCHEMA.fullmatch(schema):
        raise ConfigError(f"{place}: schema {schema!r}: must be up to 40 lower-case letters, digits and underscores")
    origin = origin or ours.get("origin") or None
    return Address(options, schema, origin, unquote(place))
