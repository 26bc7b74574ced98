"""Receipts over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from audit_middleware import action
from audit_middleware.evidence.receipts import leaf_in
from audit_middleware.ledger import tree
from audit_middleware.ledger.proof import parse_proof, verify_proof
from audit_middleware.stores.journal import JournalStore
from audit_middleware.web.receipts import PENDING_MS, receipts
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, entry, new_journal, record

YOUNG = record(3)["action_id"]
MADE_MS = int(YOUNG.replace("-", "")[:12], 16)


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.ms = MADE_MS

    def __call__(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    return new_journal(tmp_path / "log", [entry(0), entry(1)], [entry(2)])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(store: JournalStore, clock: Clock) -> Iterator[TestClient]:
    plain = action("receipt.read")(receipts(store.path, clock=clock))
    whole = receipts(str(store.path), entry=True, clock=clock, parameter="id")
    app = Starlette(routes=[Route("/receipts/{audit_id}", plain), Route("/whole/{id}", whole)])
    with TestClient(app) as client:
        yield client


def test_the_receipt_of_a_record(client: TestClient) -> None:
    answer = client.get(f"/receipts/{record(1)['action_id']}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-disposition"].endswith('.tlog-proof"')
    proof = parse_proof(answer.content)
    assert leaf_in(proof) == (tree.leaf_hash(entry(1)), None)
    assert verify_proof(proof, tree.leaf_hash(entry(1)), ORIGIN, VERIFIERS).size == 2
    assert proof.index == 1


def test_with_the_record_itself(client: TestClient) -> None:
    proof = parse_proof(client.get(f"/whole/{record(2)['action_id']}").content)
    assert leaf_in(proof) == (tree.leaf_hash(entry(2)), entry(2))


def test_not_committed_yet_then_there(client: TestClient, store: JournalStore, clock: Clock) -> None:
    clock.ms += PENDING_MS - 1
    answer = client.get(f"/receipts/{YOUNG}")
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    store.append([entry(3)], SEAL)
    assert client.get(f"/receipts/{YOUNG}").status_code == 200


@pytest.mark.parametrize("age", [PENDING_MS, -PENDING_MS, 10**9])
def test_an_old_or_future_id_that_is_not_there_is_unknown(client: TestClient, clock: Clock, age: int) -> None:
    clock.ms += age
    assert client.get(f"/receipts/{YOUNG}").status_code == 404


@pytest.mark.parametrize("text", ["1", "x", YOUNG.upper().replace("019B", "019Z"), YOUNG + "0", "' OR 1=1 --"])
def test_what_is_no_audit_id_is_unknown(client: TestClient, text: str) -> None:
    assert client.get(f"/receipts/{text}").status_code == 404


def test_many_at_once(client: TestClient) -> None:
    wanted = [record(number % 3)["action_id"] for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: client.get(f"/receipts/{one}"), wanted))
    assert [parse_proof(answer.content).index for answer in answers] == [number % 3 for number in range(60)]
