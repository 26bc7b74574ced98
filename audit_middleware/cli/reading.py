"""What a command leaves in the log about itself: who read, exported or verified it, what was asked, how much was shown.

A command says `reading` once it knows what was asked of it, and counts what it shows; the record is written when the
command has ended, however it ended. With ``--require-record``, and for commands that go on until they are stopped, a
first record is written before anything is shown.

Only who has the signing key can write a record. Everyone else reads all the same, and is told once, on standard error,
that it is not recorded. A log that does not hold is left as it is: what was found must not be covered by new entries,
and a log that was cut would sign a second history.
"""

from __future__ import annotations

import logging
import os
import platform
import pwd
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from ..context import clean, plain
from ..errors import AuditError, ConfigError, KeyFileError, LogDamaged, LogForked
from ..evidence.control import ControlWriter, statement, write_control
from ..evidence.signers import check_signers, signers_of
from ..model import Json, Severity
from ..signing import Ed25519Signer, read_key_file
from ..stores.opening import Place, key_of, origin_and_vkeys, origin_of
from .output import COULD_NOT_RUN, USAGE, err, fail, shown

READER, SWITCH = "AUDIT_READER", "AUDIT_RECORD_READS"
"""Environment: who reads, as they say themselves; and ``0`` to leave no records."""

_LEFT = "the log does not hold, and is left as it is"

Kind = Literal["audit.log_read", "audit.log_exported", "audit.log_verified"]
T = TypeVar("T")


@dataclass
class Reading:
    """One command at work on one log.

    Attributes:
        records: How many records it has shown so far.
        verdict: What a verification found.
        severity: Of the record at the end.
        leave: Why the log must be left as it is, if it must.
    """

    log: Place
    kind: Kind
    command: str
    filters: dict[str, Json]
    claimed: str | None
    required: bool
    records: int | None = None
    verdict: Mapping[str, Json] | None = None
    severity: Severity = "info"
    leave: str | None = None
    phase: str = "whole"
    _writer: ControlWriter | None = None
    _silent: bool = False

    def count(self, found: Iterable[T]) -> Iterator[T]:
        """Passes on what is shown, and counts it."""
        self.records = self.records or 0
        for one in found:
            self.records += 1
            yield one

    def doubt(self) -> None:
        """Leaves the log as it is: it does not hold, or is perhaps not all of what it was."""
        self.leave = _LEFT

    def begin(self) -> None:
        """Writes a first record, before anything is shown."""
        self.phase = "begin"
        self._write("success")
        self.phase = "end"

    def end(self, outcome: str) -> None:
        """Writes the record of what was done."""
        self._write(outcome)

    def _write(self, outcome: str) -> None:
        if self._silent:
            return
        try:
            if self.leave is not None:
                raise ConfigError(self.leave)
            # The keys are read as who runs the command: they may be readable for root alone.
            self._writer = self._writer or ControlWriter(log_signers(self.log))
            extra = {
                "command": self.command,
                "filters": self.filters,
                "phase": self.phase,
                "records": self.records,
                "verdict": None if self.verdict is None else dict(self.verdict),
                "reader": reader(self.claimed),
            }
            told = statement(self.kind, self.severity, extra, fields={**_who(), "outcome": outcome})
            with _quiet():
                write_control(self.log, self._writer, [told])
        except (AuditError, OSError) as problem:
            self._failed(problem)

    def _failed(self, problem: Exception) -> None:
        self._silent = True
        why = f"no signing key here ({problem})" if isinstance(problem, KeyFileError) else str(problem)
        if self.required:
            fail(f"this reading cannot be recorded, and --require-record asks for it: {why}", COULD_NOT_RUN)
        err.print(f"this reading is not recorded: {shown(why)}", style="yellow")


@dataclass
class _Session:
    """One run of the command."""

    claimed: str | None = None
    required: bool = False
    readings: list[Reading] = field(default_factory=list)


