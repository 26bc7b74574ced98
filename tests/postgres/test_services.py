"""The example as two services on two ports, and one log: under load, while services and the server are killed."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from audit_middleware.evidence.keys import create_log, new_key
from audit_middleware.evidence.masters import set_up
from audit_middleware.stores.opening import open_log, place_of
from tests.postgres.hosts import ORIGIN, Clients, Host, assert_kept, master_of, more, two_hosts
from tests.postgres.server import PASSWORD, PostgresServer
from tests.servers.running import PATIENCE


@pytest.mark.parametrize("first", ["service", "server"])
def test_a_killed_service_and_a_killed_server(own_server: PostgresServer, tmp_path: Path, first: str) -> None:
    with two_hosts(own_server, tmp_path) as (hosts, url):
        clients = [Clients(host, 4) for host in hosts]
        try:
            more(clients, 100)
            for what in (first, "server" if first == "service" else "service"):
                if what == "service":
                    hosts[0].kill()
                    more(clients[1:], 100)  # the other one goes on
                    hosts[0].start().wait()
                else:
                    own_server.kill()
                    time.sleep(0.3)
                    own_server.start()
                more(clients, 100)
        finally:
            promised = [one for each in clients for one in each.end()]
        for host in hosts:
            host.stop()
            assert PASSWORD not in host.output
        assert len(promised) >= 700
        with closing(open_log(place_of(url, tmp_path / "admin"))) as store:
            records = assert_kept(store, url, tmp_path / "signing.key", promised)
        assert {one["service"]["name"] for one in records} >= {"one", "two"}
        started = [one for one in records if one["action"] == "audit.started"]
        assert len(started) == 3
        assert PASSWORD not in str(records)
        shown = started[0]["extra"]["configuration"]["settings"]["log"]
        assert shown == f"postgresql://127.0.0.1:{own_server.port}/postgres?origin={ORIGIN}"
        policies = [one for one in records if one["action"] == "audit.policy_archived"]
        assert 1 <= len(policies) <= 2, "a start on any host finds the policy; two at the same moment may both write it"


@pytest.mark.slow
def test_thirty_thousand_promises(
    own_server: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One thing is killed after another: a service, the server, the other service, the server, and so on."""
    kills: list[str] = []
    began = time.monotonic()
    with two_hosts(own_server, tmp_path) as (hosts, url):

        def kill(what: str) -> None:
            kills.append(what)
            if what == "server":
                own_server.kill()
                own_server.start()
            else:
                host = hosts[what == "two"]
                host.kill()
                host.start().wait()

        clients = [Clients(host, 8) for host in hosts]
        turns = ["one", "server", "two", "server"]
        try:
            while sum(len(one.promised) for one in clients) < 30_000:
                more(clients, 1200)
                kill(turns[len(kills) % len(turns)])
        finally:
            promised = [one for each in clients for one in each.end()]
        for host in hosts:
            host.stop()
        with closing(open_log(place_of(url, tmp_path / "admin"))) as store:
            records = assert_kept(store, url, tmp_path / "signing.key", promised)
    assert len(promised) >= 30_000
    assert len(set(kills)) == 3
    with capsys.disabled():
        took = time.monotonic() - began
        print(f"\n{len(promised)} promises in {len(records)} records, {len(kills)} kills, {took:.0f} s")


def test_a_service_without_a_state_folder_says_what_is_missing(own_server: PostgresServer, tmp_path: Path) -> None:
    key = tmp_path / "signing.key"
    place = place_of(own_server.url(), tmp_path / "admin")
    create_log(place, ORIGIN, key)
    set_up(place, own_server.url(), master_of(key))
    host = Host("one", tmp_path, own_server.url(), key, tmp_path / "data")
    del host.environment["AUDIT_STATE"]
    host.start()
    assert host.process is not None
    assert host.process.wait(PATIENCE) != 0
    assert "AUDIT_STATE" in host.output
    assert PASSWORD not in host.output


def test_a_host_with_a_key_of_its_own_does_not_start(own_server: PostgresServer, tmp_path: Path) -> None:
    """Of the log's name and nobody's: what it signed, nobody would accept."""
    create_log(place_of(own_server.url(), tmp_path / "admin"), ORIGIN, tmp_path / "signing.key")
    vkey = new_key(ORIGIN, tmp_path / "other.key")
    host = Host("one", tmp_path, own_server.url(), tmp_path / "other.key", tmp_path / "data").start()
    assert host.process is not None
    assert host.process.wait(PATIENCE) != 0
    assert (
        f"the signing key is none of the log postgresql://127.0.0.1:{own_server.port}/postgres: it is {vkey}"
        in host.output
    )
    with closing(open_log(place_of(own_server.url(), tmp_path / "admin"))) as store:
        assert store.head().size == 0
