"""Whoever can write to the tables but has no key: a service must not lend its key to a history of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from audit_middleware.errors import LogDamaged
from audit_middleware.model import Head
from audit_middleware.pipeline.seal import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.postgres import PostgresStore
from tests.postgres.conftest import Database
from tests.stores.samples import ORIGIN, SEAL, SIGNER, VERIFIERS, assert_holds, batches, entry, report_on

STRANGER = make_sealer(ORIGIN, [Ed25519Signer(ORIGIN, bytes(32))], VERIFIERS)


@pytest.fixture
def url(database: Database) -> str:
    """A log of five entries in two commits."""
    url = database.log()
    with closing(PostgresStore.open(url)) as store:
        for group in batches(3, 2):
            store.append(group, SEAL)
    return url


@pytest.fixture
def service(url: str) -> Iterator[PostgresStore]:
    """A process that runs meanwhile; its connection is the one on which it has seen the log."""
    with closing(PostgresStore.open(url)) as store:
        store.append([entry(5)], SEAL)
        yield store


def rewrite(database: Database, head: Head, entries: list[bytes]) -> None:
    """As a superuser: other entries of the same number, in one commit, under this head."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("entries", "commits", "heads"):
            connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL".encode())
        for number, one in enumerate(entries):
            connection.execute(
                "INSERT INTO audit.entries VALUES (1, %s, %s) "
                "ON CONFLICT (log_id, idx) DO UPDATE SET entry = excluded.entry",
                [number, one],
            )
        connection.execute(
            "UPDATE audit.heads SET size = %s, peaks = %s, checkpoint = %s",
            [head.size, b"".join(head.peaks), head.checkpoint],
        )


def test_a_history_that_a_superuser_rewrote_gets_no_signature(
    url: str, service: PostgresStore, database: Database
) -> None:
    """Entry 1 says something else, and one more entry makes the log longer than what any process has seen."""
    other = [entry(number, user_id="somebody-else" if number == 1 else f"user-{number}") for number in range(7)]
    head = STRANGER(Head(), other)
    rewrite(database, head, other)
    with pytest.raises(LogDamaged, match="size 7, is not signed by a key of this process"):
        service.append([entry(7)], SEAL)
    with closing(PostgresStore.open(url)) as fresh, pytest.raises(LogDamaged, match="is not signed by"):
        fresh.append([entry(7)], SEAL)
    ((checkpoint,),) = database.run("SELECT checkpoint FROM audit.heads")
    assert checkpoint == head.checkpoint
    assert not report_on(service).holds


def test_a_true_checkpoint_over_other_peaks_gets_no_signature(
    url: str, service: PostgresStore, database: Database
) -> None:
    """The signature holds, and is of another tree than the peaks beside it."""
    with closing(PostgresStore.open(url)) as other:
        true = other.append([entry(6)], SEAL)
    false = STRANGER(Head(), [entry(number, user_id="x") for number in range(7)])
    rewrite(database, Head(7, false.peaks, true.checkpoint), [])
    with pytest.raises(LogDamaged, match="does not lead to its checkpoint"):
        service.append([entry(7)], SEAL)
    rewrite(database, Head(7, true.peaks, service.head().checkpoint), [])
    assert service.append([entry(7)], SEAL).size == 8
    assert_holds(service)


def test_a_writer_without_the_key_is_not_followed(url: str, service: PostgresStore, database: Database) -> None:
    """The function cannot check a signature; whoever signs does."""
    writer = database.role("app", "audit_writer")
    with closing(PostgresStore.open(writer)) as store:
        store.append([entry(6)], STRANGER)
    with pytest.raises(LogDamaged, match="is not signed by a key of this process"):
        service.append([entry(7)], SEAL)
    found = [one for one in report_on(service).findings if one.level == "error"]
    assert [(one.index, one.cause) for one in found] == [(6, "wrong key")]


def test_an_empty_log_with_a_past_gets_no_signature(database: Database) -> None:
    url = database.log()
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit.heads DISABLE TRIGGER ALL")
        connection.execute("UPDATE audit.heads SET peaks = %s", [bytes(32)])
    with closing(PostgresStore.open(url)) as store, pytest.raises(LogDamaged):
        store.append([entry(0)], SEAL)


def test_keys_that_overlap_follow_one_another(database: Database) -> None:
    """Old services and new ones during a rotation, as docs/keys.md has it."""
    new = Ed25519Signer(ORIGIN, bytes(range(1, 33)))
    old, both, only_new = (make_sealer(ORIGIN, signers) for signers in ([SIGNER], [SIGNER, new], [new]))
    with closing(PostgresStore.open(database.log())) as store:
        for number, seal in enumerate((old, both, old, both, both, only_new, both, only_new)):
            store.append([entry(number)], seal)
        with pytest.raises(LogDamaged, match="retire"):
            store.append([entry(9)], old)
