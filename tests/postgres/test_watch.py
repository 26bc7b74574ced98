"""Waiting for a log in a database: a commit wakes whoever waits, and nothing depends on it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from audit_middleware.followers.runner import Follower
from audit_middleware.stores.opening import open_log, open_shelf, open_watch, place_of
from audit_middleware.stores.postgres import PostgresStore
from audit_middleware.stores.postgres.watch import Listening
from tests.followers.support import Scripted, running, spec
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, PATIENCE
from tests.servers.running import ROOT, until
from tests.stores.samples import SEAL, entry, new_journal, small

LONG = 600.0
"""Seconds of a poll that no test waits for."""

LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@contextmanager
def waiting(watch: Listening, seconds: float = LONG) -> Iterator[list[float]]:
    """A thread that waits over and over; yields the moments at which it was woken."""
    stop, moments = threading.Event(), list[float]()

    def work() -> None:
        while not stop.is_set():
            watch.wait(stop, seconds)
            moments.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield moments
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        watch.close()


def listening(database: Database) -> bool:
    return bool(database.run(LISTENERS))


def test_a_commit_wakes_and_others_do_not(database: Database) -> None:
    url, other = database.log(), database.log("audit.example.com/other")
    with closing(PostgresStore.open(url)) as store, closing(PostgresStore.open(other)) as second:
        with waiting(store.watch()) as moments:
            until(lambda: listening(database), "the connection that listens")
            until(lambda: len(moments) == 1, "the first look")  # what came before it listened was told to nobody
            second.append([small(0)], SEAL)
            store.append([small(0)], SEAL)
            until(lambda: len(moments) >= 2, "the news")
        assert len(moments) == 3, "the other log's commit woke somebody, too"  # the last one is the end


def test_the_size_is_told_with_the_commit_and_not_before(database: Database) -> None:
    with closing(database.store()) as store, psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier("audit.1")))
        store.append([small(0), small(1)], SEAL)
        with pytest.raises(psycopg.errors.CheckViolation):
            database.run("SELECT audit.append(1, 2, '', '', '', '', ARRAY['{}'::bytea], '[]')")
        store.append([small(2)], SEAL)
        found = [one.payload for one in connection.notifies(timeout=PATIENCE, stop_after=2)]
        assert found == ["2", "3"]


def test_many_commits_are_one_waking(database: Database) -> None:
    with closing(database.store()) as store:
        with waiting(store.watch()) as moments:
            until(lambda: len(moments) == 1, "the first look")
            began = time.monotonic()
            for number in range(60):
                store.append([small(number)], SEAL)
            until(lambda: moments[-1] > began, "the news")
            time.sleep(0.3)
            took = time.monotonic() - began
        assert len(moments) - 2 <= took / 0.1 + 2  # one for each rest, whatever the machine did meanwhile


def test_a_lost_connection_is_made_anew_and_what_came_meanwhile_is_seen(database: Database) -> None:
    with closing(database.store()) as store, waiting(store.watch()) as moments:
        until(lambda: len(moments) == 1, "the first look")
        for turn in range(2):
            ((old,),) = database.run(LISTENERS)
            database.run("SELECT pg_terminate_backend(%s)", old)
            store.append([small(turn)], SEAL)  # told to nobody
            until(lambda old=old: database.run(LISTENERS) not in ([], [(old,)]), "another connection")  # type: ignore[misc]
            until(lambda turn=turn: len(moments) >= 2 + turn, "a look after it")  # type: ignore[misc]


def test_where_nobody_may_listen_the_time_wakes(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A server that is away refuses LISTEN, and so do standbys."""
    with closing(database.store()) as store:
        watch = Listening(store.tables.address, store.log)
        watch._session.address.options["port"] = "1"  # type: ignore[index]  # nobody answers there
        with caplog.at_level(logging.WARNING), waiting(watch, 0.05) as moments:
            until(lambda: len(moments) >= 10, "the time")
        assert len([one for one in caplog.records if "looked at in turn" in one.message]) == 1
        assert PASSWORD not in caplog.text


