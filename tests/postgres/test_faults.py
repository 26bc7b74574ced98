"""Broken connections at every step of an append: what is acknowledged is there, once, and the log verifies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest

from audit_middleware.errors import LogBusy, LogUnavailable
from audit_middleware.model import Head
from audit_middleware.stores.postgres import PostgresStore
from audit_middleware.stores.postgres import appender as appender_module
from tests.postgres.conftest import Database
from tests.postgres.proxy import Harm, Proxy
from tests.postgres.server import PATIENCE
from tests.servers.running import until
from tests.stores.children import fork
from tests.stores.samples import SEAL, Overtaken, assert_holds, entries_of, entry, small


@pytest.fixture
def url(database: Database) -> str:
    return database.log()


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    made = Proxy(urlsplit(url).port or 5432)
    yield made
    made.close()


@pytest.fixture
def store(url: str, proxy: Proxy) -> Iterator[PostgresStore]:
    """A store behind the proxy, with one commit in it."""
    parts = urlsplit(url)
    with closing(PostgresStore.open(url.replace(f":{parts.port}/", f":{proxy.port}/"), timeout=1.5)) as opened:
        opened.append([small(0)], SEAL)
        yield opened


HARMS = ["cut at once", "cut before", "cut after", "cut in the answer", "delay", "swallow"]


@pytest.mark.parametrize("harm", [*HARMS, pytest.param("hold", marks=pytest.mark.slow)])
def test_an_append_is_there_once_whatever_breaks(store: PostgresStore, proxy: Proxy, url: str, harm: Harm) -> None:
    calls: list[int] = []

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        calls.append(head.size)
        return SEAL(head, entries)

    proxy.harm = harm
    head = store.append([small(1), small(2)], seal)
    assert proxy.harmed == 1
    assert head.size == 3
    assert store.append([small(3)], SEAL).size == 4
    with closing(PostgresStore.open(url)) as direct:
        assert entries_of(direct) == [small(0), small(1), small(2), small(3)]
        assert_holds(direct)
    committed = harm in ("cut after", "cut in the answer", "delay", "swallow")
    assert len(calls) == (1 if committed or harm == "cut at once" else 2), "sent again only where it was not there"


@pytest.mark.parametrize("harm", ["cut after", pytest.param("delay", marks=pytest.mark.slow)])
def test_others_who_went_on_meanwhile_do_not_confuse(store: PostgresStore, proxy: Proxy, url: str, harm: Harm) -> None:
    stop = threading.Event()

    def write() -> None:
        with closing(PostgresStore.open(url)) as other:
            while not stop.is_set():
                other.append([entry(0, "other")], SEAL)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(1, 4):
            proxy.harm = harm
            store.append([small(number)], SEAL)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert proxy.harmed == 3
    with closing(PostgresStore.open(url)) as direct:
        mine = [one for one in entries_of(direct) if one.startswith(b'{"n"')]
        assert mine == [small(number) for number in range(4)]
        found = [frame for frame in direct.raw_frames() if frame.problem is not None]
        assert found == []


def test_who_cannot_be_asked_is_said_to_be_unknown(
    store: PostgresStore, proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender_module, "PATIENCE", -1)
    proxy.harm, proxy.refusing = "cut after", True
    with pytest.raises(LogUnavailable, match="the batch may be in the log"):
        store.append([small(1)], SEAL)
    with pytest.raises(LogUnavailable) as caught:
        store.append([small(2)], SEAL)
    assert "may be" not in str(caught.value)
    proxy.refusing = False
    assert store.append([small(2)], SEAL).size == 3
    with closing(PostgresStore.open(url)) as direct:
        assert entries_of(direct) == [small(0), small(1), small(2)]


def test_reading_goes_on_after_a_cut(store: PostgresStore, proxy: Proxy) -> None:
    for number in range(1, 6):
        store.append([small(number)], SEAL)
    proxy.harm = "cut at once"
    assert entries_of(store) == [small(number) for number in range(6)]
    assert proxy.harmed == 1


@pytest.mark.slow
def test_a_client_that_is_gone_does_not_keep_the_lock(url: str) -> None:
    """Stopped, not killed: its connection stays open, and the server ends its transaction."""

    def work(tell: Callable[[bytes], int]) -> None:
        with closing(PostgresStore.open(url)) as store:

            def seal(head: Head, entries: Sequence[bytes]) -> Head:
                tell(b"locked")
                time.sleep(3600)
                raise AssertionError

            store.append([small(1)], seal)

    child = fork(work)
    try:
        assert os.read(child.pipe, 10) == b"locked"
        with (
            closing(PostgresStore.open(url, lock_timeout=0.2)) as store,
            pytest.raises(LogBusy, match="held by others"),
        ):
            store.append([small(2)], SEAL)
        with closing(PostgresStore.open(url, lock_timeout=None)) as store:
            assert store.append([small(3)], SEAL).size == 1
    finally:
        child.kill()
        child.wait()


def test_a_terminated_backend_is_replaced(database: Database, url: str) -> None:
    with closing(PostgresStore.open(url)) as store:
        for number in range(5):
            store.append([small(number)], SEAL)
            database.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'audit-middleware' AND datname = current_database()"
            )
        assert entries_of(store) == [small(number) for number in range(5)]
        assert_holds(store)


def test_a_terminated_backend_while_sealing(database: Database, url: str) -> None:
    """The lock was held and is gone: nothing may be written on the strength of it."""
    with closing(PostgresStore.open(url)) as store, closing(PostgresStore.open(url)) as other:
        store.append([small(0)], SEAL)
        sizes: list[int] = []

        def seal(head: Head, entries: Sequence[bytes]) -> Head:
            if not sizes:
                database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE state = 'idle in transaction' AND datname = current_database()"
                )
                other.append([small(9)], SEAL)
            sizes.append(head.size)
            return SEAL(head, entries)

        assert store.append([small(1)], seal).size == 3
        assert sizes == [1, 2]
        assert entries_of(store) == [small(0), small(9), small(1)]
        assert_holds(store)


def test_what_needs_no_head_is_done_before_the_lock(url: str) -> None:
    with closing(PostgresStore.open(url)) as store, closing(PostgresStore.open(url, lock_timeout=0.5)) as other:
        store.append([small(1)], Overtaken(other))
        assert entries_of(store) == [small(9), small(1)]
        assert_holds(store)


def test_a_sealer_that_raises_frees_the_lock(url: str) -> None:
    with closing(PostgresStore.open(url)) as store, closing(PostgresStore.open(url, lock_timeout=0.5)) as other:

        def seal(head: Head, entries: Sequence[bytes]) -> Head:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.append([small(1)], seal)
        assert other.append([small(2)], SEAL).size == 1
        assert store.append([small(3)], SEAL).size == 2


def test_a_lock_held_by_somebody_is_busy_and_nothing_is_written(database: Database, url: str) -> None:
    with closing(PostgresStore.open(url, lock_timeout=0.2)) as store:
        with psycopg.connect(database.url) as connection:
            connection.execute("SELECT FROM audit.heads FOR UPDATE")
            with pytest.raises(LogBusy):
                store.append([small(1)], SEAL)
            assert store.head() == Head()
        assert store.append([small(2)], SEAL).size == 1
        assert entries_of(store) == [small(2)]


def test_a_statement_that_hangs_is_given_up(database: Database, url: str) -> None:
    """Somebody locks the tables: the server's own limit ends the wait, and the log goes on afterwards."""
    with closing(PostgresStore.open(url, timeout=1)) as store:
        with psycopg.connect(database.url) as connection:
            connection.execute("LOCK TABLE audit.entries IN ACCESS EXCLUSIVE MODE")
            with pytest.raises((LogUnavailable, LogBusy)):
                store.append([small(1)], SEAL)
        until(lambda: store.append([small(2)], SEAL).size == 1, "the log")
        assert entries_of(store) == [small(2)]
