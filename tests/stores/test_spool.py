"""The spool: what was set aside survives, comes back in order, and is taken over from the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit_middleware.errors import LogUnavailable
from audit_middleware.stores.spool import Spool


def entries(start: int, count: int, size: int = 0) -> list[bytes]:
    return [b'{"n":%d,"x":"%b"}' % (number, b"x" * size) for number in range(start, start + count)]


def drain(spool: Spool) -> list[bytes]:
    """Everything, in the order in which it is sent."""
    found: list[bytes] = []
    while spool.pending:
        found += spool.oldest()
        spool.drop_oldest()
    return found


def test_nothing_is_made_before_something_is_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.adopt() == 0
    assert not spool.pending
    assert spool.oldest() == []
    spool.close()
    assert not (tmp_path / "spool").exists()


def test_in_order_over_many_files_and_nothing_is_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "spool", file_bytes=500)
    for start in range(0, 100, 7):
        spool.add(entries(start, 7))
    assert len(list((tmp_path / "a" / "spool").glob("*/*.jsonl"))) > 2
    assert drain(spool) == entries(0, 105)
    spool.add(entries(105, 1))
    assert drain(spool) == entries(105, 1)
    spool.close()
    assert list((tmp_path / "a" / "spool").iterdir()) == []


def test_what_was_sent_and_cannot_be_removed_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the log would grow by it with every attempt."""
    spool = Spool(tmp_path)
    spool.add(entries(0, 2))
    assert spool.oldest() == entries(0, 2)
    spool.add(entries(2, 2))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for _ in range(2):
            with pytest.raises(LogUnavailable, match="cannot be removed"):
                spool.drop_oldest()
            assert spool.oldest() == []
    spool.drop_oldest()
    assert drain(spool) == entries(2, 2)


def test_nothing_is_set_aside_where_another_process_would_take_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts just then holds every lock that it finds free."""
    spool = Spool(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_hold", lambda self, folder: False)
        with pytest.raises(LogUnavailable, match="no lock"):
            spool.add(entries(0, 1))
    assert not spool.pending
    spool.add(entries(1, 1))
    assert Spool(tmp_path).adopt() == 0, "held"
    assert drain(spool) == entries(1, 1)


def test_what_comes_while_a_file_is_sent_waits_behind_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(entries(0, 2))
    assert spool.oldest() == entries(0, 2)
    spool.add(entries(2, 2))
    assert spool.oldest() == entries(0, 2), "as long as it was not dropped"
    spool.drop_oldest()
    assert drain(spool) == entries(2, 2)


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add(entries(0, 1))
    found = list(tmp_path.rglob("*"))
    assert {path.stat().st_mode & 0o077 for path in found} == {0}
    assert len(found) == 4


def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    first.add(entries(0, 3))
    assert second.adopt() == 0
    second.add(entries(3, 1))
    assert drain(second) == entries(3, 1)
    first.close()
    assert second.adopt() == 1
    assert drain(second) == entries(0, 3)


def test_what_was_taken_over_is_removed(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, file_bytes=1), Spool(tmp_path)
    first.add(entries(0, 3))
    first.add(entries(3, 3))
    first.close()
    second.add(entries(9, 1))
    assert second.adopt() == 2
    assert drain(second) == [*entries(0, 6), *entries(9, 1)], "older ones first"
    second.close()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from audit_middleware.stores.spool import Spool
spool = Spool(Path(sys.argv[1]))
spool.add([b'{"n":%d}' % n for n in range(1000)])
print("acknowledged", flush=True)
while True:
    spool.add([b'{"more":true}'] * 500)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"acknowledged\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    spool = Spool(tmp_path)
    assert spool.adopt() >= 1
    found = drain(spool)
    assert found[:1000] == [b'{"n":%d}' % n for n in range(1000)]
    assert set(found[1000:]) <= {b'{"more":true}'}


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path)
    spool.add(entries(0, 2))
    spool.close()
    (path,) = tmp_path.glob("*/*.jsonl")
    path.write_bytes(path.read_bytes() + b'not an entry\n{"n":2,"x')
    again = Spool(tmp_path)
    assert again.adopt() == 1
    assert drain(again) == entries(0, 2)
    assert "cut short" in caplog.text
    assert "no entry" in caplog.text


def test_a_forked_child_does_not_take_the_lock_along(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(entries(0, 1))
    child = os.fork()
    if child == 0:
        spool.forget()
        os._exit(0 if Spool(tmp_path).adopt() == 0 else 1)  # the parent lives and holds it
    assert os.waitpid(child, 0)[1] == 0
    spool.add(entries(1, 1))
    assert drain(spool) == entries(0, 2)


def test_no_more_than_its_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1000)
    spool.add(entries(0, 1, 900))
    with pytest.raises(LogUnavailable, match="no more than 1000"):
        spool.add(entries(1, 1, 900))
    assert drain(spool) == entries(0, 1, 900)
    spool.add(entries(1, 1, 900))
    assert drain(spool) == entries(1, 1, 900)


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    spool = Spool(tmp_path / "spool")
    assert spool.adopt() == 0
    with pytest.raises(LogUnavailable, match="nothing can be set aside"):
        spool.add(entries(0, 1))
    assert not spool.pending


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """What was not acknowledged is not sent before what came later."""
    spool = Spool(tmp_path)
    spool.add(entries(0, 1))
    with monkeypatch.context() as patched:

        def fail(*arguments: object) -> int:
            raise OSError(28, "No space left on device")

        patched.setattr(os, call, fail)
        with pytest.raises(LogUnavailable, match="No space left"):
            spool.add(entries(1, 1))
    spool.add(entries(2, 1))
    assert drain(spool) == [*entries(0, 1), *entries(2, 1)]
