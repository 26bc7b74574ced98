"""How fast a log is verified: ``python -m bench.verify [--entries 200000] [--size 1250] [--batch 1000]``.

Builds a log, then measures in one run, each the median of three: leaf hashes alone (the limit: nobody verifies faster
than he hashes), and the whole verification with 1 and with 2 processes, start-up included.

From 1,200 bytes on entries are valid records and all checks are done. Smaller ones cannot be records, so they are not
compared with the schema; everything else is done.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from audit_middleware.evidence.examining import examined
from audit_middleware.ledger import tree
from audit_middleware.ledger.note import format_vkey, parse_vkey
from audit_middleware.ledger.verify import fold_examined
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.journal import JournalStore

ORIGIN = "bench.example/verify"
SMALLEST_RECORD = 1200

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
    identifier = b"019b76da-a800-7000-8000-%012x" % (number * 0x9E3779B1 % 2**48)
    return {b"id": identifier, b"time": moment, b"n": number, b"user": number % 10_000}


def build_log(path: Path, entries: int, size: int = 1250, batch: int = 1000) -> JournalStore:
    """Makes a log that holds, of this many entries of about this size, ``batch`` to a commit."""
    signer = Ed25519Signer(ORIGIN, bytes(range(32)))
    store = JournalStore.create(path, ORIGIN, [format_vkey(ORIGIN, signer.public_key)], "2026-01-01T00:00:00Z")
    seal, shape = make_sealer(ORIGIN, [signer]), template(size)
    for start in range(0, entries, batch):
        store.append([shape % _values(number) for number in range(start, min(start + batch, entries))], seal)
    return store


def hash_all(store: JournalStore) -> None:
    """Leaf hashes alone, of entries that are in memory a commit at a time."""
    for frame in store.frames():
        tree.leaf_hashes(frame.entries)


def verify_all(store: JournalStore, processes: int, *, records: bool) -> None:
    """The whole verification but for the search index."""
    verifiers = [parse_vkey(vkey) for vkey in store.config.vkeys]
    frames = examined(store, verifiers, check_records=records, processes=processes)
    report = fold_examined(frames, store.origin, verifiers, entries_checked=records)
    if not report.holds:
        raise SystemExit(f"the log does not hold: {report.findings[:3]}")


def rate(entries: int, work: Callable[[], None]) -> float:
    """Entries per second."""
    started = time.perf_counter()
    work()
    return entries / (time.perf_counter() - started)


def measure(store: JournalStore, entries: int, *, records: bool, rounds: int = 3) -> Iterator[tuple[str, float]]:
    """Yields a name and the median of each measurement; the measurements take turns."""
    works: dict[str, Callable[[], None]] = {
        "read and leaf-hash only": lambda: hash_all(store),
        "verify, 1 process": lambda: verify_all(store, 1, records=records),
        "verify, 2 processes": lambda: verify_all(store, 2, records=records),
    }
    results: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            results[name].append(rate(entries, work))
    for name, rates in results.items():
        yield name, statistics.median(rates)


def main() -> None:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=1250)
    parser.add_argument("--batch", type=int, default=1000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    try:
        store = build_log(folder / "log", given.entries, given.size, given.batch)
        found = len(next(store.frames()).entries[0])
        print(f"{given.entries} entries of about {found} bytes, {given.batch} to a commit")
        for name, value in measure(store, given.entries, records=found >= SMALLEST_RECORD):
            print(f"{name:28} {value:12,.0f} entries/s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
