"""The service's data: one SQLite file, because several worker processes must see the same invoices."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .seed import seed

Row = dict[str, Any]

_TABLES = """
CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS invoices (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, customer_id INTEGER NOT NULL REFERENCES customers,
  amount_cents INTEGER NOT NULL, month TEXT NOT NULL, status TEXT NOT NULL, created_by TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refunds (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, invoice_id INTEGER NOT NULL REFERENCES invoices,
  amount_cents INTEGER NOT NULL, note TEXT NOT NULL, status TEXT NOT NULL, requested_by TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
  name TEXT PRIMARY KEY, tenant TEXT NOT NULL, roles TEXT NOT NULL, password TEXT);
CREATE TABLE IF NOT EXISTS service_accounts (name TEXT PRIMARY KEY, role TEXT NOT NULL, key TEXT);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, about TEXT NOT NULL);
"""


class Database:
    """One open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self, sql: str, *values: object) -> list[Row]:
        """Every row of a query."""
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql: str, *values: object) -> Row | None:
        """The first row of a query."""
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else dict(row)

    def insert(self, sql: str, *values: object) -> int:
        """Inserts a row and returns its id."""
        return self._connection.execute(sql, values).lastrowid or 0

    def change(self, sql: str, *values: object) -> int:
        """Changes rows and returns how many."""
        return self._connection.execute(sql, values).rowcount

    def publish(self, kind: str, about: str) -> None:
        """Tells the feed."""
        self.insert("INSERT INTO events (kind, about) VALUES (?, ?)", kind, about)


class Storage:
    """Opens a connection for each transaction: cheap with SQLite, and safe from any thread or process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Makes the tables and the demo data, once; workers that start together wait for each other."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self.transaction() as db:
            for statement in _TABLES.split(";"):
                db.change(statement)
            if db.one("SELECT name FROM users") is None:
                seed(db)

    def folder(self, name: str) -> Path:
        """A folder for files, beside the database."""
        folder = self._path.parent / name
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """One transaction: all of it, or nothing when the block raises."""
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            # IMMEDIATE: a transaction that reads first and writes later could otherwise find itself overtaken.
            connection.execute("BEGIN IMMEDIATE")
            yield Database(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()  # without COMMIT this rolls back
