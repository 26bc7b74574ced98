"""What lint says of personal data: what a policy leaves in clear although it speaks of such data, or does not at all.

Other than a rule that is never reached this is no proof that something is wrong: a service may have no personal data.
So a field that the file names itself, ``clear`` too, is taken to be meant; only what a profile says otherwise is noted.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import PolicyError
from .evaluate import Policy
from .fields import canonical_path, leaves
from .personal import CLEAR, effective, in_words, strength
from .places import Places
from .profiles import PROFILES

__all__ = ["personal_findings"]

_Told = tuple[str, int, str, str]
"""Code, line, place and message."""

_BODIES = {"request": ("request.body.content",), "response": ("request.body.content", "response.body.content")}
_NAMING = ("user_id", "initiator_ip", "forwarded.untrusted")
"""The fields that tell who asked, each by itself."""


def personal_findings(policy: Policy, places: Places) -> Iterator[_Told]:
    """Code, line, place and message of each finding about ``personal:``."""
    if any(policy.personal_of(name) for name in policy.actions) or policy.personal:
        yield from _weakened(policy, places)
        yield from _names(policy, places)
        yield from _bodies(policy, places)
    elif places.personal is None:
        recorded = sum(action.record != "none" for action in policy.actions.values())
        if recorded:
            text = f"nothing is declared to be personal data: {recorded} actions record everything in clear"
            yield "personal-undeclared", 1, "personal", text


def _weakened(policy: Policy, places: Places) -> Iterator[_Told]:
    lines = _lines(places)
    for path, entry in PROFILES.get(policy.profile or "", {}).items():
        found = effective(policy.personal, path)
        if strength(found) < strength(entry.treatment):
            text = f"{path} is {in_words(found)}; the profile {policy.profile} has {in_words(entry.treatment)}"
            yield "profile-weakened", lines.get(path, places.personal or 1), f"personal.{path}", f"{text}: {entry.why}"


def _lines(places: Places) -> dict[str, int]:
    """The line that says what is done with a field, by its path in the record."""
    found: dict[str, int] = {}
    for name, line in places.fields.items():
        try:
            found |= dict.fromkeys(leaves(canonical_path(name)), line)
        except PolicyError:  # profile, which is no field
            continue
    return found


def _names(policy: Policy, places: Places) -> Iterator[_Told]:
    """Once for the policy: an action may only be stricter, and one that is does not make the others so."""
    said = _lines(places)
    clear = [path for path in _NAMING if effective(policy.personal, path) == CLEAR and path not in said]
    if policy.personal and clear:
        other = "what else is treated is known to be of this person" if clear[0] == "user_id" else "it tells who asked"
        verb = "is" if len(clear) == 1 else "are"
        text = f"{', '.join(clear)} {verb} clear: {other}"
        yield "person-in-clear", places.personal or 1, "personal", text


def _bodies(policy: Policy, places: Places) -> Iterator[_Told]:
    said = _lines(places)
    for name, action in policy.actions.items():
        personal = policy.personal_of(name)
        clear = [
            body
            for body in _BODIES.get(action.record, ())
            if body not in said and not any(path == body or path.startswith(f"{body}.") for path in personal)
        ]
        if clear:
            text = f"record: {action.record}, and {' and '.join(clear)} in clear: declare what of it is personal"
            yield "body-in-clear", places.actions.get(name, 1), f"actions.{name}", text
