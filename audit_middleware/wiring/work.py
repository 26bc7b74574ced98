"""`record`: work that no request asked for; and which middlewares run in this process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping

from ..context import noted
from ..errors import ConfigError
from ..model import Json, Outcome, Resource, Source, Subject
from ..pipeline.arrive import fresh_action_id
from ..pipeline.statement import Statement, work_fields
from ..settings import Settings, load_settings
from ..stores.opening import Place
from .parts import Parts, build_parts, place_for

RUNNING: dict[int, Parts] = {}
"""The parts that are running in this process, by who started them; the newest last."""


def record(
    action: str,
    *,
    subject: Subject | None = None,
    resource: Resource | None = None,
    outcome: Outcome = "success",
    reason: str | None = None,
    impact: Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
    wait: bool = False,
) -> str:
    """Records work that no request asked for: a job, a migration, a command. Nothing is decided about it.

    In a service it goes through the running middleware. In a process without one, the log, policy and service are taken
    from ``AUDIT_*`` variables at the first call. Works from any thread.

    Args:
        action: an action of the policy: ``invoice.archive``.
        subject: on whose behalf; default: the system itself.
        resource: what was acted on.
        outcome: ``success``, ``failure``, ``denied``, ``error`` or ``aborted``.
        reason, impact, extra: as for `annotate`.
        wait: return only when the record is under a signature on disk.

    Returns:
        The record's ``action_id``.

    Raises:
        ConfigError: the action is unknown, or no middleware runs here and the environment names no log.
        StoreError: the log cannot take the record.
    """
    parts = _parts_of_this_process()
    rule = parts.policy.actions.get(action)
    if rule is None:
        raise ConfigError(f"record(): the policy {parts.policy.name} has no action {action!r}")
    fields = work_fields(subject or _SYSTEM, resource or Resource(), outcome, noted(reason, impact, extra))
    now = parts.clock()
    statement = Statement(fresh_action_id(now), now, action, rule.event, rule.severity, None, fields)
    if wait:
        parts.writer.submit_wait(statement)
    else:
        parts.writer.submit(statement)
    return statement.action_id


def running_log() -> Place:
    """The log of the middleware that runs in this process; of several, the one that started last.

    Raises:
        ConfigError: None runs here.
    """
    running = next(reversed(list(RUNNING.values())), None)
    if running is None:
        raise ConfigError("no AuditMiddleware runs in this process: name the log")
    return place_for(running.settings)


def background_state() -> dict[str, Json]:
    """What the running middlewares do beside the requests: ``{log: {"publisher": {...}, "space": {...}}}``."""
    return {
        str(place_for(parts.settings)): {work.name: work.state() for work in (*parts.watching, *parts.following)}
        for parts in list(RUNNING.values())
    }


def _parts_of_this_process() -> Parts:
    with _ENVIRONMENT_LOCK:
        running = next(reversed(list(RUNNING.values())), None)
        if running is None:
            running = build_parts(_INHERITED.pop() if _INHERITED else load_settings({}))
            RUNNING[0] = running
            atexit.register(running.writer.close, 10)
        return running


_ENVIRONMENT_LOCK = threading.Lock()
_INHERITED: list[Settings] = []


def _forget_the_parents() -> None:
    """A forked child has the parent's settings and no more: a writer, and the sequence it counts, are one process's."""
    _INHERITED[:] = [parts.settings for parts in list(RUNNING.values())[-1:]]
    RUNNING.clear()


os.register_at_fork(after_in_child=_forget_the_parents)
_SYSTEM = Subject("system", "system", source=Source("system"))
