"""What an import costs: nothing that a service may not want."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.evidence.masters import set_up
from tests.kit import Log, make_log, write_policy

HEAVY = ("httpx", "joserfc", "cryptography", "nacl", "fastapi", "starlette.applications")


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


UNUSED = (
    "argparse",
    "difflib",
    "dotenv",
    "fastapi",
    "httpx",
    "joserfc",
    "pydantic_settings",
    "re2",
    "rich",
    "sqlite3",
    "typer",
    "cryptography",
    "cryptography.hazmat.bindings._rust",
    "nacl.public",
    "nacl.signing",
    "audit_middleware.cli",
    "audit_middleware.evidence.archive_objects",
    "audit_middleware.evidence.erasures",
    "audit_middleware.evidence.keys",
    "audit_middleware.evidence.published",
    "audit_middleware.evidence.standing",
    "audit_middleware.evidence.witness_client",
    "audit_middleware.identity.jwt",
    "audit_middleware.ledger.report",
    "audit_middleware.ledger.tiles",
    "audit_middleware.ledger.trust",
    "audit_middleware.policy.fields",
    "audit_middleware.privacy.key_store",
    "audit_middleware.privacy.sealing",
    "audit_middleware.schema",
    "audit_middleware.stores.columns",
    "audit_middleware.stores.index",
)
"""Together some ten megabytes, which a service is spared that was told to do nothing with them."""

POLICY = "version: 1\nname: p\nroles: {clerk: {}}\nactions: {invoice.read: {allow: [clerk]}}\n"


def served(folder: Path, policy: str, log: Log | None = None) -> dict[str, Any]:
    """What a service of its own process has loaded when it is started, and what its requests load after that."""
    log, file = log or make_log(folder), write_policy(folder, policy)
    command = [sys.executable, "-m", "tests.context.loading", str(log.path), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (told["started"], told["statuses"]) == ("lifespan.startup.complete", [200, 200, 200, 404])
    assert [record["outcome"] for record in log.outcomes()] == ["success"] * 3 + ["failure"]
    return told


def test_a_running_service_has_loaded_what_it_uses_and_no_more(tmp_path: Path) -> None:
    loaded = served(tmp_path, POLICY)["loaded"]
    assert "audit_middleware.frameworks.starlette" in loaded
    assert [name for name in UNUSED if name in loaded] == []


def test_requests_load_nothing(tmp_path: Path) -> None:
    # What is loaded late costs its time while somebody waits, and in an outage it may not be loaded any more.
    assert later(served(tmp_path, POLICY)) == []


def test_what_seals_is_loaded_at_the_start_where_a_policy_calls_something_personal(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    set_up(log.path, f"{log.path}.subjects", f"file:{log.path}.master")
    told = served(tmp_path, POLICY + "personal: gdpr\n", log)
    assert "audit_middleware.privacy.sealing" in told["loaded"]
    assert later(told) == []
    assert log.outcomes()[0]["user_id"].startswith("sealed.v1.")


def later(told: dict[str, Any]) -> list[str]:
    """What requests made a service load, of our own and of the ciphers."""
    return [name for name in told["later"] if name.partition(".")[0] in ("audit_middleware", "cryptography")]
