"""Real runs of pytest in folders of their own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import fastapi  # noqa: F401  # loaded here, so that not every inner run loads it anew
import pytest
import starlette.testclient  # noqa: F401

import audit_middleware.testing.plugin  # noqa: F401
from tests.testing.service import POLICY, SERVICE

Run = Callable[..., pytest.RunResult]

# Where the package is installed, its entry point is found; a tree that is only on the path has none.
INSTALLED = any(found.name == "audit_middleware" for found in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "audit_middleware.testing.plugin")


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Writes a test module beside the service, and runs it; in a process of its own where the test says so."""
    pytester.makepyfile(service=SERVICE)
    (pytester.path / "policy.yaml").write_text(POLICY)
    pytester.makeini("[pytest]\npythonpath = .\nfilterwarnings =\n    ignore:Using `httpx` with\n")

    def work(test: str, *options: str, own_process: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_service=test)
        arguments = (*PLUGIN, "-p", "no:cacheprovider", *options)
        if own_process:
            return pytester.runpytest_subprocess(*arguments, timeout=100)
        return pytester.runpytest_inprocess(*arguments)

    return work
