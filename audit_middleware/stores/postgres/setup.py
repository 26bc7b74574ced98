"""Making a log in a database, and bringing an older schema up to date: done once, by hand, by whoever administers it.

The statements are plain SQL files in ``migrations/``, numbered, each run once and in order. Here is what they need
before they can run: three roles that nobody logs in as, and a schema that belongs to the first.

==========  ============================================================================================
owner       owns everything; a member may add logs, migrate and prune
writer      may call the function that appends, and see heads; it reads no entry
reader      may read everything, of the logs that it was given
==========  ============================================================================================

Everything happens in one transaction: if we die here, nothing has happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Literal, TypeVar

from psycopg import sql

from ...databases import Address
from ...errors import ConfigError, LogExists, LogUnavailable
from .address import is_text, parse_url
from .reading import VERSION, find_log
from .session import Lost, Session

WIDTH = 2**20
"""Entries in a partition."""

LONGEST_ORIGIN = 1024
"""Bytes; an index of PostgreSQL takes about 2,700 of one value."""

_UNIT = 65_536
_PATIENCE = 60.0
_LOCK = 0x61756469  # the advisory lock of set-ups, so that two do not meet
_NAME = re.compile(r"(\d{4})_\w+\.sql")
_VARIABLE = re.compile(r':"(schema|owner|writer|reader)"')

_FOREIGN = """
    SELECT pg_get_userbyid(n.nspowner),
           EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner),
           EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proowner <> n.nspowner)
        OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relowner <> n.nspowner)
        OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typowner <> n.nspowner)
        OR EXISTS (SELECT FROM pg_operator o WHERE o.oprnamespace = n.oid AND o.oprowner <> n.nspowner)
    FROM pg_namespace n WHERE n.nspname = %(schema)s"""
"""Of a schema: its owner, whether others may create in it, whether anything in it is others'."""

Right = Literal["read", "write"]
T = TypeVar("T")


def initialise(
    url: str,
    origin: str,
    vkeys: Sequence[str],
    created: str,
    *,
    schema: str | None = None,
    width: int = WIDTH,
    writers: Sequence[str] = (),
    readers: Sequence[str] = (),
) -> None:
    """Creates a log, empty; and the roles, the schema and its tables where they are not there yet.

    Args:
        url: The database, as a superuser or a role that may create roles and schemas.
        origin: The log's name: a schema-less URL such as ``audit.example.com/billing``.
        vkeys: The C2SP verifier keys of the log's signers.
        created: When, RFC 3339.
        schema: Where; before what the URL says. The roles are named after it: ``audit_owner``, ``audit_writer`` ...
        width: Entries in a partition, a multiple of 65,536; retention drops whole partitions.
        writers: Roles whose members may write to this log; default: the schema's writer.
        readers: Roles whose members may read it; default: the schema's reader.

    Raises:
        LogExists: There is a log of this name.
        ConfigError: The origin, the width or the URL is none, or a role does not exist.
        LogUnavailable: The database cannot be reached or refuses.
    """
    address = parse_url(url, schema=schema)
    if not origin or any(char.isspace() or char == "+" for char in origin) or not is_text(origin):
        raise ConfigError(f"origin {origin!r}: must be a URL without scheme, without spaces and without +")
    if len(origin.encode()) > LONGEST_ORIGIN:
        raise ConfigError(f"origin {origin[:40]!r}...: must have at most {LONGEST_ORIGIN} bytes")
    if width < _UNIT or width % _UNIT:
        raise ConfigError(f"width {width}: must be a multiple of {_UNIT}")
    for role in (*writers, *readers):
        _check_role(role)

    def work(session: Session) -> None:
        connection = session.connect()
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise ConfigError(
                f"{address.place}: the database has encoding {encoding}, in which not every record can be indexed: "
                "make one with ENCODING 'UTF8'"
            )
        _prepare(session)
        _migrate(session)
        found = sql.SQL("SELECT FROM {} WHERE origin = %s").format(session.name("logs"))
        if connection.execute(found, [origin]).fetchone() is not None:
            raise LogExists(f"{address.place}: there is a log {origin} in schema {address.schema} already")
        add = sql.SQL("SELECT {}(%s, %s, %s, %s)").format(session.name("add_log"))
        (log_id,) = connection.execute(add, [origin, created, width, list(vkeys)]).fetchone() or (0,)
        for role in writers or (f"{address.schema}_writer",):
            _allow(session, log_id, role, "write")
        for role in readers or (f"{address.schema}_reader",):
            _allow(session, log_id, role, "read")

    _transaction(address, work)


def migrate(url: str, *, schema: str | None = None) -> int:
    """Brings the tables of a schema to the version of this package; returns how many files were run.

    Raises:
        LogUnavailable: The database cannot be reached or refuses; nothing was changed.
    """
    return _transaction(parse_url(url, schema=schema), _migrate)


