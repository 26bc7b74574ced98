"""`copy`: a log from a directory into PostgreSQL and back, byte for byte; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from audit_middleware.errors import ConfigError, EntriesPruned, LogDamaged, LogForked, StoreError
from audit_middleware.evidence.anchors import cosigned_notes, keep_cosigned, keep_stamp, stamped_notes
from audit_middleware.evidence.copying import copy_log
from audit_middleware.ledger.note import format_vkey
from audit_middleware.ledger.signatures import ED25519, public_key_of
from audit_middleware.model import Head
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.layout import Layout
from audit_middleware.stores.opening import Place, open_log, place_of
from tests.postgres.conftest import Database
from tests.stores.samples import CREATED, ORIGIN, SEAL, VKEY, entry

COUNT = 120


def journal(path: Path, count: int = COUNT, instance: str = "process-1") -> Path:
    """A log in a directory, in commits of one to five."""
    JournalStore.create(path, ORIGIN, [VKEY], CREATED).close()
    append(path, 0, count, instance)
    return path


def append(place: Place, start: int, stop: int, instance: str = "process-1") -> None:
    with closing(open_log(place, writable=True)) as store:
        while start < stop:
            step = min(1 + start % 5, stop - start)
            store.append([entry(one, instance) for one in range(start, start + step)], SEAL)
            start += step


def content(path: Path) -> bytes:
    """Every byte of a journal's segments, and its configuration."""
    layout = Layout(path)
    return layout.config.read_bytes() + b"".join(one.read_bytes() for one in sorted(layout.journal.iterdir()))


def commits(place: Place) -> list[tuple[int, Sequence[bytes], Head]]:
    with closing(open_log(place)) as store:
        return [(one.first, list(one.entries), one.head) for one in store.frames()]


@pytest.fixture
def there(database: Database, tmp_path: Path) -> Place:
    """Where to, in the database."""
    return place_of(database.url, tmp_path / "state")


def test_there_and_back_again(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    done = copy_log(source, there)
    assert (done.size, done.added, done.report.holds) == (COUNT, COUNT, True)
    assert commits(there) == commits(source)
    back = tmp_path / "back"
    again = copy_log(there, back)
    assert again.root == done.root
    assert content(back) == content(source)


def test_the_copy_goes_on_under_the_same_origin(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    copy_log(source, there)
    append(there, COUNT, COUNT + 30)
    done = copy_log(there, source)  # what is new goes back
    assert (done.size, done.added) == (COUNT + 30, 30)
    assert commits(there) == commits(source)
    assert copy_log(source, there).added == 0


def test_a_copy_that_was_cut_short_is_completed(there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = journal(tmp_path / "source")

    def die(size: int) -> None:
        if size > COUNT // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_log(source, there, die)
    done = copy_log(source, there)
    assert COUNT // 3 < done.added < COUNT * 2 // 3
    assert commits(there) == commits(source)


def test_what_stands_beside_the_log_comes_along(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    keep_cosigned(source, b"a note\n")
    keep_stamp(source, 7, b"a note\n", b"a stamp")
    for _ in range(2):
        copy_log(source, there)
        assert list(cosigned_notes(there)) == [b"a note\n"]
        assert [(one.note, one.response) for one in stamped_notes(there)] == [(b"a note\n", b"a stamp")]


def refused(source: Place, target: Place, error: type[Exception]) -> None:
    before = commits(target)
    with pytest.raises(error):
        copy_log(source, target)
    assert commits(target) == before


def test_what_is_no_beginning_is_refused(there: Place, database: Database, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    copy_log(journal(tmp_path / "other", 60, "process-2"), there)
    refused(source, there, LogForked)  # another history
    copy_log(source, tmp_path / "longer")
    append(tmp_path / "longer", COUNT, COUNT + 5)
    refused(source, tmp_path / "longer", LogForked)
    JournalStore.create(tmp_path / "named", "example.com/other", [VKEY], CREATED).close()
    with pytest.raises(ConfigError):
        copy_log(tmp_path / "named", there)


def test_two_that_were_both_written_to_are_refused(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    copy_log(source, there)
    append(there, COUNT, COUNT + 5)
    append(source, COUNT, COUNT + 9, "process-9")
    refused(source, there, LogForked)
    refused(there, source, LogForked)


def test_a_pruned_log_is_refused(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    with closing(JournalStore.open(source)) as store:
        base = next(one.head.size for one in store.frames() if one.head.size > 50)
        store.prune(base, COUNT - 1, CREATED)
    with pytest.raises(EntriesPruned):
        copy_log(source, there)
    with pytest.raises(StoreError):
        open_log(there)  # nothing was made


def test_a_damaged_source_is_refused(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source")
    path = next(iter(sorted(Layout(source).journal.iterdir())))
    data = path.read_bytes()
    at = data.index(b'"duration_us":1500', len(data) // 2)
    path.write_bytes(data[: at + 14] + b"9" + data[at + 15 :])
    with pytest.raises(LogDamaged):
        copy_log(source, there)


def test_a_signature_that_is_not_of_the_log_is_refused(there: Place, tmp_path: Path) -> None:
    source = journal(tmp_path / "source", 20)
    config = json.loads(Layout(source).config.read_bytes())
    config["vkeys"] = [
        format_vkey(ORIGIN, public_key_of(ED25519, bytes(32)))
    ]  # whoever hands over a log may name any key
    Layout(source).config.write_text(json.dumps(config))
    with pytest.raises(LogDamaged, match="does not open"):
        copy_log(source, there)
