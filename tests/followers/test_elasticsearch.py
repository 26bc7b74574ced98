"""The bulk API against a receiver that enforces its limits, with outages in the middle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.elasticsearch import Elasticsearch
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats import FORMATS
from tests.followers.receivers import LARGEST, Receiver
from tests.followers.serving import served
from tests.followers.support import arrived, follower, items, once, way
from tests.stores.samples import entry, new_journal, record

API_KEY = {"Authorization": "ApiKey c2VjcmV0LWVzLWtleQ=="}


def stream(url: str, **more: Any) -> Elasticsearch:
    given: dict[str, Any] = {"headers": API_KEY} | more
    return Elasticsearch(SecretStr(url), "logs-audit-test", **given)


def test_a_repetition_is_no_second_document(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("elasticsearch")
    sink = stream(server.url).open(way(tmp_path))
    assert sink.send(items(1, 2, 3)) == Sent(3)
    assert sink.send(items(2, 3, 4)) == Sent(3)
    assert arrived(server, "ecs") == [1, 2, 3, 4]
    sink.close()


def test_one_bad_document_is_rejected_and_its_content_is_not_repeated(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    sink = stream(server.url).open(way(tmp_path))
    sent = sink.send([*items(1), *items(2, timestamp=None, reason="top secret"), *items(3)])
    assert sent == Sent(3, {2: "answered 400 document_parsing_exception"})
    assert arrived(server, "ecs") == [1, 3]
    sink.close()


def test_too_large_batches_are_halved_and_a_too_large_record_is_rejected(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    log = new_journal(tmp_path / "log", [entry(n, reason="x" * 60_000) for n in range(12)])
    made, _ = follower(log, tmp_path, stream(server.url, compress=False))
    once(made)
    assert arrived(server, "ecs") == list(range(12))
    sink = stream(server.url).open(way(tmp_path))
    assert sink.send([Item(99, json.dumps({**record(99), "reason": "x" * LARGEST}).encode())]) == Sent(
        1, {99: "answered 413: too large"}
    )
    sink.close()


def test_a_wrong_key_or_stream_loses_nothing(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("elasticsearch")
    for settings in (
        stream(server.url, headers={}),
        Elasticsearch(SecretStr(server.url), "logs-other", headers=API_KEY),
    ):
        sink = settings.open(way(tmp_path))
        sent = sink.send(items(1))
        assert (sent.settled, sent.rejected) == (0, {})
        assert sent.retry in (f"{server.url}: answered 401", f"{server.url}: answered 404")
        sink.close()


def results(*statuses: int) -> dict[str, Any]:
    return {"items": [{"create": {"status": status, "error": {"type": "some_kind"}}} for status in statuses]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (results(201, 429, 400), (1, {}, "answered 429 some_kind for a record")),
        (results(400, 503, 201), (1, {0: "answered 400 some_kind"}, "answered 503 some_kind for a record")),
        (results(403, 201, 201), (0, {}, "answered 403 some_kind for a record")),
        (results(200, 409, 422), (3, {2: "answered 422 some_kind"}, None)),
    ],
)
def test_each_item_is_judged_by_itself(
    tmp_path: Path, answer: Any, expected: tuple[int, dict[int, str], str | None]
) -> None:
    with served(lambda handler: handler.say(200, json.dumps(answer).encode())) as url:
        sink = stream(url).open(way(tmp_path))
        sent = sink.send(items(0, 1, 2))
        assert (sent.settled, sent.rejected) == expected[:2]
        assert (sent.retry or "None").endswith(str(expected[2]))
        sink.close()


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"null", b'{"items":[1]}', b'{"items":[]}', b"[" * 100_000])
def test_an_answer_that_is_none_settles_nothing(tmp_path: Path, answer: bytes) -> None:
    with served(lambda handler: handler.say(200, answer)) as url:
        sink = stream(url).open(way(tmp_path))
        with pytest.raises(FollowerError, match="not one of the bulk API"):
            sink.send(items(0))
        sink.close()


def test_a_document_is_the_records_own_format_with_its_place_and_stream(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    for form in ("ecs", "ocsf", "jsonl"):
        sink = stream(server.url, format=form).open(way(tmp_path))
        assert sink.send(items(len(server.taken()))) == Sent(1)
        sink.close()
    ecs, ocsf, jsonl = (json.loads(one["text"]) for one in server.taken())
    assert ecs["audit"].pop("log") == {"origin": "example.com/log", "index": 0}
    assert ecs["data_stream"] == {"type": "logs", "dataset": "audit", "namespace": "test"}
    assert ecs == json.loads(FORMATS["ecs"].encoder(stream="logs-audit-test")(record(0)))
    assert (ocsf["@timestamp"], jsonl["@timestamp"]) == (record(1)["timestamp"], record(2)["timestamp"])
    assert ocsf["class_uid"] == 6003
    assert jsonl["record"] == record(2)


def test_a_record_of_an_unknown_version_does_not_shift_the_answers(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    sink = stream(server.url).open(way(tmp_path))
    sent = sink.send([*items(1, service=None), *items(2), *items(3, timestamp=None), *items(4)])
    assert sent == Sent(4, {1: "cannot be shown as ecs: TypeError", 3: "answered 400 document_parsing_exception"})
    assert arrived(server, "ecs") == [2, 4]
    assert sink.send(items(5, service=None)) == Sent(1, {5: "cannot be shown as ecs: TypeError"})
    sink.close()
