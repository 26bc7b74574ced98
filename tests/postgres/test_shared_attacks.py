"""Followers of two hosts on one log while connections are cut, statements are cancelled, locks held, servers killed."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit_middleware.errors import LogBusy
from audit_middleware.evidence.delivering import Delivering
from audit_middleware.followers.config import FollowersConfig
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.stores.opening import open_log, place_of
from audit_middleware.stores.postgres import PostgresStore
from tests.followers.support import Scripted, spec
from tests.postgres.conftest import Database
from tests.postgres.server import PostgresServer
from tests.postgres.test_shared import place
from tests.servers.running import until
from tests.stores.samples import SEAL, entry

BATCH = 4
OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'audit-middleware' "
    "AND backend_type = 'client backend' ORDER BY pid"
)


class Hosts:
    """Two hosts that run the same follower; what either delivers, and who did it, in the order in which it arrived."""

    def __init__(self, url: str, folder: Path) -> None:
        self.taken: list[tuple[str, int]] = []
        self.works = [self._host(name, url, folder) for name in ("one", "two")]
        for work in self.works:
            work.start()

    def _host(self, name: str, url: str, folder: Path) -> Delivering:
        def answer(items: Any) -> Sent:
            taken: list[Item] = list(items)
            self.taken += [(name, item.index) for item in taken]
            return Sent(len(taken))

        made = spec(Scripted(answer), name="hook", batch=BATCH)
        return Delivering(place_of(url, folder / name), FollowersConfig((made,)), tuple, 0.05)

    def stop(self) -> None:
        for work in self.works:
            work.stop()

    def roles(self) -> list[str]:
        return sorted(str(work.state()["role"]) for work in self.works)

    def check(self, count: int, troubles: int) -> None:
        """Nothing is lost, nothing overtakes; what comes twice is a batch for each trouble."""
        indexes = [index for _, index in self.taken]
        assert list(dict.fromkeys(indexes)) == [*range(count)]
        assert sum(many - 1 for many in Counter(indexes).values()) <= troubles * BATCH


def test_connections_that_are_cut_and_cancelled(database: Database, tmp_path: Path) -> None:
    url, dice, troubles, count = database.log(), random.Random(23), 0, 0
    with closing(PostgresStore.open(url)) as store:
        hosts = Hosts(url, tmp_path)
        try:
            for turn in range(25):
                try:
                    store.append([entry(count + number) for number in range(10)], SEAL)
                    count += 10
                except LogBusy:  # of the canceller, at most
                    pass
                pids = [pid for (pid,) in database.run(OTHERS)]
                how = "pg_terminate_backend" if turn % 2 else "pg_cancel_backend"
                for pid in dice.sample(pids, min(2, len(pids))):
                    database.run(f"SELECT {how}(%s)", pid)
                    troubles += 1
                time.sleep(dice.uniform(0, 0.15))
            count = store.head().size
            until(lambda: place(store)["next"] == count, "the end of the log")
            until(lambda: hosts.roles() == ["following", "standby"], "one that works")
        finally:
            hosts.stop()
        hosts.check(count, 2 * troubles)  # of the one that is cut off, and of the one that takes over


def test_a_server_that_is_killed(own_server: PostgresServer, tmp_path: Path) -> None:
    database = Database(own_server.url())
    url = database.log()
    hosts = Hosts(url, tmp_path)
    try:
        for turn in range(3):
            with closing(PostgresStore.open(url)) as store:
                store.append([entry(turn * 50 + number) for number in range(50)], SEAL)
                until(lambda turn=turn: len(hosts.taken) >= turn * 50 + 10, "a part")  # type: ignore[misc]
            own_server.kill()
            own_server.start()
        with closing(PostgresStore.open(url)) as store:
            until(lambda: place(store)["next"] == 150, "the end of the log")
    finally:
        hosts.stop()
    hosts.check(150, 2 * 3)


def test_a_place_that_somebody_keeps_locked(database: Database, tmp_path: Path) -> None:
    """It is said, tried again, and goes on; nobody waits for ever, and the log takes records meanwhile."""
    url = database.log()
    with closing(open_log(place_of(url, tmp_path), writable=True, lock_timeout=0.2)) as store:
        assert isinstance(store, PostgresStore)
        shelf = store.shelf("followers/")
        shelf.write("hook.json", b"1")
        with psycopg.connect(database.url) as other:
            other.execute("SELECT FROM audit.kept FOR UPDATE")
            with pytest.raises(LogBusy, match="a lock was held by others"):
                shelf.write("hook.json", b"2")
            assert shelf.read("hook.json") == b"1"
            store.append([entry(0)], SEAL)
        shelf.write("hook.json", b"2")
        assert store.shelf("followers/").read("hook.json") == b"2"


def test_followers_with_one_name_in_common_do_not_run_at_once(database: Database, tmp_path: Path) -> None:
    """Another version of the configuration, on another host: they would share a cursor."""
    url = database.log()
    mine, both = Scripted(), Scripted()
    first = FollowersConfig((spec(mine, name="hook"),))
    second = FollowersConfig((spec(both, name="hook"), spec(Scripted(), name="more")))
    one = Delivering(place_of(url, tmp_path / "one"), first, tuple, 0.05)
    two = Delivering(place_of(url, tmp_path / "two"), second, tuple, 0.05)
    other = Delivering(
        place_of(url, tmp_path / "three"), FollowersConfig((spec(Scripted(), name="other"),)), tuple, 0.05
    )
    try:
        one.start()
        until(lambda: one.state()["role"] == "following", "the first one's work")
        two.start()
        other.start()
        until(lambda: two.state()["role"] == "standby", "the second one's wait")
        until(lambda: other.state()["role"] == "following", "what has no name in common")
        with closing(PostgresStore.open(url)) as store:
            store.append([entry(0)], SEAL)
            until(lambda: mine.calls == [[0]], "the record")
            one.stop()
            until(lambda: two.state()["role"] == "following", "the second one's work")
            store.append([entry(1)], SEAL)
            until(lambda: both.calls == [[1]], "the next record")
    finally:
        for work in (one, two, other):
            work.stop()
