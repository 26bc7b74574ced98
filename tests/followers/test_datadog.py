"""The Datadog logs intake: its limits, its silence about old logs, outages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from audit_middleware.followers.destinations.datadog import Datadog
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats import FORMATS
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.support import ago, arrived, cursor, dead, follower, items, running, way
from tests.stores.samples import entry, new_journal, record


def intake(url: str, key: str = "secret-dd-key") -> Datadog:
    return Datadog(SecretStr(url), SecretStr(key))


def fresh(numbers: Sequence[int], **changes: Any) -> list[Item]:
    return items(*numbers, timestamp=ago(1), **changes)


def test_requests_keep_to_the_limits(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = intake(server.url).open(way(tmp_path))
    assert sink.send(fresh(range(1_500))) == Sent(1_000)
    large = fresh(range(100), user_agent="x" * 60_000)
    size = len(large[0].entry)
    settled = sink.send(large).settled
    assert 0 < settled < 100, "5 MB, not 1,000 logs, are the limit here"
    assert settled * size < 5_000_000 < (settled + 3) * (size + 1_000)
    sink.close()


def test_what_the_intake_would_drop_is_a_dead_letter(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    log = [entry(0, timestamp=ago(17)), entry(1, timestamp=ago(19)), entry(2, timestamp=ago(0))]
    made, told = follower(new_journal(tmp_path / "log", log), tmp_path, intake(server.url))
    with running(made):
        until(lambda: cursor(tmp_path) == 3, "the end is reached")
    assert arrived(server, "datadog") == [0, 2]
    assert [one["index"] for one in dead(tmp_path)] == [1]
    assert told[0][1]["why"] == ["older than 18 hours: the intake would drop it"]


def test_one_bad_record_is_found_and_a_wrong_key_loses_nothing(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    server = receiver("datadog")
    sink = intake(server.url).open(way(tmp_path))
    left = [*fresh(range(5)), *fresh([5], reason="poison"), *fresh(range(6, 11))]
    rejected: dict[int, str] = {}
    while left:
        sent = sink.send(left)
        assert sent.settled
        rejected |= sent.rejected
        left = left[sent.settled :]
    assert rejected == {5: "answered 400"}
    assert arrived(server, "datadog") == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    sink.close()
    wrong = intake(server.url, "another").open(way(tmp_path))
    assert wrong.send(fresh([1])) == Sent(0, retry=f"{server.url}: answered 403")
    wrong.close()


def test_a_log_is_the_records_own_format_with_its_place(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = Datadog(SecretStr(server.url), SecretStr("secret-dd-key"), tags="team:billing").open(way(tmp_path))
    (one,) = fresh([7])
    assert sink.send([one]) == Sent(1)
    sink.close()
    sent = json.loads(server.taken()[0]["text"])
    assert sent["audit"].pop("log") == {"origin": "example.com/log", "index": 7}
    assert sent["ddtags"].endswith(",team:billing")
    assert sent == json.loads(FORMATS["datadog"].encoder(tags="team:billing")(one.record))


def test_the_largest_record_fits_and_what_does_not_is_a_dead_letter(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    """A record has 65,535 bytes at most, and controls are what grows most on the way."""
    server = receiver("datadog")
    sink = intake(server.url).open(way(tmp_path))
    for text in ("\x01" * 3_300, '"' * 10_000, "\u2028" * 6_500):
        assert sink.send(fresh([1], extra={"note": text}, reason=text, user_agent=text)) == Sent(1)
    huge = record(2, timestamp=ago(1), reason="x" * 1_000_000)
    sent = sink.send([*fresh([1]), Item(2, json.dumps(huge).encode()), *fresh([3])])
    assert sent.settled == 3
    assert "the intake would cut it" in sent.rejected[2]
    assert arrived(server, "datadog")[-2:] == [1, 3]
    sink.close()


def test_a_record_of_an_unknown_version_is_a_dead_letter(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = intake(server.url).open(way(tmp_path))
    sent = sink.send([*fresh([1]), *fresh([2], service=None), *fresh([3])])
    assert sent == Sent(3, {2: "cannot be shown as datadog: TypeError"})
    assert arrived(server, "datadog") == [1, 3]
    sink.close()
