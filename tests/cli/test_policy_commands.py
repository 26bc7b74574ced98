"""``policy explain``, ``lint``, ``matrix``, ``diff``, ``mutate`` and ``schema`` as one runs them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from audit_middleware.cli import main
from audit_middleware.cli.output import out as console

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

POLICY = """\
version: 1
name: billing
roles:
  clerk: {}
  admin: {inherits: [clerk]}
actions:
  invoice.read: {allow: [clerk]}
  invoice.delete:
    allow:
      - {name: owner, roles: [clerk], when: {resource.owner: {same_as: subject.id}, context.time: {between: '08:00-18:00', zone: UTC}}}
      - admin
    deny:
      - {name: guests, when: {context.ip: {in_cidr: 10.9.0.0/16}}}
"""  # noqa: E501
SOUND = f"{POLICY}personal: gdpr\n"
TESTS = """\
subjects: {ann: {id: u-1, roles: [clerk]}}
tests: [{name: reading, subjects: [ann, nobody], actions: [invoice.read], expect: [{subject: ann, actions: {invoice.read: allow}}]}]
"""  # noqa: E501
ASK = ("--subject", "u-1", "--roles", "clerk", "--action", "invoice.delete", "--resource", "invoice/7")
FACTS = ("--property", "owner=u-1", "--context", "ip=192.0.2.1")
DAY, NIGHT = "2026-03-02T10:00:00Z", "2026-03-02T22:00:00Z"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "billing.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: exit code, output, errors. ``stdin`` is what it may read."""

    def command(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "policy", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def request(**changes: Any) -> dict[str, Any]:
    subject = {"type": "user", "id": "u-1", "properties": {"roles": ["clerk"]}}
    resource = {"type": "invoice", "id": "7", "properties": {"owner": "u-1"}}
    body = {"subject": subject, "action": {"name": "invoice.delete"}, "resource": resource}
    return {**body, "context": {"ip": "192.0.2.1", "time": DAY}, **changes}


# --- explain -----------------------------------------------------------------------------------------------------


def test_explain_tells_the_decision_and_every_rule(run: Run, policy: Path) -> None:
    code, out, err = run("explain", policy, *ASK, *FACTS, "--now", DAY)
    assert (code, err) == (0, "")
    assert out.startswith("allow: invoice.delete, cause rule by rule owner\n")
    assert "policy sha256:" in out
    code, out, _ = run("explain", policy, *ASK, *FACTS, "--now", NIGHT)
    assert code == 1
    assert out.startswith("deny: invoice.delete, cause default\nnearly: owner: context.time between 08:00-18:00 UTC\n")
    for text in ("guests", "no: admin", "all of", "  resource.owner same_as subject.id"):
        assert text in out
    code, out, _ = run("explain", policy, *ASK, "--now", DAY)
    assert code == 1
    assert "detail: guests: context.ip is missing" in out
    assert "error: context.ip is missing" in out


def test_explain_says_what_is_unknown(run: Run, policy: Path) -> None:
    code, out, _ = run("explain", policy, "--action", "invoice.burn", "--subject", "x", "--roles", "ghost,clerk")
    assert code == 1
    assert "cause unknown_action" in out
    assert "grant nothing: ghost" in out
    code, out, _ = run("explain", policy, "--action", "invoice.read")
    assert (code, out.splitlines()[0]) == (1, "deny: invoice.read, cause default")


def test_explain_reads_typed_values(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\nname: p\nactions:\n  a.b: {allow: [{name: r, when: {resource.n: {lte: 5}, subject.t: true, "
        "subject.tenant: x}}]}\n"
    )
    typed = ("--property", "n=5", "--subject", "s", "--subject-property", "t=true", "--tenant", "x")
    assert run("explain", path, "--action", "a.b", *typed)[0] == 0
    assert run("explain", path, "--action", "a.b", *typed, "--property", 'n="5"')[0] == 1


def test_explain_answers_authzen_from_stdin_and_from_a_file(run: Run, policy: Path, tmp_path: Path) -> None:
    code, out, _ = run("explain", policy, "--json", stdin=json.dumps(request()))
    answer = json.loads(out)
    assert (code, answer["decision"], answer["context"]["rule"]) == (0, True, "owner")
    assert {rule["rule"] for rule in answer["context"]["rules"]} == {"guests", "owner", "admin"}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request(context={"ip": "10.9.0.1", "time": DAY})))
    code, out, _ = run("explain", policy, "--request", file, "--json")
    assert (code, json.loads(out)["context"]["rule"]) == (1, "guests")
    code, out, _ = run("explain", policy, "--request", file)
    assert (code, out.splitlines()[0]) == (1, "deny: invoice.delete, cause rule by rule guests")
    several = request(evaluations=[{}, {"action": {"name": "invoice.read"}}, {"action": {"name": "x.y"}}])
    code, out, _ = run("explain", policy, "--json", stdin=json.dumps(several))
    assert (code, [one["decision"] for one in json.loads(out)["evaluations"]]) == (1, [True, True, False])
    assert run("explain", policy, *ASK, *FACTS, "--now", DAY, "--json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ((), "", "name an --action, or give an AuthZEN --request"),
        (("--action", "a.b", "--request", "-"), "{}", "name an --action, or give an AuthZEN --request"),
        (("--action", "a.b", "--roles", "clerk"), "", "need a --subject"),
        (("--action", "a.b", "--property", "x"), "", "--property x: write NAME=VALUE"),
        (("--action", "a.b", "--now", "noon"), "", "--now noon: not a time"),
        (("--action", "a.b", "--now", "2026-03-02T10:00:00"), "", "needs a zone"),
        (("--json",), "{", "request: not JSON"),
        (("--json",), "{}", "subject: missing"),
        (("--request", "-"), '{"subjct": {}}', "unknown member 'subjct'"),
    ],
)
def test_explain_refuses_what_it_cannot_read(
    run: Run, policy: Path, arguments: tuple[str, ...], stdin: str, message: str
) -> None:
    code, _, err = run("explain", policy, *arguments, stdin=stdin)
    assert code == 2
    assert message in err


def test_explain_refuses_a_request_that_is_no_text(run: Run, policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(b"\xff")
    code, _, err = run("explain", policy, "--request", file)
    assert (code, "not UTF-8" in err) == (2, True)
    assert run("explain", policy, "--request", tmp_path / "none.json")[0] == 3


def test_a_policy_that_cannot_be_loaded_is_exit_3(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    for arguments in (
        ("explain", missing, "--action", "a.b"),
        ("lint", missing),
        ("matrix", missing),
        ("diff", missing, missing),
        ("mutate", missing),
    ):
        code, _, err = run(*arguments)
        assert code == 3
        assert "missing.yaml: cannot be read" in err


REQUIRING = POLICY.replace("clerk]}\n  invoice.delete:\n", "clerk]}\n  invoice.delete:\n    limit: {rate: 5/hour}\n")
REQUIRING += "    require: {mfa: true, reason: true, confirm: true}\n"
ADMIN = ("--subject", "eve", "--roles", "admin", "--action", "invoice.delete", "--resource", "invoice/7", *FACTS)
MET = ("--subject-property", "mfa=true", "--reason", "CASE-1", "--confirm", "7")


def test_explain_shows_each_requirement_and_what_the_caller_is_told(run: Run, policy: Path) -> None:
    policy.write_text(REQUIRING)
    code, out, _ = run("explain", policy, *ADMIN, "--now", DAY, "--confirm", "8", "--reason", "CASE-1")
    assert code == 1
    assert out.startswith("deny: invoice.delete, cause requirement, which rule admin allows\n")
    told = next(line for line in out.splitlines() if line.startswith("the caller is told: 403 "))
    assert json.loads(told.removeprefix("the caller is told: 403 "))["missing"] == ["mfa", "confirm"]
    assert "limit: 5/hour per subject, not counted here" in out
    assert "record metadata, guarantee after, on_log_failure deny" in out
    outcomes = [line.split(maxsplit=1) for line in out.partition("requirement  outcome")[2].splitlines()]
    assert [(name, what.strip()) for name, what in filter(None, outcomes)] == [
        ("mfa", "not met"),
        ("reason", "met"),
        ("confirm", "not met"),
    ]
    assert run("explain", policy, *ADMIN, *MET, "--now", DAY)[0] == 0
    code, out, _ = run("explain", policy, "--action", "invoice.delete", "--context", "ip=192.0.2.1")
    assert "the caller is told: 401 Not authenticated" in out
    assert "not met, and not asked" in out


def test_explain_says_that_it_has_no_time_to_compare_with(run: Run, policy: Path) -> None:
    policy.write_text(REQUIRING.replace("mfa: true", "auth_age: 15m"))
    told = "without --now (context.time) no sign-in is recent"
    recent = ("--subject-property", "auth_time=1772445000", "--reason", "CASE-1", "--confirm", "7")
    code, out, _ = run("explain", policy, *ADMIN, *recent)
    assert (code, told in out) == (1, True)
    code, out, _ = run("explain", policy, *ADMIN, *recent, "--now", DAY)
    assert (code, told in out) == (0, False)


def test_explain_answers_authzen_with_requirements_and_limits(run: Run, policy: Path) -> None:
    policy.write_text(REQUIRING)
    code, out, _ = run("explain", policy, *ADMIN, "--now", DAY, "--json")
    context = json.loads(out)["context"]
    assert (code, context["cause"], context["missing"]) == (1, "requirement", ["mfa", "reason", "confirm"])
    assert (context["limit"]["rate"], context["limit"]["counted"]) == ("5/hour", False)
    assert [one["met"] for one in context["requirements"]] == [False] * 3
    offered = {"name": "invoice.delete", "properties": {"reason": "CASE-1", "confirm": "7"}}
    admin = {"type": "user", "id": "eve", "properties": {"roles": ["admin"], "mfa": True}}
    asked = json.dumps(request(subject=admin, action=offered))
    assert run("explain", policy, "--json", stdin=asked)[0] == 0


# --- predicates --------------------------------------------------------------------------------------------------

PREDICATE = POLICY.replace("- admin\n", "- {name: on-call, roles: [admin], when: {predicate: on_call}}\n")
SHIFT = """\
from collections import OrderedDict as imported_and_no_predicate

def on_call(request):
    return request["subject"]["id"] == "eve"

def _hidden(request): ...

TABLE = {"on_call": on_call}
BROKEN = {"on_call": "eve"}
NUMBER = 7
"""


def test_every_command_takes_the_predicates_of_a_policy(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy.write_text(PREDICATE)
    (tmp_path / "shift_predicates.py").write_text(SHIFT)
    (tmp_path / "billing_test.yaml").write_text(TESTS)
    asks: dict[tuple[object, ...], int] = {
        ("check", policy): 0,
        ("test", policy): 0,
        ("explain", policy, *ADMIN, "--now", DAY): 0,
        ("lint", policy): 0,
        ("matrix", policy): 0,
        ("diff", policy, policy): 0,
        ("mutate", policy): 1,
    }
    for arguments, code in asks.items():
        for target in ("shift_predicates", "shift_predicates:TABLE"):
            done = run(*arguments, "--predicates", target)
            assert done[0] == code, (arguments, done)
        code, out, err = run(*arguments)
        assert code in (1, 3, 4)
        assert "'on_call' is a function in Python and none were given" in " ".join((out + err).split())
        assert "--predicates" in out + err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module", "no_such_module cannot be loaded"),
        ("shift_predicates2:NONE", "cannot be loaded"),
        ("shift_predicates2:NUMBER", "expected a mapping from names to functions, or a module that defines some"),
        ("shift_predicates2:BROKEN", "'on_call' is no function under a name"),
    ],
)
def test_what_is_no_predicate_is_refused(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shift_predicates2.py").write_text(SHIFT)
    code, _, err = run("check", policy, "--predicates", target)
    assert (code, message in err) == (3, True), err


# --- lint --------------------------------------------------------------------------------------------------------

APP = """\
from fastapi import FastAPI
from audit_middleware import action

app = FastAPI(openapi_url=None)


@app.get("/invoices/{invoice_id}")
@action("invoice.read")
async def read(invoice_id: str) -> None: ...


@app.get("/forgotten")
async def forgotten() -> None: ...
"""


def test_lint_finds_nothing_in_a_sound_policy(run: Run, policy: Path, tmp_path: Path) -> None:
    sarif = tmp_path / "lint.sarif"
    policy.write_text(SOUND)
    code, out, _ = run("lint", policy, "--sarif", sarif)
    assert (code, out) == (0, f"{policy}: 0 findings\n")
    assert json.loads(sarif.read_text())["runs"][0]["results"] == []


def test_a_note_of_lint_is_no_failure(run: Run, policy: Path, tmp_path: Path) -> None:
    code, out, _ = run("lint", policy, "--sarif", tmp_path / "lint.sarif")
    assert (code, out.splitlines()[-1]) == (0, f"{policy}: 1 finding")
    assert out.startswith(f"{policy}:1: note: personal: nothing is declared to be personal data")
    (result,) = json.loads((tmp_path / "lint.sarif").read_text())["runs"][0]["results"]
    assert (result["level"], result["ruleId"]) == ("note", "personal-undeclared")
    code, out, _ = run("lint", policy, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True)


def test_lint_names_place_and_code(run: Run, policy: Path, tmp_path: Path) -> None:
    policy.write_text(SOUND.replace("  admin: {inherits", "  ghost: {}\n  admin: {inherits"))
    sarif = tmp_path / "lint.sarif"
    code, out, _ = run("lint", policy, "--sarif", sarif)
    assert code == 1
    assert out.startswith(f"{policy}:5: warning: roles.ghost: role ghost grants nothing")
    assert "[unused-role]" in out
    (result,) = json.loads(sarif.read_text())["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 5}
    code, out, _ = run("lint", policy, "--json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["code"], finding["line"]) == (1, "unused-role", 5)


def test_lint_compares_with_an_application(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linted_service.py").write_text(APP)
    policy.write_text(f"{SOUND}routes:\n  - {{match: GET /gone, exempt: nobody knows}}\n")
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("lint", policy, "--app", "linted_service:app", "--json")
    found = {item["code"]: item for item in json.loads(out)["findings"]}
    assert code == 1
    assert set(found) == {"route-without-action", "entry-without-route", "action-without-route"}
    assert (found["route-without-action"]["file"], found["route-without-action"]["line"]) == ("linted_service.py", 12)
    assert "GET /forgotten" in found["route-without-action"]["where"]
    assert (found["action-without-route"]["where"], found["action-without-route"]["line"]) == (
        "actions.invoice.delete",
        8,
    )
    assert found["entry-without-route"]["line"] == policy.read_text().count("\n")
    assert run("lint", policy, "--app", "no_such_module:app")[0] == 3


SOURCES = """\
from fastapi import FastAPI
from audit_middleware import action

app = FastAPI(openapi_url=None)


def owner(connection): ...


@app.delete("/invoices/{invoice_id}")
@action("invoice.delete", resource="invoice/{invoice_id}")
async def unknown(invoice_id: str) -> None: ...


@app.delete("/of/{owner}/invoices/{invoice_id}")
@action("invoice.delete", resource="invoice/{invoice_id}")
async def told(invoice_id: str) -> None: ...


@app.delete("/loaded/{invoice_id}")
@action("invoice.delete", resource="invoice/{invoice_id}", resource_properties=owner)
async def loaded(invoice_id: str) -> None: ...


@app.get("/invoices")
@action("invoice.read")
async def read() -> None: ...
"""


def test_lint_finds_attributes_that_no_route_knows(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources_service.py").write_text(SOURCES)
    policy.write_text(SOUND)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("lint", policy, "--app", "sources_service:app", "--json")
    [finding] = json.loads(out)["findings"]
    assert (code, finding["code"], finding["where"]) == (
        1,
        "attribute-without-source",
        "actions.invoice.delete.allow: owner",
    )
    assert "resource.owner is always missing on DELETE /invoices/{invoice_id}:" in finding["message"]
    assert finding["line"] == 10


def test_lint_finds_severe_actions_without_a_record(run: Run, policy: Path) -> None:
    policy.write_text(POLICY.replace("{allow: [clerk]}", "{allow: [clerk], severity: critical, record: none}"))
    code, out, _ = run("lint", policy)
    assert code == 1
    assert f"{policy}:7: warning: actions.invoice.read: severity critical, and record: none" in out
    policy.write_text(POLICY.replace("{allow: [clerk]}", "{allow: [clerk], severity: medium, record: none}"))
    assert run("lint", policy)[0] == 0


def test_the_examples_policy_has_no_findings(run: Run) -> None:
    code, out, err = run("lint", ROOT / "policies" / "billing.yaml", "--app", "example_app.app:app")
    assert code == 0, out + err


# --- matrix, diff, mutate ----------------------------------------------------------------------------------------


def test_matrix_in_every_format(run: Run, policy: Path, tmp_path: Path) -> None:
    code, out, _ = run("matrix", policy)
    assert code == 0
    assert "invoice.delete" in out
    code, out, _ = run("matrix", policy, "--format", "csv", "--role", "admin", "--action", "*.read")
    assert out == "action,admin,notes\ninvoice.read,allow,\n"
    assert json.loads(run("matrix", policy, "--json")[1])["callers"] == ["anyone", "authenticated", "clerk", "admin"]
    page = tmp_path / "matrix.html"
    assert run("matrix", policy, "--format", "html", "--out", page)[0] == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    for wrong in (("--role", "clark"), ("--action", "x.*"), ("--out", page)):
        assert run("matrix", policy, *wrong)[0] == 2


def test_diff_fails_on_a_widening_only_when_asked(run: Run, policy: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(POLICY.replace("invoice.read: {allow: [clerk]}", "invoice.read: {allow: [authenticated]}"))
    code, out, _ = run("diff", policy, new)
    assert (code, out.splitlines()) == (
        0,
        ["+ authenticated gains invoice.read", "1 widening, 0 weakening, 0 narrowing, 0 recording"],
    )
    assert run("diff", policy, new, "--fail-on-widening")[0] == 1
    code, out, _ = run("diff", new, policy, "--fail-on-widening", "--json")
    body = json.loads(out)
    assert (code, body["widened"], [change["kind"] for change in body["changes"]]) == (0, False, ["narrowing"])
    assert run("diff", policy, policy)[1] == "the policies decide and record alike\n"


@pytest.mark.parametrize(
    ("before", "after", "weaker"),
    [
        ("guarantee: before", "guarantee: sealed", True),
        ("guarantee: sealed", "guarantee: after", True),
        ("guarantee: sealed", "guarantee: before", False),
        ("on_log_failure: deny", "on_log_failure: degrade", True),
        ("on_log_failure: degrade", "on_log_failure: deny", False),
        ("record: metadata", "record: none", True),
        ("record: request", "record: metadata", False),
    ],
)
def test_diff_reports_what_the_log_promises_less(
    run: Run, policy: Path, tmp_path: Path, before: str, after: str, weaker: bool
) -> None:
    new = tmp_path / "new.yaml"
    policy.write_text(POLICY.replace("{allow: [clerk]}", f"{{allow: [clerk], {before}}}"))
    new.write_text(POLICY.replace("{allow: [clerk]}", f"{{allow: [clerk], {after}}}"))
    change = f"{before.replace(': ', ' ')} -> {after.partition(': ')[2]}"
    code, out, _ = run("diff", policy, new, "--fail-on-widening")
    assert (code, out.splitlines()[0]) == (int(weaker), f"{'!' if weaker else '~'} invoice.read: {change}")
    body = json.loads(run("diff", policy, new, "--json")[1])
    assert (body["widened"], body["weakened"]) == (False, weaker)


def test_the_matrix_is_read_at_every_width(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.write_text(REQUIRING)
    for width, table_fits in ((40, False), (120, True)):
        monkeypatch.setattr(console, "width", width)
        code, out, _ = run("matrix", policy)
        assert code == 0
        assert ("authenticated  clerk" in out) is table_fits
        assert all(len(line) <= width for line in out.splitlines() if line.startswith("invoice.")), out
        for text in ("limited to 5/hour per subject", "requires mfa, reason, confirm", "not if context.ip in_cidr"):
            assert text in out
    monkeypatch.setattr(console, "width", 40)
    assert "  clerk, admin: allow\n" in run("matrix", policy)[1]


def test_mutate_lists_what_no_test_notices(run: Run, policy: Path, tmp_path: Path) -> None:
    code, _, err = run("mutate", policy)
    assert code == 3
    assert "no tests found" in err
    tests = tmp_path / "billing_test.yaml"
    tests.write_text(TESTS)
    code, out, _ = run("mutate", policy)
    assert code == 1
    assert "change that no test notices" in out
    code, out, _ = run("mutate", policy, "--json")
    survivors = json.loads(out)["survivors"]
    assert code == 1
    assert {mutant["action"] for mutant in survivors} == {"invoice.delete"}
    tests.write_text("tests: []\n")
    assert run("mutate", policy)[0] == 5


def test_test_runs_the_generated_checks_unless_told_not_to(run: Run, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "billing_test.yaml").write_text(TESTS)
    code, out, _ = run("test", policy)
    assert code == 0
    assert "malformed actions are denied" in out
    code, out, _ = run("test", policy, "--no-scenarios")
    assert code == 0
    assert "malformed" not in out
    assert run("test", policy, "--coverage", "100")[0] == 1


@pytest.mark.parametrize("what", ["policy", "policy-test"])
def test_schemas_are_printed(what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["audit-middleware", "schema", what])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
