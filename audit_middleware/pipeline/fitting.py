"""A record that does not fit an entry, or that holds something without a canonical form: what is left out of it.

Captured content goes first; the core of a record, who did what and what was decided, always stays.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..context import clean
from ..errors import RecordError
from ..model import Json
from .inputs import WITHHELD

__all__ = ["Make", "fitting", "reduced"]

_SHORT = 256


Make = Callable[[dict[str, Json]], bytes]


def fitting(record: dict[str, Json], make: Make) -> bytes:
    """The entry that ``make`` makes of a record, or of less of it: see `reduced`."""
    try:
        return make(record)
    except RecordError:
        return reduced(record, make)


def reduced(record: dict[str, Json], make: Make) -> bytes:
    """The entry of less and less of a record that is too large, or in which something has no canonical form."""
    record = _reduced(record)
    try:
        return make(record)
    except RecordError:
        return make(_bare(record))


def _reduced(record: dict[str, Json]) -> dict[str, Json]:
    """The same record without captured content, so that its core fits; what was left out is counted and flagged."""
    small = dict(record)
    small["flags"] = [*record["flags"], "content_dropped"]
    small["request"] = {**record["request"], "body": None, "headers": {}}
    small["response"] = {**record["response"], "body": None}
    dropped = {}
    for name in ("extra", "impact"):
        dropped[name] = len(msgspec.json.encode(record[name]))
    small["extra"] = {"dropped_bytes": dropped}
    small["impact"] = None
    small["forwarded"] = {**record["forwarded"], "untrusted": []}
    return small


def _bare(record: dict[str, Json]) -> dict[str, Json]:
    """What is left where even that is too large, because a client or an identity filled everything with escapes."""
    bare = dict(record)
    bare["subject"] = {**record["subject"], "roles": record["subject"]["roles"][:8], "properties": {}}
    bare["resource"] = {**record["resource"], "properties": {}}
    if record["kind"] != "control":  # what the inputs rely on is cut as well
        bare["decision"] = {**record["decision"], "inputs": WITHHELD}
    bare["reason"] = None if record["reason"] is None else clean(record["reason"], _SHORT)
    path = record["request"]["path"]
    bare["request"] = {**record["request"], "path_params": {}, "query": None, "path": path and clean(path, _SHORT)}
    return bare
