"""What an OpenTelemetry meter provider sees of the followers; without one this costs nothing.

==================================  ==========================================================
``audit.follower.lag.records``      gauge: entries of the log that the follower has not come past
``audit.follower.lag``              gauge, seconds: age of the oldest record that it is trying to deliver
``audit.follower.delivered``        counter: records delivered
``audit.follower.rejected``         counter: records put to the dead letters
``audit.follower.failures``         counter: attempts that must be repeated
==================================  ==========================================================

Each has the attributes ``audit.follower.name`` and ``audit.log.origin``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation


class Observed(Protocol):
    """A follower, as far as it is measured."""

    @property
    def attributes(self) -> Mapping[str, str]:
        """Its name and its log's."""
        ...

    def lag(self) -> tuple[int, float]:
        """In records and in seconds."""
        ...


running: weakref.WeakSet[Observed] = weakref.WeakSet()

_meter = metrics.get_meter("audit_middleware")


def _records(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(one.lag()[0], one.attributes) for one in list(running)]


def _seconds(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(one.lag()[1], one.attributes) for one in list(running)]


_meter.create_observable_gauge("audit.follower.lag.records", [_records], "{record}", "Entries not come past yet.")
_meter.create_observable_gauge("audit.follower.lag", [_seconds], "s", "Age of the oldest record not delivered yet.")
delivered = _meter.create_counter("audit.follower.delivered", "{record}", "Records delivered.")
rejected = _meter.create_counter("audit.follower.rejected", "{record}", "Records put to the dead letters.")
failures = _meter.create_counter("audit.follower.failures", "{attempt}", "Attempts that must be repeated.")
