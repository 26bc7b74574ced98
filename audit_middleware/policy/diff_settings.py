"""How two policies differ beside their rules: modes, requirements, limits, routes, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from ..persons import Personal
from .evaluate import CompiledAction, Policy
from .patterns import Pattern
from .personal import effective, in_words, strength
from .routes import RouteEntry, find, table
from .schema import GUARANTEES, LOG_FAILURES, OUTCOMES, Limit, Requirements
from .wording import limit_in_words, requirements_in_words

__all__ = ["Change", "setting_changes"]

Kind = Literal["widening", "weakening", "narrowing", "recording"]
Sides = tuple[bool, bool]  # widened, narrowed
_NOT_COMPARED = "cannot be compared: treated as widening"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``kind``: more is allowed, the log promises less, less is allowed, or other things are recorded.

    ``callers`` are roles, empty where everybody is meant; ``proven`` is false where the policies could not be compared
    and the change is treated as a widening. ``example`` is a request that was denied and is allowed now.
    """

    kind: Kind
    action: str | None
    callers: tuple[str, ...]
    text: str
    proven: bool = True
    example: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON."""
        return {
            "kind": self.kind,
            "action": self.action,
            "callers": list(self.callers),
            "text": self.text,
            "proven": self.proven,
            "example": self.example,
        }


def setting_changes(old: Policy, new: Policy) -> Iterator[Change]:
    """Every difference that is no difference between rules."""
    if old.default != new.default:
        kind: Kind = "widening" if new.default == "allow" else "narrowing"
        yield Change(kind, None, (), f"routes without an action: default {old.default} -> {new.default}")
    yield from _routes(old, new)
    for name, action in new.actions.items():
        before = old.actions.get(name)
        if before is not None:
            yield from _action(before, action)
        elif action.mode == "monitor":
            yield Change("widening", name, (), f"{name} is new and monitored: every request passes")
    if old.redact != new.redact:
        yield Change("recording", None, (), f"redaction: {_redaction(old)} -> {_redaction(new)}")
    yield from _channels(old, new)
    yield from _personal(old, new)


def _redaction(policy: Policy) -> str:
    return _words((*policy.redact.keys, *policy.redact.patterns))


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(words) or "nothing"


def _action(old: CompiledAction, new: CompiledAction) -> Iterator[Change]:
    name = new.name
    if old.mode != new.mode:
        monitored = new.mode == "monitor"
        text = "is monitored: every request passes" if monitored else "is enforced"
        yield Change("widening" if monitored else "narrowing", name, (), f"{name} {text}")
    wants = _require(old.require or Requirements(), new.require or Requirements())
    yield from _changes(name, "require", wants, old.require, new.require)
    yield from _changes(name, "limit", _limit(old.limit, new.limit), old.limit, new.limit)
    for word, order in (("guarantee", GUARANTEES[::-1]), ("on_log_failure", LOG_FAILURES)):
        yield from _promise(name, word, order, getattr(old, word), getattr(new, word))
    for word in ("event", "severity", "record"):
        before, after = getattr(old, word), getattr(new, word)
        if before != after:
            gone = word == "record" and after == "none"  # who was allowed leaves no trace any more
            yield Change("weakening" if gone else "recording", name, (), f"{name}: {word} {before} -> {after}")
    told = [{(one, outcome) for one in side.notify for outcome in _outcomes(side)} for side in (old, new)]
    if told[0] != told[1]:
        kind: Kind = "recording" if told[0] <= told[1] else "weakening"  # somebody no longer hears of something
        yield Change(kind, name, (), f"{name}: notify {_notified(old)} -> {_notified(new)}")


def _outcomes(action: CompiledAction) -> tuple[str, ...]:
    return action.notify_outcomes or OUTCOMES


def _notified(action: CompiledAction) -> str:
    of = f" of {_words(action.notify_outcomes)}" if action.notify_outcomes else ""
    return _words(action.notify) + of


def _channels(old: Policy, new: Policy) -> Iterator[Change]:
    """By their settings' names: what a reference names is known to nobody here, and a URL may be confidential."""
    for name in sorted({*old.channels, *new.channels}):
        before, after = old.channels.get(name), new.channels.get(name)
        if before is None or after is None or before.type != after.type:
            shown = " -> ".join(one.type if one is not None else "nothing" for one in (before, after))
            yield Change("recording", None, (), f"channel {name}: {shown}")
        elif before != after:
            keys = {*before.options, *after.options}
            changed = sorted(key for key in keys if before.options.get(key) != after.options.get(key))
            yield Change("recording", None, (), f"channel {name}: other {_words(tuple(changed))}")


def _personal(old: Policy, new: Policy) -> Iterator[Change]:
    """What is done otherwise with personal data, what is weaker first; of an action, what is beyond that."""
    everywhere = _treated(old.personal, new.personal)
    yield from _told(None, "personal", everywhere)
    for name in new.actions:
        if name in old.actions:
            of_action = _treated(old.personal_of(name), new.personal_of(name))
            yield from _told(name, f"{name}: personal", [one for one in of_action if one not in everywhere])


def _treated(old: Personal, new: Personal) -> list[tuple[bool, str]]:
    """Each field that is treated otherwise: whether it is weaker, and how it was and is."""
    found: list[tuple[bool, str]] = []
    for path in sorted({*old, *new}):
        before, after = effective(old, path), effective(new, path)
        if before != after:
            text = f"{path} {in_words(before)} -> {in_words(after)}"
            found.append((strength(after) < strength(before), text))
    return found


