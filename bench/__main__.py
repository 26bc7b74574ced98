"""Every measurement, one after the other, each in a process of its own: ``python -m bench [--quick] [names]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.measure import RESULTS
from bench.report import ORDER


def main() -> None:
    """Runs them; exit 1 where one failed, after the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which, of {', '.join(ORDER)}; default: all")
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results go")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in ORDER]
    if unknown:
        parser.error(f"no measurement is called {', '.join(unknown)}")
    options = [*(["--quick"] if given.quick else []), "--results", str(given.results)]
    failed = []
    for name in given.names or ORDER:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *options], check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
