"""What hosts share beside a log in a database: where followers stand, what they keep, and who is blocked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from audit_middleware.detectors.blocklist import Listing, list_beside
from audit_middleware.errors import BlocksError, LogUnavailable, Overtaken
from audit_middleware.evidence.blocking import add_block, lift_blocks, read_blocks, rebuild
from audit_middleware.evidence.delivering import Delivering, prepare_state, reset, status
from audit_middleware.evidence.keys import create_log
from audit_middleware.evidence.signers import signers_of
from audit_middleware.followers.config import load_followers
from audit_middleware.followers.notify.keeping import forget, read_kept, write_kept
from audit_middleware.followers.runner import Follower
from audit_middleware.pipeline.blocks import Blocks
from audit_middleware.signing import read_key_file
from audit_middleware.stores.opening import Database as PlaceInDatabase
from audit_middleware.stores.opening import open_log, open_shelf, place_of
from audit_middleware.stores.postgres import PostgresStore
from audit_middleware.stores.postgres.reading import Tables
from audit_middleware.stores.postgres.session import Lost
from audit_middleware.stores.shelf import Folder, Shelf
from audit_middleware.wiring.blocking import Blocking
from tests.blocking.support import detectors, storm_rules
from tests.blocking.support import entry as block_of
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC, Scripted, once, spec
from tests.postgres.conftest import Database
from tests.postgres.hosts import Host
from tests.postgres.server import PASSWORD, PATIENCE, PostgresServer
from tests.servers.running import ROOT, until
from tests.servers.service import POLICY
from tests.stores.samples import SEAL, entry

ORIGIN = "audit.example.com/shared"


def tell(action: str, extra: Mapping[str, Any]) -> None:
    raise AssertionError(f"told {action}")


def shelves(store: PostgresStore, folder: Path) -> dict[str, Shelf]:
    return {"folder": Folder(folder), "database": store.shelf("followers/")}


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_a_shelf_keeps_what_it_is_given(kind: str, database: Database, tmp_path: Path) -> None:
    with closing(database.store()) as store:
        shelf = shelves(store, tmp_path)[kind]
        assert shelf.read("one") is None
        shelf.remove("one")
        for data in (b"first", b"", bytes(range(256)) * 20_000, b"last"):
            shelf.write("one", data)
            assert shelf.read("one") == data
            assert shelves(store, tmp_path)[kind].read("one") == data
        assert shelf.read("two") is None
        shelf.write("two", b"2")
        shelf.remove("one")
        assert (shelf.read("one"), shelf.read("two")) == (None, b"2")
        shelf.write("one", b"again")
        assert shelf.read("one") == b"again"
        assert "one" in shelf.shown("one")
        assert PASSWORD not in shelf.shown("one")


def test_who_was_overtaken_puts_nothing_back(database: Database) -> None:
    with closing(database.store()) as store:
        old, new = store.shelf(), store.shelf()
        old.write("place", b"1")
        assert new.read("place") == b"1"
        new.write("place", b"2")
        with pytest.raises(Overtaken, match="place: was replaced by another process"):
            old.write("place", b"3")
        assert old.read("place") == b"2"
        old.write("place", b"3")
        with pytest.raises(Overtaken):
            new.remove("place")
        assert new.read("place") == b"3"
        new.remove("place")  # a value that is made again is not the one that was there
        new.write("place", b"4")
        with pytest.raises(Overtaken):
            old.write("place", b"5")
        first, second = store.shelf(), store.shelf()
        assert (first.read("made"), second.read("made")) == (None, None)
        first.write("made", b"1")
        with pytest.raises(Overtaken):
            second.write("made", b"2")


@pytest.mark.parametrize("done", [False, True])
def test_a_write_whose_answer_is_lost_is_looked_up(done: bool, database: Database) -> None:
    """The connection breaks once, before or after the server has done it."""

    class Breaking(Tables):
        broken = 0

        def call(self, function: str, values: tuple[Any, ...]) -> Any:
            if self.broken:
                self.broken -= 1
                if done:
                    super().call(function, values)
                raise Lost("gone")
            return super().call(function, values)

    with closing(database.store()) as store:
        shelf = store.shelf()
        tables = Breaking(store.tables._session, store.log)
        shelf._tables = tables
        for data in (b"made", b"replaced", None):
            tables.broken = 1
            if data is None:
                shelf.remove("value")
            else:
                shelf.write("value", data)
            assert store.shelf().read("value") == data
        tables.broken = 2
        with pytest.raises(LogUnavailable, match="gone"):
            shelf.write("value", b"nobody knows")
        shelf.write("value", b"known")
        assert store.shelf().read("value") == b"known"


def test_who_may_what(database: Database) -> None:
    mine = database.log("audit.example.com/mine", writers=[], readers=[])
    writer, reader = database.role("app", "audit_writer"), database.role("auditor", "audit_reader")
    stranger = database.role("stranger")
    database.run("REVOKE ALL ON SCHEMA audit FROM PUBLIC")
    both = database.role("service", "audit_writer", "audit_reader")
    with closing(PostgresStore.open(both)) as store:
        store.shelf().write("value", b"1")
        assert store.shelf().read("value") == b"1"
    with closing(PostgresStore.open(writer)) as store:
        store.shelf().write("blocks.json", b"1")
        assert store.shelf().read("blocks.json") == b"1"
        store.shelf().remove("blocks.json")
        # What followers keep comes from records, and who moves their place keeps records from being told.
        assert store.shelf().read("value") is None
        for name in ("value", "followers/hook.json"):
            with pytest.raises(LogUnavailable, match="this role may not"):
                store.shelf().write(name, b"2")
    for revision in range(5):
        for value in ("'x'", "NULL"):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                database.run(f"SELECT audit.keep(1, 'value', {value}, {revision})", url=writer)
    with closing(PostgresStore.open(reader)) as store:
        assert store.shelf().read("value") == b"1"
        with pytest.raises(LogUnavailable, match="this role may not"):
            store.shelf().write("value", b"2")
    assert database.run("SELECT name, value FROM audit.kept", url=reader) == [("value", b"1")]
    for url in (writer, stranger):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.run("SELECT * FROM audit.kept", url=url)
    for url in (writer, reader, stranger):
        for statement in (
            "INSERT INTO audit.kept VALUES (1, 'x', 1, '')", "UPDATE audit.kept SET value = ''",
            "DELETE FROM audit.kept", "SELECT nextval('audit.revisions')",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.run(statement, url=url)

    other = database.log("audit.example.com/other", writers=["postgres"], readers=["postgres"])
    with closing(PostgresStore.open(other)) as store:
        store.shelf().write("value", b"of another log")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not write to this log"):
        database.run("SELECT audit.keep(2, 'value', '', 0)", url=writer)
    assert database.run("SELECT * FROM audit.kept(2, 'value')", url=writer) == []
    assert database.run("SELECT name FROM audit.kept WHERE log_id = 2", url=reader) == []
    with closing(PostgresStore.open(mine)) as store:
        assert store.shelf().read("value") == b"1"


def test_a_value_is_durable_whatever_the_session_says(database: Database) -> None:
    """As with `append`: the function itself turns it on."""
    with closing(database.store()):
        pass
    with psycopg.connect(database.url) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SELECT audit.keep(1, 'value', 'x', 0)")
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


# --- followers ----------------------------------------------------------------------------------------------------


class Hook:
    """A destination that notes the ids of what it took; it takes its time."""

    def __init__(self, pause: float) -> None:
        self.taken: list[str] = []
        self._pause = pause

    def __call__(self, handler: Handler) -> None:
        time.sleep(self._pause)
        self.taken.append(handler.headers["webhook-id"])
        handler.say(204, b"")


def start_follow(url: str, config: Path, state: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"AUDIT_STATE": str(state), "AUDIT_RECORD_READS": "0", "SIGN": WHSEC}
    return subprocess.Popen(
        [sys.executable, "-m", "audit_middleware", "follow", url, "--config", str(config)],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_follower_that_is_killed_goes_on_on_another_host(database: Database, tmp_path: Path) -> None:
    """In the middle of a batch, twice. Nothing is lost; of each killed batch at most all is sent again."""
    url, count, batch = database.log(), 300, 40
    hook = Hook(0.005)
    with served(hook) as address, closing(PostgresStore.open(url)) as store:
        config = tmp_path / "followers.yaml"
        config.write_text(
            f"version: 1\nfollowers:\n  - {{name: hook, type: webhook, url: '{address}/', secret: '${{SIGN}}', "
            f"batch: {batch}, payload: whole, allow_private: true, retry: {{first: 10, longest: 100}}}}\n"
        )
        store.append([entry(number) for number in range(count)], SEAL)
        hosts = ["one", "two", "three"]
        for number, host in enumerate(hosts):
            process = start_follow(url, config, tmp_path / host)
            try:
                if host == hosts[-1]:
                    until(lambda: len(set(hook.taken)) == count, "the rest")
                    until(lambda: place(store)["next"] == count, "the cursor")
                else:
                    wanted = (number + 1) * 90
                    until(lambda wanted=wanted: len(set(hook.taken)) >= wanted, "a part")  # type: ignore[misc]
            finally:
                process.send_signal(signal.SIGTERM if host == hosts[-1] else signal.SIGKILL)
                _, errors = process.communicate(timeout=PATIENCE)
            assert PASSWORD.encode() not in errors
    assert [record["action_id"] for record in records(store)] == list(dict.fromkeys(hook.taken)), "in the log's order"
    again = sum(many - 1 for many in Counter(hook.taken).values())
    assert again <= 2 * batch, "more than a batch was sent again for each kill"
    assert not list(tmp_path.rglob("hook.json")), "nothing stands on a host"
    (told,) = status(place_of(url, tmp_path / "four"), load(config))
    assert (told["next"], told["state"]) == (count, "current")


def load(config: Path) -> Any:
    return load_followers(config, secrets=False)


def place(store: PostgresStore, name: str = "hook") -> dict[str, Any]:
    found = store.shelf("followers/").read(f"{name}.json")
    return dict(json.loads(found)) if found else {"next": None}


def records(store: PostgresStore) -> list[dict[str, Any]]:
    return [json.loads(one) for frame in store.frames() for one in frame.entries]


def test_who_believes_to_lead_moves_no_cursor_back(database: Database, tmp_path: Path) -> None:
    """Two at work at once, as after a lock that was lost: the later one reads again where the other has come to."""
    log = place_of(database.log(), tmp_path)
    assert isinstance(log, PlaceInDatabase)
    with closing(open_log(log, writable=True)) as store:
        made = []
        for _ in "12":
            reader = open_log(log)
            made.append((Scripted(), reader, open_shelf(reader, tmp_path, "followers/")))
        one, two = (
            Follower(spec(sink, batch=size), reader, tmp_path, tell, interval=0.01, kept=kept)
            for size, (sink, reader, kept) in zip((500, 1), made, strict=True)
        )
        store.append([entry(number) for number in range(3)], SEAL)
        once(one)
        once(two)
        store.append([entry(number) for number in range(3, 6)], SEAL)
        once(one)
        once(two)  # it has not seen that
        assert two.problem is not None
        assert "was replaced by another process" in two.problem
        assert one.state()["next"] == 6
        store.append([entry(6)], SEAL)
        once(two)
        assert two.state() == {"next": 7, "problem": None, "failures": 0}
        assert made[1][0].calls[-2:] == [[3], [6]]
        once(one)
        once(one)
        assert one.state()["next"] == 7
        for _, reader, _ in made:
            reader.close()


def test_what_a_notifier_keeps_goes_over(database: Database) -> None:
    """What was counted and is not told yet; and nobody who was overtaken puts an older count in its place."""
    with closing(database.store()) as store:
        one, two = store.shelf("followers/"), store.shelf("followers/")
        kept = read_kept(one, "notify-ops", store.origin)
        kept.next = 5
        write_kept(one, "notify-ops", kept)
        later = read_kept(two, "notify-ops", store.origin)
        assert later.next == 5
        later.next = 9
        write_kept(two, "notify-ops", later)
        kept.next = 6
        with pytest.raises(Overtaken):
            write_kept(one, "notify-ops", kept)
        assert read_kept(one, "notify-ops", store.origin).next == 9
        forget(one, "notify-ops")
        assert read_kept(two, "notify-ops", store.origin).next == 0


def test_a_reset_is_seen_by_every_host(database: Database, tmp_path: Path) -> None:
    url = database.log()
    config = tmp_path / "followers.yaml"
    config.write_text(f"version: 1\nfollowers:\n  - {{name: file, type: jsonl, directory: {tmp_path / 'lines'}}}\n")
    with closing(open_log(place_of(url, tmp_path / "one"), writable=True)) as store:
        store.append([entry(number) for number in range(5)], SEAL)
        found = load(config)
        assert reset(store, found, prepare_state(place_of(url, tmp_path / "one"), found), "file", 3) == 0
    (told,) = status(place_of(url, tmp_path / "two"), found)
    assert (told["next"], told["lag"], told["state"]) == (3, 2, "behind")


def test_a_folder_in_the_configuration_keeps_the_places_there(database: Database, tmp_path: Path) -> None:
    """For a role that only reads, and for destinations that are each host's own."""
    url = database.log()
    reader = database.role("auditor", "audit_reader")
    config = tmp_path / "followers.yaml"
    config.write_text(
        f"version: 1\nstate: {tmp_path / 'kept'}\nfollowers:\n"
        f"  - {{name: file, type: jsonl, directory: {tmp_path / 'lines'}}}\n"
    )
    with closing(PostgresStore.open(url)) as store:
        store.append([entry(number) for number in range(5)], SEAL)
        work = Delivering(place_of(reader, tmp_path / "one"), load(config), tuple, 0.05)
        work.start()
        until(lambda: (tmp_path / "kept" / "file.json").exists(), "the cursor")
        until(lambda: json.loads((tmp_path / "kept" / "file.json").read_text())["next"] == 5, "the records")
        work.stop()
        assert place(store, "file") == {"next": None}


