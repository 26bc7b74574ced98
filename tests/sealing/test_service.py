"""Sealing in a running service: start, reload, outages of the keys, restarts, kills, and several processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.errors import SubjectKeysError
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.erasures import ERASED, replay_erasures
from audit_middleware.evidence.signers import signers_of
from audit_middleware.frameworks.marks import action
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Subject
from audit_middleware.persons import Person
from audit_middleware.privacy.key_store import KeyStore
from audit_middleware.privacy.sealed import parse
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log, call, write_policy
from tests.middleware.support import eventually
from tests.sealing.support import ACTIONS, GDPR, HEAD, Sealed, failed_start

ALICE = Person("user", "alice")
OPEN = HEAD + ACTIONS


def identify(scope: Any) -> Subject:
    user = next((value.decode() for name, value in scope["headers"] if name == b"x-user"), "alice")
    return Subject(user, roles=("clerk",))


def app() -> Starlette:
    """One route for each action."""

    def route(name: str) -> Route:
        @action(f"note.{name}", resource="note/{id}")
        async def handle(request: Request) -> PlainTextResponse:
            return PlainTextResponse("done")

        return Route(f"/{name}/{{id}}", handle, methods=["GET"])

    return Starlette(routes=[route(name) for name in ("write", "before", "sealed", "soft")])


async def ask(app: Any, name: str = "write", user: str = "alice") -> int | None:
    return (await call(app, "GET", f"/{name}/7", [(b"x-user", user.encode())])).status


def users(sealed: Sealed) -> list[str]:
    """Who asked, as whoever has the keys reads it."""
    return [one["user_id"] for one in sealed.opened() if one["kind"] == "outcome"]


def assert_holds(log: Log) -> None:
    store = JournalStore.open(log.path, writable=False)
    report = verify(store.raw_frames(), ORIGIN, [parse_vkey(log.vkey)])
    assert report.holds, report.findings


# --- start and reload ----------------------------------------------------------------------------------------------


def test_without_keys_there_is_no_start(tmp_path: Path, log: Log) -> None:
    bare = Sealed(tmp_path, log)
    problem = failed_start(bare.guard(app(), identify=identify))
    assert problem is not None
    assert "subject init" in problem
    assert failed_start(bare.guard(app(), OPEN, identify=identify)) is None


def test_the_wrong_master_key_is_no_start(sealed: Sealed, tmp_path: Path, log: Log) -> None:
    other = tmp_path / "other"
    other.write_text("A" * 43 + "=\n")
    other.chmod(0o600)
    problem = failed_start(sealed.guard(app(), identify=identify, master_key=f"file:{other}"))
    assert problem is not None
    assert "master key" in problem
    Path(f"{log.path}.master").unlink()
    problem = failed_start(sealed.guard(app(), identify=identify))
    assert problem is not None
    assert "master key" in problem


def test_a_reload_that_needs_keys_is_refused_until_they_are_there(tmp_path: Path, log: Log) -> None:
    bare = Sealed(tmp_path, log)
    guarded = bare.guard(app(), OPEN, identify=identify, reload=10)

    async def drive() -> None:
        assert await ask(guarded) == 200
        write_policy(tmp_path, HEAD + GDPR + ACTIONS)
        await eventually(lambda: log.controls("audit.policy_refused"))
        assert "subject init" in log.controls("audit.policy_refused")[0]["extra"]["problem"]
        assert await ask(guarded, user="bob") == 200
        bare.make_keys()
        write_policy(tmp_path, HEAD + GDPR + ACTIONS + "# again\n")
        await eventually(lambda: len(log.controls("audit.policy_loaded")) == 2)
        assert await ask(guarded, user="carol") == 200

    bare.run(guarded, drive)
    assert [one["user_id"] for one in log.outcomes()][:2] == ["alice", "bob"]
    assert parse(log.outcomes()[2]["user_id"])
    assert users(bare) == ["alice", "bob", "carol"]


# --- outages -------------------------------------------------------------------------------------------------------


class Outage:
    """The keys' store fails while ``on``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        for name in ("of", "generation", "commit"):
            monkeypatch.setattr(KeyStore, name, self._failing(getattr(KeyStore, name)))

    def _failing(self, genuine: Any) -> Any:
        def call(keys: KeyStore, *args: Any) -> Any:
            if self.on:
                raise SubjectKeysError("the store of keys is away")
            return genuine(keys, *args)

        return call


