"""Log records over OTLP: what arrives, limits, answers of every kind, outages."""

from __future__ import annotations

import base64
import json
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from pydantic import SecretStr

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.otlp import Otlp
from audit_middleware.followers.destinations.otlp_exporter import log_records
from audit_middleware.followers.post import Poster
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats import FORMATS, Place
from audit_middleware.formats.otlp import logs_data
from audit_middleware.ledger.canonical import encode
from tests.control.support import until
from tests.followers.receivers import OTLP_LARGEST, Receiver
from tests.followers.serving import Handler, served
from tests.followers.support import append, configured, cursor, dead, follower, items, journal, running, way
from tests.formats.records import RECORDS
from tests.stores.samples import entry, new_journal, record

TOKEN = "secret-otlp-token"


def endpoint(url: str, **more: Any) -> Otlp:
    given: dict[str, Any] = {"headers": {"Authorization": SecretStr(f"Bearer {TOKEN}")}} | more
    return Otlp(SecretStr(url if url.endswith("/v1/logs") else f"{url}/v1/logs"), **given)


def as_otlp_json(line: dict[str, Any]) -> dict[str, Any]:
    """Protobuf's own JSON of a record as OTLP has it: ids hexadecimal, the severity a number."""
    made = dict(line)
    for name in ("traceId", "spanId"):
        if name in made:
            made[name] = base64.b64decode(made[name]).hex()
    levels = {"INFO": 9, "INFO2": 10, "WARN": 13, "ERROR": 17, "FATAL": 21}
    made["severityNumber"] = levels[made["severityNumber"].removeprefix("SEVERITY_NUMBER_")]
    return made


