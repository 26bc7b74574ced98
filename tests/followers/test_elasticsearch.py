"""The bulk API against a receiver that enforces its limits, with outages in the middle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from audit_middleware.errors import FollowerError
from audit_middleware.followers import elasticsearch
from audit_middleware.followers.elasticsearch import Elasticsearch, template
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.model import Record
from tests.control.support import until
from tests.followers.receivers import LARGEST, Receiver
from tests.followers.serving import served
from tests.followers.support import append, cursor, follower, items, journal, once, running
from tests.stores.samples import entry, new_journal, record

API_KEY = {"Authorization": "ApiKey c2VjcmV0LWVzLWtleQ=="}


def stream(url: str, **more: Any) -> Elasticsearch:
    given: dict[str, Any] = {"headers": API_KEY} | more
    return Elasticsearch(SecretStr(url), "logs-audit-test", **given)


def test_ten_thousand_records_through_an_outage_of_elasticsearch(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    store, server = journal(tmp_path, 200), receiver("elasticsearch")
    made, told = follower(store, tmp_path, stream(server.url), batch=500)
    with running(made):
        until(lambda: cursor(tmp_path) == 200, "the first records arrive")
        server.kill()
        append(store, 10_000)
        until(lambda: made.problem, "the outage is noticed")
        assert cursor(tmp_path) == 200
        server.start()
        until(lambda: cursor(tmp_path) > 2_000, "some arrive")
        server.kill()
        server.start()
        until(lambda: cursor(tmp_path) == 10_200, "everything arrives")
    taken = server.taken()
    assert [one["index"] for one in taken] == list(range(10_200)), "in order, none twice, none missing"
    assert taken[77]["record"] == json.loads(entry(77))
    assert told == []


def test_a_repetition_is_no_second_document(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("elasticsearch")
    sink = stream(server.url).open("example.com/log")
    assert sink.send(items(1, 2, 3)) == Sent(3)
    assert sink.send(items(2, 3, 4)) == Sent(3)
    assert [one["index"] for one in server.taken()] == [1, 2, 3, 4]
    sink.close()


def test_one_bad_document_is_rejected_and_its_content_is_not_repeated(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    sink = stream(server.url).open("example.com/log")
    sent = sink.send([*items(1), *items(2, timestamp=None, reason="top secret"), *items(3)])
    assert sent == Sent(3, {2: "answered 400 document_parsing_exception"})
    sink.close()


def test_too_large_batches_are_halved_and_a_too_large_record_is_rejected(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("elasticsearch")
    log = new_journal(tmp_path / "log", [entry(n, reason="x" * 60_000) for n in range(12)])
    made, _ = follower(log, tmp_path, stream(server.url, compress=False))
    once(made)
    assert [one["index"] for one in server.taken()] == list(range(12))
    sink = stream(server.url).open("example.com/log")
    assert sink.send([Item(99, json.dumps({**record(99), "reason": "x" * LARGEST}).encode())]) == Sent(
        1, {99: "answered 413: too large"}
    )
    sink.close()


def test_a_wrong_key_or_stream_loses_nothing(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("elasticsearch")
    for settings in (stream(server.url, headers={}), Elasticsearch(SecretStr(server.url), "logs-other", API_KEY)):
        sink = settings.open("example.com/log")
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
def test_each_item_is_judged_by_itself(answer: Any, expected: tuple[int, dict[int, str], str | None]) -> None:
    with served(lambda handler: handler.say(200, json.dumps(answer).encode())) as url:
        sink = stream(url).open("example.com/log")
        sent = sink.send(items(0, 1, 2))
        assert (sent.settled, sent.rejected) == expected[:2]
        assert (sent.retry or "None").endswith(str(expected[2]))
        sink.close()


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"null", b'{"items":[1]}', b'{"items":[]}', b"[" * 100_000])
def test_an_answer_that_is_none_settles_nothing(answer: bytes) -> None:
    with served(lambda handler: handler.say(200, answer)) as url:
        sink = stream(url).open("example.com/log")
        with pytest.raises(FollowerError, match="not one of the bulk API"):
            sink.send(items(0))
        sink.close()


def test_the_template_maps_the_record_and_leaves_free_parts_unindexed() -> None:
    found = template()
    mapped = found["template"]["mappings"]["properties"]["audit"]
    assert set(mapped["properties"]) == set(Record.model_fields)
    assert mapped["dynamic"] is False
    for free in ("extra", "impact"):
        assert mapped["properties"][free] == {"type": "object", "enabled": False}
    assert found["data_stream"] == {}
    assert elasticsearch.KEYS[0] == "url"
