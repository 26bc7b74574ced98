"""SQLite's own check of a database, in a thread beside the work that goes on.

``PRAGMA integrity_check`` looks every row up in every index of its table: the only proof that a look-up finds what the
rows say, and the dearest part of checking a search index (3 to 5 us per entry). It runs in C without the interpreter's
lock and on a connection of its own, so it costs a processor, but no waiting where there are two.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

_CACHE = -16384  # KiB: the check jumps between an index and its table


class Inspection:
    """One run of the check; begins at once."""

    def __init__(self, path: Path) -> None:
        """Raises `sqlite3.DatabaseError` if the file cannot be opened."""
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute(f"PRAGMA cache_size={_CACHE}")
        self._verdict: str | sqlite3.Error = "not finished"
        self._thread = threading.Thread(target=self._run, name="audit-index-check", daemon=True)
        self._thread.start()

    def verdict(self) -> str:
        """Waits for the end; ``ok`` or what is wrong. Raises what SQLite raised."""
        self._thread.join()
        if isinstance(self._verdict, sqlite3.Error):
            raise self._verdict
        return self._verdict

    def stop(self) -> None:
        """Ends it, finished or not, and closes the connection."""
        while self._thread.is_alive():
            self._database.interrupt()  # does nothing if the statement has not begun yet, so more than once
            self._thread.join(0.05)
        self._database.close()

    def _run(self) -> None:
        try:
            (self._verdict,) = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            self._verdict = error
