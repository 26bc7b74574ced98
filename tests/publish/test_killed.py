"""A publisher killed at every step and at random times: what is published holds, and the next run completes."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.published import verify_published
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import files, numbered, publish, read_back
from tests.stores.children import fork
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, new_journal

STEPS = ("fsync", "link", "unlink", "rename", "mkdir", "rmdir", "write")


def dies_at(number: int, steps: Sequence[str] = STEPS) -> None:
    """Kills this process at the n-th call that changes the disk: half of them before, half after the call."""
    numbers = count(1)  # `next` is atomic: the publisher writes files from several threads

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            here = next(numbers)
            if here == number and number % 2:
                os._exit(9)
            try:
                return call(*args, **options)
            finally:
                if here == number:
                    os._exit(9)

        return run

    for name in steps:
        setattr(os, name, counted(getattr(os, name)))


def publish_and_die(log: Path, root: Path, number: int, stride: int) -> int:
    def work(tell: object) -> None:
        dies_at(number)
        publish(JournalStore.open(log, writable=False), root, stride)

    return fork(work).wait()


def holds(root: Path) -> int:
    """The published size; what is published under it verifies."""
    if not (root / "checkpoint").exists():
        return 0
    return verify_published(Folder(root), ORIGIN, VERIFIERS).size


@pytest.mark.parametrize("step", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_each_call_that_changes_the_disk(tmp_path: Path, step: int) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 40))
    base = tmp_path / "base"
    publish(store, base)
    for at in range(40, 600, 40):
        store.append(numbered(at, at + 40), SEAL)
    publish(store, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    number, killed = 1, 0
    while True:
        root = tmp_path / f"dir{number}"
        shutil.copytree(base, root)
        code = publish_and_die(tmp_path / "log", root, number, 200)
        assert code in (0, 9)
        assert holds(root) >= 40
        publish(store, root, 200)
        found = files(root)
        assert {name: found[name] for name in whole} == whole
        assert read_back(root)[1] == numbered(0, 600)
        # Partial files of sizes that were published on the way stay; none stays beside its full file.
        assert not [name for name in found if ".p/" in name and name.split(".p/")[0] in found]
        if code == 0:
            break
        killed += 1
        number += step
    assert killed > 3


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_times_while_the_log_grows(tmp_path: Path, rounds: int) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    log, root = tmp_path / "log", tmp_path / "dir"
    dice = random.Random(rounds)
    size = 0

    def work(tell: Callable[[bytes], int]) -> None:
        folder = Folder(root)
        reader = JournalStore.open(log, writable=False)
        with folder.exclusive():
            tell(b"x")
            while True:
                Publisher(reader, folder, VERIFIERS, stride=100).catch_up()

    for _ in range(rounds):
        child = fork(work)
        os.read(child.pipe, 1)
        for _ in range(dice.randint(1, 4)):
            at = store.head().size
            store.append(numbered(at, at + dice.randint(1, 200)), SEAL)
            time.sleep(dice.random() * 0.03)
        child.kill()
        assert child.wait() == -9
        published = holds(root)
        assert published >= size, "a kill took back what was published"
        size = published
    publish(store, root)
    checkpoint, entries = read_back(root)
    assert checkpoint.size == store.head().size
    assert entries == numbered(0, checkpoint.size)
    assert size > 10