_session = _Session()


def configure(claimed: str | None, required: bool) -> None:
    """Takes the options that all commands share."""
    if required and not _switched_on():
        fail(f"--require-record asks for records, and {SWITCH}=0 for none", USAGE)
    _session.claimed, _session.required = claimed, required


def reading(
    kind: Kind, log: Place, command: str, filters: Mapping[str, object] | None = None, *, follow: bool = False
) -> Reading:
    """Says that a command reads a log now; ``filters`` holds its options, of which those that are not set are left out.

    Raises:
        SystemExit: A record is required and cannot be written; nothing was shown yet.
    """
    given = {name: value for name, value in (filters or {}).items() if value is not None and value is not False}
    made = Reading(log, kind, command, plain(given), _session.claimed, _session.required)
    if _switched_on():
        origin_of(log)  # where there is no log, there is nothing to read either
        _session.readings.append(made)
        if follow or made.required:
            made.begin()
    return made


@contextmanager
def recorded() -> Iterator[None]:
    """Around the whole command: at its end, whatever it says of itself is written."""
    global _session
    _session = session = _Session()
    outcome = "success"
    try:
        yield
    except SystemExit as end:
        outcome = "error" if isinstance(end.code, int) and end.code >= USAGE else "success"
        raise
    except BrokenPipeError:
        raise  # `| head`: the reader has what it wanted
    except KeyboardInterrupt:
        outcome = "aborted"
        raise
    except BaseException as problem:
        outcome = "error"
        for one in session.readings if isinstance(problem, LogDamaged | LogForked) else ():
            one.doubt()
        raise
    finally:
        for one in session.readings:
            failed = one.verdict is not None and not one.verdict.get("holds")
            one.end("failure" if failed and outcome == "success" else outcome)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the store warns of at each opening (its file system) is for services; without any handler it is printed."""
    logger, nothing = logging.getLogger("audit_middleware.stores"), logging.NullHandler()
    logger.addHandler(nothing)
    try:
        yield
    finally:
        logger.removeHandler(nothing)


def _switched_on() -> bool:
    return os.environ.get(SWITCH) != "0"


# --- who -------------------------------------------------------------------------------------------------------------


def reader(claimed: str | None) -> dict[str, Json]:
    """Who runs this command, as the machine knows it; ``claimed`` is what they say themselves.

    ``login_user`` is who logged in (the kernel keeps it across sudo and su); ``sudo_user`` stands in a variable that
    anyone can set.
    """
    return {
        "os_user": _name(os.getuid()),
        "uid": os.getuid(),
        "euid": os.geteuid(),
        "login_user": _login_user(),
        "sudo_user": _text(os.environ.get("SUDO_USER")),
        "host": platform.node(),
        "claimed": _text(claimed),
    }


def _who() -> dict[str, Json]:
    return {
        "user_id": _name(os.getuid()),
        "subject": {"type": "os_user", "roles": [], "tenant": None, "session": None, "properties": {}},
        "source": {"method": "os", "issuer": platform.node(), "detail": f"uid {os.getuid()}"},
    }


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _login_user() -> str | None:
    with suppress(OSError, ValueError):
        uid = int(Path("/proc/self/loginuid").read_text())
        if uid != 2**32 - 1:  # nobody logged in: a service, a container
            return _name(uid)
    return None


def _text(value: str | None) -> str | None:
    return None if not value else clean(value, 256)


def log_signers(log: Place) -> tuple[Ed25519Signer, ...]:
    """The log's keys, from where a service takes them. Raises `KeyFileError` where there are none for this process."""
    text = os.environ.get("AUDIT_SIGNING_KEY")
    if not text:
        path = os.environ.get("AUDIT_KEY") or key_of(log)
        text = read_key_file(path)
    signers = signers_of(text)
    check_signers(signers, log, *origin_and_vkeys(log))
    return signers
