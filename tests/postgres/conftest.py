"""Fixtures: a server for all tests of a session, and a database of its own for each."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from audit_middleware.stores.postgres import PostgresStore, initialise
from tests.archives.conftest import folder
from tests.postgres.commands import run, url
from tests.postgres.server import PASSWORD, PostgresServer
from tests.stores.samples import CREATED, ORIGIN, VKEY

__all__ = ["folder", "run", "url"]

os.environ.pop("PGPASSWORD", None)


@dataclass
class Database:
    """An empty database on a real server, and roles in it."""

    url: str
    roles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name on the server."""
        return urlsplit(self.url).path[1:]

    def as_role(self, role: str, password: str = PASSWORD, **more: str) -> str:
        """The same database for another role."""
        parts = urlsplit(self.url)
        query = "&".join(f"{name}={value}" for name, value in more.items())
        return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}", query=query))

    def run(self, statement: str, *values: object, url: str | None = None) -> list[tuple[object, ...]]:
        """One statement, as the superuser unless a URL says otherwise."""
        with psycopg.connect(url or self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def role(self, name: str, *groups: str) -> str:
        """Makes a role that can log in; returns its URL."""
        name = f"{name}_{secrets.token_hex(4)}"
        self.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        self.roles.append(name)
        for group in groups:
            self.run(f"GRANT {group} TO {name}")
        return self.as_role(name)

    def log(self, origin: str = ORIGIN, **options: Any) -> str:
        """Makes a log and returns its URL."""
        initialise(self.url, origin, [VKEY], CREATED, **options)
        return f"{self.url}?origin={origin}"

    def store(self, **options: Any) -> PostgresStore:
        """Makes a log and opens it."""
        return PostgresStore.open(self.log(), **options)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A superuser's URL: of the server that is given, or of one that ends with the session."""
    given = os.environ.get("AUDIT_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    server = PostgresServer()
    try:
        yield server.start().url()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def shared_database(server_url: str) -> Iterator[Database]:
    """One database, emptied after each test: dropping one makes the server write everything to disk."""
    yield from make_database(server_url)


@pytest.fixture
def database(shared_database: Database) -> Iterator[Database]:
    """An empty database; emptied afterwards, whoever is still connected."""
    made = Database(shared_database.url)
    yield made
    with psycopg.connect(made.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        schemas = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        for (schema,) in connection.execute(schemas).fetchall():
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        connection.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public")
        drop_roles(connection, made)


@pytest.fixture
def other_database(server_url: str) -> Iterator[Database]:
    """Another one on the same server; dropped afterwards, whoever is still connected."""
    yield from make_database(server_url)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.remove()


def make_database(server_url: str, template: str = "template0") -> Iterator[Database]:
    """A new database on a server, or a copy of one that nobody is connected to, for as long as the generator lives."""
    name = sql.Identifier(f"audit_test_{secrets.token_hex(6)}")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template)))
        made = Database(urlunsplit(urlsplit(server_url)._replace(path=f"/{name.as_string().strip(chr(34))}")))
        yield made
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        drop_roles(connection, made)


def drop_roles(connection: psycopg.Connection[Any], made: Database) -> None:
    """Drops the roles that a test made, but for one that has made roles itself."""
    for role in made.roles:
        with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
