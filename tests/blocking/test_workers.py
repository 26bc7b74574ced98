"""A real service of two workers that watches itself: a storm, a block in every worker, a worker killed, a lift."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from audit_middleware.evidence.blocking import lift_blocks
from audit_middleware.evidence.signers import signers_of
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.blocking.support import STORM, blocks_of, detectors, findings, storm_rules
from tests.blocking.test_evidence import reperformed
from tests.followers.test_service import _holder as holder
from tests.middleware.support import check_log
from tests.servers.running import Server, until

ANN, BOB = {"x-user": "ann:reader"}, {"x-user": "bob:reader"}
WS = {
    "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


class Callers:
    """Requests on connections of their own, so that any worker may answer."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(self, who: dict[str, str], path: str = "/docs/1", method: str = "GET") -> httpx.Response:
        return httpx.request(method, f"{self.server.url}{path}", headers=who, timeout=60)

    def everywhere(self, who: dict[str, str], status: int) -> None:
        """Until every worker answers with this status: twenty in a row, from at least as many as there are."""

        def so() -> bool:
            return all(self.ask(who).status_code == status for _ in range(20))

        until(so, f"status {status}")


@pytest.fixture
def server(tmp_path: Path) -> Any:
    config = detectors(tmp_path, storm_rules(tmp_path, count=8))
    made = Server("uvicorn asyncio h11", tmp_path / "service", "--workers", "2",
                  AUDIT_FOLLOWERS=str(config), AUDIT_BLOCK_INTERVAL="50")  # fmt: skip
    yield made
    made.stop()


def test_a_storm_is_found_blocked_in_every_worker_and_lifted(server: Server) -> None:
    callers, log = Callers(server), server.log
    asked = [callers.ask(ANN, "/docs/1", "DELETE") for _ in range(8)]
    assert {one.status_code for one in asked} == {403}
    (told,) = until(lambda: findings(log), "the finding")
    records = log.records()
    evidence = [records[at] for at in told["extra"]["evidence"]]
    assert {one["action_id"] for one in evidence} == {one.headers["audit-id"] for one in asked}
    assert {(one["user_id"], one["action"], one["outcome"]) for one in evidence} == {("ann", "doc.delete", "denied")}

    callers.everywhere(ANN, 403)
    answer = callers.ask(ANN)
    assert answer.headers["content-type"] == "application/problem+json"
    assert 0 < int(answer.headers["retry-after"]) <= 900
    record = server.record(answer.headers["audit-id"])
    assert (record["decision"]["cause"], record["decision"]["rule"]) == ("blocked", STORM)
    assert told["extra"]["finding_id"] in record["decision"]["detail"]
    assert record["flags"] == [f"finding:{STORM}"]
    assert callers.ask(BOB).status_code == 200
    assert callers.ask(ANN, "/health").status_code == 200
    assert callers.ask(ANN | WS, "/feed").status_code == 403

    keys = signers_of(read_key_file(Path(f"{log.path}.key")))
    lift_blocks(log.path, keys, "user", "ann", "ask the team", "root")
    callers.everywhere(ANN, 200)
    for _ in range(8):
        callers.ask(ANN, "/docs/1", "DELETE")
    time.sleep(0.5)  # what would come, comes: the storm goes on, and is told of once
    assert len(findings(log)) == 1
    assert callers.ask(ANN).status_code == 200
    server.stop()
    assert reperformed(log).holds
    check_log(log)


def test_the_worker_that_watches_is_killed_and_the_next_one_goes_on(server: Server) -> None:
    callers, log = Callers(server), server.log
    lock = log.path / ".state" / "followers" / "lock"
    first = until(lambda: holder(lock), "a worker watches")
    for number in range(8):
        if number == 5:
            # What a killed worker had not written yet is gone, as an action without a guarantee allows.
            until(lambda: len(log.outcomes()) >= 5, "the records so far")
            os.kill(first, signal.SIGKILL)
            until(lambda: holder(lock) not in (0, first), "another one takes over")
        until(lambda: _denied(callers), "a worker answers")
    (told,) = until(lambda: findings(log), "the finding")
    assert told["extra"]["evidence_count"] >= 8
    assert _users(log.path, told["extra"]["evidence"]) == {"ann"}
    until(lambda: blocks_of(log).read().entries, "the block")
    callers.everywhere(ANN, 403)
    assert callers.ask(BOB).status_code == 200
    server.stop()
    assert len(findings(log)) == 1
    check_log(log)


def _denied(callers: Callers) -> bool:
    try:
        return callers.ask(ANN, "/docs/1", "DELETE").status_code == 403
    except httpx.TransportError:  # the worker that took this connection is gone
        return False


def _users(log: Path, indexes: list[int]) -> set[str]:
    store = JournalStore.open(log, writable=False)
    entries = {frame.first + at: entry for frame in store.frames() for at, entry in enumerate(frame.entries)}
    return {msgspec.json.decode(entries[index])["user_id"] for index in indexes}
