"""The advisory lock: one at a time among all hosts, free when its holder is gone, and the holder is told."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from audit_middleware.errors import LogBusy, LogNotFound, LogUnavailable
from audit_middleware.evidence.delivering import Delivering, either
from audit_middleware.followers.config import load_followers
from audit_middleware.stores.lock import ProcessLock
from audit_middleware.stores.opening import elected, exclusive, open_log, place_of
from audit_middleware.stores.postgres import advisory_lock
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD
from tests.servers.running import until
from tests.stores.samples import SEAL, small

END = (
    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
    "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
)


def test_one_at_a_time(database: Database) -> None:
    url = database.log()
    with advisory_lock(url, "work", 0) as lost:
        with pytest.raises(LogBusy, match="'work'") as busy, advisory_lock(url, "work", 0.2):
            pass
        assert PASSWORD not in str(busy.value)
        with advisory_lock(url, "other work", 0):
            assert not lost.is_set()
    with advisory_lock(url, "work", 0):
        pass


def test_two_logs_do_not_meet(database: Database) -> None:
    first = database.log()
    second = database.log("audit.example.com/second")
    with advisory_lock(first, "work", 0), advisory_lock(second, "work", 0):
        pass


def test_who_waits_gets_it(database: Database) -> None:
    url, entered, done = database.log(), threading.Event(), threading.Event()

    def wait() -> None:
        with advisory_lock(url, "work", 60):
            entered.set()
            done.wait(60)

    with advisory_lock(url, "work", 0):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(60)
    done.set()
    thread.join()


def test_a_holder_whose_connection_breaks_is_told(database: Database) -> None:
    url = database.log()
    with advisory_lock(url, "work", 0) as lost:
        assert len(database.run(END)) == 1
        until(lost.is_set, "the news")
        with advisory_lock(url, "work", 0):
            pass  # it is free for others


def test_an_error_at_work_is_not_hidden(database: Database) -> None:
    url = database.log()
    with pytest.raises(ZeroDivisionError), advisory_lock(url, "work", 0):
        raise ZeroDivisionError
    with advisory_lock(url, "work", 0):
        pass


def test_no_log_and_no_server(database: Database) -> None:
    with pytest.raises(LogNotFound), advisory_lock(database.url, "work", 0):
        pass
    with pytest.raises(LogUnavailable) as away, advisory_lock(f"postgresql://a:{PASSWORD}@127.0.0.1:1/x", "work", 0):
        pass
    assert PASSWORD not in str(away.value)


def test_hosts_and_processes_of_one_host(database: Database, tmp_path: Path) -> None:
    """A lock of this host and one among all: two folders are two hosts."""
    url = database.log()
    hosts = [place_of(url, tmp_path / name) for name in ("one", "two")]
    locks = [ProcessLock(tmp_path / f"{name}.lock") for name in ("one", "two")]
    with elected(hosts[0], locks[0], "work"):
        with pytest.raises(LogBusy), elected(hosts[1], locks[1], "work"):
            pass
        with pytest.raises(LogBusy), elected(hosts[0], ProcessLock(tmp_path / "one.lock"), "work"):
            pass
        with exclusive(hosts[1], "keys", 0):
            pass


def test_either_event_ends_the_work() -> None:
    for which in (0, 1):
        events = (threading.Event(), threading.Event())
        with either(*events) as end:
            assert not end.is_set()
            events[which].set()
            assert end.wait(60)


def test_followers_of_two_services(database: Database, tmp_path: Path) -> None:
    """One works, one stands by; when the first one's lock is lost, somebody goes on."""
    url = database.log()
    config = tmp_path / "followers.yaml"
    config.write_text(f"version: 1\nfollowers:\n  - {{name: file, type: jsonl, directory: {tmp_path / 'lines'}}}\n")
    hosts = [Delivering(place_of(url, tmp_path / name), load_followers(config), tuple, 0.05) for name in ("one", "two")]
    with closing(open_log(place_of(url, tmp_path / "one"), writable=True)) as store:
        for host in hosts:
            host.start()
        try:
            store.append([small(1)], SEAL)
            until(lambda: sorted(str(host.state()["role"]) for host in hosts) == ["following", "standby"], "the roles")
            until(lambda: lines(tmp_path) >= 1, "the record")
            database.run(END)
            store.append([small(2)], SEAL)
            until(lambda: lines(tmp_path) >= 2, "the next record")
            until(lambda: sorted(str(host.state()["role"]) for host in hosts) == ["following", "standby"], "the roles")
        finally:
            for host in hosts:
                host.stop()


def lines(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (folder / "lines").glob("*.jsonl"))
