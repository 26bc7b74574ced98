"""RFC 5424 over TCP and TLS."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from audit_middleware.errors import FollowerError
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.followers.syslog import Syslog, message
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.support import append, cursor, dead, follower, items, journal, running
from tests.stores.samples import entry


def test_syslog_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    store, server = journal(tmp_path, 100), receiver("syslog")
    made, _ = follower(store, tmp_path, Syslog("127.0.0.1", server.port, tls=False), batch=20)
    with running(made):
        until(lambda: cursor(tmp_path) == 100 and len(server.taken()) >= 100, "the first records arrive")
        server.kill()
        append(store, 1_000)
        until(lambda: made.problem, "the outage is noticed")
        server.start()
        until(lambda: cursor(tmp_path) == 1_100, "everything is sent")
        until(lambda: len({_index(one) for one in server.taken()}) == 1_100, "everything arrives")
    indexes = [_index(one) for one in server.taken()]
    assert list(dict.fromkeys(indexes)) == list(range(1_100))
    assert dead(tmp_path) == []


def _index(taken: dict[str, Any]) -> int:
    return int(taken["message"].split(' index="')[1].split('"')[0])


def test_a_message_of_rfc_5424_takes_no_orders_from_its_content() -> None:
    service = {"name": "bill ing\n<1>", "version": None, "instance": "i", "environment": None}
    item = Item(7, entry(7, service=service, event='A]\u2028"B' * 9, user_id='x"]\n<13>1 forged', severity="critical"))
    text = message(item, 'log"]\\', "host name").decode()
    head, _, body = text.partition(" \ufeff")
    assert head.startswith("<106>1 2026-01-01T00:00:07.000000Z host_name bill_ing_<1> - ")
    assert head.split(" ")[6] == "[audit@32473"
    assert len(head.split(" ")[5]) == 32
    assert head.endswith(r'log="log\"\]\\" index="7"]')
    assert "\n" not in text
    assert json.loads(body)["user_id"] == 'x"]\n<13>1 forged'


def test_syslog_over_tls_checks_the_receiver(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    got: list[bytes] = []

    def take() -> None:
        for _ in range(2):
            plain, _peer = listener.accept()
            with plain:
                try:
                    with tls.wrap_socket(plain, server_side=True) as connected:
                        while data := connected.recv(65_536):
                            got.append(data)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take)
        thread.start()
        port = listener.getsockname()[1]
        wrong = Syslog("localhost", port, ca=tmp_path / "other.pem").open("example.com/log")
        with pytest.raises(FollowerError, match="SSLCertVerificationError"):
            wrong.send(items(1))
        sink = Syslog("localhost", port, ca=tmp_path / "ca.pem").open("example.com/log")
        assert sink.send(items(1, 2)) == Sent(2)
        sink.close()
        thread.join()
    assert b"".join(got).count(b"[audit@32473 ") == 2


def test_what_a_receiver_left_unread_is_sent_again() -> None:
    """Its kernel had acknowledged the bytes; then it was gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = Syslog("127.0.0.1", listener.getsockname()[1], tls=False).open("example.com/log")
        assert sink.send(items(1)) == Sent(1)
        first, _ = listener.accept()
        first.close()  # with bytes unread: the sender gets a reset
        with pytest.raises(FollowerError, match="Connection"):
            sink.send(items(2))
        assert sink.send(items(2)) == Sent(1)
        second, _ = listener.accept()
        sink.close()
        with second:
            data = b"".join(iter(lambda: second.recv(65_536), b""))
    assert data.index(b' index="1"]') < data.index(b' index="2"]')
