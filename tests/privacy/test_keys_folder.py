"""Persons' keys in a folder: what its files hold, who may read them, and what goes wrong with files and disks."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_middleware.errors import SubjectKeysError
from audit_middleware.persons import Person, SubjectKey
from audit_middleware.privacy.keys import create_keys, open_keys, renew, rotate_master
from audit_middleware.privacy.keys_sqlite import FILE
from tests.privacy.keying import ORIGIN, SEED, Place, found_in, master, row_of, user
from tests.stores.children import finish, fork

NOBODY = 65_534


def home(folder: Place) -> Path:
    return Path(folder.where)


def fill(folder: Place, count: int) -> None:
    keys = folder.open()
    for number in random.Random(SEED).sample(range(count), count):
        keys.of(user(number))
        if number % 500 == 0:
            keys.commit()
    keys.commit()
    keys.close()


def pieces(folder: Place, person: Person) -> list[bytes]:
    """Everything of a person that could stand in a file, in clear or encrypted."""
    keys = folder.open()
    row, key = row_of(keys, person), keys.find(person)
    assert key is not None
    keys.close()
    clear = [person.id.encode(), key.secret, key.salt, key.secret[:16], key.salt[:16]]
    return [*clear, row.lookup, row.name, row.secrets, row.secrets[12:44], row.token.encode()]


# --- who may read it -------------------------------------------------------------------------------------------------


def test_only_its_owner_has_access(folder: Place) -> None:
    keys = folder.open()
    keys.of(user(1))
    keys.commit()
    assert stat.S_IMODE(home(folder).stat().st_mode) == 0o700
    files = sorted(home(folder).iterdir())
    assert [path.name for path in files] == [FILE, f"{FILE}-shm", f"{FILE}-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("what", ["", FILE])
def test_others_having_access_is_refused(folder: Place, what: str) -> None:
    path = home(folder) / what
    path.chmod(0o750)
    with pytest.raises(SubjectKeysError, match=r"others have access \(mode 0750\). Run: chmod [67]00 "):
        folder.open()


def test_a_place_that_others_can_read_gets_no_store(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(SubjectKeysError, match="others have access"):
        create_keys(tmp_path / "open", ORIGIN, master())
    assert not list((tmp_path / "open").iterdir())


def test_where_there_is_none_the_message_says_how_it_is_made(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        tmp_path.chmod(0o700)
        with pytest.raises(SubjectKeysError, match="by hand: audit-middleware subject init LOG"):
            open_keys(place, ORIGIN, master())
    assert not list(tmp_path.iterdir()), "a wrong path makes nothing"


def test_nothing_of_a_person_stands_in_clear(folder: Place) -> None:
    keys = folder.open()
    person = Person("user", "somebody.with.a.long.name@example.com")
    key = keys.of(person)
    keys.commit()
    files = home(folder)
    assert found_in(files, [person.id.encode(), key.secret, key.salt]) == []
    assert found_in(files, [key.token.encode()]), "the search finds what is there"


# --- erasure ---------------------------------------------------------------------------------------------------------


def test_an_erasure_leaves_no_copy_in_any_file(folder: Place) -> None:
    fill(folder, 4000)
    gone = [user(number) for number in range(0, 4000, 400)]
    searched = [piece for person in gone for piece in pieces(folder, person)[1:]]
    assert found_in(home(folder), searched)
    keys, other = folder.open(), folder.open()
    assert other.find(gone[0])
    tokens = [row_of(keys, person).token for person in gone]
    keys.told(tokens)
    assert keys.erase(tokens) == len(gone)
    assert found_in(home(folder), searched) == []  # with connections open
    assert sum(other.find(user(number)) is not None for number in range(4000)) == 4000 - len(gone)


def test_an_erasure_that_was_cut_short_is_completed_at_the_next_start(folder: Place) -> None:
    fill(folder, 600)
    searched = pieces(folder, user(7))[1:]

    def die_in_between(tell: Callable[[bytes], int]) -> None:
        mine = folder.open()
        token = row_of(mine, user(7)).token
        mine._rows.scrub = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        mine.erase([token])

    child = fork(die_in_between)
    assert child.wait() == -signal.SIGKILL
    assert found_in(home(folder), searched), "there was something to complete"
    keys = folder.open()
    assert keys.find(user(7)) is None
    keys.close()
    assert found_in(home(folder), searched) == []


def test_an_erasure_that_cannot_rewrite_says_so_and_can_be_repeated(
    folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, 300)
    searched = pieces(folder, user(7))[1:]
    monkeypatch.setattr("audit_middleware.privacy.keys_sqlite.TIMEOUT", 0.2)
    keys = folder.open()
    token = row_of(keys, user(7)).token
    reader = sqlite3.connect(home(folder) / FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM persons").fetchall()  # holds the write-ahead log where it is
    with pytest.raises(SubjectKeysError, match="copies may be left in the store's files: repeat the command"):
        keys.erase([token])
    assert keys.find(user(7)) is None
    reader.close()
    assert keys.erase([token]) == 0
    assert found_in(home(folder), searched) == []


def test_a_new_master_key_leaves_nothing_that_the_old_one_opens(folder: Place) -> None:
    keys = folder.open()
    keys.of(user(1))
    keys.commit()
    wrapped = keys._rows.meta().wrapped
    assert found_in(home(folder), [wrapped])
    rotate_master(keys, master(2))
    assert found_in(home(folder), [wrapped]) == []
    row = row_of(keys, user(1))
    assert renew(keys) == 1
    assert found_in(home(folder), [row.lookup, row.name, row.secrets]) == []


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def two(folder: Place) -> tuple[SubjectKey, SubjectKey]:
    keys = folder.open()
    made = keys.of(user(1)), keys.of(user(2))
    keys.commit()
    keys.close()
    return made


OTHERS = "(SELECT {0} FROM persons WHERE token = :two) WHERE token = :one"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE persons SET secrets = " + OTHERS.format("secrets"), "key {} does not open"),
        ("UPDATE persons SET secrets = zeroblob(92) WHERE token = :one", "key {} does not open"),
        ("UPDATE persons SET secrets = x'' WHERE token = :one", "key {} does not open"),
        ("UPDATE persons SET name = " + OTHERS.format("name"), "name of {} does not open"),
        ("UPDATE persons SET lookup = x'00' WHERE token = :one", "key {} does not open"),
        ("UPDATE meta SET lookup_key = zeroblob(60)", "lookup key does not open"),
        ("UPDATE meta SET version = 2", "of version 2, and this package knows 1"),
        ("DELETE FROM meta", "is damaged"),
        ("DROP TABLE persons", "no such table"),
    ],
)
def test_what_was_altered_or_moved_opens_nothing(
    folder: Place, two: tuple[SubjectKey, SubjectKey], statement: str, message: str
) -> None:
    with sqlite3.connect(home(folder) / FILE) as connection:
        connection.execute(statement, {"one": two[0].token, "two": two[1].token})
    connection.close()
    with pytest.raises(SubjectKeysError, match=message.format(two[0].token)):
        folder.open().named(two[0].token)


def test_a_row_under_another_token_opens_nothing(folder: Place, two: tuple[SubjectKey, SubjectKey]) -> None:
    with sqlite3.connect(home(folder) / FILE) as connection:
        connection.execute("UPDATE persons SET token = ? WHERE token = ?", ["e" * 26, two[0].token])
    connection.close()
    keys = folder.open()
    for call in (keys.find, keys.of):
        with pytest.raises(SubjectKeysError, match="does not open"):
            call(user(1))
    assert keys.find(user(2)) == two[1]


@pytest.mark.parametrize("offset", [0, 100, 4096 + 3, 2 * 4096 + 5])
def test_a_damaged_file_is_an_error_of_ours(folder: Place, offset: int) -> None:
    fill(folder, 400)
    file = home(folder) / FILE
    data = bytearray(file.read_bytes())
    data[offset : offset + 60] = random.Random(SEED).randbytes(60)
    file.write_bytes(data)

    def use() -> None:
        keys = folder.open()
        for number in range(400):
            assert keys.find(user(number)) is not None
        renew(keys)

    with pytest.raises(SubjectKeysError):
        use()


def test_an_empty_file_is_no_store(folder: Place) -> None:
    (home(folder) / FILE).write_bytes(b"")
    with pytest.raises(SubjectKeysError, match="no such table"):
        folder.open()


def test_a_full_disk_loses_what_was_not_committed_and_nothing_else(folder: Place) -> None:
    """The limit on the size of files stands for a disk: the write fails in the same calls."""
    fill(folder, 50)

    def work(tell: Callable[[bytes], int]) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        keys = folder.open()
        generation = keys.generation()
        size = (home(folder) / FILE).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        made = []

        def write() -> None:
            for number in range(100, 5000):
                made.append(keys.of(user(number)))
                if number % 200 == 0:
                    keys.commit()

        with pytest.raises(SubjectKeysError):
            write()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert keys.generation() > generation, "keys that were handed out are void"
        assert keys.named(made[-1].token) is None
        again = keys.of(user(100 + len(made)))
        keys.commit()
        assert keys.find(user(100 + len(made))) == again
        tell(b"done")

    assert finish(fork(work)) == [b"done"]
    keys = folder.open()
    assert all(keys.find(user(number)) for number in range(50))


def test_a_folder_that_cannot_be_written(folder: Place, tmp_path: Path) -> None:
    """As another user, because nothing is read-only to root."""
    fill(folder, 3)
    for path in (home(folder), *home(folder).iterdir()):
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    home(folder).chmod(0o500)

    def work(tell: Callable[[bytes], int]) -> None:
        if os.geteuid() == 0:
            for parent in (tmp_path, *tmp_path.parents):
                if parent.stat().st_uid == 0 and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
            os.seteuid(NOBODY)
        with pytest.raises(SubjectKeysError) as refused:
            folder.open().of(user(10))
        tell(str(refused.value).encode())

    (told,) = finish(fork(work))
    assert told.startswith(folder.where.encode()), told
    home(folder).chmod(0o700)


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SubjectKeysError, match=os.strerror(errno.ENOTDIR)):
        create_keys(tmp_path / "file" / "store", ORIGIN, master())


def test_a_creation_that_was_cut_short_can_be_repeated(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir(mode=0o700)
    (place / f".{FILE}.new").write_bytes(b"half of it")
    with pytest.raises(SubjectKeysError, match="subject init"):
        open_keys(place, ORIGIN, master())
    create_keys(place, ORIGIN, master())
    open_keys(place, ORIGIN, master()).close()
    assert [path.name for path in place.iterdir()] == [FILE]


def test_a_lock_that_does_not_come_free(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit_middleware.privacy.keys_sqlite.TIMEOUT", 0.2)
    one, two = folder.open(), folder.open()
    key = one.of(user(1))
    with pytest.raises(SubjectKeysError, match="other processes had it locked all the time"):
        two.of(user(2))
    assert two.find(user(1)) is None  # who only looks waits for nobody
    one.commit()
    assert two.find(user(1)) == key
    assert two.of(user(2))


def test_a_copy_by_sqlites_own_means_is_a_store(folder: Place, tmp_path: Path) -> None:
    """The backup that docs/privacy.md describes, while the store is written to."""
    fill(folder, 100)
    keys = folder.open()
    keys.of(user(1000))
    copy = tmp_path / "backup"
    copy.mkdir(mode=0o700)
    with sqlite3.connect(home(folder) / FILE) as source, sqlite3.connect(copy / FILE) as target:
        source.backup(target)
    source.close()
    target.close()
    (copy / FILE).chmod(0o600)
    keys.commit()
    kept = open_keys(copy, ORIGIN, master())
    assert all(kept.find(user(number)) == keys.find(user(number)) for number in range(100))
    assert kept.find(user(1000)) is None
    kept.close()
    shutil.rmtree(copy)


@pytest.mark.slow
def test_a_hundred_thousand_persons(folder: Place) -> None:
    """Nothing takes longer than it must, measured by what SQLite does: each look-up goes down two trees."""
    count = 100_000
    fill(folder, count)
    keys = folder.open()
    for statement in ("lookup = x'00'", "token = 'a'"):
        plan = sqlite3.connect(home(folder) / FILE).execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM meta m LEFT JOIN persons p ON p.{statement}"
        )
        assert any("SEARCH p USING" in str(line) for line in plan.fetchall())
    found = [keys.find(user(number)) for number in range(0, count, 100)]
    assert all(found)
    tokens = [key.token for key in found if key is not None]
    assert keys.erase(tokens) == len(tokens)
    assert renew(keys) == count - len(tokens)
    assert keys.find(user(0)) is None
    assert keys.find(user(1)) is not None