@pytest.mark.parametrize("compress", [True, False])
def test_what_arrives_is_what_the_format_makes(
    tmp_path: Path, receiver: Callable[[str], Receiver], compress: bool
) -> None:
    server = receiver("otlp")
    sink = endpoint(server.url, compress=compress).open(way(tmp_path))
    sent = [Item(number, encode(one)) for number, one in enumerate(RECORDS.values())]
    assert sink.send(sent) == Sent(len(sent))
    sink.close()
    taken = server.taken()
    assert len(taken) == len(RECORDS)
    for got, item in zip(taken, sent, strict=True):
        (expected,) = json.loads(FORMATS["otlp"].placing()(item.record, place(item.index)))["resourceLogs"]
        (scope,) = expected["scopeLogs"]
        assert as_otlp_json(got["record"]) == scope["logRecords"][0]
        assert got["resource"] == expected["resource"]
        assert got["scope"] == scope["scope"] == {"name": "audit_middleware"}
        assert got["headers"].get("Content-Encoding") == ("gzip" if compress else None)
    assert as_otlp_json(taken[0]["record"])["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert as_otlp_json(taken[0]["record"])["spanId"] == "00f067aa0ba902b7"
    assert (taken[0]["record"]["eventName"], taken[0]["record"]["timeUnixNano"][-9:]) == (
        "INVOICE_DELETED",
        "123456000",
    )


def test_the_receiver_refuses_what_is_not_in_the_definitions(receiver: Callable[[str], Receiver]) -> None:
    """Or the test above would prove less than it says."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-protobuf"}
    poster = Poster(f"{receiver('otlp').url}/v1/logs", patience=30)
    (described,) = logs_data(record(1))["resourceLogs"]
    request = encode_logs(list(log_records([{"resourceLogs": [described]}]))).SerializeToString()
    unknown = b"\xd2\x0f\x01x"  # a field 250
    assert [poster.post(body, headers).status for body in (request, request + unknown, b"", b"x")] == [
        200,
        400,
        400,
        400,
    ]
    poster.close()


def test_records_of_many_processes_keep_the_logs_order(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("otlp")
    sink = endpoint(server.url).open(way(tmp_path))
    sent = [Item(number, entry(number, f"process-{number % 3}")) for number in range(30)]
    assert sink.send(sent) == Sent(30)
    sink.close()
    assert [one["id"] for one in server.taken()] == [item.id for item in sent]


def _through_an_outage(tmp_path: Path, server: Receiver, count: int) -> None:
    store = journal(tmp_path, 200)
    made, told = follower(store, tmp_path, endpoint(server.url), batch=500)
    with running(made):
        until(lambda: cursor(tmp_path) == 200, "the first records arrive")
        server.kill()
        append(store, count)
        until(lambda: made.problem, "the outage is noticed")
        assert cursor(tmp_path) == 200
        server.start()
        until(lambda: cursor(tmp_path) > 200 + count // 5, "some arrive")
        server.kill()
        server.start()
        until(lambda: cursor(tmp_path) == 200 + count, "everything arrives")
    taken = [one["id"] for one in server.taken()]
    expected = [record(number)["action_id"] for number in range(200 + count)]
    # A repetition has the id of the first: so what is new came in order, and nothing is missing.
    assert list(dict.fromkeys(taken)) == expected
    assert told == []
    assert dead(tmp_path) == []


def test_a_thousand_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    _through_an_outage(tmp_path, receiver("otlp"), 1_000)


@pytest.mark.slow
def test_ten_thousand_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    _through_an_outage(tmp_path, receiver("otlp"), 10_000)


def place(index: int) -> Place:
    return Place("example.com/log", index)


def settled(sink: Any, left: list[Item]) -> dict[int, str]:
    """Sends until all are settled; what was rejected."""
    rejected: dict[int, str] = {}
    while left:
        sent = sink.send(left)
        assert sent.settled, sent
        rejected |= {index: why for index, why in sent.rejected.items() if index < left[0].index + sent.settled}
        left = left[sent.settled :]
    return rejected


def test_records_that_are_refused_are_found_and_the_others_arrive(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("otlp")
    sink = endpoint(server.url).open(way(tmp_path))
    strange = [Item(8, b'{"n":8}'), Item(9, b"[]"), Item(10, b'{"schema_version":99,"action_id":"x"}')]
    left = [*items(*range(5)), *items(5, reason="poison"), *items(6), *items(7, reason="malformed"), *strange]
    rejected = settled(sink, [*left, *items(*range(11, 20))])
    shown = {8: "KeyError", 9: "TypeError", 10: "KeyError"}
    assert rejected == {5: "refused", 7: "answered 400"} | {
        index: f"cannot be shown as otlp: {why}" for index, why in shown.items()
    }
    got = list(dict.fromkeys(one["id"] for one in server.taken()))
    assert got == [record(number)["action_id"] for number in (0, 1, 2, 3, 4, 6, *range(11, 20))]
    assert sink.send(items(20, 21, reason="poison")) == Sent(2, {20: "refused", 21: "refused"})
    sink.close()


def test_a_refused_record_becomes_a_dead_letter(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    log = [entry(0), entry(1, reason="poison"), entry(2)]
    made, told = follower(new_journal(tmp_path / "log", log), tmp_path, endpoint(receiver("otlp").url))
    with running(made):
        until(lambda: cursor(tmp_path) == 3, "the end is reached")
    assert [(one["index"], one["why"]) for one in dead(tmp_path)] == [(1, "refused")]
    assert [extra["indexes"] for _, extra in told] == [[1]]


def test_too_large_requests_are_halved_and_a_too_large_record_is_rejected(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("otlp")
    sink = endpoint(server.url).open(way(tmp_path))
    many = items(*range(120), user_agent="x" * 60_000)
    assert sum(len(item.entry) for item in many) > OTLP_LARGEST
    assert sink.send(many) == Sent(60)
    assert sink.send(many) == Sent(60), "what is known to fit is not tried twice"
    huge = Item(99, json.dumps(record(99, user_agent="x" * (OTLP_LARGEST + 1))).encode())
    assert sink.send([huge, *items(1)]) == Sent(1, {99: "answered 413"})
    assert sink.send(items(*range(100, 170))) == Sent(70), "one huge record does not make all later requests small"
    sink.close()


def test_throttling_and_failures_are_waited_for(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("otlp")
    sink = endpoint(server.url).open(way(tmp_path))
    waits = {"Retry-After": "7"}
    server.answer_next((429, waits), (503, {}), (503, waits), (302, {"Location": server.url}), (502, {}), (404, {}))
    for status, after in ((429, 7.0), (503, None), (503, 7.0), (302, None), (502, None), (404, None)):
        assert sink.send(items(1)) == Sent(0, retry=f"{server.url}: answered {status}", after=after)
    assert server.taken() == []
    assert sink.send(items(1)) == Sent(1)
    sink.close()
    wrong = endpoint(server.url, headers={}).open(way(tmp_path))
    assert wrong.send(items(1)) == Sent(0, retry=f"{server.url}: answered 401")
    wrong.close()


def partial(refused: int) -> bytes:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = refused
    answer.partial_success.error_message = "only a warning" if refused == 0 else "why not"
    return bytes(answer.SerializeToString())


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"", "application/x-protobuf", Sent(2)),
        (b"", "text/html", Sent(2)),
        (partial(0), "application/x-protobuf", Sent(2)),
        (partial(2), "application/x-protobuf", Sent(2, {0: "refused", 1: "refused"})),
        (b"{}", "application/json; charset=utf-8", Sent(2)),
        (b'{"partialSuccess":{"rejectedLogRecords":"3"}}', "application/json", Sent(2, {0: "refused", 1: "refused"})),
    ],
)
def test_answers_are_looked_into(tmp_path: Path, body: bytes, kind: str, expected: Sent) -> None:
    with served(lambda handler: handler.say(200, body, Content_Type=kind)) as url:
        sink = endpoint(url).open(way(tmp_path))
        assert sink.send(items(0, 1)) == expected
        sink.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>Welcome!</html>", "text/html"),
        (b"ok", "application/x-protobuf"),
        (b"[]", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"partialSuccess":{"rejectedLogRecords":"many"}}', "application/json"),
    ],
)
def test_an_answer_that_is_none_settles_nothing(tmp_path: Path, body: bytes, kind: str) -> None:
    with served(lambda handler: handler.say(200, body, Content_Type=kind)) as url:
        sink = endpoint(url).open(way(tmp_path))
        with pytest.raises(FollowerError, match="the answer is not one of OTLP"):
            sink.send(items(0))
        sink.close()


def test_one_request_a_try_and_time_is_bounded(tmp_path: Path) -> None:
    """The exporter's own retries would be more requests, and a drip would keep its socket's time-out from firing."""
    gone, seen = threading.Event(), []

    def drip(handler: Handler) -> None:
        seen.append(1)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not gone.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    with served(drip) as url:
        sink = endpoint(url, timeout=0.5).open(way(tmp_path))
        started = time.monotonic()
        with pytest.raises(FollowerError, match=r"no whole answer within 0\.5 seconds"):
            sink.send(items(0))
        assert time.monotonic() - started < 30
        gone.set()
        sink.close()
    assert len(seen) == 1


def test_nothing_comes_from_the_environment(
    tmp_path: Path, receiver: Callable[[str], Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = receiver("otlp")
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-from-environment=1,content-type=text/plain,content-encoding=none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=another",
    }.items():
        monkeypatch.setenv(name, value)
    sink = endpoint(server.url).open(way(tmp_path))
    assert sink.send(items(1)) == Sent(1)
    sink.close()
    (got,) = server.taken()
    (expected,) = logs_data(record(1), place(1))["resourceLogs"]
    assert as_otlp_json(got["record"]) == expected["scopeLogs"][0]["logRecords"][0]
    assert got["resource"] == expected["resource"]
    assert "x-from-environment" not in {name.lower() for name in got["headers"]}


def test_errors_and_logs_hold_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = "http://127.0.0.1:9/private-path/v1/logs?key=private-query"
    sink = Otlp(SecretStr(url), {"X-Key": SecretStr("private-header")})
    opened = sink.open(way(tmp_path))
    with pytest.raises(FollowerError) as caught:
        opened.send(items(1))
    opened.close()
    for text in (str(caught.value), caplog.text, repr(sink)):
        assert "private" not in text
    assert str(caught.value) == "http://127.0.0.1:9: ConnectError"


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "other")}
    authority.cert_pem.write_to_path(files["ca"])
    ours = authority.issue_cert("follower.example.com")
    ours.cert_chain_pems[0].write_to_path(files["cert"])
    ours.private_key_pem.write_to_path(files["key"])
    stranger.cert_pem.write_to_path(files["other"])
    with served(lambda handler: handler.say(200, b""), context) as plain:
        url = plain.replace("http:", "https:")
        client = (files["cert"], files["key"])
        sink = endpoint(url, ca=files["ca"], client=client).open(way(tmp_path))
        assert sink.send(items(1)) == Sent(1)
        sink.close()
        for other in (endpoint(url, ca=files["ca"]), endpoint(url, ca=files["other"], client=client)):
            sink = other.open(way(tmp_path))
            with pytest.raises(FollowerError, match="Error"):
                sink.send(items(1))
            sink.close()
    for wrong in ((files["cert"], files["other"]), (tmp_path / "none", files["key"])):
        with pytest.raises(FollowerError, match="no certificate with its own, unencrypted key"):
            endpoint("https://x", client=wrong).open(way(tmp_path))


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer abc")
    monkeypatch.setenv("BROKEN", "two\nlines")
    head = "version: 1\nfollowers:\n  - {name: a, type: otlp, url: "
    (made,) = configured(tmp_path, head + "'https://x/v1/logs', headers: {Authorization: '${TOKEN}'}}").followers
    assert isinstance(made.destination, Otlp)
    assert made.destination.headers["Authorization"].get_secret_value() == "Bearer abc"
    assert "abc" not in repr(made)
    for text, said in (
        ("'https://x/'}", "url: has no path"),
        ("'https://x/v1/logs', headers: {Authorization: abc}}", "headers.Authorization: a secret does not stand"),
        ("'https://x/v1/logs', headers: {X: '${BROKEN}'}}", "headers: the value of X is not one line"),
        ("'https://x/v1/logs', headers: {'a b': '${TOKEN}'}}", "'a b' is no header's name"),
        ("'https://x/v1/logs', headers: {Host: '${TOKEN}'}}", "Host is set by what is sent"),
        ("'https://x/v1/logs', headers: [x]}", "headers: expected a mapping"),
        ("'https://x/v1/logs', certificate: c.pem}", "certificate: certificate and key go together"),
        ("'https://x/v1/logs', key: k.pem}", "key: certificate and key go together"),
    ):
        with pytest.raises(FollowerError) as caught:
            configured(tmp_path, head + text)
        assert said in str(caught.value), text
        assert "abc" not in str(caught.value).replace("abc}", "")


def test_the_sdk_is_loaded_when_the_destination_is_opened_and_its_absence_is_said(tmp_path: Path) -> None:
    code = """
import sys
import audit_middleware.followers.destinations
assert not [name for name in ("boto3", "botocore", "requests", "opentelemetry.exporter") if name in sys.modules]
sys.modules["requests"] = sys.modules["boto3"] = None
from pydantic import SecretStr
from audit_middleware.followers.destinations.cloudtrail import CloudTrail
from audit_middleware.followers.destinations.otlp import Otlp
for one in (Otlp(SecretStr("http://x/v1/logs")), CloudTrail("arn", "eu-central-1", "123456789012")):
    try:
        one.open(None)
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "FollowerError the destination otlp needs requests: pip install 'audit-middleware[otlp]'",
        "FollowerError the destination cloudtrail needs boto3: pip install 'audit-middleware[cloudtrail]'",
    ], done.stderr
