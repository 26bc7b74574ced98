"""How long a record waits for others: by a clock of the test, counted in commits for each record."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable

import pytest

from audit_middleware.pipeline.company import Company

WAIT = 0.02


class Clock:
    """Stands still unless told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Simulation:
    """A writer whose commits take a time, and records that come at given moments."""

    def __init__(self, wait: float = WAIT, commit: float = 0.001) -> None:
        self.clock = Clock()
        self.company = Company(wait, self.clock)
        self.commit = commit
        self.commits = 0
        self.longest = 0.0  # between a record's arrival and the beginning of its commit

    def run(self, moments: Iterable[float]) -> float:
        """Commits for each record. ``moments`` are ascending."""
        coming = [self.clock.now + moment for moment in moments]
        count, before = len(coming), self.commits
        while coming:
            if coming[0] > self.clock.now:  # nothing came during the commit
                self.clock.now = coming[0]
                self.company.begin()
            waiting = self._come(coming)
            self.clock.now += self.company.left()
            waiting += self._come(coming)
            self.longest = max(self.longest, self.clock.now - waiting[0])
            self.company.taken(len(waiting))
            self.commits += 1
            self.clock.now += self.commit
        return (self.commits - before) / max(1, count)

    def _come(self, coming: list[float]) -> list[float]:
        at = bisect_right(coming, self.clock.now)
        come, coming[:] = coming[:at], coming[at:]
        return come


def steadily(rate: float, seconds: float) -> list[float]:
    return [number / rate for number in range(int(rate * seconds))]


def at_random(rate: float, seconds: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    return sorted(draw.uniform(0, seconds) for _ in range(int(rate * seconds)))


def test_few_records_do_not_wait() -> None:
    simulation = Simulation()
    assert simulation.run(steadily(10, 30)) == 1
    assert simulation.longest == 0


def test_the_first_record_does_not_wait() -> None:
    assert Company(WAIT, Clock()).left() == 0


@pytest.mark.parametrize("rate", [150, 500, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_at_moderate_load_most_commits_are_saved(rate: float, seed: int) -> None:
    simulation = Simulation()
    simulation.run(at_random(rate, 1, seed))
    shared = simulation.run(at_random(rate, 10, seed))
    assert shared < 1.3 / (rate * WAIT), "about one commit for each wait"
    assert Simulation(wait=0).run(at_random(rate, 10, seed)) > shared * 1.5


def test_a_commit_that_takes_long_is_a_wait_in_itself() -> None:
    simulation = Simulation(commit=2 * WAIT)
    simulation.run(steadily(500, 5))
    assert simulation.longest <= 2 * WAIT + 1e-6, "nobody waits for others besides"


@pytest.mark.parametrize("seed", range(5))
def test_no_record_waits_longer_than_allowed(seed: int) -> None:
    draw = random.Random(seed)
    simulation = Simulation()
    for _ in range(20):
        simulation.run(at_random(10 ** draw.uniform(0.5, 3.5), draw.uniform(0.1, 2), seed))
    assert simulation.longest <= WAIT + 1e-6


def test_a_burst_is_soon_forgotten() -> None:
    simulation = Simulation()
    simulation.run(steadily(5000, 1))
    assert simulation.company.expected > 10
    simulation.clock.now += 1
    simulation.longest = 0
    assert simulation.run(steadily(10, 5)) == 1
    assert simulation.longest <= WAIT, "one may still wait for the burst to go on"
    assert simulation.company.expected < 1


def test_a_burst_is_soon_noticed() -> None:
    simulation = Simulation()
    simulation.run(steadily(10, 5))
    assert simulation.run(steadily(2000, 1)) < 0.1


def test_without_a_wait_nobody_waits() -> None:
    simulation = Simulation(wait=0)
    simulation.run(steadily(1000, 1))
    assert simulation.longest == 0
