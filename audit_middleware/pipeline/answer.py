"""What the client of a refused request is told. Nothing about the policy, but what the caller can bring or wait for.

=============================================  ======  ================================================================
the log or an outside service is away          503     ``Retry-After``
nobody is authenticated, and that might help   401     ``WWW-Authenticate``
a requirement is not met                       403     problem document with ``missing``
a limit is reached                             429     problem document, ``Retry-After``
the caller is blocked for a while              403     problem document, ``Retry-After``
anything else                                  403
=============================================  ======  ================================================================

Where signing in again, or more strongly, would help, the answer carries the challenge of RFC 9470. Its status stays
403: RFC 9110 (11.6.1) allows challenges there, RFC 9470 asks for no status, and many clients take every 401 as "the
token has expired", fetch the same one again, and loop.
"""

from __future__ import annotations

from typing import Any

from ..model import Decision, Refusal, Subject
from ..policy.requirements import AUTHENTICATION
from ..policy.schema import Requirements

__all__ = ["BLOCKED_TYPE", "LIMIT_STORE", "PROBLEM_TYPE", "refusal"]

PROBLEM_TYPE = "urn:audit-middleware:problem:requirement"
BLOCKED_TYPE = "urn:audit-middleware:problem:blocked"
LIMIT_STORE = "limit_store_unavailable"

_UNAVAILABLE = Refusal(503, "Service Unavailable", {"retry-after": "5"})
_FORBIDDEN = Refusal(403, "Forbidden")
_OAUTH = ("bearer", "dpop")


def refusal(
    decision: Decision, subject: Subject, challenge: str, require: Requirements | None = None
) -> Refusal | None:
    """The answer to a refused request; ``None`` for one that goes on.

    ``challenge`` is the ``WWW-Authenticate`` value that RFC 9110 (11.6.1) wants with every 401.
    """
    if not decision.refused:
        return None
    if decision.cause == "log_unavailable" or decision.detail in ("identity_unavailable", LIMIT_STORE):
        return _UNAVAILABLE
    if decision.cause == "limit":
        return _too_many(decision)
    if decision.cause == "blocked":
        return _blocked(decision)
    if decision.cause == "requirement":
        return _missing(decision, subject, challenge, require or Requirements())
    if subject.anonymous and decision.cause in ("rule", "default"):
        return Refusal(401, "Not authenticated", {"www-authenticate": challenge})
    return _FORBIDDEN


def _too_many(decision: Decision) -> Refusal:
    problem = {"type": "about:blank", "title": "Too Many Requests", "status": 429}
    return Refusal(429, "Too Many Requests", {"retry-after": str(decision.retry_after or 1)}, problem)


def _blocked(decision: Decision) -> Refusal:
    # Not 429: no pace would be slow enough. When it ends is told, because a client that knows waits instead of trying.
    problem = {"type": BLOCKED_TYPE, "title": "This caller is blocked for a while", "status": 403}
    return Refusal(403, "Forbidden", {"retry-after": str(decision.retry_after or 1)}, problem)


def _missing(decision: Decision, subject: Subject, challenge: str, require: Requirements) -> Refusal:
    step_up = not AUTHENTICATION.isdisjoint(decision.missing)
    status = 401 if step_up and subject.anonymous else 403
    headers = {"www-authenticate": _step_up(decision.missing, challenge, require)} if step_up else {}
    problem: dict[str, Any] = {
        "type": PROBLEM_TYPE,
        "title": "A requirement of this action is not met",
        "status": status,
        "missing": list(decision.missing),
    }
    return Refusal(status, f"missing: {', '.join(decision.missing)}", headers, problem)


def _step_up(missing: tuple[str, ...], challenge: str, require: Requirements) -> str:
    """RFC 9470: what an authorization server should be asked for; as is where the scheme is not one of OAuth's."""
    scheme, _, parameters = challenge.partition(" ")
    if scheme.lower() not in _OAUTH:
        return challenge
    asked = [parameters.strip()] if parameters.strip() else []
    asked.append('error="insufficient_user_authentication"')
    if "acr" in missing:
        asked.append(f'acr_values="{_quoted(" ".join(require.acr))}"')
    if "auth_age" in missing:
        asked.append(f'max_age="{require.auth_age}"')
    return f"{scheme} {', '.join(asked)}"


def _quoted(text: str) -> str:
    """What a quoted string of RFC 9110 may hold; an acr beyond ASCII has no form there."""
    plain = "".join(sign for sign in text if " " <= sign <= "~")
    return plain.replace("\\", "\\\\").replace('"', '\\"')
