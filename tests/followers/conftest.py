"""Receivers that outlive no test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.followers.receivers import Receiver, Rsyslog


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Callable[[str], Receiver]]:
    """Makes receivers, and kills what is left of them."""
    made: list[Receiver] = []

    def make(kind: str) -> Receiver:
        file = tmp_path / f"{kind}.taken"
        made.append(Rsyslog(file) if kind == "rsyslog" else Receiver(kind, file))
        return made[-1].start()

    yield make
    for one in made:
        one.kill()
