"""The commands on a real log: what they print, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from audit_middleware import AuditMiddleware, Subject, action, annotate
from audit_middleware.protocols import Scope
from tests.kit import Log, Run, Running, call, make_log, write_policy

POLICY = """
roles: {clerk: {}}
actions:
  invoice.read: {allow: [clerk]}
  invoice.delete: {severity: high, allow: [{name: nobody-yet, roles: [clerk], when: {context.method: POST}}]}
  invoice.archive: {allow: [clerk]}
routes:
  - {match: 'GET /docs', exempt: documentation}
  - {match: 'GET /docs/oauth2-redirect', exempt: documentation}
  - {match: 'GET /redoc', exempt: documentation}
  - {match: 'GET /openapi.json', exempt: documentation}
"""


def clerk(scope: Scope) -> Subject:
    """Everyone is the clerk that a header names."""
    name = dict(scope["headers"]).get(b"x-user", b"clerk-1").decode()
    return Subject(name, roles=("clerk",))


def service(folder: Path, log: Log) -> FastAPI:
    app = FastAPI()

    @app.get("/invoices/{invoice_id}")
    @action("invoice.read", resource="invoice/{invoice_id}")
    async def read(invoice_id: str) -> dict[str, str]:
        annotate(impact={"before": None, "after": None, "count": 1})
        return {"id": invoice_id}

    @app.delete("/invoices/{invoice_id}")
    @action("invoice.delete", resource="invoice/{invoice_id}")
    async def delete(invoice_id: str) -> None: ...

    policy = write_policy(folder, POLICY)
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="cli", identify=clerk)
    return app


async def _fill(app: FastAPI) -> list[str]:
    ids = []
    async with Running(app) as running:
        assert running.failed is None, running.failed
        for number in range(4):
            answer = await call(app, "GET", f"/invoices/{number}", [(b"x-user", b"clerk-%d" % (number % 2))])
            ids.append(str(answer.header(b"audit-id")))
        denied = await call(app, "DELETE", "/invoices/9", [(b"x-correlation-id", b"case-7")])
        assert denied.status == 403
        ids.append(str(denied.header(b"audit-id")))
        evil = await call(app, "GET", "/invoices/\x1b[31m", [])
        ids.append(str(evil.header(b"audit-id")))
    return ids


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Log, list[str]]:
    """A log with four reads, a denial, and a path that would like to colour a terminal."""
    log = make_log(tmp_path)
    return log, asyncio.run(_fill(service(tmp_path, log)))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_init_makes_the_folders_above_the_log(run: Run, tmp_path: Path) -> None:
    code, _, err = run("init", tmp_path / "var" / "lib" / "log", "--origin", "example.com/x")
    assert code == 0, err
    assert run("verify", tmp_path / "var" / "lib" / "log")[0] == 0


def test_init_makes_a_log_and_a_key_only_once(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("init", tmp_path / "log", "--origin", "example.com/x")
    assert code == 0
    assert "example.com/x+" in out
    assert (tmp_path / "log.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in out
    code, _, err = run("init", tmp_path / "log", "--origin", "example.com/x")
    assert code == 3
    assert "error:" in err


def test_a_log_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    for command in (["query"], ["tail"], ["verify"], ["show"]):
        arguments = [*command, tmp_path / "nowhere", *(["1"] if command == ["show"] else [])]
        code, _, err = run(*arguments)
        assert code == 3, command
        assert "audit-middleware init" in err
    assert not (tmp_path / "nowhere").exists()


def test_query_finds_by_every_filter(run: Run, filled: tuple[Log, list[str]]) -> None:
    log, ids = filled
    everything = {record["action_id"]: record for record in log.records()}

    def ask(*options: str) -> list[str]:
        code, out, _ = run("query", log.path, "--json", "--limit", "0", *options)
        found = [line["record"]["action_id"] for line in lines(out)]
        assert code == (0 if found else 1)
        assert all(line["record"] == everything[line["record"]["action_id"]] for line in lines(out))
        return found

    assert ask("--user", "clerk-0") == [ids[2], ids[0]]
    assert ask("--user", "clerk-0", "--oldest-first") == [ids[0], ids[2]]
    assert ask("--action", "invoice.delete") == [ids[4]]
    assert set(ask("--action", "invoice.*")) == set(ids)
    assert ask("--decision", "deny") == [ids[4]]
    assert ask("--outcome", "denied") == [ids[4]]
    assert ask("--severity", "high") == [ids[4]]
    assert ask("--resource", "invoice/2") == [ids[2]]
    assert set(ask("--resource", "invoice")) == set(ids)
    assert ask("--trace", "case-7") == [ids[4]]
    assert len(ask("--kind", "control")) == 5
    assert ask("--since", "1h", "--user", "clerk-0") == [ids[2], ids[0]]
    assert ask("--until", "1h") == []
    assert ask("--user", "nobody") == []
    assert len(ask()) == len(everything)


def test_query_prints_a_table_and_never_steers_the_terminal(run: Run, filled: tuple[Log, list[str]]) -> None:
    log, ids = filled
    code, out, _ = run("query", log.path)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31m" in out
    assert ids[4] in out
    assert "deny (default)" in out
    assert out.splitlines()[-1].endswith("11 of 11 records")


def test_a_query_sees_what_was_just_acknowledged_and_survives_a_deleted_index(
    run: Run, filled: tuple[Log, list[str]], tmp_path: Path
) -> None:
    log, ids = filled
    assert run("query", log.path, "--user", "clerk-0")[0] == 0
    more = asyncio.run(_fill(service(tmp_path, log)))
    _, out, _ = run("query", log.path, "--json", "--user", "clerk-0")
    assert [line["record"]["action_id"] for line in lines(out)] == [more[2], more[0], ids[2], ids[0]]
    for path in log.path.glob("index.sqlite*"):
        path.unlink()
    assert run("query", log.path, "--json", "--user", "clerk-0")[1] == out


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "5y", ""])
def test_a_time_that_is_none_is_wrong_usage(run: Run, filled: tuple[Log, list[str]], text: str) -> None:
    code, _, err = run("query", filled[0].path, "--since", text)
    assert code == 2
    assert "24h" in err


def test_show_prints_one_record_by_id_and_by_index(run: Run, filled: tuple[Log, list[str]]) -> None:
    log, ids = filled
    code, out, _ = run("show", log.path, ids[4])
    assert code == 0
    assert '"cause": "default"' in out
    _, out, _ = run("show", log.path, ids[4], "--json")
    shown = json.loads(out)
    assert shown["record"]["action_id"] == ids[4]
    _, again, _ = run("show", log.path, shown["index"], "--json")
    assert json.loads(again) == shown
    for unknown in ("9999", "01a2054f-574f-72b0-a9c1-9b252f69c4fa"):
        code, _, err = run("show", log.path, unknown)
        assert code == 1
        assert unknown in err


def test_tail_prints_the_last_records(run: Run, filled: tuple[Log, list[str]]) -> None:
    log, _ = filled
    _, out, _ = run("tail", log.path, "-n", "3", "--json")
    assert [line["record"] for line in lines(out)] == log.records()[-3:]
    _, out, _ = run("tail", log.path)
    assert "invoice.delete" in out


def test_tail_follows_what_is_committed(filled: tuple[Log, list[str]], tmp_path: Path) -> None:
    log, _ = filled
    command = [sys.executable, "-m", "audit_middleware", "tail", str(log.path), "-f", "-n", "1", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as tail:
        try:
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["index"] == 10  # it runs, and has seen the log's end
            ids = asyncio.run(_fill(service(tmp_path, log)))
            followed = [json.loads(tail.stdout.readline()) for _ in range(10)]
        finally:
            tail.send_signal(signal.SIGINT)
    assert [line["index"] for line in followed] == list(range(11, 21))
    assert set(ids) < {line["record"]["action_id"] for line in followed}
    assert tail.returncode == 0


def test_verify_holds_and_then_names_what_was_damaged(run: Run, filled: tuple[Log, list[str]], tmp_path: Path) -> None:
    log, _ = filled
    run("query", log.path)  # so that there is an index to compare
    code, out, _ = run("verify", log.path, "--vkey", log.vkey)
    assert code == 0, out
    assert "holds" in out
    code, out, _ = run("verify", log.path, "--json")
    report = json.loads(out)
    assert (report["holds"], report["entries"], report["findings"]) == (True, 11, [])
    segment = next((log.path / "journal").glob("*.jsonl"))
    data = segment.read_bytes()
    assert data.count(b'"clerk-0"') >= 2
    segment.write_bytes(data.replace(b'"clerk-0"', b'"clerk-X"', 1))
    code, out, _ = run("verify", log.path, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["holds"], report["cause"]) == (False, "altered")
    assert log.path.name in report["findings"][0]["where"]


def test_verify_with_the_wrong_key_does_not_hold(run: Run, filled: tuple[Log, list[str]], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    code, out, _ = run("verify", filled[0].path, "--vkey", make_log(other).vkey, "--json")
    assert code == 1
    assert json.loads(out)["cause"] == "wrong key"


def test_policy_check_lists_every_finding(run: Run, tmp_path: Path) -> None:
    good = write_policy(tmp_path, "actions: {a.b: {allow: [anyone]}}\n", "good.yaml")
    code, out, _ = run("policy", "check", good)
    assert code == 0
    assert "digest sha256:" in out
    bad = write_policy(tmp_path, "actions: {a.b: {alow: [anyone], severity: hihg}}\n", "bad.yaml")
    code, _, err = run("policy", "check", bad)
    assert code == 1
    assert "did you mean 'allow'" in err
    assert "did you mean 'high'" in err
    code, out, _ = run("policy", "check", bad, "--json")
    assert code == 1
    assert len(json.loads(out)["findings"]) == 2
    assert run("policy", "check", tmp_path / "none.yaml")[0] == 1


def test_policy_test_tells_broken_failed_and_missing_apart(run: Run, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, "roles: {r: {}}\nactions: {a.b: {allow: [r]}, a.c: {allow: [r]}}\n")
    assert run("policy", "test", policy)[0] == 3
    tests = tmp_path / "policy_test.yaml"
    case = (
        "subjects: {ann: {id: ann, roles: [r]}}\ntests:\n  - {name: t, subjects: [ann], actions: [a.b], expect: [%s]}\n"
    )
    tests.write_text(case % "{subject: ann, actions: {a.b: allow}}")
    code, out, _ = run("policy", "test", policy)
    assert code == 0, out
    code, out, err = run("policy", "test", policy, "--coverage", "100")
    assert code == 1
    assert "100 %" in err
    code, out, _ = run("policy", "test", policy, "--format", "junit")
    assert out.startswith("<?xml")
    code, out, _ = run("policy", "test", policy, "--format", "json")
    assert json.loads(out)["passed"] == 1
    assert run("policy", "test", policy, "--only", "nothing")[0] == 3
    tests.write_text(case % "{subject: ann, actions: {a.b: {deny: default}}}")
    assert run("policy", "test", policy)[0] == 1
    tests.write_text("tests: 7\n")
    assert run("policy", "test", policy)[0] == 5
    policy.write_text("version: 2\n")
    assert run("policy", "test", policy)[0] == 4


def test_routes_lists_and_refuses(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(
        "from starlette.applications import Starlette\nfrom starlette.routing import Route\n"
        "from starlette.responses import Response\nfrom audit_middleware import action\n"
        "@action('a.b')\ndef one(request): return Response()\ndef two(request): return Response()\n"
        "app = Starlette(routes=[Route('/one', one), Route('/two', two)])\n"
    )
    monkeypatch.chdir(tmp_path)
    policy = write_policy(tmp_path, "actions: {a.b: {allow: [anyone]}}\n")
    code, out, _ = run("routes", "shop:app", "--policy", policy)
    assert code == 1
    assert "GET /two (shop:two): has no action" in out
    policy.write_text(policy.read_text() + "routes: [{match: 'GET /two', exempt: 'says nothing'}]\n")
    code, out, _ = run("routes", "shop:app", "--policy", policy, "--json")
    assert code == 0, out
    assert [(row["route"], row["action"], row["rule"]) for row in json.loads(out)["routes"]] == [
        ("/one", "a.b", "anyone"),
        ("/two", None, "exempt"),
    ]
    assert run("routes", "shop:nothing", "--policy", policy)[0] == 3
    assert run("routes", "no_such_module_here:app", "--policy", policy)[0] == 3


def test_schema_validates_every_record(run: Run, filled: tuple[Log, list[str]]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    _, out, _ = run("schema")
    validator = jsonschema.Draft202012Validator(json.loads(out))
    for record in filled[0].records():
        validator.validate(record)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**record, "unknown": 1})


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("query")[0] == 2
    assert run("init", "x")[0] == 2
    assert run("no-such-command")[0] == 2


def test_the_version_and_the_module(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "audit-middleware")
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", "--help"], capture_output=True, text=True, check=True
    )
    assert "Guard, correlate and record" in done.stdout
