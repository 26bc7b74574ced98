"""How fast a log is verified: ``python -m bench.verify [--entries 200000] [--size 1250] [--batch 1000]``.

Leaf hashes alone (the limit: nobody verifies faster than he hashes), and the whole verification with 1 and with 2
processes. The limit reads and checks frames with the same code, so what makes reading quicker moves both. The start of
the second process is included: some 0.15 s of processor time, while the first one works; of a larger log it is less.

From 1,200 bytes on entries are valid records and all checks are done. Smaller ones cannot be records, so they are not
compared with the schema; everything else is done.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from audit_middleware.evidence.examining import examined
from audit_middleware.ledger import tree
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import fold_examined
from audit_middleware.stores.journal import JournalStore
from bench import OURS
from bench.logs import SMALLEST_RECORD, build_log
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS, ENTRIES = 5, 200_000
HASHED, ONE, TWO = "read and leaf-hash only", f"{OURS}, 1 process", f"{OURS}, 2 processes"


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


def works(store: JournalStore, entries: int, *, records: bool) -> dict[str, Work]:
    """Each gives entries per second."""

    def rate(work: Callable[[], None]) -> Work:
        def timed() -> Mapping[str, float]:
            started = time.perf_counter()
            work()
            return {"rate": entries / (time.perf_counter() - started)}

        return timed

    return {
        HASHED: rate(lambda: hash_all(store)),
        ONE: rate(lambda: verify_all(store, 1, records=records)),
        TWO: rate(lambda: verify_all(store, 2, records=records)),
    }


def main() -> None:
    """Builds, measures and writes ``verify``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--entries", type=int, default=ENTRIES)
    made.add_argument("--size", type=int, default=1250)
    made.add_argument("--batch", type=int, default=1000)
    given = made.parse_args()
    if given.quick:
        given.rounds, given.entries = 1, 20_000
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    try:
        store = build_log(folder / "log", given.entries, given.size, given.batch)
        found = len(next(store.frames()).entries[0])
        rates = take_turns(works(store, given.entries, records=found >= SMALLEST_RECORD), given.rounds)["rate"]
        name = f"verify {given.entries:,} entries of {found} bytes, {given.batch} to a commit"
        case = Case(name, "entries/s", HASHED, rates, "more", (HASHED,))
        finish(Result("verify", "Verification", [case], {"entries": given.entries, "size": found}), given)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
