"""Custody: what stands between records and the writer while a policy calls some of their fields personal.

In the writer's thread, once per batch: the keys are looked at, records are covered, the keys made on the way become
durable, and the log is told of them (`audit.subject_keys`) in the same commit. If we die between two of these steps:

* before the keys are durable: the records are gone with them, or wait in nobody's memory;
* before the commit: keys that no record needs; the next batch that uses one tells of it;
* after the commit, before the store of keys knows that the log was told: it is told again, which is harmless.

Where no keys are to be had, a `KEY_ERRORS` comes up and nothing has happened to the records. What must be set aside
meanwhile is *withheld*: its personal fields are dropped, and it says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import AuditError
from ..model import Json
from ..persons import About, Personal
from ..privacy.guarding import KEY_ERRORS, guarded
from ..privacy.sealed import commitment
from ..protocols import SubjectKeys
from .facts import Facts, Intent
from .statement import Statement

if TYPE_CHECKING:
    from ..privacy.sealing import Plans, Sealing

__all__ = ["Cover", "Custody", "Declared", "OpenKeys"]

OpenKeys = Callable[[], SubjectKeys]
"""Opens the store of persons' keys, with every erasure carried out that the log tells of."""

Declared = Callable[[str | None], Personal]
"""What is personal in the records of an action, as `policy.evaluate.Policy.personal_of` says."""

Cover = Callable[[dict[str, Json]], dict[str, Json]]
"""Returns a record without what is personal in it."""

_PER_RECORD = 200
"""Keys in one `audit.subject_keys`."""

_log = logging.getLogger(__name__)

_inherited: list[SubjectKeys] = []  # of a parent: closing them here would meddle with its files


class Custody:
    """The keys of one process's writer. Opens nothing before a record needs it; used by the writer's thread."""

    def __init__(self, open_keys: OpenKeys, origin: str, tell: Callable[[Mapping[str, Json]], Statement]) -> None:
        """``tell(extra)`` makes an `audit.subject_keys`."""
        self._declared: Declared | None = None
        self._open = open_keys
        self._origin = origin
        self._tell = tell
        self._process = os.getpid()
        self._plans: Plans | None = None  # made with the first declaration
        self._withholds = False
        self._failed = False
        self._keys: SubjectKeys | None = None
        self._sealing: Sealing | None = None
        self._listed: dict[str, None] = {}  # told of in entries that the log has not acknowledged yet

    @property
    def declared(self) -> Declared | None:
        """What the policy in force calls personal; ``None`` where that is nothing. Set from any thread."""
        return self._declared

    @declared.setter
    def declared(self, declared: Declared | None) -> None:
        if declared is not None and self._plans is None:
            # Not above: it brings the ciphers along, and many policies call nothing personal. Not with the first such
            # record either: that would wait, and in an outage there may be no descriptor left to read a module by.
            from ..privacy.sealing import Plans

            self._plans = Plans()
        self._declared = declared

    # --- one record ----------------------------------------------------------------------------------------------

    def cover(self, item: Facts | Intent | Statement) -> Cover | None:
        """What covers the record of an item; ``None`` where nothing in it is personal. Of what the log says of itself
        only amendments are a person's."""
        if self._declared is None:
            return None
        if isinstance(item, Statement):
            if item.amends is not None:
                return self._cover(*item.amends)
            return self._cover(item.action) if item.fields and item.fields.get("kind") == "outcome" else None
        action = (item.facts if isinstance(item, Intent) else item).action
        return self._cover(action.name if action is not None else None)

    def _cover(self, action: str | None, whose: About | None = None) -> Cover | None:
        declared, plans = self._declared, self._plans
        personal = declared(action) if declared is not None else None
        if not personal or plans is None:
            return None
        if self._withholds:
            from ..privacy.covering import about, withheld

            plan, amends = plans.of(personal), whose is not None
            return lambda record: withheld(record, plan, whose or about(record), amends=amends)
        sealing = self._sealing or self._opened()
        return lambda record: sealing.apply(record, personal, whose)

    # --- one batch -----------------------------------------------------------------------------------------------

    def begin(self, *, withholds: bool) -> None:
        """Before the first record. After a failure the store must open again first. Raises one of `KEY_ERRORS`."""
        if self._process != os.getpid():
            self._forget_the_parents()
        self._withholds = withholds
        if withholds or self._declared is None:
            return
        if self._sealing is not None:
            self._sealing.begin()
        elif self._failed:
            self._opened()

    @property
    def owing(self) -> bool:
        """Are there new keys that are not durable? Their store waits for `settle`, and others for it."""
        return self._sealing is not None and self._sealing.asked

    def settle(self) -> Sequence[Statement]:
        """After the last record: makes new keys durable; returns what the log is to be told in the same commit."""
        sealing = self._sealing
        if sealing is None or not sealing.asked:
            return ()
        if self._keys is not None:
            guarded(self._keys.commit)
        sealing.asked = False
        new = {token: key for token, key in sealing.untold.items() if token not in self._listed}
        sealing.untold.clear()
        self._listed |= dict.fromkeys(new)
        rows: list[Json] = [[token, commitment(key.secret).hex()] for token, key in new.items()]
        return [self._tell({"keys": rows[at : at + _PER_RECORD]}) for at in range(0, len(rows), _PER_RECORD)]

    def acknowledged(self) -> None:
        """The log has all that was given to it so far, also what came by way of the spool."""
        if not self._listed or self._keys is None:
            return
        try:
            guarded(self._keys.told, list(self._listed))
        except KEY_ERRORS as problem:  # told again after the next start; nothing is lost
            _log.warning("not noted that the log knows %d new keys of persons: %s", len(self._listed), problem)
            self.drop()
        self._listed.clear()

    def drop(self) -> None:
        """After a failure: what was not durable is gone, and the store must be opened anew."""
        keys, self._keys, self._sealing, self._failed = self._keys, None, None, True
        if keys is not None:
            with contextlib.suppress(AuditError, OSError):
                keys.close()

    def close(self) -> None:
        """Releases the store; the next record would open it again."""
        self.drop()
        self._failed = False

    def _opened(self) -> Sealing:
        from ..privacy.sealing import Sealing

        keys = guarded(self._open)
        try:
            sealing = Sealing(keys, self._origin)
            sealing.begin()
        except BaseException:
            with contextlib.suppress(AuditError, OSError):
                keys.close()
            raise
        self._keys, self._sealing, self._failed = keys, sealing, False
        return sealing

    def _forget_the_parents(self) -> None:
        if self._keys is not None:
            _inherited.append(self._keys)
        self._process, self._keys, self._sealing = os.getpid(), None, None
        self._listed, self._failed = {}, False
