"""What an import costs: nothing that a service may not want."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("httpx", "joserfc", "cryptography", "fastapi", "starlette.applications")


@pytest.mark.parametrize(
    "module", ["audit_middleware.context", "audit_middleware.identity", "audit_middleware.privacy"]
)
def test_an_import_loads_no_heavy_package(module: str) -> None:
    # The modules by their files, not through the package root, which may load what it likes.
    code = f"""
import sys, types
root = types.ModuleType("audit_middleware")
import importlib.util
root.__path__ = importlib.util.find_spec("audit_middleware").submodule_search_locations
sys.modules["audit_middleware"] = root
import {module}
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


RARE = (
    "re2",  # few policies have patterns
    "sqlite3",  # a service that only writes asks no index
    "httpx",
    "audit_middleware.stores.index",
    "audit_middleware.ledger.examine",
    "audit_middleware.ledger.verify",
    "audit_middleware.evidence.follow",
    "audit_middleware.evidence.publish",
)


def test_a_service_loads_what_few_need_only_there() -> None:
    code = f"import sys, audit_middleware; print([name for name in {RARE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
