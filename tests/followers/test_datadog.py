"""The Datadog logs intake: its limits, its silence about old logs, outages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from audit_middleware.followers.datadog import Datadog
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.stores.journal import JournalStore
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.support import cursor, dead, follower, items, running
from tests.stores.samples import SEAL, entry, new_journal


def intake(url: str, key: str = "secret-dd-key") -> Datadog:
    return Datadog(SecretStr(url), SecretStr(key))


def ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def fresh(numbers: Sequence[int], **changes: Any) -> list[Item]:
    return items(*numbers, timestamp=ago(1), **changes)


def add(store: JournalStore, count: int) -> None:
    start = store.head().size
    store.append([item.entry for item in fresh(range(start, start + count))], SEAL)


def test_records_through_an_outage(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    store, server = new_journal(tmp_path / "log"), receiver("datadog")
    add(store, 50)
    made, _ = follower(store, tmp_path, intake(server.url), batch=200)
    with running(made):
        until(lambda: cursor(tmp_path) == 50, "the first records arrive")
        server.kill()
        for _ in range(4):
            add(store, 500)
        until(lambda: made.problem, "the outage is noticed")
        server.start()
        until(lambda: cursor(tmp_path) == 2_050, "everything arrives")
    taken = server.taken()
    assert list(dict.fromkeys(one["audit_log"]["index"] for one in taken)) == list(range(2_050))
    assert len({one["id"] for one in taken}) == 2_050
    assert taken[7]["audit"] == json.loads(next(store.frames()).entries[7])
    assert (taken[7]["status"], taken[7]["ddsource"]) == ("error", "audit-middleware")


def test_requests_keep_to_the_limits(receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = intake(server.url).open("example.com/log")
    assert sink.send(fresh(range(1_500))) == Sent(1_000)
    large = fresh(range(100), user_agent="x" * 60_000)
    size = len(large[0].entry)
    assert 4_700_000 < sink.send(large).settled * size < 5_000_000
    sink.close()


def test_what_the_intake_would_drop_is_a_dead_letter(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    log = [entry(0, timestamp=ago(17)), entry(1, timestamp=ago(19)), entry(2, timestamp=ago(0))]
    made, told = follower(new_journal(tmp_path / "log", log), tmp_path, intake(server.url))
    with running(made):
        until(lambda: cursor(tmp_path) == 3, "the end is reached")
    assert [one["audit_log"]["index"] for one in server.taken()] == [0, 2]
    assert [one["index"] for one in dead(tmp_path)] == [1]
    assert told[0][1]["why"] == ["older than 18 hours: the intake would drop it"]


def test_one_bad_record_is_found_and_a_wrong_key_loses_nothing(receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = intake(server.url).open("example.com/log")
    left = [*fresh(range(5)), *fresh([5], reason="poison"), *fresh(range(6, 11))]
    rejected: dict[int, str] = {}
    while left:
        sent = sink.send(left)
        assert sent.settled
        rejected |= sent.rejected
        left = left[sent.settled :]
    assert rejected == {5: "answered 400"}
    assert [one["audit_log"]["index"] for one in server.taken()] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    sink.close()
    wrong = intake(server.url, "another").open("example.com/log")
    assert wrong.send(fresh([1])) == Sent(0, retry=f"{server.url}: answered 403")
    wrong.close()
