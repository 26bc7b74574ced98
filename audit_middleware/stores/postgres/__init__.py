"""A log in PostgreSQL (14 or newer), for many hosts: `PostgresStore.open`. Needs the extra ``postgres`` (psycopg 3).

`initialise` makes a log, `grant` lets roles use it, `migrate` brings an older schema up to date. How it works is in
`store` and `appender`; what the database does by itself in ``migrations/``.
"""

from __future__ import annotations

from ...errors import ConfigError

try:
    import psycopg  # noqa: F401  # the one place that says what to do without it
except ImportError as problem:
    raise ConfigError("a log in PostgreSQL needs psycopg: pip install 'audit-middleware[postgres]'") from problem

from .election import advisory_lock
from .search import PostgresIndex, rebuild_index
from .setup import grant, initialise, migrate
from .store import PostgresStore

__all__ = ["PostgresIndex", "PostgresStore", "advisory_lock", "grant", "initialise", "migrate", "rebuild_index"]
