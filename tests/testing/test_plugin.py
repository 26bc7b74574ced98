"""The fixture in real runs of pytest: every way in which an application is tested, and what a failure looks like."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.testing.conftest import Run

ROOT = Path(__file__).parents[2]


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"audit_middleware": "audit_middleware.testing.plugin"}


def test_a_service_loads_neither_the_kit_nor_pytest() -> None:
    code = "import sys, audit_middleware, audit_middleware.cli; "
    code += "print([n for n in sys.modules if n.startswith('audit_middleware.testing')], 'pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_the_kit_loads_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import audit_middleware.testing as kit; print(kit.AuditLog)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_module_level_application_is_redirected_with_every_client(run: Run) -> None:
    result = run(
        """
        import anyio, httpx, pytest
        from starlette.testclient import TestClient
        from service import app
        from audit_middleware.testing import assert_audited, assert_denied

        CLERK, ADMIN = {"X-User": "clerk-1"}, {"X-User": "admin-1"}

        def test_without_lifespan(audit_log):
            assert TestClient(app).get("/invoices/7", headers=CLERK).status_code == 200
            found = audit_log.assert_audited("invoice.read", user="clerk-1", outcome="success", resource="invoice/7",
                status=200, rule="clerks", impact__count=1, reason="asked for")
            assert found["action_id"] == audit_log.last["action_id"]
            assert len(audit_log.records()) == 1

        @pytest.mark.parametrize("turn", [1, 2])
        def test_with_lifespan(audit_log, turn):
            with TestClient(app) as client:
                assert client.delete("/invoices/1", headers=CLERK).status_code == 403
                assert client.delete("/invoices/1", headers=ADMIN).status_code == 403
                assert client.delete("/invoices/1").status_code == 401
                assert client.delete("/invoices/2", headers=ADMIN).status_code == 204
            audit_log.assert_denied("invoice.delete", cause="default", user="clerk-1")
            audit_log.assert_denied("invoice.delete", rule="not-the-first")
            audit_log.assert_denied("invoice.delete", user="anonymous", status=401)
            assert [one["outcome"] for one in audit_log.records(action="invoice.*")] == ["denied"] * 3 + ["success"]
            assert len(audit_log.records(decision="deny", user="admin-1")) == 1
            assert [one["action"] for one in audit_log.records(kind="control")][-1] == "audit.stopped"
            assert audit_log.verify().entries == len(audit_log.records(kind=None)) >= 8
            assert_audited(audit_log, "invoice.delete", user="admin-1", outcome="success")
            assert_denied(audit_log.path, "invoice.delete", rule="not-the-first")

        def test_asgi_transport(audit_log):
            async def ask():
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                    return await client.get("/invoices/9", headers=CLERK)
            assert anyio.run(ask).status_code == 200
            audit_log.assert_audited("invoice.read", resource="invoice/9")

        @pytest.mark.anyio
        async def test_async(audit_log):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                await client.get("/invoices/10", headers=CLERK)
            assert audit_log.last["resource"]["id"] == "10"
            assert len(audit_log.records()) == 1

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
    """,
        own_process=True,
    )
    result.assert_outcomes(passed=5)


def test_applications_that_take_their_settings_from_anywhere(run: Run) -> None:
    result = run("""
        import os, pytest, re
        from fastapi import FastAPI
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from starlette.testclient import TestClient
        from audit_middleware import AuditMiddleware, action, record
        import service

        @action("invoice.read", resource="invoice/{n}")
        async def page(request):
            return PlainTextResponse("page")

        def routes():
            return [Route("/x/{n}", page)]

        def test_from_the_environment(audit_log, monkeypatch):
            monkeypatch.setenv("AUDIT_POLICY", "policy.yaml")
            app = AuditMiddleware(Starlette(routes=routes()), identify=service.who)
            assert TestClient(app).get("/x/1", headers={"X-User": "clerk-1"}).status_code == 200
            assert audit_log.last["service"]["name"] == "test"
            assert record("invoice.read", wait=True)
            audit_log.assert_audited("invoice.read", user="system")

        def test_from_arguments(audit_log):
            app = AuditMiddleware(Starlette(routes=routes()), identify=service.who, policy="policy.yaml",
                                  log=str(audit_log.path), service="mine")
            assert TestClient(app).get("/x/2", headers={"X-User": "clerk-1"}).status_code == 200
            assert audit_log.last["service"]["name"] == "mine"

        def test_work_without_a_request_goes_to_this_tests_log(audit_log, monkeypatch):
            monkeypatch.setenv("AUDIT_POLICY", "policy.yaml")
            for _ in range(2):
                record("invoice.read", wait=True)
            assert [one["user_id"] for one in audit_log.records()] == ["system", "system"]

        test_and_so_does_the_next_ones = test_work_without_a_request_goes_to_this_tests_log

        def test_another_policy(audit_log, tmp_path):
            policy = tmp_path / "other.yaml"
            text = open("policy.yaml").read()
            policy.write_text(re.sub("name: clerks, roles: .clerk.", "name: all, roles: [anyone]", text))
            client = TestClient(service.app)
            assert client.get("/invoices/7").status_code == 401
            audit_log.configure(policy=policy, service="other")
            assert client.get("/invoices/7").status_code == 200
            assert audit_log.assert_audited("invoice.read", rule="all", user="anonymous")["service"]["name"] == "other"

        def test_the_log_is_down(audit_log):
            client = TestClient(service.app)
            clerk = {"X-User": "clerk-1"}
            assert client.get("/invoices/1", headers=clerk).status_code == 200
            with audit_log.outage():
                assert client.get("/invoices/2", headers=clerk).status_code == 503
            assert client.get("/invoices/3", headers=clerk).status_code == 200
            audit_log.assert_denied("invoice.read", cause="log_unavailable", resource="invoice/2")
            audit_log.verify()

        def test_the_log_is_down_before_anything_runs(audit_log):
            with pytest.raises(AssertionError, match="no service runs yet"), audit_log.outage():
                pass
            assert not audit_log.faults.failing

        def test_signing_key_of_the_service_is_not_used(audit_log):
            app = AuditMiddleware(Starlette(routes=routes()), identify=service.who, policy="policy.yaml", log="x",
                                  service="mine", signing_key="PRIVATE+KEY+nonsense")
            assert TestClient(app).get("/x/2", headers={"X-User": "clerk-1"}).status_code == 200
    """)
    result.assert_outcomes(passed=8)


def test_an_application_that_runs_before_and_after_goes_on_with_its_own_log(run: Run) -> None:
    result = run("""
        import pytest, service
        from starlette.testclient import TestClient
        from audit_middleware import record
        from audit_middleware.testing import AuditLog

        CLERK = {"X-User": "clerk-1"}

        @pytest.fixture(scope="module")
        def own(tmp_path_factory):
            return AuditLog(tmp_path_factory.mktemp("own"))

        @pytest.fixture(scope="module")
        def client(own):
            settings = service.app.user_middleware[0].kwargs
            settings |= {"log": str(own.path), "key": own.key}
            with TestClient(service.app) as client:
                client.get("/invoices/1", headers=CLERK)
                yield client

        def test_one(client, audit_log, own):
            client.get("/invoices/2", headers=CLERK)
            assert [one["resource"]["id"] for one in audit_log.records()] == ["2"]

        def test_two(client, own):
            client.get("/invoices/3", headers=CLERK)
            record("invoice.read", wait=True)
            assert [one["resource"]["id"] for one in own.wait(3)] == ["1", "3", None]

        def test_three(client, audit_log):
            client.get("/invoices/4", headers=CLERK)
            assert [one["resource"]["id"] for one in audit_log.records()] == ["4"]
    """)
    result.assert_outcomes(passed=3)


def test_failures_show_the_nearest_records(run: Run) -> None:
    result = run("""
        import service, pytest
        from starlette.testclient import TestClient

        @pytest.fixture(autouse=True)
        def used(audit_log):
            client = TestClient(service.app)
            client.get("/invoices/7", headers={"X-User": "clerk-1"})
            client.delete("/invoices/8", headers={"X-User": "clerk-2"})
            client.get("/nothing/%1b[31m")

        def test_nearly(audit_log):
            audit_log.assert_audited("invoice.delete", outcome="success", user="clerk-2", resource="invoice/9")

        def test_not_denied(audit_log):
            audit_log.assert_denied("invoice.read", rule="clerks")

        def test_misspelt(audit_log):
            audit_log.assert_audited("invoice.read", sevrity="low")

        def test_misspelt_inside(audit_log):
            audit_log.assert_audited("invoice.read", request__methd="GET")

        def test_too_few(audit_log):
            audit_log.wait(9, timeout=0.2)
    """)
    result.assert_outcomes(failed=5)
    text = result.stdout.str()
    assert "no record matches action='invoice.delete' outcome='success' user='clerk-2' resource='invoice/9'" in text
    result.stdout.fnmatch_lines(
        [
            "E*the nearest of 3:",
            "E*entry  action*user*resource*outcome*decision*differs in",
            "E*invoice.delete*clerk-2*invoice/8*denied*deny (default)*outcome: 'denied', not 'success'; "
            "resource: 'invoice/8', not 'invoice/9'",
            "E*invoice.read*clerk-1*invoice/7*success*allow (clerks)*action: 'invoice.read', not 'invoice.delete'*",
            "E*GET /nothing/\\x1b[[]31m*anonymous*",
        ]
    )
    result.stdout.fnmatch_lines(["E*outcome: 'success', not 'denied'*"])
    result.stdout.fnmatch_lines(["E*no record has the field 'sevrity': did you mean 'severity'?"])
    result.stdout.fnmatch_lines(["E*no record has the field 'request__methd': did you mean 'method'?"])
    result.stdout.fnmatch_lines(["E*3 records instead of 9 after 0.2 seconds"])
    assert "\x1b[31m" not in text


def test_an_empty_log_says_so(run: Run) -> None:
    result = run("""
        def test_nothing(audit_log):
            audit_log.timeout = 0.1
            audit_log.assert_audited("a.b")

        def test_last(audit_log):
            audit_log.last
    """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E*no record matches action='a.b'", "E*the log has no records of requests"])


def test_a_damaged_log_fails_verification(run: Run) -> None:
    result = run("""
        import service
        from starlette.testclient import TestClient

        def test_damaged(audit_log):
            TestClient(service.app).get("/invoices/7", headers={"X-User": "clerk-1"})
            audit_log.verify()
            segment, = (audit_log.path / "journal").iterdir()
            segment.write_bytes(segment.read_bytes().replace(b"invoice/7", b"invoice/8").replace(b"/7", b"/8"))
            audit_log.verify()
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*the log does not hold, altered at entry*"])
