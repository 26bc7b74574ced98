"""A standby: what a wait for it promises, what is lost when one takes over, and reading from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from audit_middleware.errors import LogDamaged, LogForked, LogUnavailable
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore, initialise
from audit_middleware.stores.postgres import appender as appender_module
from tests.postgres.server import PATIENCE, PostgresServer
from tests.servers.running import until
from tests.stores.samples import CREATED, ORIGIN, SEAL, VKEY, entries_of, entry, small


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    """As the superuser, without waiting for a standby."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def log(own_server: PostgresServer) -> str:
    """A log with one commit."""
    initialise(own_server.url(), ORIGIN, [VKEY], CREATED)
    with closing(PostgresStore.open(own_server.url())) as store:
        store.append([small(0)], SEAL)
    return own_server.url()


def wait_for(url: str, names: str) -> None:
    """Makes commits wait for these standbys."""
    run(url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    run(url, "SELECT pg_reload_conf()")
    until(lambda: run(url, "SHOW synchronous_standby_names") == [(names,)], "the setting")


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_wait_for_the_standby_that_somebody_ends_is_no_acknowledgement(log: str, how: str) -> None:
    """The server then says that it has committed, or the look-up finds the commit: on this server alone."""
    wait_for(log, "nobody")
    sizes: list[int] = []
    with closing(PostgresStore.open(log, timeout=30)) as store:

        def write() -> None:
            sizes.append(store.append([small(1)], SEAL).size)

        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(2):  # the append itself, and the look-up
            (waiting,) = until(lambda: run(log, WAITING), "a commit that waits")
            run(log, f"SELECT {how}({waiting[0]})")
            until(lambda waiting=waiting: waiting not in run(log, WAITING) or how == "pg_cancel_backend", "its end")  # type: ignore[misc]
        until(lambda: run(log, WAITING), "a commit that waits")
        assert sizes == []
        wait_for(log, "")
        thread.join(PATIENCE)
        assert sizes == [2]
        assert entries_of(store) == [small(0), small(1)]


def test_who_waits_in_vain_is_not_acknowledged(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "PATIENCE", 0)
    with closing(PostgresStore.open(log, timeout=1)) as store:
        wait_for(log, "nobody")
        with pytest.raises(LogUnavailable, match="the batch may be in the log"):
            store.append([small(1)], SEAL)
        wait_for(log, "")
        until(lambda: store.append([small(2)], SEAL), "the log")
        assert [raw.problem for raw in store.raw_frames() if raw.problem] == []
        assert [one for one in entries_of(store) if one != small(1)] == [small(0), small(2)]


@pytest.fixture
def standby(own_server: PostgresServer, log: str) -> Iterator[PostgresServer]:
    """Beside a server that has a log."""
    made = PostgresServer(primary=own_server)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def test_a_standby_can_be_read_and_not_written(standby: PostgresServer, log: str) -> None:
    with closing(PostgresStore.open(log)) as store:
        store.append([entry(1)], SEAL)
    with closing(PostgresStore.open(standby.url())) as copy:
        until(lambda: copy.head().size == 2, "the copy")
        assert entries_of(copy) == [small(0), entry(1)]
        assert list(PostgresIndex(copy).find(Filters(user="user-1"))) == [1]
        with pytest.raises(LogUnavailable, match="read-only"):
            copy.append([small(2)], SEAL)


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_standby_that_takes_over_without_the_newest_commits_is_noticed(
    own_server: PostgresServer, standby: PostgresServer, log: str, others: int
) -> None:
    """And also when others, who do not know, have written there since: fewer entries, as many, or more."""
    several = log.replace(f":{own_server.port}/", f":{own_server.port},127.0.0.1:{standby.port}/")
    with closing(PostgresStore.open(f"{several}?target_session_attrs=read-write")) as store:
        store.append([small(1)], SEAL)
        with closing(PostgresStore.open(standby.url())) as copy:
            until(lambda: copy.head().size == 2, "the copy")
        standby.kill()
        store.append([small(2)], SEAL)  # acknowledged: no standby was asked for
        own_server.kill()
        standby.start()
        run(standby.url(), "SELECT pg_promote(true)")
        with closing(PostgresStore.open(standby.url())) as new:
            for number in range(others):
                new.append([small(90 + number)], SEAL)
        with pytest.raises((LogDamaged, LogForked), match="older copy"):
            store.append([small(3)], SEAL)
        with closing(PostgresStore.open(standby.url())) as new:
            assert entries_of(new) == [small(0), small(1), *(small(90 + number) for number in range(others))]