def _told(action: str | None, title: str, treated: list[tuple[bool, str]]) -> Iterator[Change]:
    kinds: tuple[tuple[bool, Kind], ...] = ((True, "weakening"), (False, "recording"))
    for weaker, kind in kinds:
        if texts := [text for is_weaker, text in treated if is_weaker is weaker]:
            yield Change(kind, action, (), f"{title}: {', '.join(texts)}")


def _promise(name: str, word: str, strongest_first: tuple[str, ...], old: str, new: str) -> Iterator[Change]:
    """What the action's records are worth when something breaks."""
    if old != new:
        weaker = strongest_first.index(new) > strongest_first.index(old)
        yield Change("weakening" if weaker else "recording", name, (), f"{name}: {word} {old} -> {new}")


def _in_words(value: Requirements | Limit | None) -> str:
    if value is None:
        return "none"
    return limit_in_words(value) if isinstance(value, Limit) else ", ".join(requirements_in_words(value).values())


def _changes(
    name: str, word: str, sides: Sides, old: Requirements | Limit | None, new: Requirements | Limit | None
) -> Iterator[Change]:
    widened, narrowed = sides
    if not widened and not narrowed:
        return
    text = f"{name}: {word} {_in_words(old)} -> {_in_words(new)}"
    if widened and narrowed:
        yield Change("widening", name, (), f"{text}, {_NOT_COMPARED}", proven=False)
    else:
        yield Change("widening" if widened else "narrowing", name, (), text)


# --- requirements and limits -------------------------------------------------------------------------------------


def _require(old: Requirements, new: Requirements) -> Sides:
    sides = [
        _flags(old.mfa, new.mfa),
        _flags(old.confirm, new.confirm),
        _bound(old.auth_age, new.auth_age),
        _levels(old.acr, new.acr),
        _reasons(old.reason, new.reason),
    ]
    return any(widened for widened, _ in sides), any(narrowed for _, narrowed in sides)


def _flags(old: bool, new: bool) -> Sides:
    return old and not new, new and not old


def _bound(old: int | None, new: int | None) -> Sides:
    """A maximum; ``None`` is none."""
    before, after = (float("inf") if value is None else value for value in (old, new))
    return after > before, after < before


def _levels(old: tuple[str, ...], new: tuple[str, ...]) -> Sides:
    """One of these is wanted; none listed is none wanted."""
    if old == new:
        return False, False
    if not old or not new:
        return not new, not old
    return not set(new) <= set(old), not set(old) <= set(new)


def _reasons(old: Pattern | bool, new: Pattern | bool) -> Sides:
    strengths = [2 if isinstance(reason, Pattern) else int(reason) for reason in (old, new)]
    if isinstance(old, Pattern) and isinstance(new, Pattern):
        return (old.text != new.text,) * 2
    return strengths[1] < strengths[0], strengths[1] > strengths[0]


def _limit(old: Limit | None, new: Limit | None) -> Sides:
    if old is None or new is None:
        return old is not new and new is None, old is not new and old is None
    sides = [_bound(old.concurrent, new.concurrent), _flags(old.on_limit_error == "deny", new.on_limit_error == "deny")]
    if old.per != new.per:
        sides.append((True, True))
    if old.rate is None or new.rate is None:
        sides.append((old.rate is not None and new.rate is None, old.rate is None and new.rate is not None))
    else:
        # Fewer in a longer window is stricter in every burst; anything crosswise is not compared.
        more, longer = new.rate.count - old.rate.count, new.rate.seconds - old.rate.seconds
        sides.append((more > 0 or longer < 0, more < 0 or longer > 0))
    return any(widened for widened, _ in sides), any(narrowed for _, narrowed in sides)


# --- routes ------------------------------------------------------------------------------------------------------


def _routes(old: Policy, new: Policy) -> Iterator[Change]:
    tables = [table(policy.routes) for policy in (old, new)]
    for method, template in sorted({*tables[0], *tables[1]}):
        before, after = (find(entries, template, method) for entries in tables)
        if _meaning(before) == _meaning(after):
            continue
        text = f"route {method} {template}: {_shown(before)} -> {_shown(after)}"
        widened, proven = _wider(before, after, old, new)
        yield Change(
            "widening" if widened else "narrowing", None, (), text if proven else f"{text}, {_NOT_COMPARED}", proven
        )


def _meaning(entry: RouteEntry | None) -> tuple[str | None, bool, date | None]:
    return (entry.action, entry.exempt is not None, entry.until) if entry is not None else (None, False, None)


def _shown(entry: RouteEntry | None) -> str:
    if entry is None:
        return "no entry"
    if entry.action is not None:
        return entry.action
    return f"exempt until {entry.until}" if entry.until else "exempt"


def _wider(before: RouteEntry | None, after: RouteEntry | None, old: Policy, new: Policy) -> tuple[bool, bool]:
    """Whether more gets through the route, and whether that is sure."""
    was_open, is_open = (
        policy.default == "allow" if entry is None else entry.exempt is not None
        for entry, policy in ((before, old), (after, new))
    )
    if was_open and is_open and before is not None and after is not None:
        last_days = [date.max if entry.until is None else entry.until for entry in (before, after)]
        return last_days[1] > last_days[0], True
    if was_open and not is_open:
        return False, True
    if is_open:
        return True, True
    return (after is not None), (after is None)
