"""A log in PostgreSQL for the commands: made by `init`, filled, and what runs a command on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit_middleware.evidence.signers import signers_of
from audit_middleware.pipeline.seal import make_sealer
from audit_middleware.signing import read_key_file
from audit_middleware.stores.opening import open_log, place_of
from tests.kit import Run
from tests.postgres.server import PASSWORD
from tests.stores.samples import entry

if TYPE_CHECKING:
    from tests.postgres.conftest import Database

ORIGIN = "audit.example.com/commands"
COUNT = 40


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The same with the host's folder in ``AUDIT_STATE``; whatever a command prints, it is no password."""
    monkeypatch.setenv("AUDIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("AUDIT_RECORD_READS", raising=False)

    def command(*arguments: object) -> tuple[int, str, str]:
        code, out, err = run(*arguments)
        assert "Traceback" not in err
        assert PASSWORD not in out + err
        return code, out, err

    return command


def fill(url: str, state: Path, count: int = COUNT) -> None:
    """Appends records in commits of seven."""
    place = place_of(url, state)
    store = open_log(place, writable=True)
    seal = make_sealer(store.origin, signers_of(read_key_file(state / "signing.key")))
    for at in range(0, count, 7):
        store.append([entry(one, "filler") for one in range(at, min(at + 7, count))], seal)
    store.close()


@pytest.fixture
def url(database: Database, run: Run, tmp_path: Path) -> str:
    """A log made by `init`, with records."""
    code, out, err = run("init", database.url, "--origin", ORIGIN)
    assert code == 0, err
    assert "signing.key" in out
    fill(database.url, tmp_path / "state")
    return database.url