def test_a_role_that_may_not_keep_a_place_is_told(database: Database, tmp_path: Path) -> None:
    database.log()
    config = tmp_path / "followers.yaml"
    config.write_text(f"version: 1\nfollowers:\n  - {{name: file, type: jsonl, directory: {tmp_path / 'lines'}}}\n")
    process = start_follow(database.role("auditor", "audit_reader"), config, tmp_path / "one")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert "this role may not do that (permission denied for function keep); see docs/postgres.md" in errors.decode()


# --- blocks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(database: Database, tmp_path: Path) -> tuple[str, Path]:
    """A log that was made with a key."""
    key = tmp_path / "signing.key"
    create_log(place_of(database.url, tmp_path / "admin"), ORIGIN, key)
    return database.url, key


def test_blocks_are_one_list_for_all_hosts(signed: tuple[str, Path], tmp_path: Path) -> None:
    url, key = signed
    one, two = place_of(url, tmp_path / "one"), place_of(url, tmp_path / "two")
    signers = signers_of(read_key_file(key))
    made = add_block(one, signers, "user", "ann", 900, "case 7", "root")
    assert read_blocks(two) == (made,)
    add_block(two, signers, "user", "bob", 900, "case 8", "root")
    assert {one.who for one in read_blocks(one)} == {"ann", "bob"}
    lift_blocks(two, signers, "user", "ann", "was a test", "root")
    assert [one.who for one in read_blocks(one)] == ["bob"]
    assert [one.who for one in rebuild(two).entries] == ["bob"]
    assert not list(tmp_path.rglob("blocks.json"))