def grant(url: str, role: str, right: Right, *, origin: str | None = None, schema: str | None = None) -> None:
    """Lets the members of a role write to, or read, one log.

    As a member of the owner that may also grant the schema's writer and reader: who set it up, or a superuser.

    Raises:
        ConfigError, LogNotFound, LogUnavailable: Nothing was changed.
    """
    _check_role(role)

    def work(session: Session) -> None:
        log = find_log(session).log_id
        _become_owner(session)
        _allow(session, log, role, right)

    _transaction(parse_url(url, origin=origin, schema=schema), work)


def migrations() -> list[tuple[int, str, str]]:
    """Number, name and text of every file, in order."""
    folder = files(__package__) / "migrations"
    found = [(match, one) for one in folder.iterdir() if (match := _NAME.fullmatch(one.name))]
    return sorted((int(match[1]), one.name, one.read_text(encoding="utf-8")) for match, one in found)


# --- the steps -------------------------------------------------------------------------------------------------------


def _transaction(address: Address, work: Callable[[Session], T]) -> T:
    session = Session(address, lock_timeout=None, timeout=_PATIENCE, force=False)
    try:
        with session.talking():
            connection = session.connect()
            connection.execute("BEGIN")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            result = work(session)
            connection.execute("COMMIT")
            return result
    except Lost as lost:
        raise LogUnavailable(f"{address.place}: {lost}; look whether it was done") from None
    finally:
        session.drop()


def _prepare(session: Session) -> None:
    """The roles and the schema, where they are missing."""
    connection, schema = session.connect(), session.address.schema
    for kind in ("owner", "writer", "reader"):
        name = f"{schema}_{kind}"
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
    owner = sql.Identifier(f"{schema}_owner")
    member = connection.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", [f"{schema}_owner"]).fetchone()
    if member != (True,):
        connection.execute(sql.SQL("GRANT {} TO current_user").format(owner))
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        statement = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), owner)
        connection.execute(statement)


def _check_schema(session: Session) -> None:
    """Functions with the owner's rights find what they call in the schema: nobody else may have put anything there."""
    connection, schema = session.connect(), session.address.schema
    owner, created, foreign = connection.execute(_FOREIGN, {"schema": schema}).fetchone() or ("nobody", False, False)
    problem = "others may create in it" if created else "it holds what belongs to others" if foreign else None
    if owner != f"{schema}_owner":
        problem = f"it belongs to {owner}"
    if problem is not None:
        raise ConfigError(
            f"{session.address.place}: schema {schema} cannot be used, because {problem}: name another one "
            f"(?schema=...), or let it belong to {schema}_owner, empty, and revoke CREATE on it from all others"
        )


def _become_owner(session: Session) -> None:
    owner = sql.Identifier(f"{session.address.schema}_owner")
    session.connect().execute(sql.SQL("SET LOCAL ROLE {}").format(owner))


def _migrate(session: Session) -> int:
    """Runs what was not run yet, as the owner."""
    connection, schema = session.connect(), session.address.schema
    _check_schema(session)
    _become_owner(session)
    table = f"{schema}.migrations"
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone() == (True,)
    known = sql.SQL("SELECT max(version) FROM {}").format(session.name("migrations"))
    (newest,) = (connection.execute(known).fetchone() or (0,)) if there else (0,)
    if newest > VERSION:
        raise ConfigError(f"{session.address.place}: schema {schema} is of version {newest}: install a newer package")
    names = {
        "schema": schema,
        **{kind: f"{schema}_{kind}" for kind in ("owner", "writer", "reader")},
    }
    done = 0
    for version, name, text in migrations():
        if version <= newest:
            continue
        # As psql does it: a variable becomes a quoted identifier. The names hold no quotes: see `address`.
        connection.execute(_VARIABLE.sub(lambda match: f'"{names[match[1]]}"', text).encode())
        add = sql.SQL("INSERT INTO {} (version, name) VALUES (%s, %s)").format(session.name("migrations"))
        connection.execute(add, [version, name])
        done += 1
    connection.execute("SET LOCAL search_path = pg_catalog")
    return done


def _allow(session: Session, log_id: int, role: str, right: Right) -> None:
    """A row of ``access``, and membership in the role that has the grants."""
    connection, schema = session.connect(), session.address.schema
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        raise ConfigError(f"{session.address.place}: there is no role {role}")
    statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s) ON CONFLICT DO NOTHING").format(session.name("access"))
    connection.execute(statement, [log_id, role, right == "write"])
    group = f"{schema}_{'writer' if right == 'write' else 'reader'}"
    if role != group:
        connection.execute("RESET ROLE")  # the owner cannot give what it is not a member of
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)))
        _become_owner(session)


def _check_role(role: str) -> None:
    if not role or "\0" in role or len(role.encode()) > 63:
        raise ConfigError(f"role {role!r}: is no name of a role")
