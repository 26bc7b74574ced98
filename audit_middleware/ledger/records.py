"""The checks across records, as one: counters and signs of life, action ids, what the log admits about itself."""

from __future__ import annotations

from collections.abc import Iterator

from .controls import HEARTBEAT, STOPPED, Coherence, seconds
from .counters import ActionIds, Counters
from .examine import Examined
from .report import Counts, Finding
from .state import Process, State


class Records:
    """Takes the records of a log in order."""

    def __init__(self, resume: State | None = None, *, pruned: bool = False) -> None:
        """``resume``: what an earlier verification remembers; ``pruned``: else, that entries are gone."""
        if resume is None:
            self.counters = Counters(pruned=pruned)
            self.coherence = Coherence(whole=not pruned)
        else:
            self.counters = Counters(resume.processes, resume.newest, pruned=not resume.whole)
            self.coherence = Coherence(resume.retention, resume.pruned, whole=resume.whole)
        self._ids = ActionIds()

    def add(self, first: int, examined: Examined) -> Iterator[Finding]:
        """Takes entries that are what was signed."""
        yield from self.counters.add(first, examined.facts)
        for control in examined.controls:
            if control.action == HEARTBEAT:
                interval = seconds(control.extra.get("interval_s"))
                if interval:
                    yield from self.counters.promise(control.instance, interval)
            elif control.action == STOPPED:
                self.counters.stop(control.instance)
        yield from self.coherence.add(first, examined.controls)
        self._ids.add(first, examined.facts)

    def skip(self, first: int, examined: Examined) -> None:
        """Moves on over entries that are not trusted, so that later ones are not blamed for them."""
        self.counters.skip(first, examined.facts)

    def finish(self) -> Iterator[Finding]:
        """What is known when all were seen."""
        repeated = self._ids.repeated()
        yield from self.counters.finish(repeated)
        for index, before in repeated.items():
            yield Finding(9, "repeated", index, f"the action_id of entry {before}", level="note")

    @property
    def counts(self) -> Counts:
        """What the records say of the log itself, added up."""
        found = self.coherence
        return Counts(found.gaps, found.lost, self.counters.silences, found.jumps)

    def processes(self) -> dict[str, Process]:
        """What to remember of each process."""
        return self.counters.processes()