def test_many_add_at_once_and_none_is_lost(signed: tuple[str, Path], tmp_path: Path) -> None:
    place = place_of(signed[0], tmp_path / "one")
    problems = list[BaseException]()

    def work(number: int) -> None:
        try:
            with closing(open_log(place)) as store:
                source = list_beside(place, store)
                for turn in range(5):
                    source.change(lambda now, turn=turn: now.add(block_of(f"{number}-{turn}")), time.time_ns())  # type: ignore[misc]
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert problems == []
    assert len(read_blocks(place)) == 20


def test_a_damaged_row_is_refused_and_made_anew(signed: tuple[str, Path], database: Database, tmp_path: Path) -> None:
    place = place_of(signed[0], tmp_path / "one")
    add_block(place, signers_of(read_key_file(signed[1])), "user", "ann", 900, "case 7", "root")
    with closing(open_log(place)) as store:
        told = list[str]()
        source = list_beside(place, store)
        blocks = Blocks()
        watching = Blocking(source, blocks, told.append, 0.05)
        assert watching.state()["blocked"] == 1
        database.run("UPDATE audit.kept SET value = '{', revision = nextval('audit.revisions')")
        watching.look()
        assert watching.state()["blocked"] == 1, "the last good list stays"
        assert len(told) == 1
        assert "blocks.json: is damaged" in told[0]
        with pytest.raises(BlocksError, match="blocks rebuild"):
            read_blocks(place)
        rebuild(place)
        watching.look()
        assert watching.state() == {"entries": 1, "blocked": 1, "not_in_force": 0, "problem": None}
        database.run("DELETE FROM audit.kept")
        watching.look()
        assert "has disappeared" in told[1]
        assert watching.state()["blocked"] == 1
        source.change(lambda _: Listing(), time.time_ns(), anew=True)
        watching.look()
        assert watching.state()["blocked"] == 0


