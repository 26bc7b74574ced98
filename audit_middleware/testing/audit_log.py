"""A test's own log: fresh, thrown away afterwards, and asked what the application under test did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..evidence.keys import create_log
from ..evidence.masters import set_up
from ..evidence.wellformed import check_record
from ..ledger.canonical import decode
from ..ledger.note import parse_vkey
from ..ledger.report import Report
from ..ledger.verify import verify
from ..privacy.keys import open_keys
from ..privacy.masters import open_master
from ..privacy.opening import Opener
from ..stores.journal import JournalStore
from .faulty import Faults
from .matching import Expectation, Found, explain
from .redirect import Redirect

ORIGIN = "test.example/audit"
Record = dict[str, Any]

_LOOK_S, _GRACE_S = 0.01, 0.25
_MARK = b".v1."  # in every text that stands for personal data
_NAMED = ("outcome", "user", "resource", "cause", "rule")


class AuditLog:
    """A log and what its tests ask of it.

    Attributes:
        path: The log's directory.
        key: Its signing key's file.
        vkey: Its verifier key.
        timeout: Seconds that an assertion waits for a record of another process before it fails.
        environment: The variables that a service of another process needs to write here.
        faults: Lets appends of this process fail; see `Faults`, and `outage` for the usual case.
    """

    def __init__(self, folder: Path, *, timeout: float = 5.0) -> None:
        """Makes the log in ``folder``, which holds none."""
        self.path = folder / "audit"
        self.vkey = create_log(self.path, ORIGIN)
        self._keys, self._master = f"{self.path}.subjects", f"file:{self.path}.master"
        set_up(self.path, self._keys, self._master)  # where a service looks by default, if its policy says `personal:`
        self.key = Path(f"{self.path}.key")
        self.timeout = timeout
        self.environment = {"AUDIT_LOG": str(self.path), "AUDIT_KEY": str(self.key), "AUDIT_SERVICE": "test"}
        self.faults = Faults()
        self._redirect = Redirect({"log": str(self.path), "key": self.key})
        self._read: list[Record] = []

    # --- what happened -------------------------------------------------------------------------------------------

    def records(
        self,
        *,
        action: str | None = None,
        decision: str | None = None,
        user: str | None = None,
        kind: str | None = "outcome",
        **fields: Any,
    ) -> list[Record]:
        """The records with these fields, oldest first; `matching.Expectation` says how fields are named.

        Waits for the records of requests that this process has answered. What a policy's ``personal:`` seals is opened:
        fields have the values that were sealed. ``kind`` is ``outcome`` by default, so that
        control records (``control``; ``None`` for all) are not in the way.
        """
        asked = {"action": action, "decision": decision, "user": user, "kind": kind}
        given = {name: value for name, value in asked.items() if value is not None}
        found = Expectation(given | fields).select(enumerate(self._settled()))
        return [record for _, record in found]

    @property
    def last(self) -> Record:
        """The newest record of a request. Raises `AssertionError` when there is none."""
        found = self.records()
        if not found:
            raise AssertionError("the log has no records of requests")
        return found[-1]

    def wait(self, count: int, *, timeout: float | None = None, **fields: Any) -> list[Record]:
        """Waits until there are ``count`` such records, as for a server of another process.

        Raises:
            AssertionError: There were fewer when the time was over.
        """
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while len(found := self.records(**fields)) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} records instead of {count} after {limit:g} seconds")
            time.sleep(_LOOK_S)
        return found

    def verify(self) -> Report:
        """Verifies the whole log as the command does. Raises `AssertionError` with the findings if it does not hold."""
        self._settled()
        store = JournalStore.open(self.path, writable=False)
        report = verify(store.raw_frames(), store.origin, [parse_vkey(self.vkey)], check_entry=check_record)
        if not report.holds:
            lines = [f"entry {one.index}: {one.cause}: {one.text}" for one in report.findings]
            raise AssertionError("\n".join([f"the log does not hold, {report.cause} at entry {report.index}", *lines]))
        return report

    # --- assertions ----------------------------------------------------------------------------------------------

    def assert_audited(
        self,
        action: str,
        *,
        outcome: str | None = None,
        user: str | None = None,
        resource: str | None = None,
        **fields: Any,
    ) -> Record:
        """A record like this is in the log, or comes to be in time; returns the newest such record.

        Raises:
            AssertionError: With the nearest records, and what differs in each.
        """
        __tracebackhide__ = True
        named = {"outcome": outcome, "user": user, "resource": resource}
        given = {name: value for name, value in named.items() if value is not None}
        return self._expect(Expectation({"action": action} | given | fields))

    def assert_denied(
        self, action: str, *, cause: str | None = None, rule: str | None = None, user: str | None = None, **fields: Any
    ) -> Record:
        """A request for this action was refused. One that a policy in monitor mode only noted was not."""
        __tracebackhide__ = True
        named = {"cause": cause, "rule": rule, "user": user}
        given = {name: value for name, value in named.items() if value is not None}
        return self._expect(Expectation({"action": action, "decision": "deny", "outcome": "denied"} | given | fields))

    # --- what the service under test gets ------------------------------------------------------------------------

    def configure(self, **settings: Any) -> None:
        """Replaces more settings of the middleware, for this test: ``audit_log.configure(policy=path)``."""
        self._redirect.stop()
        self._redirect.settings.update(settings)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The log takes no records of this process inside the block: guarded requests must get 503.

        The service must have been started, by its lifespan or a first request. In the end the log works again, and gets
        what was kept meanwhile.
        """
        self.faults.fail()
        try:
            self._redirect.provoke("audit.outage_rehearsed")
            self._until(lambda: not self._redirect.available, "the log is unavailable")
            yield
        finally:
            self.faults.heal()
        self._until(lambda: self._redirect.available, "the log is available again")

    @contextmanager
    def redirected(self) -> Iterator[None]:
        """Inside the block every `AuditMiddleware` of this process writes here."""
        append = JournalStore.append

        def faulty(store: JournalStore, *args: Any) -> Any:
            work: Callable[[], Any] = lambda: append(store, *args)  # noqa: E731  # typed
            return self.faults.run("append", work) if store.path == self.path else work()

        JournalStore.append = faulty  # type: ignore[method-assign,assignment]  # as the redirection itself
        try:
            with self._redirect.installed():
                yield
        finally:
            self.faults.heal()
            JournalStore.append = append  # type: ignore[method-assign]

    # --- inside --------------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 4 * self.timeout  # the writer's own pauses grow up to 5 seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not come to be that {what}")
            time.sleep(_LOOK_S)

    def _expect(self, expected: Expectation) -> Record:
        __tracebackhide__ = True
        deadline = time.monotonic() + self.timeout
        while True:
            found = [pair for pair in enumerate(self._settled()) if pair[1]["kind"] == "outcome"]
            matching = expected.select(found)
            if matching:
                return matching[-1][1]
            if time.monotonic() > deadline:
                raise AssertionError(explain(expected, found))
            if self._redirect.used and not self._redirect.running:  # all that this process does is done
                deadline = min(deadline, time.monotonic() + _GRACE_S)
            time.sleep(_LOOK_S)

    def _settled(self) -> list[Record]:
        """All records, once those of answered requests are among them."""
        deadline = time.monotonic() + self.timeout
        while True:
            self._catch_up()
            self._redirect.expected -= {record["action_id"] for record in self._read}
            if not self._redirect.expected or self.faults.failing or time.monotonic() > deadline:
                return self._read
            time.sleep(_LOOK_S)

    def _catch_up(self) -> None:
        store = JournalStore.open(self.path, writable=False)
        for frame in store.frames(len(self._read)):
            entries = frame.entries[len(self._read) - frame.first :]
            read = [decode(entry) for entry in entries]
            self._read += self._opened(read) if any(_MARK in entry for entry in entries) else read

    def _opened(self, records: list[Record]) -> list[Record]:
        """The records with the values that were sealed, committed values and others that do not open by their marks."""
        with contextlib.closing(open_keys(self._keys, ORIGIN, open_master(self._master, ORIGIN))) as keys:
            opener = Opener(keys, ORIGIN)
            return [opener.opened(record) for record in records]


