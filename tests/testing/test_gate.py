"""The coverage gate in real runs of pytest, alone and distributed."""

from __future__ import annotations

import pytest

from tests.testing.conftest import Run

# invoice.list and invoice.delete have one allow rule each, invoice.read has two; and there is one deny rule.
SOME = """
    import pytest, service
    from starlette.testclient import TestClient

    @pytest.fixture
    def client(audit_log):
        return TestClient(service.app)

    def test_list_leaves_no_record(client, audit_log):
        assert client.get("/invoices", headers={"X-User": "clerk-1"}).status_code == 200
        assert audit_log.records() == []

    def test_read(client):
        assert client.get("/invoices/1", headers={"X-User": "clerk-1"}).status_code == 200
"""
REST = """
    @pytest.mark.parametrize(("method", "user", "number", "status"), [
        ("GET", "admin-1", 1, 200), ("DELETE", "admin-1", 1, 403), ("DELETE", "admin-1", 2, 204),
    ])
    def test_rest(client, method, user, number, status):
        assert client.request(method, f"/invoices/{number}", headers={"X-User": user}).status_code == status
"""


def test_too_little_fails_and_says_what_is_missing(run: Run) -> None:
    result = run(SOME, "--audit-policy", "policy.yaml", "--audit-coverage-min", "90")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*audit coverage of *policy.yaml*",
            "routes   2 of 3  67 %",
            "actions  2 of 3  67 %",
            "rules    2 of 5  40 %",
            "  route DELETE /invoices/{invoice_id} (invoice.delete) was not exercised",
            "  action invoice.delete was not exercised",
            "  rule invoice.delete/admin was not exercised",
            "  rule invoice.delete/not-the-first was not exercised",
            "  rule invoice.read/admins was not exercised",
            "audit coverage 40 % is below the required 90 %",
        ]
    )


def test_enough_passes(run: Run) -> None:
    result = run(SOME + REST, "--audit-policy", "policy.yaml", "--audit-coverage-min", "100")
    result.assert_outcomes(passed=5)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["routes   3 of 3  100 %", "actions  3 of 3  100 %", "rules    5 of 5  100 %"])
    result.stdout.no_fnmatch_line("*not exercised*")


@pytest.mark.slow
@pytest.mark.parametrize(("test", "code"), [(SOME, 1), (SOME + REST, 0)], ids=["too-little", "enough"])
def test_workers_of_a_distributed_run_tell_what_they_saw(run: Run, test: str, code: int) -> None:
    result = run(test, "-n", "2", "--audit-policy", "policy.yaml", "--audit-coverage-min", "100", own_process=True)
    assert result.ret == code
    result.stdout.fnmatch_lines(["rules    2 of 5  40 %" if code else "rules    5 of 5  100 %"])


def test_the_ini_file(run: Run, pytester: pytest.Pytester) -> None:
    head = "[pytest]\npythonpath = .\naudit_policy = policy.yaml\naudit_coverage_min ="
    (pytester.path / "other.ini").write_text(f"{head} 41\n")
    assert run(SOME, "-c", "other.ini").ret == pytest.ExitCode.TESTS_FAILED
    assert run(SOME, "-c", "other.ini", "--audit-coverage-min", "40").ret == pytest.ExitCode.OK


def test_requests_without_the_fixture_and_of_other_processes_count(run: Run) -> None:
    result = run(
        """
        import subprocess, sys, service
        from starlette.testclient import TestClient
        from audit_middleware.testing import AuditLog

        def test_without(tmp_path):
            log = AuditLog(tmp_path)
            service.app.user_middleware[0].kwargs.update(log=str(log.path))
            with TestClient(service.app) as client:
                assert client.get("/invoices", headers={"X-User": "clerk-1"}).status_code == 200

        def test_elsewhere(audit_log):
            source = open("service.py").read().replace('log="/nowhere/audit", service="billing", ', "")
            open("deployed.py", "w").write(source)
            code = "import deployed; from starlette.testclient import TestClient; "
            code += "TestClient(deployed.app).delete('/invoices/2', headers={'X-User': 'admin-1'})"
            subprocess.run([sys.executable, "-c", code], check=True)
            audit_log.assert_audited("invoice.delete")
        """,
        "--audit-policy",
        "policy.yaml",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["routes   2 of 3*", "actions  2 of 3*", "rules    2 of 5*"])


def test_another_policy_proves_nothing(run: Run, pytester: pytest.Pytester) -> None:
    other = (pytester.path / "policy.yaml").read_text().replace("invoice.read:", "invoice.look:")
    (pytester.path / "other.yaml").write_text(other)
    result = run(SOME, "--audit-policy", "other.yaml", "--audit-coverage-min", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["no request was decided by this policy (2 by others)", "audit coverage 0 %*"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--audit-coverage-min", "5"), "*--audit-coverage-min needs --audit-policy FILE*"),
        (("--audit-policy", "policy.yaml", "--audit-coverage-min", "101"), "*'101' is not a percentage from 0 to 100*"),
        (("--audit-policy", "policy.yaml", "--audit-coverage-min", "x"), "*'x' is not a percentage*"),
        (("--audit-policy", "nowhere.yaml"), "*--audit-policy: *nowhere.yaml*"),
    ],
)
def test_wrong_options_are_usage_errors(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run("def test(): pass", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])


def test_failed_tests_stay_failed_and_collecting_is_not_measured(run: Run) -> None:
    gate = ("--audit-policy", "policy.yaml", "--audit-coverage-min", "90")
    result = run(SOME, *gate, "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*audit coverage*")
    assert run("", *gate).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_predicates_need_not_be_there(run: Run, pytester: pytest.Pytester) -> None:
    policy = pytester.path / "policy.yaml"
    policy.write_text(policy.read_text().replace("{resource.invoice_id: '1'}", "{predicate: is_first}"))
    service = pytester.path / "service.py"
    predicate = 'predicates={"is_first": lambda request: True}, policy='
    service.write_text(service.read_text().replace("policy=", predicate))
    result = run(SOME, "--audit-policy", "policy.yaml", "--audit-coverage-min", "40")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["rules    2 of 5*"])


def test_a_head_request_runs_the_handler_of_get(run: Run, pytester: pytest.Pytester) -> None:
    service = pytester.path / "service.py"
    service.write_text(
        service.read_text().replace('@app.get("/invoices")', '@app.api_route("/invoices", methods=["GET", "HEAD"])')
    )
    head = SOME.replace('client.get("/invoices",', 'client.head("/invoices",')
    result = run(head, "--audit-policy", "policy.yaml")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["routes   2 of 3*"])
