"""RFC 5424 over TCP and TLS, as rsyslog understands it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.syslog import Syslog
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats import FORMATS, Place
from tests.control.support import until
from tests.followers.receivers import Receiver, Rsyslog
from tests.followers.support import append, cursor, follower, items, journal, running, way
from tests.formats.parsing import parse_rfc5424
from tests.formats.records import RECORDS

PLACE = Place("example.com/log", 0)


def test_rsyslog_reads_the_header_the_data_and_the_message(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    """Every record of the golden files: what rsyslog understood is what a parser of the specification reads in it."""
    server = receiver("rsyslog")
    sink = Syslog("127.0.0.1", server.port, tls=False, enterprise=64001).open(way(tmp_path))
    sent = [Item(index, json.dumps(record).encode()) for index, record in enumerate(RECORDS.values())]
    assert sink.send(sent) == Sent(len(sent))
    until(lambda: server.count() == len(sent), "rsyslog wrote them")
    sink.close()
    for item, got in zip(sent, server.taken(), strict=True):
        line = FORMATS["rfc5424"].placing(enterprise=64001)(item.record, Place("example.com/log", item.index)).decode()
        expected = parse_rfc5424(line)
        priority, moment, host, app, process, event, name = expected.header
        assert (got["pri"], got["host"], got["app"]) == (priority, host, app)
        assert (got["process"], got["id"], name) == (process, event, "audit@64001")
        assert got["time"].replace("+00:00", "Z") == moment
        assert parse_rfc5424(f"<1>1 - - - - - {got['data']} ").fields == expected.fields
        assert got["text"] == expected.message


@pytest.mark.parametrize("form", ["cef", "leef", "ecs", "ocsf", "jsonl"])
def test_other_formats_are_the_text_of_a_message(
    tmp_path: Path, receiver: Callable[[str], Receiver], form: str
) -> None:
    server = receiver("rsyslog")
    sink = Syslog("127.0.0.1", server.port, tls=False, format=form, max_message=65_536).open(way(tmp_path))
    sent = [Item(index, json.dumps(record).encode()) for index, record in enumerate(RECORDS.values())]
    assert sink.send(sent) == Sent(len(sent))
    until(lambda: server.count() == len(sent), "rsyslog wrote them")
    sink.close()
    locate = FORMATS[form].locate
    assert locate is not None
    for item, got in zip(sent, server.taken(), strict=True):
        made = FORMATS[form].placing(limit=7_600 if form in ("cef", "leef") else None)
        if form != "jsonl":
            assert got["text"] == made(item.record, Place("example.com/log", item.index)).decode()
        header = parse_rfc5424(FORMATS["rfc5424"].encoder()(item.record).decode()).header
        assert (got["pri"], got["host"], got["app"], got["id"]) == (header[0], *header[2:4], header[5])
        assert got["data"] == "-"
        assert locate(got["text"].encode()) == Place("example.com/log", item.index)


def test_rsyslog_over_tls_killed_in_the_middle(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    server = Rsyslog(tmp_path / "rsyslog.taken", tls=tmp_path)
    server.start()
    try:
        store = journal(tmp_path, 50)
        settings = Syslog("localhost", server.port, ca=tmp_path / "ca.pem")
        made, _ = follower(store, tmp_path, settings, batch=20)
        with running(made):
            until(lambda: server.count() >= 50, "the first records arrive")
            server.kill()
            append(store, 1_000)
            until(lambda: made.problem, "the outage is noticed")
            server.start()
            until(lambda: server.count() > 300, "some arrive")
            server.kill()
            server.start()
            until(lambda: cursor(tmp_path) == 1_050, "everything is sent")
            until(lambda: len(set(_indexes(server))) == 1_050, "everything arrives")
    finally:
        server.kill()
    assert list(dict.fromkeys(_indexes(server))) == list(range(1_050))


def _indexes(server: Receiver) -> list[int]:
    return [int(parse_rfc5424(f"<1>1 - - - - - {one['data']} ").fields["index"]) for one in server.taken()]


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
        wrong = Syslog("localhost", port, ca=tmp_path / "other.pem").open(way(tmp_path))
        with pytest.raises(FollowerError, match="SSLCertVerificationError"):
            wrong.send(items(1))
        sink = Syslog("localhost", port, ca=tmp_path / "ca.pem").open(way(tmp_path))
        assert sink.send(items(1, 2)) == Sent(2)
        sink.close()
        thread.join()
    assert b"".join(got).count(b"[audit@32473 ") == 2
