"""What a log says of the starts of a service, found without reading the log.

``.state/started-<16 hex digits>`` holds the index of the newest ``audit.started`` of one service: a hint, checked
against the entry it points to. Without it the newest segments are searched backwards for the bytes that such an entry
begins with: entries are canonical JSON (RFC 8785), one a line, so a line that begins with them is one. A database is
asked by its index instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LogUnavailable, RecordError, StoreError
from ..ledger.canonical import decode
from ..stores.journal import JournalStore
from ..stores.opening import Store, open_index
from ..stores.segments import list_segments, segment_path

_log = logging.getLogger(__name__)

STARTED = "audit.started"
_BEGINNING = b'{"action":"audit.started","action_id":'
_SEGMENTS = 8
"""So many segments, 64 MiB each, are searched."""
_STARTS = 256


def last_started(store: Store, service: str) -> dict[str, Any] | None:
    """Returns the newest ``audit.started`` of a service; ``None`` if there is none among the newest segments."""
    if not isinstance(store, JournalStore):
        return _by_index(store, service)
    with contextlib.suppress(OSError, ValueError, StoreError, RecordError):
        record = _entry(store, int(_hint(store, service).read_text()))
        if _is_start(record, service):
            return record
    with contextlib.suppress(OSError):
        return next((one for one in _starts(store) if _is_start(one, service)), None)
    return None


def remember_start(store: Store, service: str, index: int) -> None:
    """Leaves the hint. If we die here: the old one or the new one, and perhaps a file that the next start replaces."""
    if not isinstance(store, JournalStore):
        return
    path = _hint(store, service)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # only a hint
        temporary.write_text(f"{index}\n")
        os.replace(temporary, path)


def _hint(store: JournalStore, service: str) -> Path:
    return store.layout.state / f"started-{hashlib.sha256(service.encode()).hexdigest()[:16]}"


def _by_index(store: Store, service: str) -> dict[str, Any] | None:
    """The same by an index that needs no catching up; among the newest starts of all services.

    A role that may only write does not know it, and starts all the same.
    """
    from ..stores.columns import Filters  # here: a journal is not asked by its index

    try:
        found = (_entry(store, index) for index in open_index(store).find(Filters(action=STARTED), limit=_STARTS))
        return next((one for one in found if _is_start(one, service)), None)
    except LogUnavailable as problem:
        _log.warning("not known what the last start was: %s", problem)
        return None


def _is_start(record: dict[str, Any], service: str) -> bool:
    return record.get("action") == STARTED and record.get("service", {}).get("name") == service


def _entry(store: Store, index: int) -> dict[str, Any]:
    frame = next(iter(store.frames(index, index + 1)), None)
    return {} if frame is None else decode(frame.entries[index - frame.first])


def _starts(store: JournalStore) -> Iterator[dict[str, Any]]:
    """The newest first."""
    for first in list_segments(store.layout.journal)[: -_SEGMENTS - 1 : -1]:
        with segment_path(store.layout.journal, first).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _lines(data)


def _lines(data: mmap.mmap) -> Iterator[dict[str, Any]]:
    stop = len(data)
    while stop > 0:
        at = data.rfind(b"\n" + _BEGINNING, 0, stop) + 1
        end = data.find(b"\n", at)
        if at == 0 and data[: len(_BEGINNING)] != _BEGINNING:
            return
        with contextlib.suppress(RecordError):  # torn
            yield decode(data[at:end])
        stop = at
