"""Followers at work on one log, inside a service or as a process of their own, and what stands about them in files.

Here and not among the followers, because it composes rooms that do not know one another: the followers, the log,
and the control records that say what could not be delivered.

The holder of a lock beside the cursors does the work, all followers of a configuration together; other processes stand
by (in a service) or end (the command).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import msgspec

from ..detectors.finding import LEVELS
from ..detectors.orders import FINDING
from ..errors import FollowerError, LogUnavailable
from ..followers.config import FollowersConfig, FollowerSpec
from ..followers.cursor import Cursor, position_at
from ..followers.deadletters import DeadLetters
from ..followers.notify.keeping import forget
from ..followers.notify.rules import NOTIFIED
from ..followers.runner import age, problem_name
from ..followers.showing import OpenPersons
from ..followers.sink import Tell
from ..followers.team import Team
from ..model import Json, Severity
from ..protocols import LogStore, Signer
from ..stores.filesystem import make_directory
from ..stores.lock import ProcessLock
from ..stores.opening import Place, Store, elected, open_log, open_shelf
from ..stores.shelf import Folder, Shelf
from .control import ControlWriter, statement, write_control
from .follow import Elected

_INTERVAL = 0.5
_LOOK = 0.1

_log = logging.getLogger(__name__)

Signers = Callable[[], Sequence[Signer]]
"""The log's keys. Raises `ConfigError` where this process has none."""


class Delivering(Elected):
    """Runs the followers of a configuration, if this process is the one elected."""

    name = "followers"
    _what = "following"

    def __init__(
        self,
        log: Place,
        config: FollowersConfig,
        signers: Signers,
        interval_s: float = _INTERVAL,
        persons: OpenPersons | None = None,
    ) -> None:
        """Makes the directory of the state; starts nothing."""
        self._config, self._signers, self._persons = config, signers, persons
        self._team: Team | None = None
        self._state = prepare_state(log, config)
        self._now: int | None = None
        if any(spec.start == "now" for spec in config.followers):
            # Now, and not when this process happens to be elected: requests come in meanwhile.
            with closing(open_log(log)) as store:
                self._now = store.head().size
        self._lost = threading.Event()
        super().__init__(log, self._elected, interval_s)

    def state(self) -> dict[str, Json]:
        """As `Elected.state`, and each follower's."""
        found = self._team.state() if self._team is not None else {}
        places = [one["next"] or 0 for one in found.values()]
        return {**super().state(), "size": min(places) if places else None, "followers": found}

    def _lead(self) -> None:
        self._team = team = make_team(
            self._path, self._config, self._state, self._signers, self._interval, self._now, self._persons
        )
        self._done(0)
        with either(self._stop, self._lost) as stop:
            team.run(stop)
        if self._lost.is_set() and not self._stop.is_set():
            raise LogUnavailable(f"{self._path}: the connection that held the lock broke")
        self._role = "stopped"

    @contextmanager
    def _elected(self) -> Iterator[None]:
        with team_lock(self._path, self._config, self._state) as self._lost:
            yield


def prepare_state(log: Place, config: FollowersConfig) -> Path:
    """Makes the directory of the state, for its owner alone. Raises `FollowerError`."""
    folder = config.state_in(log)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_directory(folder)
    except OSError as error:
        raise FollowerError(f"{folder}: the followers' state cannot be kept there: {error.strerror}") from error
    return folder


def state_lock(state: Path) -> ProcessLock:
    """Who holds it runs the followers."""
    return ProcessLock(
        state / "lock", "another process runs these followers, or replays for one: end it, then try again"
    )


def team_lock(log: Place, config: FollowersConfig, state: Path) -> AbstractContextManager[threading.Event]:
    """The same among all hosts that share a log in a database, for each of these followers; see `elected`."""
    return elected(log, state_lock(state), *(f"follower {spec.name}" for spec in config.followers))