def test_a_database_that_is_away_leaves_the_list_in_force_and_no_record(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    database = Database(own_server.url())
    key = tmp_path / "signing.key"
    create_log(place_of(database.url, tmp_path / "admin"), ORIGIN, key)
    place = place_of(database.url, tmp_path / "one")
    add_block(place, signers_of(read_key_file(key)), "user", "ann", 900, "case 7", "root")
    with closing(open_log(place)) as store:
        told = list[str]()
        watching = Blocking(list_beside(place, store), Blocks(), told.append, 0.05)
        own_server.kill()
        watching.look()
        state = watching.state()
        assert state["blocked"] == 1
        assert state["problem"]
        assert PASSWORD not in str(state)
        assert told == []
        own_server.start()
        watching.look()
        assert watching.state() == {"entries": 1, "blocked": 1, "not_in_force": 0, "problem": None}


class Plain(Host):
    """The service of the tests of servers."""

    application, health = "tests.servers.service:app", "/health"

    def policy(self) -> str:
        return POLICY.replace("doc.read: {allow: [reader]}", "doc.read: {allow: [reader], guarantee: sealed}")


def test_a_detector_on_one_host_blocks_on_the_other(own_server: PostgresServer, tmp_path: Path) -> None:
    database = Database(own_server.url())
    key = tmp_path / "signing.key"
    create_log(place_of(own_server.url(), tmp_path / "admin"), ORIGIN, key)
    url = database.role("service", "audit_writer", "audit_reader") + f"?origin={ORIGIN}"
    one, two = (Plain(name, tmp_path, url, key, tmp_path) for name in ("one", "two"))
    one.environment["AUDIT_FOLLOWERS"] = str(detectors(tmp_path, storm_rules(tmp_path)))
    hosts = [one.start(), two.start()]
    try:
        for host in hosts:
            host.wait()

        def read(host: Host) -> int:
            return httpx.get(f"{host.url}/docs/a", headers={"x-user": "eve:reader"}, timeout=PATIENCE).status_code

        assert [read(host) for host in hosts] == [200, 200]
        for _ in range(6):
            asked = httpx.delete(f"{one.url}/docs/a", headers={"x-user": "eve:reader"}, timeout=PATIENCE)
            assert asked.status_code == 403
        until(lambda: read(one) == 403, "the block on the host that found it")
        until(lambda: read(two) == 403, "the block on the other one")
        assert httpx.get(f"{two.url}/docs/a", headers={"x-user": "ann:reader"}, timeout=PATIENCE).status_code == 200
        one.kill()
        lift_blocks(place_of(url, tmp_path / "admin"), signers_of(read_key_file(key)), "user", "eve", "a test", "root")
        until(lambda: read(two) == 200, "the lift")
    finally:
        for host in hosts:
            host.stop()
    for host in hosts:
        assert PASSWORD not in host.output
