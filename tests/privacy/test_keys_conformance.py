"""What `protocols.SubjectKeys` promises, for a store in a folder and one in PostgreSQL."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from audit_middleware.errors import ConfigError, MasterKeyError, SubjectKeysError, SubjectRestricted
from audit_middleware.persons import Person, SubjectKey
from audit_middleware.privacy.key_store import KeyStore
from audit_middleware.privacy.keys import create_keys, open_keys, renew, rotate_master
from audit_middleware.protocols import SubjectKeys
from tests.privacy.keying import ORIGIN, SEED, Place, master, row_of, user
from tests.stores.children import Child, finish, fork

PEOPLE = [
    Person("user", "jane@example.com"),
    Person("user", ""),
    Person("user", "Zoë \U0001f600 " * 40),
    Person("user", "lone \ud800 surrogate"),
    Person("user", "with\0zero"),
    Person("resource", "patient/1047"),
    Person("day", "2026-11-23"),
]


@pytest.fixture
def keys(place: Place) -> Iterator[KeyStore]:
    made = place.open()
    yield made
    made.close()


def key_and_commit(keys: SubjectKeys, person: Person) -> SubjectKey:
    key = keys.of(person)
    keys.commit()
    return key


def test_a_new_person_gets_a_key_and_keeps_it(place: Place, keys: KeyStore) -> None:
    assert keys.origin == ORIGIN
    made = {person: keys.of(person) for person in PEOPLE}
    keys.commit()
    other = place.open()
    for person, key in made.items():
        assert (len(key.secret), len(key.salt), key.told, key.restricted) == (32, 32, False, False)
        assert re.fullmatch(r"[a-z2-7]{26}", key.token)
        assert keys.find(person) == keys.of(person) == other.find(person) == other.of(person) == key
        assert other.named(key.token) == (person, key)
    assert len({key.token for key in made.values()}) == len(PEOPLE)
    assert len({key.secret for key in made.values()} | {key.salt for key in made.values()}) == 2 * len(PEOPLE)


def test_kinds_are_apart(keys: KeyStore) -> None:
    assert keys.of(Person("user", "a")).token != keys.of(Person("resource", "a")).token


def test_who_is_not_there_is_not_found(keys: KeyStore) -> None:
    assert keys.find(user(1)) is None
    assert keys.named("a" * 26) is None


def test_what_is_not_committed_is_seen_by_nobody_else_and_gone_with_its_maker(place: Place, keys: KeyStore) -> None:
    made = keys.of(user(1))
    assert keys.find(user(1)) == made
    other = place.open()
    assert other.find(user(1)) is None
    assert other.named(made.token) is None
    keys.close()
    assert other.of(user(1)).token != made.token


def test_a_commit_without_new_keys_does_nothing(place: Place, keys: KeyStore) -> None:
    keys.commit()
    key_and_commit(keys, user(1))
    keys.of(user(1))
    keys.commit()
    key_and_commit(place.open(), user(2))  # nobody holds the lock


def test_a_key_found_after_all_under_the_lock_frees_it(place: Place, keys: KeyStore) -> None:
    """Two ask for one new person; the second waits for the first and must not go on holding the lock."""
    reading, writing = os.pipe()

    def second(tell: object) -> None:
        assert callable(tell)
        mine = place.open()
        assert os.read(reading, 1)
        tell(b"asks")
        tell(mine.of(user(1)).token.encode())
        place.open().of(user(2))
        tell(b"free")

    child = fork(second)
    first = keys.of(user(1))
    os.write(writing, b"!")
    assert os.read(child.pipe, 4) == b"asks"
    keys.commit()
    assert finish(child) == [first.token.encode() + b"free"]


# --- flags -----------------------------------------------------------------------------------------------------------


def test_told(place: Place, keys: KeyStore) -> None:
    one, two = keys.of(user(1)), keys.of(user(2))
    keys.commit()
    keys.told([])
    keys.told([one.token, "z" * 26])
    keys.told([one.token])
    other = place.open()
    assert other.find(user(1)) == replace(one, told=True)
    assert other.find(user(2)) == two


def test_told_in_the_midst_of_new_keys_goes_with_them(place: Place, keys: KeyStore) -> None:
    one = key_and_commit(keys, user(1))
    two = keys.of(user(2))
    keys.told([one.token, two.token])
    keys.commit()
    other = place.open()
    assert [found.told for found in (other.find(user(1)), other.find(user(2))) if found] == [True, True]


def test_who_is_restricted_is_not_erased_nor_is_anybody_with_him(place: Place, keys: KeyStore) -> None:
    one, two = key_and_commit(keys, user(1)), key_and_commit(keys, user(2))
    before = keys.generation()
    keys.restrict(one.token, True)
    for store in (keys, place.open()):
        assert store.find(user(1)) == replace(one, restricted=True)
        with pytest.raises(SubjectRestricted) as refused:
            store.erase([two.token, one.token])
        assert "1 of these keys" in str(refused.value)
        assert store.find(user(2)) == two
    assert keys.generation() == before
    keys.restrict(one.token, False)
    assert keys.erase([one.token, two.token]) == 2
    with pytest.raises(SubjectKeysError, match=f"no key {one.token}"):
        keys.restrict(one.token, True)


# --- erasure ---------------------------------------------------------------------------------------------------------


def test_an_erased_person_is_gone_for_all_and_comes_back_as_somebody_else(place: Place, keys: KeyStore) -> None:
    other = place.open()
    key, stays = key_and_commit(keys, user(1)), key_and_commit(keys, user(2))
    assert other.find(user(1)) == key
    generations = keys.generation(), other.generation()
    assert keys.erase([key.token, key.token, "b" * 26]) == 1
    for store, generation in zip((keys, other), generations, strict=True):
        assert store.generation() > generation
        assert store.find(user(1)) is None
        assert store.named(key.token) is None
        assert store.find(user(2)) == stays
    again = key_and_commit(other, user(1))
    assert again.token != key.token
    assert again.secret != key.secret


def test_erasing_nobody_is_allowed_and_changes_nothing(keys: KeyStore) -> None:
    generation = keys.generation()
    assert keys.erase([]) == keys.erase(["c" * 26]) == 0
    assert keys.generation() == generation


def test_an_erasure_makes_durable_what_was_made_before(place: Place, keys: KeyStore) -> None:
    old = key_and_commit(keys, user(1))
    new = keys.of(user(2))
    keys.erase([old.token])
    assert place.open().find(user(2)) == new


def test_another_process_sees_an_erasure(place: Place, keys: KeyStore) -> None:
    key = key_and_commit(keys, user(1))
    before = keys.generation()

    def erase(tell: object) -> None:
        assert callable(tell)
        mine = place.open()
        assert mine.erase([key.token]) == 1
        tell(str(mine.generation()).encode())

    (told,) = finish(fork(erase))
    assert keys.generation() == int(told) > before
    assert keys.find(user(1)) is None


def test_where_the_log_was_carried_out(place: Place, keys: KeyStore) -> None:
    assert keys.erased_to() == 0
    assert keys.erased_to(1234) == keys.erased_to() == place.open().erased_to() == 1234


# --- processes -------------------------------------------------------------------------------------------------------


def test_eight_processes_that_ask_for_the_same_new_persons_get_the_same_keys(place: Place) -> None:
    people = [user(number) for number in range(50)]

    def ask(seed: int) -> Child:
        def work(tell: object) -> None:
            assert callable(tell)
            mine = place.open()
            order = random.Random(seed).sample(people, len(people))
            got: dict[str, SubjectKey] = {}
            for start in range(0, len(order), 7):
                got |= {person.id: mine.of(person) for person in order[start : start + 7]}
                mine.commit()
            lines = [f"{of} {key.token} {key.secret.hex()} {key.salt.hex()}" for of, key in sorted(got.items())]
            tell("\n".join(lines).encode())

        return fork(work)

    told = finish(*[ask(SEED + number) for number in range(8)])
    assert len(told[0].splitlines()) == len(people)
    assert set(told) == {told[0]}


def test_a_process_that_is_killed_before_its_commit_leaves_nothing_and_no_lock(place: Place, keys: KeyStore) -> None:
    kept = key_and_commit(keys, user(0))

    def work(tell: object) -> None:
        assert callable(tell)
        mine = place.open()
        tell(mine.of(user(1)).token.encode() + b"\n")
        signal.pause()

    child = fork(work)
    token = os.read(child.pipe, 27)[:26].decode()
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert keys.named(token) is None
    assert key_and_commit(keys, user(1)).token != token
    assert place.open().find(user(0)) == kept


def test_what_was_committed_survives_a_kill(place: Place, keys: KeyStore) -> None:
    def work(tell: object) -> None:
        assert callable(tell)
        mine = place.open()
        key = key_and_commit(mine, user(1))
        mine.of(user(2))
        tell(key.token.encode() + b"\n")
        signal.pause()

    child = fork(work)
    token = os.read(child.pipe, 27)[:26].decode()
    child.kill()
    child.wait()
    found = place.open().find(user(1))
    assert found is not None
    assert found.token == token
    assert keys.find(user(2)) is None


def test_a_forked_child_does_not_touch_its_parents_transaction(place: Place, keys: KeyStore) -> None:
    made = keys.of(user(1))
    generation = keys.generation()

    def work(tell: object) -> None:
        assert callable(tell)
        assert keys.find(user(1)) is None, "the child has a connection of its own"
        with pytest.raises(SubjectKeysError, match="were not committed by the process"):
            keys.commit()
        assert keys.generation() > generation, "what the child has in memory is not durable"
        keys.close()
        tell(b"done")

    assert finish(fork(work)) == [b"done"]
    if place.kind == "folder":  # a fork ends the parent's, too, which must not go unnoticed
        with pytest.raises(SubjectKeysError, match="forked in a transaction"):
            keys.commit()
        assert keys.generation() > generation
        made = key_and_commit(keys, user(1))
    keys.commit()
    assert place.open().find(user(1)) == keys.find(user(1)) == made


# --- the key over them -----------------------------------------------------------------------------------------------


def test_another_master_key_opens_nothing(place: Place, keys: KeyStore) -> None:
    with pytest.raises(MasterKeyError, match="is another key"):
        place.open(master(2))
    with pytest.raises(MasterKeyError, match="is another key"):
        place.open(master(1, "audit.example.com/other"))


def test_a_store_belongs_to_one_log(place: Place) -> None:
    with pytest.raises(SubjectKeysError, match=re.escape(f"in the log {ORIGIN}, not of audit.example.com/other")):
        open_keys(place.where, "audit.example.com/other", master(1))
    with pytest.raises(SubjectKeysError, match="there is a store of persons' keys already"):
        create_keys(place.where, ORIGIN, master())


def test_a_new_master_key_changes_no_row_and_stops_nobody(place: Place, keys: KeyStore) -> None:
    key = key_and_commit(keys, user(1))
    running, row = place.open(), row_of(keys, user(1))
    rotate_master(keys, master(2))
    assert row_of(keys, user(1)) == row
    assert running.find(user(1)) == key
    second = key_and_commit(running, user(2))
    with pytest.raises(MasterKeyError):
        place.open(master(1))
    fresh = place.open(master(2))
    assert (fresh.find(user(1)), fresh.find(user(2)), fresh.master) == (key, second, "env:MASTER_2")
    rotate_master(keys, master(3))
    assert place.open(master(3)).find(user(1)) == key


def test_a_renewed_store_key_changes_every_row_and_no_key(place: Place, keys: KeyStore) -> None:
    people = PEOPLE + [user(number) for number in range(1100)]  # more than one page
    made = {person: keys.of(person) for person in people}
    keys.commit()
    keys.told([made[user(0)].token])
    keys.restrict(made[user(1)].token, True)
    expected = {person: keys.find(person) for person in people}
    rows = {person: row_of(keys, person) for person in people}
    running = place.open()
    assert renew(keys) == len(people)
    for person in people:
        old, new = rows[person], row_of(keys, person)
        assert old.token == new.token
        assert old.created == new.created
        assert not {old.lookup, old.name, old.secrets} & {new.lookup, new.name, new.secrets}
    for store in (keys, running, place.open()):
        assert {person: store.find(person) for person in people} == expected
        assert store.named(made[user(2)].token) == (user(2), made[user(2)])
    assert running.of(user(3)) == made[user(3)]
    key_and_commit(running, user(5000))
    assert keys.find(user(5000)) == running.find(user(5000))


def test_a_process_that_finds_no_new_row_under_a_renewed_key_makes_no_second_one(place: Place, keys: KeyStore) -> None:
    running = place.open()
    key = key_and_commit(keys, user(1))
    renew(keys)
    assert running.of(user(1)) == key
    renew(keys)
    assert running.of(user(2)).token != key.token  # begins a transaction first
    running.commit()
    renew(keys)
    found = running.named(key.token)
    assert found == (user(1), key)


def test_a_process_without_the_new_master_key_says_so_after_a_renewal(place: Place, keys: KeyStore) -> None:
    running = place.open()
    key_and_commit(keys, user(1))
    rotate_master(keys, master(2))
    renew(keys)
    with pytest.raises(SubjectKeysError, match="restart it with the new setting"):
        running.find(user(1))
    with pytest.raises(SubjectKeysError, match="restart it with the new setting"):
        running.of(user(2))
    key_and_commit(keys, user(2))  # it holds no lock


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_place_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="not in mysql://"):
        open_keys("mysql://db.example.com/x", ORIGIN, master())


# --- a model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_random_calls_do_what_a_dictionary_does(place: Place, seed: int) -> None:
    """Two connections in turn; every answer is that of a model, which commits after each step."""
    dice = random.Random(seed)
    stores = [place.open(), place.open()]
    model: dict[Person, SubjectKey] = {}
    generations = [store.generation() for store in stores]
    erased: list[str] = []
    for step in range(150):
        at = dice.randrange(2)
        store, person = stores[at], user(dice.randrange(12))
        key = model.get(person)
        what = dice.choice(["of", "of", "of", "find", "named", "told", "restrict", "erase", "renew", "reopen"])
        where = f"seed {seed}, step {step}: {what} {person.id}"
        if what == "of":
            got = store.of(person)
            store.commit()
            assert key is None or got == key, where
            assert got.token not in erased, where
            model[person] = got
        elif what == "find":
            assert store.find(person) == key, where
        elif what == "named":
            token = key.token if key else dice.choice(erased or ["d" * 26])
            assert store.named(token) == ((person, key) if key else None), where
        elif what == "told" and key:
            store.told([key.token])
            model[person] = replace(key, told=True)
        elif what == "restrict" and key:
            flag = dice.random() < 0.3
            store.restrict(key.token, flag)
            model[person] = replace(key, restricted=flag)
        elif what == "erase":
            group = [one for one in (person, user(dice.randrange(12))) if one in model]
            tokens = {model[one].token for one in group}
            if any(model[one].restricted for one in group):
                with pytest.raises(SubjectRestricted):
                    store.erase(list(tokens))
            else:
                assert store.erase(list(tokens)) == len(tokens), where
                erased += tokens
                for one in group:
                    model.pop(one, None)
                if tokens:
                    now = [one.generation() for one in stores]
                    assert all(new > old for new, old in zip(now, generations, strict=True)), where
                    generations = now
        elif what == "renew" and dice.random() < 0.3:
            assert renew(store) == len(model), where
        elif what == "reopen":
            store.close()
            stores[at] = place.open()
    assert erased
    for store in stores:
        assert {person: store.find(person) for person in model} == model
        assert all(store.named(token) is None for token in erased)
