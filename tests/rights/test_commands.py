"""subject find, export, erase, restrict, release: what they print, what they record, what is left."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import ConfigError
from audit_middleware.evidence.holdings import Chosen, days_before, holdings, matches, person_of
from audit_middleware.evidence.standing import Standing, Standings
from audit_middleware.ledger.canonical import decode
from audit_middleware.persons import Person
from audit_middleware.privacy.sealed import parse
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from tests.kit import Run
from tests.rights.support import ALICE, BASIS, BECAUSE, key_of, serve, verified
from tests.sealing.support import Sealed
from tests.stores.samples import ORIGIN, SEAL, entry


def token_of(sealed: Sealed, person: Person = ALICE) -> str:
    key = key_of(sealed, person)
    assert key is not None
    return key.token


def found(run: Run, sealed: Sealed, *whom: object) -> dict[str, Any]:
    code, out, err = run("subject", "find", sealed.log.path, *whom, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


# --- find ------------------------------------------------------------------------------------------------------------


def test_find_counts_what_is_sealed_and_what_is_in_clear(run: Run, sealed: Sealed) -> None:
    told = found(run, sealed, "alice")
    token = token_of(sealed)
    (key,) = told["keys"]
    assert (key["token"], key["restricted"], key["erased_in"]) == (token, False, None)
    assert len(key["since"]) == len("2026-11-23")
    assert (told["records"], told["as_user"], told["sealed"], told["in_clear"]) == (3, 3, 2, 1)
    assert told["actions"] == {"note.write": 3}
    outcomes = [one for one in sealed.log.outcomes() if one["user_id"] == "alice" or token in one["user_id"]]
    assert (told["first"], told["last"]) == (outcomes[0]["timestamp"], outcomes[-1]["timestamp"])
    assert found(run, sealed, "--token", token)["records"] == 3
    assert found(run, sealed, "--token", f"token.v1.{token}")["records"] == 3
    things = found(run, sealed, "--resource", "note/7")
    assert (things["records"], things["as_user"], things["as_resource"], things["in_clear"]) == (3, 0, 3, 1)
    assert found(run, sealed, "alice", "--resource", "note/7")["records"] == 4
    code, out, _ = run("subject", "find", sealed.log.path, "alice")
    assert code == 0
    assert f"token.v1.{token}  key since" in out
    assert "1 name the person in clear" in out


def test_find_says_that_nobody_is_there(run: Run, sealed: Sealed) -> None:
    code, out, _ = run("subject", "find", sealed.log.path, "carol")
    assert (code, "no key" in out) == (1, True)
    assert run("subject", "find", sealed.log.path, "--token", "a" * 26)[0] == 1
    for wrong in (["--token", "x"], ["--resource", "note"], ["--resource", "note/"]):
        assert run("subject", "find", sealed.log.path, *wrong)[0] in (2, 3), wrong
    assert run("subject", "find", sealed.log.path)[0] == 2


def test_find_is_recorded_with_the_token(run: Run, sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_RECORD_READS", "1")
    token = token_of(sealed)
    found(run, sealed, "alice")
    (read,) = sealed.log.controls("audit.log_read")
    assert read["extra"]["command"] == "subject find"
    assert read["extra"]["filters"] == {"tokens": [f"token.v1.{token}"]}
    assert read["extra"]["records"] == 3
    assert "alice" not in json.dumps(read)
    assert found(run, sealed, "alice")["others"] == 1, "who looked is a record about the person"


# --- export ----------------------------------------------------------------------------------------------------------


def test_export_is_readable_and_proved(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    target = tmp_path / "out"
    code, out, err = run("subject", "export", sealed.log.path, "alice", "--to", target, *BECAUSE)
    assert code == 0, err
    assert "3 records written" in out
    lines = [json.loads(line) for line in (target / "records.jsonl").read_text().splitlines()]
    assert [one["record"]["user_id"] for one in lines] == ["alice"] * 3
    entries = (target / "entries.jsonl").read_bytes().splitlines()
    with contextlib.closing(JournalStore.open(sealed.log.path, writable=False)) as store:
        everything = [entry for frame in store.frames() for entry in frame.entries]
    assert entries == [everything[one["index"]] for one in lines]
    for one in lines:
        proof = target / "proofs" / f"{one['index']}.tlog-proof"
        assert run("verify-proof", proof, "--vkey", sealed.log.vkey)[0] == 0
    (told,) = sealed.log.controls("audit.subject_exported")
    assert told["extra"]["tokens"] == [token_of(sealed)]
    assert (told["extra"]["records"], told["extra"]["because"]) == (3, "case 4711")
    assert not (target / "disclosure.json").exists()
    assert sealed.log.vkey in (target / "keys.txt").read_text()
    assert {path.stat().st_mode & 0o077 for path in [target, *target.rglob("*")]} == {0}
    assert run("subject", "export", sealed.log.path, "alice", "--to", target, *BECAUSE)[0] == 2


def test_what_is_somebody_elses_stays_sealed(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run("subject", "export", sealed.log.path, "--resource", "note/7", "--to", target, *BECAUSE)[0] == 0
    lines = [json.loads(line)["record"] for line in (target / "records.jsonl").read_text().splitlines()]
    assert [one["resource"]["id"] for one in lines] == ["7"] * 3
    assert lines[0]["user_id"] == "alice", "in clear from before"
    assert [one["user_id"][:8] for one in lines[1:]] == ["sealed ("] * 2


def test_the_keys_that_are_disclosed_are_those_of_the_log(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run("subject", "export", sealed.log.path, "alice", "--to", target, "--with-key", *BECAUSE)[0] == 0
    (key,) = json.loads((target / "disclosure.json").read_text())["keys"]
    held = key_of(sealed)
    assert held is not None
    assert (bytes.fromhex(key["key"]), bytes.fromhex(key["salt"])) == (held.secret, held.salt)
    assert sealed.told().commitments[held.token] == key["commitment"]
    proof = tmp_path / "told.tlog-proof"
    proof.write_text(key["proof"])
    code, out, _ = run("verify-proof", proof, "--vkey", sealed.log.vkey, "--json")
    assert code == 0
    assert [held.token, key["commitment"]] in json.loads(out)["record"]["extra"]["keys"]
    (told,) = sealed.log.controls("audit.subject_exported")
    assert told["extra"]["with_key"] is True


# --- erase -----------------------------------------------------------------------------------------------------------


def test_an_erasure(run: Run, sealed: Sealed, tmp_path: Path) -> None:
    token, size = token_of(sealed), len(sealed.log.records())
    proof = tmp_path / "before.tlog-proof"
    index = found(run, sealed, "alice")["last_index"]
    assert run("prove", sealed.log.path, index, "--out", proof)[0] == 0
    code, out, err = run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")
    assert code == 0, err
    assert "sealed in 2 records will be unreadable for ever" in out
    assert "1 records name the person in clear, and stay" in out
    assert f"1 key is destroyed; recorded in entry {size}" in out
    (told,) = sealed.log.controls("audit.subject_erased")
    by = told["extra"].pop("by")
    assert by
    assert told["extra"] == {
        "tokens": [token], "basis": "Art. 17(1)(b)", "because": "case 4711", "records": 3, "in_clear": 1,
    }  # fmt: skip
    assert key_of(sealed) is None
    last = [one for one in sealed.opened() if one["kind"] == "outcome"][3]
    assert last["user_id"] == f"erased ({token[:6]}…)"
    assert [one["user_id"] for one in sealed.opened() if one["kind"] == "outcome"][4:] == ["bob", "bob"]
    persons = verified(sealed.log).persons
    assert (persons.erased, persons.told_in) == (1, (size,))
    assert persons.keys > 1
    code, out, _ = run("verify", sealed.log.path)
    assert code == 0
    assert f"1 person was erased, says the log (entry {size})" in out
    assert run("verify-proof", proof, "--vkey", sealed.log.vkey)[0] == 0
    assert found(run, sealed, "--token", token)["keys"][0]["erased_in"] == size


def test_after_an_erasure_the_person_is_somebody_else(run: Run, sealed: Sealed) -> None:
    token = token_of(sealed)
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 0
    serve(sealed, ("alice", "7"))
    assert token_of(sealed) != token
    told = found(run, sealed, "alice")
    assert (told["sealed"], told["in_clear"]) == (1, 1)
    verified(sealed.log)


def test_an_erasure_of_somebody_unknown(run: Run, sealed: Sealed) -> None:
    size = len(sealed.log.records())
    for whom in ("carol", "note/7"):
        code, _, err = run("subject", "erase", sealed.log.path, whom, *BASIS, "--yes")
        assert code == 1
        assert "has no key of anybody of this name" in err
    assert run("subject", "erase", sealed.log.path, "--token", "a" * 26, *BASIS, "--yes")[0] == 1
    assert len(sealed.log.records()) == size
    token = token_of(sealed)
    assert run("subject", "erase", sealed.log.path, "--token", token, *BASIS, "--yes")[0] == 0
    code, _, err = run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")
    assert code == 1
    assert "1 records name the person in clear" in err
    code, out, _ = run("subject", "erase", sealed.log.path, "--token", token, *BASIS, "--yes", "--json")
    assert code == 0, "done already"
    assert json.loads(out)["completed"] is True
    assert len(sealed.log.controls("audit.subject_erased")) == 1


def test_nobody_is_erased_without_a_question_or_a_reason(run: Run, sealed: Sealed) -> None:
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS)[0] == 2
    for wrong in (["--basis", " ", *BECAUSE], ["--basis", "x", "--because", "Alice asked for it"]):
        code, _, err = run("subject", "erase", sealed.log.path, "alice", *wrong, "--yes")
        assert code == 2, err
    assert key_of(sealed) is not None
    assert sealed.log.controls("audit.subject_erased") == []


def test_the_keys_of_days(run: Run, sealed: Sealed) -> None:
    today = sealed.log.records()[0]["timestamp"][:10]
    with sealed.keys() as keys:
        tokens = [keys.of(Person("day", day)).token for day in (today, "2020-01-01")]
        keys.commit()
    with contextlib.closing(JournalStore.open(sealed.log.path, writable=False)) as store:
        assert [one.id for one in days_before(store, today)] == []
        days = [one.id for one in days_before(store, "9999-01-01")]
        assert days[0] == today
        assert len(days) <= 2, "none that is yet to come"
        with pytest.raises(ConfigError, match="2026-13-01"):
            list(days_before(store, "2026-13-01"))
    assert run("subject", "erase", sealed.log.path, "--before", today, *BASIS, "--yes")[0] == 1
    assert run("subject", "erase", sealed.log.path, "--before", "yesterday", *BASIS, "--yes")[0] == 2
    code, _, err = run("subject", "erase", sealed.log.path, "--day", "2020-01-01", *BASIS, "--yes")
    assert code == 0, err
    assert run("subject", "erase", sealed.log.path, "--before", "9999-01-01", *BASIS, "--yes")[0] == 0
    assert sealed.told().erased == set(tokens)


def test_many_persons_are_erased_in_one_go(run: Run, sealed: Sealed) -> None:
    with sealed.keys() as keys:
        tokens = [keys.of(Person("user", f"user-{number}")).token for number in range(450)]
        keys.commit()
    given = [part for token in tokens for part in ("--token", token)]
    code, out, err = run("subject", "erase", sealed.log.path, *given, *BASIS, "--yes", "--json")
    assert code == 0, err
    assert json.loads(out)["tokens"] == tokens
    told = sealed.log.controls("audit.subject_erased")
    assert [len(one["extra"]["tokens"]) for one in told] == [200, 200, 50]
    assert verified(sealed.log).persons.erased == 450


# --- restrict --------------------------------------------------------------------------------------------------------


def test_a_restriction_holds_a_person(run: Run, sealed: Sealed) -> None:
    token, size = token_of(sealed), len(sealed.log.records())
    code, out, err = run("subject", "restrict", sealed.log.path, "alice", "--because", "claim 12")
    assert code == 0, err
    assert f"recorded in entry {size}" in out
    (told,) = sealed.log.controls("audit.subject_restricted")
    assert (told["extra"]["tokens"], told["extra"]["because"]) == ([token], "claim 12")
    assert "was so already" in run("subject", "restrict", sealed.log.path, "alice", *BECAUSE)[1]
    assert found(run, sealed, "alice")["keys"][0]["restricted_in"] == size
    code, _, err = run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")
    assert code == 1
    assert f"restricted, says entry {size} (claim 12): nothing was erased" in err
    assert key_of(sealed) is not None
    assert run("subject", "release", sealed.log.path, "alice", "--because", "over")[0] == 0
    assert "was so already" in run("subject", "release", sealed.log.path, "alice", "--because", "over")[1]
    assert len(sealed.log.controls("audit.subject_released")) == 1
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 0
    for command in ("restrict", "release"):
        assert run("subject", command, sealed.log.path, "alice", *BECAUSE)[0] == 1


@pytest.mark.parametrize("where", ["the store", "the log"])
def test_either_of_log_and_store_holds_a_person(run: Run, sealed: Sealed, where: str) -> None:
    """As after a crash, or with an older copy of the store."""
    assert run("subject", "restrict", sealed.log.path, "alice", *BECAUSE)[0] == 0
    if where == "the store":
        assert run("subject", "release", sealed.log.path, "alice", *BECAUSE)[0] == 0
    with sealed.keys() as keys:
        keys.restrict(token_of(sealed), where == "the store")
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 1
    assert sealed.log.controls("audit.subject_erased") == []
    assert run("subject", "release", sealed.log.path, "alice", *BECAUSE)[0] == 0
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 0


def test_a_legal_hold_holds_a_person(run: Run, sealed: Sealed) -> None:
    index = found(run, sealed, "alice")["last_index"]
    hold = ("hold", "place", sealed.log.path, "case-7", "--from", index, "--to", index, "--reason", "subpoena 12/7")
    assert run(*hold)[0] == 0
    code, _, err = run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")
    assert code == 1
    assert "1 of these records are under the legal hold case-7 (subpoena 12/7, entry" in err
    assert found(run, sealed, "alice")["holds"] == {"case-7": 1}
    assert run("subject", "erase", sealed.log.path, "bob", *BASIS, "--yes")[0] == 0, "his are not under it"
    assert run("hold", "release", sealed.log.path, "case-7", "--reason", "over")[0] == 0
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 0


def test_names_of_persons_are_checked() -> None:
    assert person_of("x" * 300).id.startswith("x" * 200)
    assert person_of(resource="user/ann") == person_of("ann")
    assert person_of(resource="patient/ann") == Person("resource", "patient/ann")
    with pytest.raises(ConfigError):
        person_of(day="2026-02-30")


def test_records_in_the_log_stay_canonical(run: Run, sealed: Sealed) -> None:
    assert run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes")[0] == 0
    with contextlib.closing(JournalStore.open(sealed.log.path, writable=False)) as store:
        records = [decode(entry) for frame in store.frames() for entry in frame.entries]
    marks = [parse(one["user_id"]) for one in records if one["kind"] == "outcome"]
    assert [mark is not None for mark in marks] == [False, False, True, True, True, True]


# --- what stays in clear ---------------------------------------------------------------------------------------------


def test_files_beside_the_log_that_name_the_person_are_named(run: Run, sealed: Sealed) -> None:
    state = sealed.log.path / ".state" / "followers"
    state.mkdir(exist_ok=True)
    letters = state / "siem.dead.jsonl"
    letters.write_text('{"index":4,"record":{"user_id":"alice"}}\n')
    (state / "other.json").write_text('{"user_id":"alicea"}\n')
    large = state / "large"
    large.write_bytes(b"x" * (2**20 - 3) + b'"alice"')
    code, out, err = run("subject", "erase", sealed.log.path, "alice", *BASIS, "--yes", "--json")
    assert code == 0, err
    assert json.loads(out)["left"] == [str(large), str(letters)]


def test_what_amends_a_record_in_clear_belongs_to_it() -> None:
    first, other = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
    store = MemoryStore(ORIGIN)
    control: dict[str, Any] = {"kind": "control", "action": "audit.amended"}
    store.append(
        [
            entry(0, user_id="alice", action_id=first),
            entry(1, user_id="bob", action_id=other),
            entry(2, user_id="system", extra={"amends": first}, **control),
            entry(3, user_id="system", extra={"amends": other}, **control),
            entry(4, user_id="alicea", resource={"type": "user", "id": "alice"}),
            entry(5, user_id="alice", kind="control", action="audit.log_read"),
            entry(6, user_id="system", kind="control", action="audit.block_added", extra={"who": "alice"}),
            entry(7, user_id="bob", initiator_ip="192.0.2.77"),
            b'{"action":"alice"}',
        ],
        SEAL,
    )
    chosen = Chosen((Person("user", "alice"),), (), {}, frozenset(), {})
    assert [one.index for one in matches(store, chosen)] == [0, 2, 6]
    assert [one.index for one in matches(store, chosen, 2)] == [0]
    thing = Chosen((Person("resource", "user/alice"),), (), {}, frozenset(), {})
    assert [one.index for one in matches(store, thing)] == [4]
    address = Chosen((Person("resource", "initiator_ip/192.0.2.77"),), (), {}, frozenset(), {})
    assert [one.index for one in matches(store, address)] == [7]
    counted = holdings(store, chosen, holds={"h": (2, None), "none": (3, 5)})
    assert (counted.records, counted.as_user, counted.others, counted.in_clear) == (3, 1, 2, 3)
    assert counted.held == {"h": 2, "none": 0}
    assert (counted.first_index, counted.last_index) == (0, 6)


def test_a_restriction_survives_the_pruning_of_its_record() -> None:
    found = Standings()
    restricted = Standing(3, "audit.subject_restricted", "t", "s", {"tokens": ["a", "b"], "because": "x", "by": "me"})
    found.take(restricted)
    found.take(Standing(5, "audit.subject_released", "t", "s", {"tokens": ["b"], "because": "x", "by": "me"}))
    assert found.restrictions == {"a": restricted}
    (kept,) = found.below(10)
    assert (kept.index, kept.extra) == (3, {"tokens": ["a"], "because": "x", "by": "me"})
    assert found.below(3) == []
    again = Standings()
    again.take(Standing(9, "audit.pruned", "t", "s", {"carried": [kept.to_json()]}))
    assert list(again.restrictions) == ["a"]
