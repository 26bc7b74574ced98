"""A process that runs one command and is killed at a chosen point: ``killed.py POINT ARGUMENT...``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from audit_middleware.cli import main
from audit_middleware.privacy.key_store import KeyStore
from audit_middleware.privacy.keys_sqlite import SqliteRows


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def after(genuine: Any) -> Any:
    def call(*arguments: Any) -> Any:
        genuine(*arguments)
        die()

    return call


POINTS = {
    "recorded": lambda: setattr(KeyStore, "erase", die),
    "deleted": lambda: setattr(SqliteRows, "delete", after(SqliteRows.delete)),
    "committed": lambda: setattr(SqliteRows, "scrub", die),
    "scrubbed": lambda: setattr(SqliteRows, "scrub", after(SqliteRows.scrub)),
    "restricted": lambda: setattr(KeyStore, "restrict", after(KeyStore.restrict)),
    "releasing": lambda: setattr(KeyStore, "restrict", die),
}

if __name__ == "__main__":
    POINTS[sys.argv[1]]()
    sys.argv = ["audit-middleware", *sys.argv[2:]]
    main()
