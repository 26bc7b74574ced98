"""Which log a URL means: ``postgresql://user@host/database?schema=audit&origin=example.com/billing``.

Without ``origin`` it is the one log of that schema that the role may use. The rest is in `databases`.
"""

from __future__ import annotations

from ...databases import SCHEMES, Address, parse_address
from ...errors import ConfigError

DEFAULT_SCHEMA = "audit"


def is_postgres_url(text: str) -> bool:
    """Whether this names a log in PostgreSQL and not a directory."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def is_text(text: str) -> bool:
    """Whether PostgreSQL can hold this: no NUL, and nothing that UTF-8 does not encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def parse_url(url: str, *, origin: str | None = None, schema: str | None = None) -> Address:
    """Reads a URL; ``origin`` and ``schema`` go before what it says.

    Raises:
        ConfigError: It is no such URL. Nothing of it is repeated but its place.
    """
    address = parse_address(url, "the log", DEFAULT_SCHEMA, origin=origin, schema=schema)
    if address.origin is not None and not is_text(address.origin):
        raise ConfigError(f"{address.place}: origin {address.origin!r}: is no name of a log")
    return address