@contextmanager
def either(stop: threading.Event, lost: threading.Event) -> Iterator[threading.Event]:
    """Yields an event that is set as soon as one of these is."""
    found, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not (stop.is_set() or lost.is_set() or done.is_set()):
            stop.wait(_LOOK)
        found.set()

    thread = threading.Thread(target=watch, name="audit-followers-stop", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def make_team(
    log: Place,
    config: FollowersConfig,
    state: Path,
    signers: Signers,
    interval: float = _INTERVAL,
    now: int | None = None,
    persons: OpenPersons | None = None,
) -> Team:
    """The followers, ready to run; the caller holds the lock. ``now`` and ``persons``: see `Follower`."""

    def open_store() -> Store:
        return open_log(log)

    return Team(
        config,
        open_store,
        state,
        control_teller(log, signers),
        interval=interval,
        now=now,
        log=log,
        shelf=lambda store: shelf_of(store, config, state),
        persons=persons,
    )


def shelf_of(store: Store, config: FollowersConfig, state: Path) -> Shelf:
    """Where the followers keep their places: in the log's database, unless the configuration names a folder."""
    return Folder(state) if config.state is not None else open_shelf(store, state, "followers/")


def control_teller(log: Place, signers: Signers) -> Tell:
    """What writes the followers' control records into the log itself, from any thread.

    A finding is as severe as its level says; that something was not delivered is always high.
    """
    mutex = threading.Lock()
    made: list[ControlWriter] = []

    def tell(action: str, extra: Mapping[str, Json]) -> None:
        with mutex:
            if not made:
                try:
                    made.append(ControlWriter(signers()))
                except OSError as error:
                    raise LogUnavailable(f"{log}: the signing key cannot be read: {error.strerror}") from error
            write_control(log, made[0], [statement(action, _severity(action, extra), extra)])

    return tell


def _severity(action: str, extra: Mapping[str, Json]) -> Severity:
    if action != FINDING:
        return "info" if action == NOTIFIED else "high"
    return next((severity for level, severity in LEVELS.items() if level == extra.get("level")), "high")


def reset(store: Store, config: FollowersConfig, state: Path, name: str, index: int) -> int:
    """Puts a follower's cursor before entry ``index``; the caller holds the lock. Returns the index it stood at.

    Raises:
        FollowerError: There is no such follower or entry.
    """
    follower_named(config, name)
    if not store.base.size <= index <= store.head().size:
        raise FollowerError(f"the log has entries {store.base.size} to {store.head().size - 1}: {index} is not there")
    shelf = shelf_of(store, config, state)
    cursor = Cursor(shelf, name, store.origin)
    try:
        before = cursor.read()
    except FollowerError as problem:  # that it cannot be used is why it is being reset
        _log.warning("%s", problem)
        before = None
    forget(shelf, name)
    cursor.write(position_at(store, index))
    return before[0] if before else 0


def follower_named(config: FollowersConfig, name: str) -> FollowerSpec:
    """The follower of this name. Raises `FollowerError` that lists the names there are."""
    for spec in config.followers:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in config.followers)
    raise FollowerError(f"there is no follower {name!r} in the configuration; there are: {known}")


def status(log: Place, config: FollowersConfig, now_ns: int | None = None) -> list[dict[str, Json]]:
    """What is kept about each follower: cursor, lag, trouble, dead letters. Writes nothing."""
    state, now = config.state_in(log), time.time_ns() if now_ns is None else now_ns
    with closing(open_log(log)) as store:
        shelf = shelf_of(store, config, state)
        return [_status(store, state, shelf, spec, now) for spec in config.followers]


def _status(store: LogStore, state: Path, shelf: Shelf, spec: FollowerSpec, now_ns: int) -> dict[str, Json]:
    cursor = Cursor(shelf, spec.name, store.origin)
    size = store.head().size
    told: dict[str, Json] = {"follower": spec.name, "type": spec.type, "state": "new", "next": None, "size": size}
    told |= {"lag": None, "lag_s": None, "dead_letters": DeadLetters(state / f"{spec.name}.dead.jsonl").count()}
    told |= {"problem": None, "failures": 0, "problem_at": None}
    try:
        position = cursor.read()
        if position is None:
            return told
        told |= {"next": position[0], "lag": max(0, size - position[0])}
        cursor.check(store, position)
    except FollowerError as problem:
        return told | {"state": "refused", "problem": str(problem)}
    told |= {"state": "current" if position[0] == size else "behind", "lag_s": _waiting(store, position[0], now_ns)}
    try:
        trouble = msgspec.json.decode(shelf.read(problem_name(spec.name)) or b"null")
    except (OSError, msgspec.DecodeError):
        return told
    if trouble is None:
        return told
    return told | {
        "state": "failing", "problem": trouble.get("problem"), "failures": trouble.get("failures"),
        "problem_at": trouble.get("at"),
    }  # fmt: skip


def _waiting(store: LogStore, index: int, now_ns: int) -> int:
    """Seconds since the entry to deliver next was recorded."""
    index = max(index, store.base.size)
    for frame in store.frames(index, index + 1) if index < store.head().size else ():
        record = msgspec.json.decode(frame.entries[index - frame.first])
        return round(age(record.get("recorded_at"), now_ns))
    return 0
