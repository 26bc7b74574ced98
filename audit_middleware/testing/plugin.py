"""The pytest plugin, there as soon as the package is installed: the fixture ``audit_log`` and the coverage gate.

::

    def test_deletions_are_on_record(audit_log):
        TestClient(app).delete("/invoices/7", headers=ann)
        audit_log.assert_audited("invoice.delete", user="ann", outcome="success", resource="invoice/7")

Options (each also in the ini file, with ``_``): ``--audit-policy FILE`` measures which of the policy's rules and
actions, and which annotated routes, the session exercises; ``--audit-coverage-min PERCENT`` fails it below that. Works
under pytest-xdist: the workers tell the controller what they saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..errors import PolicyError
from ..middleware import AuditMiddleware
from ..protocols import Receive, Scope, Send
from .audit_log import AuditLog
from .gate import Gate, load_to_count
from .redirect import Call, admission_of, calls_through

_GATE = pytest.StashKey[Gate]()
_OUTPUT = "audit_middleware_coverage"


@pytest.fixture
def audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[AuditLog]:
    """A fresh log. Every audit middleware of this process writes to it, and every service that is started with this
    process's environment and takes its log from there."""
    log = AuditLog(tmp_path)
    monkeypatch.delenv("AUDIT_SIGNING_KEY", raising=False)
    for name, value in log.environment.items():
        monkeypatch.setenv(name, value)
    with log.redirected():
        yield log
    gate = request.config.stash.get(_GATE, None)
    if gate is not None:
        for record in log.records():
            gate.note_record(record)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the coverage gate."""
    group = parser.getgroup("audit", "audit coverage")
    group.addoption("--audit-policy", metavar="FILE", help="the policy whose coverage by requests is measured")
    group.addoption("--audit-coverage-min", metavar="PERCENT", help="fail the session below this coverage")
    parser.addini("audit_policy", "the policy whose coverage by requests is measured, relative to the rootdir")
    parser.addini("audit_coverage_min", "fail the session below this coverage, percent")


def pytest_configure(config: pytest.Config) -> None:
    """Begins to measure where a policy is given."""
    path, minimum = _policy_path(config), _minimum(config)
    if path is None:
        if minimum:
            raise pytest.UsageError("--audit-coverage-min needs --audit-policy FILE")
        return
    try:
        gate = Gate(load_to_count(path))
    except PolicyError as problem:
        raise pytest.UsageError(f"--audit-policy: {problem}") from problem
    config.stash[_GATE] = gate

    async def watched(original: Call, middleware: AuditMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await original(middleware, scope, receive, send)
        finally:
            admission = admission_of(scope)
            if admission is not None:
                gate.note_request(admission)

    watching = ExitStack()
    watching.enter_context(calls_through(watched))
    config.add_cleanup(watching.close)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """pytest-xdist: a worker has ended; what it saw counts here."""
    gate = node.config.stash.get(_GATE, None)
    plain = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if gate is not None and plain is not None:
        gate.merge(plain)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails a session that exercised too little; a worker only tells what it saw."""
    config = session.config
    gate = config.stash.get(_GATE, None)
    if gate is None:
        return
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = gate.to_plain()
    elif exitstatus == pytest.ExitCode.OK and not config.option.collectonly and gate.percent < _minimum(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what was exercised and what was not."""
    gate = config.stash.get(_GATE, None)
    if gate is None or config.option.collectonly:
        return
    minimum = _minimum(config)
    low = gate.percent < minimum
    terminalreporter.section(f"audit coverage of {_policy_path(config)}", red=low, bold=low)
    for line in gate.report(minimum):
        terminalreporter.line(line, red=low and line.startswith("audit coverage"))


def _policy_path(config: pytest.Config) -> Path | None:
    given: str | None = config.getoption("--audit-policy")
    if given:
        return config.invocation_params.dir / given
    ini = str(config.getini("audit_policy"))
    return config.rootpath / ini if ini else None


def _minimum(config: pytest.Config) -> float:
    text = config.getoption("--audit-coverage-min") or str(config.getini("audit_coverage_min") or "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise pytest.UsageError(f"--audit-coverage-min: {text!r} is not a percentage from 0 to 100")
    return value