def read_log(path: Path) -> list[Found]:
    """The records of requests in any log, with their indexes."""
    store = JournalStore.open(path, writable=False)
    found = ((index, decode(one)) for frame in store.frames() for index, one in enumerate(frame.entries, frame.first))
    return [(index, record) for index, record in found if record["kind"] == "outcome"]


def assert_audited(log: AuditLog | Path | str, action: str, **fields: Any) -> Mapping[str, Any]:
    """`AuditLog.assert_audited` for any log, also one of a service that runs elsewhere and is given by its path."""
    __tracebackhide__ = True
    if isinstance(log, AuditLog):
        return log.assert_audited(action, **fields)
    return _find(Path(log), {"action": action} | fields)


def assert_denied(log: AuditLog | Path | str, action: str, **fields: Any) -> Mapping[str, Any]:
    """`AuditLog.assert_denied` for any log."""
    __tracebackhide__ = True
    if isinstance(log, AuditLog):
        return log.assert_denied(action, **fields)
    return _find(Path(log), {"action": action, "decision": "deny", "outcome": "denied"} | fields)


def _find(path: Path, fields: Mapping[str, Any]) -> Record:
    __tracebackhide__ = True
    expected = Expectation({name: value for name, value in fields.items() if name not in _NAMED or value is not None})
    found = read_log(path)
    matching = expected.select(found)
    if not matching:
        raise AssertionError(explain(expected, found))
    return matching[-1][1]
