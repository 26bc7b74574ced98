"""What several formats ask of a record: times as numbers, the verb of an action, how it came out, one sentence.

Every function is pure, and takes a record as it was decoded from its entry: each field is there, unknown is ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Literal

from .findings import Finding, finding
from .text import sentence, shortened

Record = Mapping[str, Any]
Verb = Literal["create", "read", "update", "delete"]

VENDOR: Final = "audit_middleware"
_LONGEST_NAME = 256
_LONGEST_ADDRESS = 64  # with a zone; nothing longer is kept in the cache
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_VERBS: dict[str, Verb] = {
    **dict.fromkeys(("create", "add", "register", "insert", "import", "upload", "invite", "issue", "new"), "create"),
    **dict.fromkeys(
        ("read", "get", "list", "show", "view", "search", "find", "query", "download", "export", "exported", "stream",
         "verified", "listed", "whoami", "subscribe"),
        "read",
    ),
    **dict.fromkeys(
        ("update", "change", "changed", "set", "edit", "modify", "rename", "replace", "patch", "approve", "assign",
         "grant", "revoke", "rotate", "enable", "disable", "lock", "unlock", "reset", "amended", "attach", "detach"),
        "update",
    ),
    **dict.fromkeys(("delete", "remove", "erase", "destroy", "purge", "pruned", "deregister"), "delete"),
}  # fmt: skip
_METHODS: dict[str, Verb] = {"GET": "read", "HEAD": "read", "PUT": "update", "PATCH": "update", "DELETE": "delete"}


def words(text: str) -> tuple[str, ...]:
    """The words of a name in lower case: ``service_account.rotateKey`` has four."""
    return _words(text[:_LONGEST_NAME])


@lru_cache(maxsize=256)
def _words(text: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(text))


def verb(record: Record) -> Verb | None:
    """What kind of action this is, by the first known word after the action's last dot, else by the HTTP method."""
    action = record["action"]
    if action is not None:
        for word in words(action.rpartition(".")[2]):
            if word in _VERBS:
                return _VERBS[word]
    return _METHODS.get(record["request"]["method"] or "")


def operation(record: Record) -> str:
    """The action, or method and route (never the path) of a request that has none, or ``unknown``."""
    if record["action"]:
        return str(record["action"])
    request = record["request"]
    known = [part for part in (request["method"], request["route"]) if part]
    return " ".join(known) or "unknown"


def resource_name(record: Record) -> str | None:
    """``type/id``, as far as it is known."""
    kind, name = record["resource"]["type"], record["resource"]["id"]
    return "/".join(part for part in (kind, name) if part is not None) or None


def message(record: Record) -> str:
    """One sentence of at most 512 bytes for people: who, what, on what, how it came out; or what was found."""
    found = finding(record)
    if found is not None:
        return _found(found)
    decision, target = record["decision"], resource_name(record)
    parts = [shortened(record["user_id"], 96), shortened(operation(record), 96)]
    if target is not None:
        parts.append(shortened(target, 128))
    said = record["outcome"] or "begins"
    if decision["effect"] == "deny":
        mode = ", only noted" if decision["mode"] == "monitor" else ""
        said += f" ({decision['rule'] or decision['cause']}{mode})"
    elif record["response"]["status"] is not None:
        said += f" ({record['response']['status']})"
    return shortened(sentence(f"{' '.join(parts)}: {said}"), 512)


def _found(found: Finding) -> str:
    said = [shortened(found.about, 160)] if found.about is not None else []
    said += [f"observed {shortened(found.observed, 64)}"] if found.observed is not None else []
    said += [f"usually {shortened(found.baseline, 64)}"] if found.baseline is not None else []
    return shortened(sentence(": ".join(part for part in (shortened(found.name, 192), ", ".join(said)) if part)), 512)


def severity(record: Record) -> str:
    """How severe what a record tells is: of a finding its level, of any other record its own severity."""
    found = finding(record)
    return str(record["severity"] if found is None or found.severity is None else found.severity)


def refused(record: Record) -> bool:
    """True where the policy's denial was carried out."""
    return bool(record["decision"]["effect"] == "deny" and record["decision"]["mode"] == "enforce")


def succeeded(record: Record) -> bool | None:
    """``None`` for an intent: it is not known yet."""
    return None if record["outcome"] is None else record["outcome"] == "success"


def level(record: Record) -> int:
    """0 (info) to 4 (critical): the severity, at least 2 for a refusal and 3 for an error."""
    floor = 3 if record["outcome"] == "error" else 2 if refused(record) else 0
    return max(LEVELS[severity(record)], floor)


LEVELS: Final[Mapping[str, int]] = {"info": 0, "low": 1, "medium": 2, "high": 3, "critical": 4}


@lru_cache(maxsize=64)
def _seconds(text: str) -> int:
    return int((datetime.fromisoformat(text) - _EPOCH).total_seconds())


def micros(timestamp: str) -> int:
    """Microseconds since 1970 of a record's time."""
    return _seconds(timestamp[:19] + "+00:00") * 1_000_000 + int(timestamp[20:26])


def millis(timestamp: str) -> int:
    """Milliseconds since 1970 of a record's time."""
    return micros(timestamp) // 1000


def address(text: str | None) -> IPv4Address | IPv6Address | None:
    """An IP address, where the text is one: destinations refuse an event whose address is none."""
    return None if text is None or len(text) > _LONGEST_ADDRESS else _address(text)


@lru_cache(maxsize=1024)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def host(record: Record) -> str:
    """The machine that wrote the record: an instance is ``host:pid:start``."""
    return str(record["service"]["instance"]).partition(":")[0]


def content(part: Mapping[str, Any]) -> Any:
    """What was captured of a request's or response's body."""
    return part["body"]["content"] if part["body"] is not None else None
