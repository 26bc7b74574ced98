"""What a process does that is measured from outside; it imports nothing that its side does not need.

``python -m bench.inside prepare|serve|start|verify ...``; see `memory` and `startup`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path


def resident() -> dict[str, float]:
    """MB of this process: now, at most so far, and what of the present is its own: no page of a file, which processes
    on one host share."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    keys = {"resident": "VmRSS", "peak": "VmHWM", "own": "RssAnon"}
    return {name: int(found[key].split()[0]) / 1024 for name, key in keys.items()}


def prepare(variant: str, folder: str) -> None:
    """Makes what a service finds when it starts: its log, key and policy."""
    from bench import services

    services.variant(variant, Path(folder))


def serve(variant: str, requests: int) -> dict[str, float]:
    """Memory after so many requests. What only the making of a log needs is another process's."""
    from bench import services
    from bench.drive import Driver

    with tempfile.TemporaryDirectory(prefix="audit-bench-") as parent:
        folder = Path(parent) / "app"
        subprocess.run([sys.executable, "-m", "bench.inside", "prepare", variant, str(folder)], check=True)
        app, driver = services.variant(variant, folder), Driver()
        for _ in range(max(1, requests // 500)):
            driver.run(app, partial(services.path_of, routes=60), min(requests, 500))
        gc.collect()
        found = resident()
        services.stop(app)
    return found


def start(variant: str, folder: str, routes: int) -> None:
    """Says when the first request was answered."""
    from bench import services
    from bench.drive import Driver

    app = services.variant(variant, Path(folder), routes)
    Driver().check(app, services.path_of(0, routes))
    print("answered", flush=True)
    services.stop(app)


def verify(path: str) -> dict[str, float]:
    """Memory after a verification; without a path, with nothing done."""
    from audit_middleware.stores.journal import JournalStore
    from bench.verify import verify_all

    if path:
        verify_all(JournalStore.open(path, writable=False), 1, records=True)
    return resident()


def main(what: str, *arguments: str) -> None:
    """Runs one of them."""
    if what == "prepare":
        prepare(*arguments)
    elif what == "start":
        start(arguments[0], arguments[1], int(arguments[2]))
    else:
        told = serve(arguments[0], int(arguments[1])) if what == "serve" else verify(arguments[0])
        print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
