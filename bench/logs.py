"""Logs of any size for measurements, made without an application: valid records, all of them different."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from audit_middleware.ledger.note import format_vkey
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.journal import JournalStore

ORIGIN = "bench.example/verify"
SIGNER = Ed25519Signer(ORIGIN, bytes(range(32)))
SMALLEST_RECORD = 1200
"""Bytes from which on entries are valid records; smaller ones cannot be."""

USERS = 10_000
BYTES_EACH = 4000
"""On the disk, for an entry: in the log, in its index, and as a row of SQLite, with some room."""
TOGETHER = 64
"""So many batches travel together from the process that makes them."""

_UNKNOWN = {
    "decision": ("detail", "inputs"),
    "request": ("body", "digest", "query"),
    "response": ("body", "error"),
    "service": ("environment", "version"),
    "source": ("detail", "issuer"),
    "subject": ("session", "tenant"),
    "trace": ("client_correlation_id", "client_request_id", "parent", "request_id", "span_id", "trace_id"),
}
_RECORD = {
    "schema_version": 1, "action_id": "%(id)b", "timestamp": "%(time)b", "recorded_at": "%(time)b", "duration_us": 214,
    "kind": "outcome", "intent_id": None, "sequence": "%(n)d", "service": {"name": "bench", "instance": "bench:1:0"},
    "action": "invoice.read", "event": "INVOICE_READ", "severity": "low", "user_id": "user-%(user)d",
    "subject": {"type": "user", "roles": ["clerk"], "properties": {}}, "source": {"method": "jwt"},
    "initiator_ip": "127.0.0.1", "forwarded": {"untrusted": [], "header": None}, "user_agent": "bench",
    "resource": {"type": "invoice", "id": "%(n)d", "properties": {}}, "reason": None, "impact": None,
    "decision": {
        "effect": "allow", "cause": "rule", "rule": "clerk", "near_misses": [], "mode": "enforce",
        "policy_digest": "sha256:293ecd548549fc5645039758f6f7d8810ca1d6d8d8421a003fba20e277251e6f",
    },
    "outcome": "success",
    "request": {
        "protocol": "http", "method": "GET", "route": "/invoices/{invoice_id}", "path": "/invoices/%(n)d",
        "path_params": {"invoice_id": "%(n)d"}, "headers": {"accept": "*/*"}, "size": 0,
    },
    "response": {"status": 200, "size": 10}, "trace": {"correlation_id": "%(id)b"}, "flags": [], "extra": {},
}  # fmt: skip


def template(size: int) -> bytes:
    """Canonical bytes of about this size, with places for what differs from entry to entry."""
    small = {"action": "bench", "action_id": "%(id)b", "pad": "", "recorded_at": "%(time)b", "sequence": "%(n)d",
             "service": {"instance": "bench:1:0"}}  # fmt: skip
    value = json.loads(json.dumps(_RECORD if size >= SMALLEST_RECORD else small))
    for part, names in _UNKNOWN.items() if size >= SMALLEST_RECORD else ():
        value[part] |= dict.fromkeys(names)
    place = value["request"]["headers"] if size >= SMALLEST_RECORD else value

    def written() -> bytes:
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        return data.replace(b'"sequence":"%(n)d"', b'"sequence":%(n)d')

    place["pad"] = "x" * max(0, size - len(written() % _values(0)) - 9)
    return written()


def _values(number: int) -> dict[bytes, object]:
    second = number // 1000
    moment = b"2026-01-%02dT%02d:%02d:%02d.%06dZ" % (
        1 + second // 86400, second // 3600 % 24, second // 60 % 60, second % 60, number % 1000
    )  # fmt: skip
    scattered = number * 0x9E3779B1 % 2**48  # so that users do not come in the order of the log
    identifier = b"019b76da-a800-7000-8000-%012x" % scattered
    return {b"id": identifier, b"time": moment, b"n": number, b"user": scattered % USERS}


def entries(start: int, stop: int, size: int = 1250) -> list[bytes]:
    """Entries number ``start`` to ``stop``."""
    shape = template(size)
    return [shape % _values(number) for number in range(start, stop)]


def new_log(path: Path) -> JournalStore:
    """An empty log, open for writing."""
    return JournalStore.create(path, ORIGIN, [format_vkey(ORIGIN, SIGNER.public_key)], "2026-01-01T00:00:00Z")


def grow(store: JournalStore, start: int, stop: int, size: int = 1250, batch: int = 1000) -> None:
    """Appends entries ``start`` to ``stop``, ``batch`` to a commit: as fast as it goes, so durable only at the end.

    Entries of a large log are made in a process beside this one.
    """
    seal = make_sealer(ORIGIN, [SIGNER])
    with _unsynced(), _made(range(start, stop, batch), stop, size, batch) as batches:
        for entries_of_batch in batches:
            store.append(entries_of_batch, seal)
    os.sync()


@contextlib.contextmanager
def _made(firsts: range, stop: int, size: int, batch: int) -> Iterator[Iterator[list[bytes]]]:
    """The batches; several travel together, joined, which is cheaper between processes."""
    if len(firsts) < 2 * TOGETHER:
        yield (entries(first, min(first + batch, stop), size) for first in firsts)
        return
    parts = ((firsts[at], min(firsts[at] + TOGETHER * batch, stop), size) for at in range(0, len(firsts), TOGETHER))
    with multiprocessing.get_context("spawn").Pool(1) as maker:
        ahead = deque(maker.apply_async(_joined, part) for part in islice(parts, 2))

        def received() -> Iterator[list[bytes]]:
            while ahead:
                lines = ahead.popleft().get().split(b"\n")
                ahead.extend(maker.apply_async(_joined, part) for part in islice(parts, 1))
                yield from (lines[at : at + batch] for at in range(0, len(lines), batch))

        yield received()


def _joined(start: int, stop: int, size: int) -> bytes:
    return b"\n".join(entries(start, stop, size))


@contextlib.contextmanager
def _unsynced() -> Iterator[None]:
    """Nobody measures the log while it is being made, and after a crash it is made again."""
    original = os.fdatasync
    os.fdatasync = lambda fd: None
    try:
        yield
    finally:
        os.fdatasync = original


def sharing(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds the option of the measurements that use one large log."""
    made.add_argument("--keep", type=Path, metavar="DIR", help="a folder where the large log is, and stays")
    return made


@contextlib.contextmanager
def workplace(keep: Path | None, entries: int) -> Iterator[Path]:
    """The folder that stays, or one that is removed; with room for so many entries thrice: log, index, rows."""
    folder = keep or Path(tempfile.mkdtemp(prefix="audit-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        free = shutil.disk_usage(folder).free
        if free < entries * BYTES_EACH:
            raise SystemExit(f"{folder} has {free / 1e9:.0f} GB left; it needs {entries * BYTES_EACH / 1e9:.0f} GB")
        yield folder
    finally:
        if keep is None:
            shutil.rmtree(folder)


def build_log(path: Path, entries: int, size: int = 1250, batch: int = 1000) -> JournalStore:
    """Makes a log that holds, of this many entries of about this size, ``batch`` to a commit."""
    store = new_log(path)
    grow(store, 0, entries, size, batch)
    return store
