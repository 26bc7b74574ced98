"""What an action demands beside its rules, in words: for tables and explanations."""

from __future__ import annotations

from .patterns import Pattern
from .schema import Limit, Requirements

__all__ = ["duration", "limit_in_words", "requirements_in_words"]


def requirements_in_words(require: Requirements) -> dict[str, str]:
    """Each requirement by its name in the policy: ``{"acr": "acr gold or silver"}``."""
    found = {"mfa": "mfa"} if require.mfa else {}
    if require.acr:
        found["acr"] = f"acr {' or '.join(require.acr)}"
    if require.auth_age is not None:
        found["auth_age"] = f"auth_age at most {duration(require.auth_age)}"
    if require.reason is not False:
        found["reason"] = f"reason matches {require.reason.text}" if isinstance(require.reason, Pattern) else "reason"
    if require.confirm:
        found["confirm"] = "confirm"
    return found


def limit_in_words(limit: Limit) -> str:
    """Such as ``20/hour and 2 at once per subject``."""
    body = limit.to_json()
    parts = [str(body["rate"])] if limit.rate is not None else []
    parts += [f"{limit.concurrent} at once"] if limit.concurrent is not None else []
    uncounted = ", passes where it cannot be counted" if limit.on_limit_error == "allow" else ""
    return f"{' and '.join(parts)} per {limit.per}{uncounted}"


def duration(seconds: int) -> str:
    """Seconds in the largest unit that divides them: ``15m``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
