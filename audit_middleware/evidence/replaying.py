"""A follower's dead letters: listed, and sent again with a record of it in the log."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from ..errors import AuditError, FollowerError
from ..followers.config import FollowersConfig
from ..followers.deadletters import DeadLetters, Letter
from ..followers.replay import Replayed, replay
from ..followers.showing import OpenPersons
from ..stores.opening import Place, open_log
from .delivering import Signers, control_teller, follower_named, shelf_of

REPLAYED = "audit.dead_letters_replayed"
_LISTED = 32

_log = logging.getLogger(__name__)


def dead_letters(log: Place, config: FollowersConfig, name: str) -> list[Letter]:
    """A follower's dead letters, oldest first. Raises `FollowerError`."""
    spec = follower_named(config, name)
    return DeadLetters(config.state_in(log) / f"{spec.name}.dead.jsonl").read()


def replay_dead_letters(
    log: Place,
    config: FollowersConfig,
    state: Path,
    name: str,
    signers: Signers,
    indexes: Collection[int] = (),
    persons: OpenPersons | None = None,
) -> Replayed:
    """Sends them again; the caller holds the lock. Where the log cannot be written, the application's log says it.

    Raises:
        FollowerError: As `followers.replay.replay`, and where the file cannot be written.
    """
    spec, tell = follower_named(config, name), control_teller(log, signers)

    def report(part: Replayed) -> None:
        told = {
            "follower": spec.name,
            "delivered": len(part.delivered),
            "rejected": len(part.rejected),
            "indexes": sorted([*part.delivered, *part.rejected])[:_LISTED],
            "why": list(dict.fromkeys(part.rejected.values()))[:8],
        }
        try:
            tell(REPLAYED, told)
        except AuditError as problem:
            _log.warning("%s: this is not recorded in the log: %s", spec.name, problem)

    with closing(open_log(log)) as store:
        try:
            return replay(
                spec, store, state, tell, report, indexes, kept=shelf_of(store, config, state), persons=persons
            )
        except OSError as problem:
            raise FollowerError(f"{problem.filename or state}: {problem.strerror}") from problem
