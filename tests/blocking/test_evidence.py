"""Blocks in the log: by hand, lifted, made anew from it, and blocked decisions made again."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_middleware.cli import main
from audit_middleware.detectors.blocklist import LONGEST_S, Listing
from audit_middleware.detectors.finding import Finding, Respond
from audit_middleware.detectors.orders import FINDING, effect_of, listing_of, order_in, said
from audit_middleware.errors import BlocksError, ConfigError, KeyFileError
from audit_middleware.evidence.backtest import BLOCKED, decide_anew
from audit_middleware.evidence.blocking import Orders, add_block, lift_blocks, orders_in, read_blocks, rebuild
from audit_middleware.evidence.policies import Archive
from audit_middleware.evidence.recorded import Recorded, decisions
from audit_middleware.evidence.reperform import Policies, Reperformance, load_archived, perform, reperform
from audit_middleware.stores.journal import JournalStore
from tests.blocking.support import HOSTILE, RULE, SECOND, blocks_of, entry, keys, put, tell
from tests.blocking.test_guard import ANN, POLICY, app
from tests.kit import Log, call
from tests.middleware.service import Service
from tests.middleware.support import check_log

NOW = 1_790_000_000 * SECOND


def block(log: Log, who: str = "ann", seconds: int = 900, **more: Any) -> Any:
    return add_block(log.path, keys(log), more.pop("kind", "user"), who, seconds, "case 7", "root", **more)


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "finding_id": "f" * 32, "rule": RULE, "title": "t", "level": "high", "dimension": "d",
        "group": {"user.id": "ann"}, "observed": 9, "baseline": {"limit": 5}, "window_s": 60,
        "first": "2026-09-21T10:00:00.000000Z",
        "last": "2026-09-21T10:01:00.000001Z", "evidence": (1, 2), "evidence_count": 2, "user_id": "ann",
        "respond": Respond("block", 900),
    }  # fmt: skip
    return Finding(**values | changes)


# --- whom a finding is held against -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("user", "ann", True, 900)),
        ({"group": {"user.id": "ann", "source.ip": "192.0.2.1"}}, ("user", "ann", True, 900)),
        ({"user_id": None, "group": {"source.ip": "192.0.2.1"}}, ("address", "192.0.2.1", True, 900)),
        ({"user_id": "anonymous", "group": {"source.ip": "192.0.2.1"}}, ("user", "anonymous", True, 900)),
        ({"user_id": None, "group": {"event.action": "doc.read"}}, None),
        ({"user_id": None, "group": {"source.ip": ""}}, None),
        ({"last": "yesterday"}, None),
        ({"last": "2026-09-21T10:01:00"}, None),
        ({"respond": None}, ("user", "ann", False, 900)),
        ({"respond": None, "window_s": 7_200}, ("user", "ann", False, 7_200)),
        ({"respond": None, "window_s": 10**9}, ("user", "ann", False, 86_400)),
        ({"respond": Respond("block", 10**9)}, ("user", "ann", True, LONGEST_S)),
        ({"respond": Respond("block", 0)}, ("user", "ann", False, 900)),
    ],
)
def test_whom_a_finding_is_held_against(changes: dict[str, Any], expected: Any) -> None:
    found = effect_of(finding(**changes), block=True)
    told = found and (found.kind, found.who, found.block, (found.until_ns - found.since_ns) // SECOND)
    assert told == expected
    if found is not None:
        assert not getattr(effect_of(finding(**changes), block=False), "block", True)


@pytest.mark.parametrize("who", HOSTILE[:-4], ids=range(len(HOSTILE) - 4))
def test_an_effect_comes_back_from_its_record(who: str, log: Log) -> None:
    found = effect_of(finding(user_id=who), block=True)
    assert found is not None
    tell(log, FINDING, {**finding(user_id=None).extra(), "effect": said(found)})
    assert order_in(log.records()[-1]) == found


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_block_by_hand_is_recorded_listed_and_lifted(log: Log) -> None:
    made = block(log, clock=lambda: NOW)
    (told,) = log.controls("audit.block_added")
    assert told["severity"] == "high"
    assert told["extra"] == {
        "kind": "user", "who": "ann", "block": True, "since": "2026-09-21T14:13:20.000000Z",
        "until": "2026-09-21T14:28:20.000000Z", "seconds": 900, "reason": "case 7", "by": "root",
    }  # fmt: skip
    assert made.finding_id == told["action_id"]
    assert read_blocks(log.path, clock=lambda: NOW) == (made,)
    assert read_blocks(log.path, clock=lambda: made.until_ns) == ()
    lifted = lift_blocks(log.path, keys(log), "user", "ann", "was a test", "root", clock=lambda: NOW)
    assert lifted == (made,)
    (told,) = log.controls("audit.block_lifted")
    assert told["extra"] == {
        "kind": "user", "who": "ann", "findings": [made.finding_id], "count": 1, "reason": "was a test", "by": "root",
    }  # fmt: skip
    assert read_blocks(log.path, clock=lambda: NOW) == ()
    with pytest.raises(ConfigError, match="nothing is held against user 'ann'"):
        lift_blocks(log.path, keys(log), "user", "ann", "again", "root", clock=lambda: NOW)
    check_log(log)


@pytest.mark.parametrize(
    ("given", "compared"),
    [("2001:DB8:0::1", "2001:db8::1"), (" 192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1")],
)
def test_an_address_is_written_as_requests_have_it(given: str, compared: str, log: Log) -> None:
    """Or it would look blocked and pass."""
    assert block(log, given, kind="address").who == compared
    assert [one.who for one in lift_blocks(log.path, keys(log), "address", given, "x", "root")] == [compared]


@pytest.mark.parametrize("who", ["bob", "192.0.2.0/24", "192.0.2.1:80", "", "[::1]"])
def test_what_is_no_address_is_not_blocked_as_one(who: str, log: Log) -> None:
    with pytest.raises(ConfigError, match="is no IP address"):
        block(log, who, kind="address")
    assert log.records() == []


@pytest.mark.parametrize(
    ("who", "seconds", "reason"),
    [("", 900, "x"), ("anonymous", 900, "x"), ("ann", 0, "x"), ("ann", LONGEST_S + 1, "x"), ("ann", 900, " ")],
)
def test_what_is_no_block_is_not_recorded(who: str, seconds: int, reason: str, log: Log) -> None:
    with pytest.raises(ConfigError):
        add_block(log.path, keys(log), "user", who, seconds, reason, "root")
    assert log.records() == []
    assert not blocks_of(log).path.exists()


def test_a_damaged_list_takes_no_block_and_is_made_anew_from_the_log(log: Log) -> None:
    kept = block(log, "ann")
    block(log, "bob")
    lift_blocks(log.path, keys(log), "user", "bob", "x", "root")
    again = block(log, "bob")
    block(log, "gone", 1, clock=lambda: time.time_ns() - 5 * SECOND)
    nobody = block(log, "192.0.2.1", kind="address")
    effect = msgspec.structs.replace(entry("eve"), finding_id="f" * 32)
    tell(log, FINDING, {**finding().extra(), "effect": said(effect)})
    tell(log, FINDING, {**finding(finding_id="e" * 32).extra(), "effect": None})
    blocks_of(log).path.write_bytes(b"\x00" * 100)
    size = len(log.records())
    with pytest.raises(BlocksError, match="is damaged"):
        block(log, "mallory")
    assert len(log.records()) == size
    rebuild(log.path)
    assert set(blocks_of(log).read().entries) == {kept, again, nobody, effect}
    blocks_of(log).path.unlink()
    rebuild(log.path)
    assert set(blocks_of(log).read().entries) == {kept, again, nobody, effect}
    assert len(blocks_of(log).read().lifted) == 1


def test_a_list_of_many_findings_is_made_anew_in_time_that_grows_with_them() -> None:
    """To compare each finding with each took minutes, with the list locked."""
    order = said(entry("ann"))
    records = [
        {"kind": "control", "action": FINDING,
         "extra": {"finding_id": f"f{n}", "rule": "r", "effect": {**order, "who": f"user-{n}"}}}
        for n in range(20_000)
    ]  # fmt: skip
    began = time.monotonic()
    listing = listing_of(records)
    assert len(listing.entries) == 20_000
    assert len(listing.add(*listing.entries, entry("bob")).entries) == 20_001
    assert time.monotonic() - began < 10


def test_what_has_ended_takes_no_room_when_a_list_is_made_anew() -> None:
    order = {"kind": "control", "action": FINDING, "extra": {"finding_id": "f", "rule": "r", "effect": said(entry())}}
    assert len(listing_of([order], time.time_ns()).entries) == 1
    assert listing_of([order], time.time_ns() + 3_600 * SECOND) == Listing()


@dataclass
class Command:
    """The command in this process: a process of its own takes a second to start."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.setattr("sys.argv", ["audit-middleware", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said, problems = self.capsys.readouterr()
        return subprocess.CompletedProcess([], code, said, problems)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def test_the_commands(log: Log, command: Command) -> None:
    blocks = ("blocks",)
    assert "nobody is blocked" in command(*blocks, "list", log.path).stdout
    for who in ("\x1b[31mann\u202e", "12345", "__proto__"):
        done = command(*blocks, "add", log.path, who, "--for", "15m", "--reason", "case 7", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["who"] == who
    done = command(*blocks, "add", log.path, "192.0.2.1", "--address", "--for", "2h", "--reason", "case 7")
    assert re.fullmatch(r"address 192\.0\.2\.1: blocked until 20[0-9T:-]+Z\n", done.stdout)
    shown = command(*blocks, "list", log.path)
    assert "\x1b" not in shown.stdout
    assert "\u202e" not in shown.stdout
    listed = json.loads(command(*blocks, "list", log.path, "--json").stdout)["entries"]
    assert [one["who"] for one in listed] == ["\x1b[31mann\u202e", "12345", "__proto__", "192.0.2.1"]
    assert {one["rule"] for one in listed} == {"manual"}
    done = command(*blocks, "lift", log.path, "12345", "--reason", "done", "--json")
    assert [one["who"] for one in json.loads(done.stdout)["lifted"]] == ["12345"]
    blocks_of(log).path.write_bytes(b"{}")
    broken = command(*blocks, "list", log.path)
    assert (broken.returncode, "blocks rebuild" in broken.stderr) == (3, True)
    done = command(*blocks, "rebuild", log.path, "--json")
    assert [one["who"] for one in json.loads(done.stdout)["entries"]] == [
        "\x1b[31mann\u202e", "__proto__", "192.0.2.1",
    ]  # fmt: skip
    for wrong, code in (
        (("add", log.path, "ann", "--for", "soon", "--reason", "x"), 2),
        (("add", log.path, "ann", "--for", "31d", "--reason", "x"), 3),
        (("lift", log.path, "nobody", "--reason", "x"), 3),
        (("lift", log.path, "ann"), 2),
        (("list", log.path / "none"), 3),
    ):
        assert command(*blocks, *wrong).returncode == code, wrong
    check_log(log)


def test_a_name_is_shown_as_it_is(log: Log, command: Command) -> None:
    put(log, entry("[red]a\\[b]"), entry(":bomb:"))
    said = command("blocks", "list", log.path).stdout
    assert re.search(r"^\[red\]a\\\[b\] ", said, re.M), said
    assert re.search(r"^:bomb: ", said, re.M), said
    assert command("blocks", "lift", log.path, ":bomb:", "--reason", "x").stdout.startswith("user :bomb:")


def test_without_the_key_nobody_is_blocked(log: Log, command: Command) -> None:
    Path(f"{log.path}.key").unlink()
    done = command("blocks", "add", log.path, "ann", "--for", "15m", "--reason", "x")
    assert done.returncode == 3
    assert not blocks_of(log).path.exists()
    with pytest.raises(KeyFileError):
        keys(log)


# --- decisions made again ---------------------------------------------------------------------------------------------


def reperformed(log: Log) -> Reperformance:
    store = JournalStore.open(log.path, writable=False)
    size = store.head().size
    archive = Archive(store, range(size))
    return reperform(
        decisions(store.frames(), 0, size), Policies(archive.document), Orders.of(orders_in(store), store.base.size)
    )


@pytest.fixture
def blocked(tmp_path: Path, log: Log) -> Service:
    """A service whose caller ann is blocked by hand, with a few refused requests."""
    service = Service(tmp_path, log, POLICY, {"block_interval": 10, "trusted_proxy_depth": 1})
    block(log)

    async def drive(app: Any) -> None:
        for path in ("/read", "/asked", "/owned/1", "/seen", "/inner/read"):
            await call(app, "GET", path, ANN)

    service.run(app(), drive)
    return service


def test_blocked_decisions_are_made_again(blocked: Service, command: Command) -> None:
    result = reperformed(blocked.log)
    assert (result.holds, result.same, result.not_performable) == (True, 5, {})
    assert result.blocked == {
        "blocked, and the policy alone would say allow": 3,
        "blocked, and the policy alone would say deny": 1,
        "blocked, and the policy alone cannot be told": 1,
    }
    (owned,) = [one for one in blocked.log.outcomes() if one["action"] == "doc.owned"]
    assert owned["decision"]["inputs"] is None, "nothing was loaded, so nothing is said to be missing"
    done = command("policy", "reperform", blocked.log.path, "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["blocked"] == result.blocked
    assert "the policy alone would say allow" in command("policy", "reperform", blocked.log.path).stdout


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"decision": {"detail": "because"}}, "its detail names no block"),
        ({"decision": {"detail": "finding deadbeef, until 2026-01-01T00:00:00Z"}}, "no record of the log orders"),
        ({"decision": {"rule": RULE}}, "by another rule"),
        ({"decision": {"effect": "allow"}}, "allow does not go with the cause blocked"),
        ({"user_id": "bob"}, "for another caller"),
        ({"subject": {"type": "anonymous"}}, "for another caller"),
        ({"timestamp": "2099-01-01T00:00:00.000000Z"}, "had ended"),
        ({"decision": {"mode": "monitor"}}, "its mode is not the policy's"),
    ],
)
def test_a_block_that_nobody_ordered_differs(changes: dict[str, Any], why: str, blocked: Service) -> None:
    store = JournalStore.open(blocked.log.path, writable=False)
    (index, record) = next(one for one in enumerate(blocked.log.records()) if one[1]["kind"] == "outcome")
    for name, value in changes.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    forged = msgspec.convert(record, Recorded)
    archive = Archive(store, range(store.head().size))
    orders = Orders.of(orders_in(store))
    verdict = perform(forged, Policies(archive.document), orders, index)
    assert verdict is not None
    assert (verdict.state, why in verdict.why) == ("differs", True), verdict