def test_an_outage_of_the_keys_is_an_outage_of_the_log(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(monkeypatch)
    guarded = sealed.guard(app(), identify=identify, patience=1_000)

    async def drive() -> None:
        assert await ask(guarded) == 200
        outage.on = True
        assert await ask(guarded, "before", "bob") == 503
        statuses = [await ask(guarded, name, "carol") for name in ("write", "before", "sealed", "soft")]
        assert statuses == [503, 503, 503, 200]
        outage.on = False

        async def again() -> bool:
            return await ask(guarded, user="dora") == 200

        for _ in range(600):
            if await again():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("still refused")

    sealed.run(guarded, drive)
    assert {"alice", "bob", "carol", "dora"} == set(users(sealed))
    assert not any("personal_withheld" in one["flags"] for one in sealed.log.records())
    soft = [one for one in sealed.opened() if one["action"] == "note.soft"]
    assert soft[0]["flags"] == ["log_degraded"]
    assert b"carol" not in b"".join(path.read_bytes() for path in sealed.log.path.rglob("*") if path.is_file())
    assert_holds(sealed.log)


def test_a_sealed_answer_is_withheld_and_its_record_comes_whole(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    guarded = sealed.guard(app(), identify=identify, patience=20_000)

    async def drive() -> None:
        assert await ask(guarded) == 200
        outage.on = True  # the writer does not know yet
        answer = await call(guarded, "GET", "/sealed/7", [(b"x-user", b"bob")])
        assert answer.error is not None or answer.status != 200 or not answer.messages[-1].get("body")
        outage.on = False

    sealed.run(guarded, drive)
    (withheld,) = [one for one in sealed.opened() if one["action"] == "audit.amended"]
    (bob,) = [one for one in sealed.opened() if one["user_id"] == "bob"]
    assert withheld["extra"]["amends"] == bob["action_id"]
    assert bob["resource"]["id"] == "7"


def test_a_cancelled_request_is_sealed_all_the_same(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(monkeypatch)
    guarded = sealed.guard(app(), identify=identify)

    async def drive() -> None:
        outage.on = True
        task = asyncio.ensure_future(ask(guarded, "before", "bob"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outage.on = False

    sealed.run(guarded, drive)
    assert all(parse(one["user_id"]) for one in sealed.log.outcomes())
    assert set(users(sealed)) <= {"bob"}


# --- erasures ------------------------------------------------------------------------------------------------------


def tell_erased(sealed: Sealed, *tokens: str) -> None:
    """The record of an erasure, as a command writes it."""
    writer = ControlWriter(signers_of(read_key_file(Path(f"{sealed.log.path}.key"))))
    write_control(sealed.log.path, writer, [statement(ERASED, "high", {"tokens": list(tokens)})])


def test_an_old_backup_of_the_keys_does_not_bring_anybody_back(sealed: Sealed) -> None:
    guarded = sealed.guard(app(), identify=identify)

    async def drive() -> None:
        for user in ("alice", "bob"):
            assert await ask(guarded, user=user) == 200

    sealed.run(guarded, drive)
    backup = sealed.folder / "backup"
    shutil.copytree(sealed.place, backup)
    with sealed.keys() as keys:
        alice = keys.find(ALICE)
        assert alice is not None
        tell_erased(sealed, alice.token)
        assert keys.erase([alice.token]) == 1
    shutil.rmtree(sealed.place)
    shutil.copytree(backup, sealed.place)
    again = sealed.guard(app(), identify=identify)
    sealed.run(again, lambda: ask(again))
    with sealed.keys() as keys:
        assert keys.named(alice.token) is None
        anew = keys.find(ALICE)
        assert anew is not None
        assert anew.token != alice.token
    assert users(sealed) == [f"erased ({alice.token[:6]}…)", "bob", "alice"]
    with sealed.keys() as keys:
        store = JournalStore.open(sealed.log.path, writable=False)
        assert replay_erasures(store, keys) == 0
        assert keys.erased_to() == store.head().size


def test_a_key_that_is_held_goes_when_the_log_tells_of_its_erasure(sealed: Sealed) -> None:
    guarded = sealed.guard(app(), identify=identify)
    sealed.run(guarded, lambda: ask(guarded))
    with sealed.keys() as keys:
        alice = keys.find(ALICE)
        assert alice is not None
        keys.restrict(alice.token, True)
        tell_erased(sealed, alice.token)
        assert replay_erasures(JournalStore.open(sealed.log.path, writable=False), keys) == 1
        assert keys.find(ALICE) is None


def test_who_only_says_that_something_was_erased_erases_nothing(sealed: Sealed) -> None:
    """A request whose action has that name is no control record."""
    guarded = sealed.guard(app(), identify=identify)
    sealed.run(guarded, lambda: ask(guarded))
    with sealed.keys() as keys:
        alice = keys.find(ALICE)
        assert alice is not None
        writer = ControlWriter(signers_of(read_key_file(Path(f"{sealed.log.path}.key"))))
        forged = statement(ERASED, "high", {"tokens": [alice.token]}, fields={"kind": "outcome"})
        write_control(sealed.log.path, writer, [forged])
        assert replay_erasures(JournalStore.open(sealed.log.path, writable=False), keys) == 0
        assert keys.find(ALICE) is not None


# --- processes -----------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from tests.kit import Log, Running
from tests.sealing.support import Sealed
from tests.sealing.test_service import app, ask, identify

folder, log, who, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
folder.mkdir(exist_ok=True)
guarded = Sealed(folder, Log(log, "")).guard(app(), identify=identify)

async def main():
    async with Running(guarded) as running:
        assert running.failed is None, running.failed
        number = 0
        while number < count or count < 0:
            user = f"{who}-{number % 50}"
            assert await ask(guarded, "sealed", user) == 200
            print(user, flush=True)
            number += 1

asyncio.run(main())
"""


def start(sealed: Sealed, who: str, count: int) -> subprocess.Popen[str]:
    arguments = [str(sealed.folder / who), str(sealed.log.path), who, str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_two_processes_share_keys(sealed: Sealed) -> None:
    children = [start(sealed, "same", 60), start(sealed, "same", 60)]
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        assert len(out.split()) == 60
    assert_holds(sealed.log)
    assert sorted(users(sealed)) == sorted(2 * [f"same-{number % 50}" for number in range(60)])
    tokens = {parse(one["user_id"]).token for one in sealed.log.outcomes()}  # type: ignore[union-attr]  # sealed
    assert len(tokens) == 50
    assert tokens <= set(sealed.told().commitments)


@pytest.mark.parametrize("moment", [3, 11])
def test_a_killed_process_leaves_nothing_that_does_not_open(sealed: Sealed, moment: int) -> None:
    child = start(sealed, f"killed{moment}", -1)
    assert child.stdout is not None
    answered = [child.stdout.readline().strip() for _ in range(moment)]
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    child.stdout.close()
    assert_holds(sealed.log)
    found = users(sealed)
    assert set(answered) <= set(found)
    assert not any("unreadable" in json.dumps(one) for one in sealed.opened())
    tokens = {parse(one["user_id"]).token for one in sealed.log.outcomes()}  # type: ignore[union-attr]  # sealed
    assert tokens <= set(sealed.told().commitments)


def test_a_commitment_that_looks_like_a_card_number_reaches_the_log(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = bytes.fromhex("4111111111111111" * 4)
    monkeypatch.setattr("audit_middleware.pipeline.custody.commitment", lambda secret: looks)
    redacting = "redact: {patterns: [card-number]}\n" + HEAD + ACTIONS + GDPR
    guarded = sealed.guard(app(), redacting, identify=identify)
    sealed.run(guarded, lambda: ask(guarded))
    assert set(sealed.told().commitments.values()) == {looks.hex()}
