"""The keys of persons in a running service: opened where the settings say, and only with every erasure carried out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from msgspec.structs import replace

from ..errors import ConfigError, MasterKeyError, StoreError, SubjectKeysError
from ..evidence.control import statement
from ..model import Json
from ..pipeline.custody import Custody, Declared
from ..pipeline.statement import Statement
from ..policy.evaluate import Policy
from ..privacy.guarding import guarded
from ..protocols import Clock, SubjectKeys
from ..settings import Settings
from ..stores import opening

__all__ = ["check_subjects", "custody_for", "declared_by", "names_by", "open_subjects"]


def open_subjects(settings: Settings, origin: str) -> SubjectKeys:
    """The store of persons' keys, with every erasure carried out that the log tells of.

    Raises:
        SubjectKeysError, MasterKeyError, ConfigError: it is not there, or cannot be opened, or the log cannot be read.
    """
    from ..evidence.erasures import replay_erasures  # here, and so on: many policies call nothing personal
    from ..privacy.keys import open_keys
    from ..privacy.masters import open_master

    keys = open_keys(settings.subject_keys_place, origin, open_master(settings.master_key_url, origin))
    try:
        place = opening.place_of(settings.log, settings.state)
        with contextlib.closing(opening.open_log(place, writable=False)) as store:
            replay_erasures(store, keys)
    except StoreError as problem:
        keys.close()
        raise SubjectKeysError(f"not known which persons were erased, so no key is used: {problem}") from problem
    except BaseException:
        keys.close()
        raise
    return keys


def declared_by(policy: Policy) -> Declared | None:
    """What a policy calls personal; ``None`` where that is nothing."""
    personal = (policy.personal, *(policy.personal_of(name) for name in policy.actions))
    declares = any(one.how != "clear" for treatments in personal for one in treatments.values())
    return policy.personal_of if declares else None


def check_subjects(settings: Settings, origin: str, policy: Policy) -> Declared | None:
    """`declared_by`, once it is certain that it can be carried out.

    Raises:
        ConfigError: the policy calls something personal, and the keys cannot be used.
    """
    declared = declared_by(policy)
    if declared is not None:
        try:
            open_subjects(settings, origin).close()
        except MasterKeyError:
            raise
        except (SubjectKeysError, ConfigError) as problem:
            raise ConfigError(
                f"the policy {policy.name} says what is personal, and the keys of persons cannot be used: {problem}; a "
                "new log's are made by: audit-middleware subject init LOG"
            ) from problem
    return declared


def names_by(settings: Settings, origin: str) -> Callable[[Collection[str]], dict[str, str]]:
    """Says whom tokens stand for, in memory alone; opens the keys each time, which is when the list of blocks changes.

    What it returns raises `SubjectKeysError`, `MasterKeyError`, `ConfigError`.
    """

    def names(tokens: Collection[str]) -> dict[str, str]:
        with contextlib.closing(open_subjects(settings, origin)) as keys:
            found = {token: guarded(keys.named, token) for token in tokens}
        return {token: one[0].name for token, one in found.items() if one is not None}

    return names


def custody_for(settings: Settings, origin: str, clock: Clock = time.time_ns) -> Custody:
    """What seals the records of one process; it opens nothing yet."""

    def tell(extra: Mapping[str, Json]) -> Statement:
        from ..evidence.erasures import KEYS

        # As it is: one commitment in a hundred has digits in it that could be a card number.
        return replace(statement(KEYS, "info", clock=clock), verbatim=extra)

    return Custody(partial(open_subjects, settings, origin), origin, tell)
