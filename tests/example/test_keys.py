"""Passwords, the token key, and workers that start together."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from fastapi import HTTPException

from example_app.passwords import hashed, matches
from example_app.storage import Storage
from example_app.tokens import Tokens, key_text


def test_a_password_matches_only_itself() -> None:
    kept = hashed("secret")
    assert matches("secret", kept)
    assert not matches("secret ", kept)
    assert not matches("secret", None)
    assert "secret" not in kept
    assert kept != hashed("secret")


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    assert key_text(path) == key_text(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def _start(folder: Path, answers: multiprocessing.Queue[str]) -> None:
    Storage(folder / "billing.sqlite").create()
    answers.put(key_text(folder / "key.pem"))


def test_workers_that_start_together_share_key_and_data(tmp_path: Path) -> None:
    spawning = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = spawning.Queue()
    workers = [spawning.Process(target=_start, args=(tmp_path / "data", answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    keys = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(keys) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["billing.sqlite", "key.pem"]
    with Storage(tmp_path / "data" / "billing.sqlite").transaction() as db:
        assert len(db.all("SELECT * FROM invoices")) == 24


def _delete_and_fail(storage: Storage) -> float:
    with storage.transaction() as db:
        db.change("DELETE FROM invoices")
        return 1 / 0


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "billing.sqlite")
    storage.create()
    with pytest.raises(ZeroDivisionError):
        _delete_and_fail(storage)
    with storage.transaction() as db:
        assert len(db.all("SELECT * FROM invoices")) == 24


def test_only_our_own_tokens_are_read(tmp_path: Path) -> None:
    ours, theirs = Tokens(tmp_path / "a.pem"), Tokens(tmp_path / "b.pem")
    assert ours.read(f"Bearer {ours.issue('clerk-1', ['clerk'], 'north')}")["sub"] == "clerk-1"
    for header in (f"Bearer {theirs.issue('clerk-1', [], 'north')}", f"Basic {ours.issue('clerk-1', [], 'north')}", ""):
        with pytest.raises(HTTPException) as refused:
            ours.read(header)
        assert refused.value.status_code == 401