def test_a_full_queue_keeps_nobody_from_committing(database: Database) -> None:
    url = database.log()
    database.run(
        "CREATE FUNCTION audit.pg_notification_queue_usage() RETURNS float LANGUAGE sql AS 'SELECT 0.6'; "
        "CREATE OR REPLACE FUNCTION audit.tell_size() RETURNS trigger LANGUAGE plpgsql "
        "SET search_path = audit, pg_temp AS $$"
        + str(database.run("SELECT prosrc FROM pg_proc WHERE proname = 'tell_size'")[0][0]).replace(
            "pg_notification_queue_usage", "audit.pg_notification_queue_usage"
        )
        + "$$"
    )
    with closing(PostgresStore.open(url)) as store, psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier("audit.1")))
        assert store.append([small(0)], SEAL).size == 1
        assert list(connection.notifies(timeout=0.5)) == []


def test_a_journal_waits_for_the_time(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path / "log")) as store:
        watch, stop = open_watch(store), threading.Event()
        began = time.monotonic()
        watch.wait(stop, 0.05)
        assert time.monotonic() - began >= 0.05
        stop.set()
        watch.wait(stop, LONG)
        watch.close()


# --- those who wait ------------------------------------------------------------------------------------------------


def test_a_follower_gets_a_record_long_before_it_would_look(database: Database, tmp_path: Path) -> None:
    place = place_of(database.log(), tmp_path)
    destination = Scripted()
    with closing(open_log(place, writable=True)) as store, closing(open_log(place)) as reader:
        made = Follower(
            spec(destination), reader, tmp_path, lambda action, extra: None, interval=LONG, watch=open_watch(reader),
            kept=open_shelf(reader, tmp_path, "followers/"),
        )  # fmt: skip
        with running(made):
            until(lambda: listening(database), "the connection that listens")
            for number in range(3):
                store.append([entry(number)], SEAL)
                until(lambda number=number: [number] in destination.calls, f"record {number}")  # type: ignore[misc]
            ((old,),) = database.run(LISTENERS)
            database.run("SELECT pg_terminate_backend(%s)", old)
            for number in range(3, 6):
                store.append([entry(number)], SEAL)
            until(lambda: [one for call in destination.calls for one in call] == [*range(6)], "the rest")
            until(lambda: database.run(LISTENERS) not in ([], [(old,)]), "another connection")
            store.append([entry(6)], SEAL)
            until(lambda: [6] in destination.calls, "record 6")


def test_a_follower_that_fails_is_not_hurried(database: Database, tmp_path: Path) -> None:
    """Its pause lasts, however many entries come."""
    from audit_middleware.followers.sink import Sent

    place, down = place_of(database.log(), tmp_path), [True]
    destination = Scripted(lambda items: Sent(0, retry="down") if down[0] else Sent(len(items)))
    with closing(open_log(place, writable=True)) as store, closing(open_log(place)) as reader:
        made = Follower(
            spec(destination, first_pause=1.0, longest_pause=1.0), reader, tmp_path, lambda action, extra: None,
            interval=LONG, watch=open_watch(reader),
        )  # fmt: skip
        store.append([entry(0)], SEAL)
        with running(made):
            until(lambda: len(destination.calls) == 1, "the first attempt")
            began = time.monotonic()
            for number in range(1, 30):
                store.append([entry(number)], SEAL)
            tries = len(destination.calls)
            assert tries - 1 <= (time.monotonic() - began) / 0.5 + 1
            down[0] = False
            until(lambda: made.state()["next"] == 30, "the rest")


def test_tail_shows_records_as_they_come(database: Database, tmp_path: Path) -> None:
    place = place_of(database.log(), tmp_path)
    environment = os.environ | {"AUDIT_STATE": str(tmp_path), "AUDIT_RECORD_READS": "0"}
    command = [sys.executable, "-m", "audit_middleware", "tail", database.url, "-f", "--json"]
    with closing(open_log(place, writable=True)) as store:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            found = bytearray()

            def shown(count: int) -> bool:
                assert process.stdout is not None
                found.extend(process.stdout.read() or b"")
                return found.count(b"\n") == count

            store.append([entry(0)], SEAL)
            until(lambda: shown(1), "the first record")
            store.append([entry(1)], SEAL)
            until(lambda: shown(2), "the second record")
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert errors == b""
