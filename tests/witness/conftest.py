"""Two honest witnesses, a log to have cosigned, and the published vectors, which are read where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from audit_middleware.evidence import cosign
from tests.ledger.conftest import load, vectors
from tests.publish.support import numbered
from tests.stores.samples import new_journal
from tests.witness.support import (
    W1,
    W2,
    make_witness,
    serving,
)

__all__ = ["load", "vectors"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once."""
    monkeypatch.setattr(cosign, "_PAUSE", 0.001)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    new_journal(tmp_path / "log", numbered(0, 3), numbered(3, 5))
    return tmp_path / "log"


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Two honest witnesses."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(make_witness(tmp_path / f"w{number}", one)))
            for number, one in enumerate((W1, W2), 1)
        ]