def test_a_block_ordered_later_differs_and_a_pruned_one_cannot_be_told(blocked: Service) -> None:
    store = JournalStore.open(blocked.log.path, writable=False)
    record = msgspec.convert(blocked.log.outcomes()[0], Recorded)
    policies = Policies(Archive(store, range(store.head().size)).document)
    moved = Orders.of((index + 100, one) for index, one in orders_in(store))
    verdict = perform(record, policies, moved, 50)
    assert verdict is not None
    assert "ordered later" in verdict.why
    pruned = perform(record, policies, Orders(base=5), 50)
    assert pruned is not None
    assert (pruned.state, pruned.why) == ("not re-performable", "pruned block")


def test_a_backtest_says_nothing_about_blocked_requests(blocked: Service) -> None:
    store = JournalStore.open(blocked.log.path, writable=False)
    record = msgspec.convert(blocked.log.outcomes()[0], Recorded)
    new = load_archived("version: 1\nname: new\n" + POLICY, "new")
    assert decide_anew(record, Policies(Archive(store).document), new) == BLOCKED


def test_entries_of_a_list_that_the_log_knows_nothing_of_differ(tmp_path: Path, log: Log) -> None:
    service = Service(tmp_path, log, POLICY, {"block_interval": 10})
    put(log, entry("ann"))
    service.ask(app(), "GET", "/read", ANN)
    result = reperformed(log)
    assert (result.holds, result.differing) == (False, 1)
    assert result.differences[0].verdict.why == "no record of the log orders this block"
