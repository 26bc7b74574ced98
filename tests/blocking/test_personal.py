"""Blocks of persons whose records hold tokens: the caller is refused, and neither log nor list has the name."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.cli import main
from audit_middleware.errors import ConfigError, SubjectKeysError
from audit_middleware.evidence.blocking import Orders, add_block, lift_blocks, orders_in
from audit_middleware.evidence.policies import Archive
from audit_middleware.evidence.recorded import decisions
from audit_middleware.evidence.reperform import SEALED, Policies, Reperformance, reperform
from audit_middleware.frameworks.marks import action
from audit_middleware.model import Subject
from audit_middleware.persons import Person, pseudonym, pseudonym_of
from audit_middleware.pipeline.blocks import Blocks
from audit_middleware.privacy.opening import Opener
from audit_middleware.stores.journal import JournalStore
from audit_middleware.wiring.blocking import Blocking
from tests.blocking.support import blocks_of, detectors, entry, findings, keys, put, storm_rules
from tests.control.support import eventually
from tests.kit import ORIGIN, Log, MemoryKeys, call
from tests.sealing.support import HEAD, Sealed

NAME, OTHER = "marked-user-alice", "marked-user-bob"
POLICY = HEAD + "personal: gdpr\nactions:\n  note.read: {allow: [clerk]}\n"


def identify(scope: Any) -> Subject:
    headers = {name: value.decode() for name, value in scope["headers"]}
    return Subject(headers[b"x-user"], roles=("clerk",) if b"x-clerk" in headers else ())


def app() -> Starlette:
    @action("note.read", resource="note/{id}")
    async def handle(request: Request) -> PlainTextResponse:
        return PlainTextResponse("done")

    return Starlette(routes=[Route("/{id}", handle)])


async def ask(app: Any, user: str = NAME, *, clerk: bool = True) -> int | None:
    headers = [(b"x-user", user.encode())] + ([(b"x-clerk", b"1")] if clerk else [])
    return (await call(app, "GET", "/7", headers)).status


def again(log: Log, opener: Opener | None = None) -> Reperformance:
    """All decisions made again, opened or not."""

    def show(record: dict[str, Any]) -> dict[str, Any]:
        return record if opener is None else opener.opened(record, keep=True)

    with closing(JournalStore.open(log.path, writable=False)) as store:
        size = store.head().size
        orders = Orders.of((index, show(dict(one))) for index, one in orders_in(store))
        found = decisions(store.frames(), 0, size, opened=show)
        return reperform(found, Policies(Archive(store, range(size)).document), orders)


def clear_of_names(log: Log) -> None:
    """Neither the log nor anything beside it names a person."""
    for path in log.path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert NAME.encode() not in data, path


# --- a service -----------------------------------------------------------------------------------------------------


def test_a_detectors_block_of_a_token_holds_for_the_caller(log: Log, tmp_path: Path) -> None:
    sealed = Sealed(tmp_path, log).make_keys()
    guarded = sealed.guard(
        app(), POLICY, identify=identify, block_interval=20, followers=detectors(tmp_path, storm_rules(tmp_path))
    )

    async def drive() -> None:
        for _ in range(5):
            assert await ask(guarded, clerk=False) == 403
        await eventually(lambda: findings(log), "the detector finds it")
        codes = []
        for _ in range(200):
            codes.append(await ask(guarded))
            if codes[-1] == 403:
                break
            await asyncio.sleep(0.05)
        assert codes[-1] == 403, codes
        assert await ask(guarded, OTHER) == 200

    sealed.run(guarded, drive)
    (told,) = findings(log)
    with sealed.keys() as store:
        key = store.find(Person("user", NAME))
    assert key is not None
    token = pseudonym_of(key.token)
    assert (told["extra"]["user_id"], told["extra"]["effect"]["who"]) == (token, token)
    assert [one.who for one in blocks_of(log).read().entries] == [token]
    (blocked,) = [one for one in log.outcomes() if one["decision"]["cause"] == "blocked"]
    assert pseudonym(blocked["user_id"]) == token
    clear_of_names(log)
    result = again(log)
    assert result.holds, result.to_json()
    assert result.blocked
    assert not result.not_performable


def test_by_hand_a_person_is_blocked_and_let_in_by_name_and_written_as_a_token(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = Sealed(tmp_path, log).make_keys()

    def blocks(*arguments: str) -> str:
        given = ["audit-middleware", "blocks", arguments[0], str(log.path), *arguments[1:]]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said
        return said.out

    said = blocks("add", NAME, "--for", "1h", "--reason", "INC-1", "--json")
    with sealed.keys() as store:
        key = store.find(Person("user", NAME))
        assert key is not None, "who had no key has one now"
        assert not key.told, "the log is told of it with the first record that needs it"
    token = pseudonym_of(key.token)
    assert json.loads(said)["who"] == token
    assert token in blocks("list", "--json")
    guarded = sealed.guard(app(), POLICY, identify=identify, block_interval=20)

    async def drive() -> None:
        assert await ask(guarded) == 403
        assert await ask(guarded, OTHER) == 200

    sealed.run(guarded, drive)
    assert key.token in sealed.told().commitments
    assert again(log).holds
    assert blocks("lift", NAME, "--reason", "INC-1: closed").startswith(f"user {token}: 1 blocks")
    assert blocks_of(log).read().entries == ()
    clear_of_names(log)


def test_the_list_says_what_is_not_in_force_here(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> tuple[dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "blocks", "list", str(log.path), "--json"])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr()
        return {one["who"]: one.get("in_force_here", True) for one in json.loads(said.out)["entries"]}, said.err

    gone = pseudonym_of("a" * 26)
    put(log, entry(gone), entry(OTHER))
    assert listed() == ({gone: False, OTHER: True}, "")
    sealed = Sealed(tmp_path, log).make_keys()
    with sealed.keys() as store:
        there = add_block(log.path, keys(log), "user", NAME, 900, "INC-1", "op", keys=store).who
    assert listed()[0] == {gone: False, OTHER: True, there: True}
    Path(f"{log.path}.master").unlink()
    known, err = listed()
    assert known == {gone: True, OTHER: True, there: True}
    assert "not known here whom the tokens stand for" in err


def test_keys_that_do_not_open_let_nobody_be_named_in_clear(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Sealed(tmp_path, log).make_keys()
    Path(f"{log.path}.master").unlink()
    given = ["audit-middleware", "blocks", "add", str(log.path), NAME, "--for", "1h", "--reason", "INC-1"]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (2, 3)
    assert "master key" in capsys.readouterr().err
    clear_of_names(log)


# --- the functions -------------------------------------------------------------------------------------------------


def test_a_token_and_a_name_are_both_lifted(log: Log) -> None:
    held = MemoryKeys(ORIGIN)
    put(log, entry(NAME))
    made = add_block(log.path, keys(log), "user", NAME, 900, "INC-1", "op", keys=held)
    by_token = add_block(log.path, keys(log), "user", made.who, 900, "INC-2", "op", keys=held)
    assert by_token.who == made.who == pseudonym_of(held.rows[Person("user", NAME)].token)
    lifted = lift_blocks(log.path, keys(log), "user", NAME, "INC-3", "op", keys=held)
    assert sorted(one.who for one in lifted) == sorted([NAME, made.who, made.who])
    assert blocks_of(log).read().entries == ()
    assert {one["extra"]["who"] for one in log.controls("audit.block_lifted")} == {NAME, made.who}


def test_an_address_is_a_token_too(log: Log) -> None:
    held = MemoryKeys(ORIGIN)
    made = add_block(log.path, keys(log), "address", "192.0.2.7", 900, "INC-1", "op", keys=held)
    assert made.who == pseudonym_of(held.rows[Person("resource", "initiator_ip/192.0.2.7")].token)
    blocks = Blocks()
    Blocking(blocks_of(log), blocks, _fail, 0.01, names=named(held))
    assert blocks.standing(_nobody(), "192.0.2.7", time.time_ns())
    assert not blocks.standing(_nobody(), "192.0.2.8", time.time_ns())


def _nobody() -> Subject:
    return Subject("anonymous", type="anonymous")


def _fail(problem: str) -> None:
    raise AssertionError(problem)


def named(held: MemoryKeys) -> Any:
    def names(tokens: Collection[str]) -> Mapping[str, str]:
        found = {token: held.named(token) for token in tokens}
        return {token: one[0].name for token, one in found.items() if one is not None}

    return names


def test_without_keys_a_token_is_not_in_force_and_that_is_said_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    held = MemoryKeys(ORIGIN)
    token = pseudonym_of(held.of(Person("user", NAME)).token)
    put(log, entry(token, finding_id="finding-1"), entry(OTHER))
    away = [True]

    def names(tokens: Collection[str]) -> Mapping[str, str]:
        if away[0]:
            raise SubjectKeysError("no store of persons' keys there")
        found: Mapping[str, str] = named(held)(tokens)
        return found

    blocks = Blocks()
    with caplog.at_level(logging.WARNING):
        watch = Blocking(blocks_of(log), blocks, _fail, 0.01, names=names)
        watch._keys_again = 0.0
        watch.look()
    assert [one.message for one in caplog.records] == [
        "1 entries on the list of blocks are not in force here: the persons' keys cannot be used: no store of "
        "persons' keys there: finding-1"
    ]
    assert watch.state() == {
        "entries": 2, "blocked": 2, "not_in_force": 1,
        "problem": "the persons' keys cannot be used: no store of persons' keys there",
    }  # fmt: skip
    now = time.time_ns()
    assert blocks.standing(Subject(OTHER), None, now)
    assert not blocks.standing(Subject(NAME), None, now)
    away[0] = False
    watch._keys_again = 0.0
    watch.look()
    assert blocks.standing(Subject(NAME), None, now)
    assert watch.state()["not_in_force"] == 0
    away[0] = True
    watch._keyless, watch._keys_again = "gone", 0.0
    watch.look()
    assert blocks.standing(Subject(NAME), None, now), "who was known stays blocked"


def test_who_was_erased_is_nobody_to_block(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    held = MemoryKeys(ORIGIN)
    key = held.of(Person("user", NAME))
    put(log, entry(pseudonym_of(key.token), finding_id="finding-1"))
    held.erase([key.token])
    blocks = Blocks()
    watch = Blocking(blocks_of(log), blocks, _fail, 0.01, names=named(held))
    assert not blocks.standing(Subject(NAME), None, time.time_ns())
    assert (watch.state()["not_in_force"], watch.state()["problem"]) == (1, None)
    assert "no key (any more) that says whom they are about: finding-1" in caplog.text


def test_nobody_is_blocked_without_a_reason_and_no_key_is_made(log: Log) -> None:
    held = MemoryKeys(ORIGIN)
    with pytest.raises(ConfigError, match="needs a reason"):
        add_block(log.path, keys(log), "user", NAME, 900, " ", "op", keys=held)
    assert held.rows == {}


# --- what an auditor can check -----------------------------------------------------------------------------------


def test_a_block_in_clear_and_a_sealed_caller_are_compared_with_the_keys_only(log: Log, tmp_path: Path) -> None:
    """The policy began to seal after the block was ordered."""
    sealed = Sealed(tmp_path, log).make_keys()
    add_block(log.path, keys(log), "user", NAME, 900, "INC-1", "op")
    guarded = sealed.guard(app(), POLICY, identify=identify, block_interval=20)

    async def drive() -> None:
        assert await ask(guarded) == 403

    sealed.run(guarded, drive)
    result = again(log)
    assert (result.holds, result.not_performable) == (True, {SEALED: 1})
    told = sealed.told()
    with sealed.keys() as store:
        opened = again(log, Opener(store, ORIGIN, told.erased, told.commitments))
    assert (opened.holds, opened.not_performable) == (True, {})
    assert opened.blocked


def test_another_persons_block_is_found_out(log: Log, tmp_path: Path) -> None:
    sealed = Sealed(tmp_path, log).make_keys()
    with sealed.keys() as store:
        made = add_block(log.path, keys(log), "user", NAME, 900, "INC-1", "op", keys=store)
    guarded = sealed.guard(app(), POLICY, identify=identify, block_interval=20)

    async def drive() -> None:
        assert await ask(guarded) == 403

    sealed.run(guarded, drive)
    forged = Orders.of(
        [(0, {"kind": "control", "action": "audit.block_added", "action_id": made.finding_id,
              "extra": {**_said(log), "who": pseudonym_of("a" * 26)}})]
    )  # fmt: skip
    with closing(JournalStore.open(log.path, writable=False)) as read:
        size = read.head().size
        result = reperform(decisions(read.frames(), 0, size), Policies(Archive(read, range(size)).document), forged)
    assert not result.holds
    assert result.differences[0].verdict.why == "entry 0 orders it for another caller"


def _said(log: Log) -> dict[str, Any]:
    (told,) = log.controls("audit.block_added")
    found: dict[str, Any] = told["extra"]
    return found
