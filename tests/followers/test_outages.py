"""Receivers that are killed with -9 in the middle and come back: nothing lost, order kept, a repetition has its id.

The promise is the same for all that answer. Syslog does not answer: what its kernel took and it never read is sent
again as far as the sender remembers it, and no further; both sides of that bound are here.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations import syslog
from audit_middleware.followers.destinations.datadog import Datadog
from audit_middleware.followers.destinations.elasticsearch import Elasticsearch
from audit_middleware.followers.destinations.syslog import Syslog
from audit_middleware.followers.destinations.webhook import Webhook, read_key
from audit_middleware.followers.sink import Item
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.support import WHSEC, ago, append, arrived, cursor, dead, follower, items, journal, running, way
from tests.kit import steady_port
from tests.stores.samples import record

FORMS = {"elasticsearch": "ecs", "datadog": "datadog", "webhook": "jsonl", "syslog": "rfc5424", "rsyslog": "rfc5424"}


def destination(kind: str, server: Receiver) -> Any:
    url = SecretStr(server.url)
    if kind == "elasticsearch":
        return Elasticsearch(url, "logs-audit-test", headers={"Authorization": "ApiKey c2VjcmV0LWVzLWtleQ=="})
    if kind == "datadog":
        return Datadog(url, SecretStr("secret-dd-key"))
    if kind == "webhook":
        return Webhook(url, keys=(read_key(WHSEC),), allow_private=True, payload="whole")
    return Syslog("127.0.0.1", server.port, tls=False)


def indexes(server: Receiver, kind: str) -> list[int]:
    if kind == "webhook":
        return [json.loads(one["text"])["data"]["index"] for one in server.taken()]
    if kind == "rsyslog":
        return [int(one["data"].split(' index="')[1].split('"')[0]) for one in server.taken()]
    return arrived(server, FORMS[kind])


def through_an_outage(folder: Path, receiver: Callable[[str], Receiver], kind: str, count: int) -> None:
    """Dies while records come, stays away for ``count`` of them, and dies again while it catches up."""
    store, server = journal(folder, 0), receiver(kind)
    append(store, 60, timestamp=ago(1))
    made, told = follower(store, folder, destination(kind, server), batch=max(count // 20, 20))
    with running(made):
        until(lambda: cursor(folder) == 60 and server.count() >= 60, "the first records arrive")
        server.kill()
        append(store, count, timestamp=ago(1))
        until(lambda: made.problem, "the outage is noticed")
        assert cursor(folder) < 60 + count
        server.start()
        until(lambda: server.count() > 60 + count // 4, "some arrive")
        server.kill()
        server.start()
        until(lambda: cursor(folder) == 60 + count, "everything is sent")
        until(lambda: server.count() >= 60 + count, "as many arrive")
        until(lambda: len(set(indexes(server, kind))) == 60 + count, "everything arrives")
    found = indexes(server, kind)
    assert list(dict.fromkeys(found)) == list(range(60 + count)), "nothing lost, first arrivals in order"
    assert dead(folder) == []
    assert told == []
    if kind == "elasticsearch":
        assert len(found) == 60 + count, "it knows a repetition by its id"
    ids = {one["id"] for one in server.taken()} if "syslog" not in kind else set(found)
    assert len(ids) == 60 + count, "a repetition has the same id"


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind != "webhook"])
def test_ten_thousand_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver], kind: str) -> None:
    through_an_outage(tmp_path, receiver, kind, 10_000)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_webhooks_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver], count: int) -> None:
    """A request for each record: 10,000 take 20 seconds here."""
    through_an_outage(tmp_path, receiver, "webhook", count)


# --- syslog, which acknowledges nothing -------------------------------------------------------------------------------


def read_all(listener: socket.socket) -> list[int]:
    """The indexes of all that the next connection brings."""
    connected, _ = listener.accept()
    with connected, connected.makefile("rb") as stream:
        found = []
        while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
            found.append(int(stream.read(int(length)).decode().split(' index="')[1].split('"')[0]))
    return found


@pytest.mark.parametrize(("remembered", "lost"), [(syslog.REPEATED, 0), (1, 40)])
def test_what_a_dead_receiver_never_read_is_sent_again_as_far_as_it_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int, lost: int
) -> None:
    """Ten batches of ten were acknowledged by the kernel and read by nobody. With room for one batch, nine are lost."""
    monkeypatch.setattr(syslog, "REPEATED", remembered)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = Syslog("127.0.0.1", listener.getsockname()[1], tls=False).open(way(tmp_path))
        for first in range(0, 50, 10):
            assert sink.send(items(*range(first, first + 10))).settled == 10
        listener.accept()[0].close()  # with bytes unread: the sender gets a reset
        with pytest.raises(FollowerError, match="Connection"):
            sink.idle()
        sink.idle()
        sink.close()
        assert read_all(listener) == list(range(lost, 50))


def test_a_long_outage_does_not_make_it_forget(tmp_path: Path) -> None:
    """What counts is how old a message was when the connection broke, not when the receiver comes back."""
    now = [0.0]
    port = steady_port()
    listener = socket.create_server(("127.0.0.1", port))
    sink = syslog.SyslogSink(Syslog("127.0.0.1", port, tls=False), "example.com/log", lambda: now[0])
    sink.send(items(*range(10)))
    now[0] = syslog.AFTER_RESET
    sink.send(items(*range(10, 20)))
    now[0] += 1
    listener.accept()[0].close()  # with bytes unread: a reset
    listener.close()
    for _ in range(3):
        with pytest.raises(FollowerError, match="Connection"):
            sink.idle()
        now[0] += 2 * syslog.AFTER_RESET
    with socket.create_server(("127.0.0.1", port)) as back:
        sink.idle()
        sink.close()
        assert read_all(back) == list(range(10, 20))


def test_a_receiver_that_closes_idle_connections_gets_no_flood(tmp_path: Path) -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Syslog("127.0.0.1", listener.getsockname()[1], tls=False)
        sink = syslog.SyslogSink(settings, "example.com/log", lambda: now[0])
        sink.send(items(*range(50)))
        connected, _ = listener.accept()
        connected.settimeout(20)
        got = b""
        while b' index="49"' not in got:
            got += connected.recv(65_536)
        now[0] = syslog.AFTER_CLOSE + 1
        connected.close()  # in order, with nothing unread
        until(lambda: closed(sink), "the end is noticed")
        sink.send(items(50))
        sink.close()
        assert read_all(listener) == [50]


def closed(sink: syslog.SyslogSink) -> bool:
    sink.idle()
    return sink._socket is None


def test_a_frozen_receiver_that_dies_loses_nothing_of_what_its_kernel_took(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("syslog")
    store = journal(tmp_path, 0)
    made, _ = follower(store, tmp_path, Syslog("127.0.0.1", server.port, tls=False, timeout=1), batch=50)
    with running(made):
        append(store, 100)
        until(lambda: server.count() == 100, "the first records arrive")
        server.stop()
        append(store, 400)
        until(lambda: cursor(tmp_path) > 150 or made.problem, "the kernel takes what it has room for")
        server.kill()
        server.start()
        until(partial(_has, server, 500), "everything arrives, although no new record came")
    assert list(dict.fromkeys(indexes(server, "syslog"))) == list(range(500))


def _has(server: Receiver, count: int) -> bool:
    return len(set(indexes(server, "syslog"))) == count


def test_a_message_that_is_too_long_is_a_dead_letter_and_text_is_cut(tmp_path: Path) -> None:
    long = [Item(5, json.dumps(record(5, reason="x" * 20_000)).encode())]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = {"port": listener.getsockname()[1], "tls": False}
        sink = Syslog("127.0.0.1", format="jsonl", **settings).open(way(tmp_path))
        sent = sink.send([*items(4), *long])
        assert sent.settled == 2
        assert list(sent.rejected) == [5]
        assert "max_message is 8192" in sent.rejected[5]
        sink.close()
        sink = Syslog("127.0.0.1", **settings).open(way(tmp_path))
        assert sink.send(long).rejected == {}
        sink.close()
