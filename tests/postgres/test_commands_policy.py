"""A log in PostgreSQL for those who judge a service: decisions made again, under another policy, and reviewed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audit_middleware import AuditMiddleware, action
from audit_middleware.evidence.keys import create_log
from audit_middleware.stores.opening import place_of
from tests.detectors.support import detection
from tests.kit import Run, Running, call, write_policy
from tests.middleware.service import identify
from tests.postgres.conftest import Database
from tests.servers.running import PATIENCE, ROOT

ORIGIN = "audit.example.com/judged"
POLICY = """
version: 1
name: judged
roles: {reader: {}, editor: {inherits: [reader]}}
actions:
  doc.read: {allow: [{name: own, roles: [reader], when: {resource.id: {matches: '^[0-9]+$'}}}]}
  doc.write: {severity: high, allow: [editor]}
"""
NARROWER = POLICY.replace("doc.write: {severity: high, allow: [editor]}", "doc.write: {severity: high, allow: []}")
READER, EDITOR = ([(b"x-user", one)] for one in (b"ann:reader", b"ben:editor"))


@action("doc.read", resource="doc/{name}")
async def read(request: Request) -> Response:
    """A page."""
    return PlainTextResponse("read")


@action("doc.write", resource="doc/{name}")
async def write(request: Request) -> Response:
    """A change."""
    return PlainTextResponse("written")


@pytest.fixture
def judged(database: Database, tmp_path: Path, run: Run) -> str:
    """The log of a service that answered some requests. `run` names the host's folder in the environment."""
    create_log(place_of(database.url, tmp_path / "state"), ORIGIN)
    app = Starlette(routes=[Route("/docs/{name}", read), Route("/docs/{name}", write, methods=["PUT"])])
    app.add_middleware(
        AuditMiddleware, identify=identify, policy=write_policy(tmp_path, POLICY), log=database.url,
        state=tmp_path / "state", service="judged",
    )  # fmt: skip

    async def work() -> None:
        async with Running(app) as running:
            assert running.failed is None
            for path, who, method, status in (
                ("/docs/1", READER, "GET", 200),
                ("/docs/secret", READER, "GET", 403),
                ("/docs/1", READER, "PUT", 403),
                ("/docs/1", EDITOR, "PUT", 200),
                ("/docs/1", [], "GET", 401),
            ):
                assert (await call(app, method, path, who)).status == status, (path, method)

    asyncio.run(work())
    return database.url


def test_every_decision_is_made_again(judged: str, run: Run) -> None:
    code, out, err = run("policy", "reperform", judged, "--json")
    found = json.loads(out)
    assert code == 0, (out, err)
    assert found["same"] == 5, found
    assert run("policy", "reperform", judged)[0] == 0


def test_decisions_under_another_policy(judged: str, run: Run, tmp_path: Path) -> None:
    new = write_policy(tmp_path, NARROWER, "new.yaml")
    code, out, err = run("policy", "backtest", judged, new, "--json")
    assert code == 0, err
    assert "ben" in out
    assert run("policy", "backtest", judged, new, "--fail-on-change")[0] == 1
    assert run("policy", "backtest", judged, tmp_path / "policy.yaml", "--fail-on-change")[0] == 0


def test_a_review(judged: str, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "review.md"
    code, out, err = run("review", judged, "--policy", tmp_path / "policy.yaml", "--verify", "--out", page)
    assert code in (0, 1), err
    assert ORIGIN in page.read_text()
    code, out, err = run("review", judged, "--policy", tmp_path / "policy.yaml", "--since", "1d", "--json")
    assert code in (0, 1), err
    assert ORIGIN in json.dumps(json.loads(out))


def test_what_the_detectors_find(judged: str, run: Run, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "writes.yml").write_text(detection("{wrote: {event.action: doc.write}, condition: wrote}"))
    code, out, err = run("detect", judged, "--rules", rules, "--no-shipped", "--json")
    assert code == 1, (out, err)
    assert len(out.splitlines()) == 2


FORMS = ("jsonl", "ocsf", "ocsf-1.9", "ecs", "datadog", "cloudevents", "k8s", "cef", "leef", "rfc5424", "otlp",
         "cloudtrail")  # fmt: skip


def test_an_export_is_that_of_the_same_log_in_a_directory(judged: str, run: Run, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert run("copy", judged, journal)[0] == 0
    for form in FORMS:
        more = {"cloudtrail": ["--aws-account", "123456789012"], "rfc5424": ["--enterprise-number", "32473"]}
        found = []
        for log in (judged, journal):
            code, out, err = run("export", log, "--format", form, "--action", "doc.*", *more.get(form, ()))
            assert code == 0, (form, err)
            found.append(out)
        assert found[0] == found[1], form
        assert found[0].count("doc.write") >= 2, form


def test_who_watches_sees_what_is_written(judged: str, run: Run) -> None:
    code, out, err = run("query", judged, "--decision", "deny", "--json")
    assert code == 0, err
    assert {json.loads(line)["record"]["response"]["status"] for line in out.splitlines()} == {401, 403}
    code, out, err = run("query", judged, "--unfinished", "--json")
    assert (code, out) in ((0, ""), (1, "")), err


def test_a_hold_that_ends(judged: str, run: Run) -> None:
    assert run("hold", "place", judged, "case-1", "--from", 1, "--reason", "case 1")[0] == 0
    code, out, err = run("hold", "list", judged, "--json")
    assert (code, "case-1" in out) == (0, True), err
    assert run("hold", "release", judged, "case-1", "--reason", "over")[0] == 0
    code, out, err = run("hold", "list", judged, "--json")
    assert "case-1" not in out, err
    assert run("hold", "release", judged, "case-1", "--reason", "over")[0] != 0


def test_who_follows_with_tail(judged: str, run: Run) -> None:
    command = [sys.executable, "-m", "audit_middleware", "tail", judged, "-n", "1", "--follow", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"AUDIT_READER": "ann"})
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())  # the newest record is that of this reading
        assert first["record"]["action"] == "audit.log_read"
        assert run("hold", "place", judged, "case-2", "--from", 1, "--reason", "case 2")[0] == 0
        assert json.loads(process.stdout.readline())["record"]["action"] == "audit.hold_placed"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
