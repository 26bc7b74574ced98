"""PutAuditEvents against a receiver that checks signatures, limits and checksums, with outages in the middle."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from pydantic import SecretStr

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.cloudtrail import LARGEST, CloudTrail, CloudTrailSink
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats.cloudtrail import event_data
from audit_middleware.ledger.canonical import encode
from tests.control.support import until
from tests.followers.receivers import CHANNEL, Receiver
from tests.followers.serving import Handler, served
from tests.followers.support import append, configured, cursor, dead, follower, items, journal, running, way
from tests.formats.records import RECORDS
from tests.stores.samples import entry, new_journal, record

KEYS = (SecretStr("AKIDEXAMPLE"), SecretStr("secret-aws-key"), None)
ACCOUNT = "123456789012"


def channel(url: str, **more: Any) -> CloudTrail:
    given: dict[str, Any] = {"external_id": SecretStr("ext-1"), "endpoint_url": SecretStr(url), "keys": KEYS} | more
    return CloudTrail(CHANNEL, "eu-central-1", ACCOUNT, **given)


def opened(url: str, folder: Path, **more: Any) -> CloudTrailSink:
    return channel(url, **more).open(way(folder))


def test_what_arrives_is_what_the_format_makes(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("cloudtrail")
    sink = opened(server.url, tmp_path)
    sent = [Item(number, encode({**one, "reason": None})) for number, one in enumerate(RECORDS.values())]
    assert sink.send(sent) == Sent(len(sent))
    sink.close()
    assert [one["event"] for one in server.taken()] == [event_data(item.record, ACCOUNT) for item in sent]


def test_the_call_fits_awss_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_session().get_service_model("cloudtrail-data").operation_model("PutAuditEvents")
    seen: list[Mapping[str, Any]] = []

    def answer(**given: Any) -> dict[str, Any]:
        seen.append(given)
        return {"successful": [{"id": one["id"], "eventID": "x"} for one in given["auditEvents"]], "failed": []}

    sink = opened("http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr(sink._client, "put_audit_events", answer)
    assert sink.send([Item(n, encode(one)) for n, one in enumerate(RECORDS.values())]).settled == len(RECORDS)
    sink.close()
    (given,) = seen
    validator = ParamValidator()
    assert model.input_shape is not None
    assert not validator.validate(given, model.input_shape).has_errors()
    assert validator.validate({**given, "auditEvents": [{"id": 1}]}, model.input_shape).has_errors()


def _through_an_outage(tmp_path: Path, server: Receiver, count: int) -> None:
    store = journal(tmp_path, 150)
    made, told = follower(store, tmp_path, channel(server.url), batch=500)
    with running(made):
        until(lambda: cursor(tmp_path) == 150, "the first records arrive")
        server.kill()
        append(store, count)
        until(lambda: made.problem, "the outage is noticed")
        assert cursor(tmp_path) == 150
        server.start()
        until(lambda: cursor(tmp_path) > 150 + count // 5, "some arrive")
        server.kill()
        server.start()
        until(lambda: cursor(tmp_path) == 150 + count, "everything arrives")
    # The receiver knows ids, as AWS does: what is there already is answered, and no second event.
    assert [one["id"] for one in server.taken()] == [record(number)["action_id"] for number in range(150 + count)]
    assert told == []
    assert dead(tmp_path) == []


def test_a_thousand_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    _through_an_outage(tmp_path, receiver("cloudtrail"), 1_000)


@pytest.mark.slow
def test_ten_thousand_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    _through_an_outage(tmp_path, receiver("cloudtrail"), 10_000)


def test_calls_keep_to_the_limits(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("cloudtrail")
    sink = opened(server.url, tmp_path)
    assert sink.send(items(*range(250))) == Sent(100)
    # What is not ASCII has six bytes or more in botocore's JSON; the receiver counts those.
    large = items(*range(300, 360), impact={"before": None, "after": {"x": "\u00e9" * 20_000}, "count": None})
    sent = sink.send(large)
    assert sent == Sent(sent.settled)
    assert LARGEST - 130_000 < sent.settled * 123_000 < LARGEST, sent
    assert len(server.taken()) == 100 + sent.settled
    sink.close()


def test_a_repetition_counts_as_delivered(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("cloudtrail")
    sink = opened(server.url, tmp_path)
    assert sink.send(items(1, 2, 3)) == Sent(3)
    assert sink.send(items(2, 3, 4)) == Sent(3)
    same = [*items(5, 6), Item(7, entry(5))]
    assert sink.send(same) == Sent(2), "two of one id do not go into one call"
    assert sink.send(same[2:]) == Sent(1)
    assert [one["id"] for one in server.taken()] == [record(number)["action_id"] for number in range(1, 7)]
    sink.close()


def test_each_event_is_judged_by_itself(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("cloudtrail")
    sink = opened(server.url, tmp_path)
    ids: list[Any] = ["no id!", 5]
    strange = [Item(2, b'{"n":8}'), *(Item(at, encode({**record(4), "action_id": id})) for at, id in enumerate(ids, 3))]
    bad = [*items(5, reason="InvalidData"), *items(6, reason="FieldTooLong"), *items(7)]
    none = "is no record of schema version 1"
    expected = {2: none, 3: none, 4: none, 5: "answered InvalidData", 6: "answered FieldTooLong"}
    assert sink.send([*items(0, 1), *strange, *bad]) == Sent(8, expected)
    for index, code in enumerate(("Throttling", "InternalFailure", "AccountNotSubscribed", "InvalidRecipient", "New")):
        sent = sink.send([*items(10 + 3 * index), *items(11 + 3 * index, reason=code), *items(12 + 3 * index)])
        assert sent == Sent(1, retry=f"{server.url}: answered {code} for a record"), "nothing is settled beyond it"
    odd = sink.send(items(90, reason="not a code but a text"))
    assert odd == Sent(0, retry=f"{server.url}: answered no reason for a record")
    sink.close()


def test_a_rejected_event_becomes_a_dead_letter(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    log = [entry(0), entry(1, reason="InvalidData"), entry(2)]
    made, told = follower(new_journal(tmp_path / "log", log), tmp_path, channel(receiver("cloudtrail").url))
    with running(made):
        until(lambda: cursor(tmp_path) == 3, "the end is reached")
    assert [(one["index"], one["why"]) for one in dead(tmp_path)] == [(1, "answered InvalidData")]
    assert [extra["indexes"] for _, extra in told] == [[1]]


def error(code: str) -> dict[str, str]:
    return {"x_amzn_ErrorType": code}


def test_calls_that_are_refused(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("cloudtrail")
    sink = opened(server.url, tmp_path)
    waits = {"Retry_After": "7"}
    for status, headers, said, after in (
        (400, error("ThrottlingException") | waits, "400 ThrottlingException", 7.0),
        (403, error("ExpiredTokenException"), "403 ExpiredTokenException", None),
        (400, error("ChannelNotFound"), "400 ChannelNotFound", None),
        (503, waits, "503", 7.0),
        (500, error("InternalFailure"), "500 InternalFailure", None),
        (307, {"Location": "http://127.0.0.1:9/"}, "307", None),
    ):
        server.answer_next((status, headers))
        sent = sink.send(items(1, 2))
        assert (sent.settled, sent.rejected, sent.after) == (0, {}, after)
        assert str(sent.retry).startswith(f"{server.url}: answered {said}"), sent
    assert server.taken() == []
    # About the events: halved until one is alone.
    server.answer_next((413, {}), (400, error("ValidationException")))
    assert sink.send(items(1, 2)) == Sent(1, {1: "answered 400 ValidationException"})
    server.answer_next((400, error("DuplicatedAuditEventId")))
    assert sink.send(items(3)) == Sent(1), "it is there"
    sink.close()
    wrong = opened(server.url, tmp_path, keys=(KEYS[0], SecretStr("another"), None))
    assert wrong.send(items(1)) == Sent(0, retry=f"{server.url}: answered 403 InvalidSignatureException")
    wrong.close()


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"successful":[],"failed":[]}', b'{"failed":[{}]}'])
def test_an_answer_without_results_settles_nothing(tmp_path: Path, body: bytes) -> None:
    with served(lambda handler: handler.say(200, body)) as url:
        sink = opened(url, tmp_path)
        assert sink.send(items(0)) == Sent(0, retry=f"{url}: answered nothing for a record")
        sink.close()


def test_one_request_a_try_and_time_is_bounded(tmp_path: Path) -> None:
    gone, seen = threading.Event(), []

    def drip(handler: Handler) -> None:
        seen.append(1)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not gone.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    with served(drip) as url:
        sink = opened(url, tmp_path, timeout=0.5)
        with pytest.raises(FollowerError, match=r"no whole answer within 0\.5 seconds"):
            sink.send(items(0))
        gone.set()
        sink.close()
    assert len(seen) <= 1, "it is not repeated"


def test_credentials_of_the_usual_places_and_none(
    tmp_path: Path, receiver: Callable[[str], Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = receiver("cloudtrail")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    sink = opened(server.url, tmp_path, keys=None)
    with pytest.raises(FollowerError, match="CloudTrail Lake: no AWS credentials were found"):
        sink.send(items(1))
    sink.close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-aws-key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sink = opened(server.url, tmp_path, keys=None)
    assert sink.send(items(1)) == Sent(1)
    sink.close()
    sink = channel(server.url, endpoint_url=None).open(way(tmp_path))
    assert sink._client.meta.endpoint_url == "https://cloudtrail-data.eu-central-1.amazonaws.com"
    sink.close()


def test_errors_and_logs_hold_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = channel(
        "http://127.0.0.1:9/private-path",
        keys=(SecretStr("private-id"), SecretStr("private-key"), SecretStr("private-token")),
        external_id=SecretStr("private-external"),
    )
    sink = settings.open(way(tmp_path))
    with pytest.raises(FollowerError) as caught:
        sink.send(items(1))
    sink.close()
    for text in (str(caught.value), caplog.text, repr(settings)):
        assert "private" not in text
    assert str(caught.value) == "http://127.0.0.1:9: ConnectError"


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "AKIDEXAMPLE")
    monkeypatch.setenv("ODD", "not one of the characters: \u00e9")
    head = "version: 1\nfollowers:\n  - {name: a, type: cloudtrail, channel: "
    (made,) = configured(tmp_path, head + f"'{CHANNEL}', access_key_id: '${{KEY}}', secret_access_key: '${{KEY}}'}}")\
        .followers  # fmt: skip
    found = made.destination
    assert isinstance(found, CloudTrail)
    assert (found.region, found.account, found.endpoint_url) == ("eu-central-1", ACCOUNT, None)
    assert "AKID" not in repr(found)
    for text, said in (
        ("'arn:aws:s3:::bucket'}", "channel: is no ARN of a channel"),
        (f"'{CHANNEL}', region: nowhere}}", "region: is no region's name"),
        (f"'{CHANNEL}', external_id: '${{ODD}}'}}", "external_id: is none: 2 to 1224"),
        (f"'{CHANNEL}', external_id: plain}}", "external_id: a secret does not stand in this file"),
        (f"'{CHANNEL}', access_key_id: '${{KEY}}'}}", "access_key_id: both keys go together"),
        (f"'{CHANNEL}', secret_access_key: '${{KEY}}'}}", "secret_access_key: both keys go together"),
        (f"'{CHANNEL}', session_token: '${{KEY}}'}}", "session_token: goes with"),
        (f"'{CHANNEL}', endpoint_url: 'ftp://x'}}", "endpoint_url: is no http or https URL"),
    ):
        with pytest.raises(FollowerError) as caught:
            configured(tmp_path, head + text)
        assert said in str(caught.value), text
