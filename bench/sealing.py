"""What covering personal data costs a record: ``python -m bench.sealing``.

The same record under several policies, the keys of its persons at hand: three fields sealed, committed to or replaced
by a token, the whole profile ``gdpr``, and a policy whose fields the record does not have. Time of the processor, in
the thread that does it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from audit_middleware.persons import Person, Personal, SubjectKey, Treatment
from audit_middleware.policy.profiles import GDPR
from audit_middleware.privacy.sealing import Sealing
from audit_middleware.privacy.wrapping import new_token
from bench.measure import Case, Result, finish, parser, take_turns

ROUNDS = 15
THREE = "three fields sealed"
_FIELDS = ("user_id", "reason", "user_agent")
POLICIES: Mapping[str, Personal] = {
    THREE: {path: Treatment("seal") for path in _FIELDS},
    "three fields committed to": {path: Treatment("commit") for path in _FIELDS},
    "a token for the user": {"user_id": Treatment("token")},
    "the profile gdpr": {path: entry.treatment for path, entry in GDPR.items()},
    "nothing that is there": {"extra.none": Treatment("seal")},
}


class Keys:
    """Keys in memory, which are asked for once."""

    def __init__(self) -> None:
        self._rows: dict[Person, SubjectKey] = {}

    def of(self, person: Person) -> SubjectKey:
        """A person's key."""
        made = SubjectKey(new_token(), secrets.token_bytes(32), secrets.token_bytes(32))
        return self._rows.setdefault(person, made)

    def generation(self) -> int:
        """Nothing is ever erased."""
        return 0


def record() -> dict[str, Any]:
    """A record with little in it but what identifies."""
    nothing = {"status": 200, "size": 40, "error": None, "body": None}
    return {
        "action_id": "01900000-0000-7000-8000-000000000001", "timestamp": "2026-11-23T06:00:00.000000Z",
        "user_id": "clerk-1", "initiator_ip": "192.0.2.7", "reason": "ticket 4711", "user_agent": "Mozilla/5.0 (X11)",
        "subject": {"type": "user", "roles": ["clerk"], "tenant": "north", "session": None, "properties": {}},
        "source": {"method": "jwt", "issuer": None, "detail": None}, "forwarded": {"untrusted": [], "header": None},
        "resource": {"type": "item", "id": "17", "properties": {}}, "impact": None, "decision": {"inputs": None},
        "request": {
            "route": "/items/{item_id}", "path": "/items/17", "path_params": {"item_id": "17"}, "query": None,
            "headers": {"accept": "*/*"}, "digest": None, "body": None,
        },
        "response": nothing, "trace": {}, "flags": [], "extra": {},
    }  # fmt: skip


def timed(sealing: Sealing, personal: Personal, times: int) -> Mapping[str, float]:
    """Microseconds for one record."""
    given = record()
    started = time.thread_time_ns()
    for _ in range(times):
        sealing.apply(given, personal)
    return {"time": (time.thread_time_ns() - started) / times / 1e3}


def main() -> None:
    """Measures and writes ``sealing``."""
    given = parser(__doc__, rounds=ROUNDS).parse_args()
    sealing = Sealing(Keys(), "example.com/bench")  # type: ignore[arg-type]  # what it asks of keys is there
    works = {name: partial(timed, sealing, one, 200 if given.quick else 5_000) for name, one in POLICIES.items()}
    found = take_turns(works, 3 if given.quick else given.rounds)
    case = Case("covering a record", "us", THREE, found["time"], unranked=tuple(POLICIES))
    finish(Result("sealing", "Personal data", [case]), given)


if __name__ == "__main__":
    main()
