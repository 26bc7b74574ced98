"""Whole logs of real applications: every decision made again, decided under another policy, kept through a prune."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audit_middleware.cli import main
from audit_middleware.context import annotate
from audit_middleware.evidence.policies import ARCHIVED, is_archived, restate
from audit_middleware.evidence.prune import prune
from audit_middleware.evidence.retention import set_retention
from audit_middleware.evidence.signers import signers_of
from audit_middleware.frameworks.marks import action
from audit_middleware.ledger.canonical import encode
from audit_middleware.model import Source, Subject
from audit_middleware.policy.load import loads
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.kit import Log, Running, call, make_log, write_policy
from tests.middleware.service import Service, app_of, as_, header
from tests.reperform.support import reperformed
from tests.retention.support import key_of, sealer

POLICY = """
version: 1
name: shop
roles: {clerk: {}, lead: {inherits: [clerk]}, admin: {}}
actions:
  order.read:
    allow:
      - {name: own-tenant, roles: [clerk], when: {resource.tenant: {same_as: subject.tenant}}}
      - {name: admin, roles: [admin]}
    deny: [{name: outside, when: {not: {context.ip: {in_cidr: [127.0.0.0/8]}}}}]
  order.item: {allow: [{name: low, roles: [clerk], when: {resource.number: {lt: 100}}}]}
  order.owner: {allow: [{name: owner, roles: [clerk], when: {resource.owner: {same_as: subject.id}}}]}
  order.pay: {allow: [{name: small, roles: [clerk], when: {context.body.amount: {lte: 99.5}}}], record: none}
  order.hours: {allow: [{name: day, roles: [clerk], when: {context.time: {between: '00:00-24:00', zone: UTC}}}]}
  order.refund:
    guarantee: before
    allow: [{name: level, roles: [clerk], when: {subject.level: {gte: 2}}}]
    require: {mfa: true, reason: {matches: '^[A-Z]+-[0-9]+'}}
  order.asked: {allow: [{name: asked, roles: [clerk], when: {predicate: odd}}]}
  order.limited: {allow: [clerk], limit: {rate: 1/day, per: subject}}
  order.watched: {mode: monitor, allow: [lead]}
routes:
  - {match: 'GET /health', exempt: liveness}
redact: {keys: [owner-card]}
"""
OWNERS = {"1": "ann", "2": "ben"}
LEVELS = {"ann": 2, "ben": 1}


async def answer(request: Request) -> Response:
    if request.query_params.get("explain"):
        annotate(reason="the handler's own words")
    return PlainTextResponse("done", 503 if request.query_params.get("fail") else 200)


def marked(name: str, **more: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        return await answer(request)

    return action(name, **more)(endpoint)


def owner_of(connection: HTTPConnection) -> dict[str, Any]:
    number = connection.path_params["number"]
    if number == "9":
        raise LookupError(number)
    return {"owner": OWNERS.get(number), "colour": "blue"}


def shop() -> Any:
    return app_of(
        Route("/{tenant}/orders/{number:int}", marked("order.read", resource="order/{number}")),
        Route("/items/{number:int}", marked("order.item", resource="item/{number}")),
        Route("/owned/{number}", marked("order.owner", resource="order/{number}", resource_properties=owner_of)),
        Route("/pay", marked("order.pay"), methods=["POST"]),
        Route("/hours", marked("order.hours")),
        Route("/refund", marked("order.refund"), methods=["POST"]),
        Route("/asked", marked("order.asked")),
        Route("/limited", marked("order.limited")),
        Route("/watched", marked("order.watched")),
        Route("/unmarked", answer),
        Route("/unknown", marked("order.nobody-knows")),
        Route("/health", answer),
    )


def identify(scope: Any) -> Subject | None:
    """``name:role,role``; the tenant, level and second factor stand in headers of their own."""
    user = header(scope, b"x-user")
    if user is None:
        return None
    name, _, roles = user.partition(":")
    properties = {"level": LEVELS.get(name), "mfa": header(scope, b"x-mfa") == "1"}
    tenant = header(scope, b"x-tenant")
    return Subject(name, roles=tuple(roles.split(",")), tenant=tenant, properties=properties, source=Source("test"))


ANN, BEN = as_("ann:clerk", (b"x-tenant", b"acme")), as_("ben:clerk", (b"x-tenant", b"zeta"))
JSON = (b"content-type", b"application/json")
REQUESTS: list[tuple[str, str, Iterable[tuple[bytes, bytes]], bytes]] = [
    *(("GET", f"/{tenant}/orders/7", user, b"") for tenant in ("acme", "zeta") for user in (ANN, BEN, as_("x:admin"))),
    *(("GET", f"/items/{number}", ANN, b"") for number in (5, 500)),
    *(("GET", f"/owned/{number}", user, b"") for number in (1, 2, 3, 9) for user in (ANN, BEN)),
    *(("POST", "/pay", [*ANN, JSON], body) for body in (b'{"amount": 20.25}', b'{"amount": 120}', b'{"amount": "x"}')),
    *(("POST", "/pay", [*ANN, JSON], body) for body in (b"{}", b"not JSON", b"")),
    ("GET", "/hours", ANN, b""),
    *(
        ("POST", "/refund", [*user, *more], b"")
        for user in (ANN, BEN)
        for more in ([], [(b"x-mfa", b"1")], [(b"x-mfa", b"1"), (b"x-request-reason", b"OPS-7 broken")])
    ),
    ("POST", "/refund?explain=1", [*ANN, (b"x-mfa", b"1"), (b"x-request-reason", b"OPS-8")], b""),
    *(("GET", path, ANN, b"") for path in ("/asked", "/limited", "/limited", "/watched", "/unmarked", "/unknown")),
    *(("GET", path, [], b"") for path in ("/health", "/health?fail=1", "/nowhere", "/acme/orders/7", "/owned/1")),
]


def service_of(folder: Path, log: Log, policy: str = POLICY, **settings: Any) -> Service:
    made = Service(folder, log, policy)
    made.settings |= {"identify": identify, "predicates": {"odd": lambda question: True}, **settings}
    return made


async def ask_all(app: Any) -> None:
    for method, path, headers, body in REQUESTS:
        path, _, query = path.partition("?")
        await call(app, method, path, headers, body, query=query.encode())


def test_every_decision_of_a_real_service_comes_out_the_same(tmp_path: Path, log: Log) -> None:
    records = service_of(tmp_path, log).run(shop(), ask_all)
    result = reperformed(log)
    assert result.differences == []
    assert result.same >= 30
    assert result.nothing == 1, "the path that is no route"
    # Two loader failures, two bodies that are not JSON; the second call that the limit refused; one predicate.
    assert result.not_performable == {"not decided by rules": 3, "limit": 1, "predicate in Python": 1}
    causes = {record["decision"]["cause"] for record in records}
    wanted = {"rule", "default", "requirement", "error", "limit", "unannotated", "unknown_action", "no_route", "exempt"}
    assert wanted <= causes
    handler = [record for record in records if record["reason"] == "the handler's own words"]
    assert [record["decision"]["inputs"]["values"]["reason"] for record in handler] == ["OPS-8"]


def rewritten(folder: Path, log: Log, change: Callable[[dict[str, Any]], bool], step: int = 1) -> Log:
    """Another log that holds, of the records that ``change`` keeps, as it leaves them, in commits of ``step``."""
    (folder / "other").mkdir()
    other = make_log(folder / "other")
    store = JournalStore.open(other.path)
    entries = [encode(record) for record in log.records() if change(record)]
    for first in range(0, len(entries), step):
        store.append(entries[first : first + step], sealer(other))
    store.close()
    return other


def tampered(folder: Path, log: Log, changes: dict[str, Any], where: str) -> Log:
    """A log that holds, with the same records, but for the first decision of this cause: it says something else."""
    done: list[Any] = []

    def change(record: dict[str, Any]) -> bool:
        if record["kind"] != "control" and record["decision"]["cause"] == where and not done:
            record["decision"] |= changes
            done.append(record)
        return True

    other = rewritten(folder, log, change)
    assert done
    return other


def run(*arguments: object) -> int:
    with mock.patch.object(sys, "argv", ["audit-middleware", *map(str, arguments)]), pytest.raises(SystemExit) as end:
        main()
    code = end.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("default", {"effect": "allow", "cause": "rule", "rule": "own-tenant"}),
        ("default", {"effect": "allow"}),
        ("rule", {"effect": "deny", "cause": "default", "rule": None}),
        ("rule", {"rule": "nobody"}),
        ("requirement", {"effect": "allow", "cause": "rule", "detail": None}),
        ("requirement", {"detail": "missing: mfa"}),
        ("unannotated", {"effect": "allow", "cause": "exempt"}),
        ("exempt", {"effect": "deny", "cause": "unannotated"}),
        ("unknown_action", {"effect": "allow", "cause": "log_unavailable"}),
        ("default", {"effect": "deny", "cause": "limit"}),
        ("default", {"mode": "monitor"}),
        ("no_route", {"effect": "allow"}),
    ],
)
def test_a_record_that_says_something_else_is_found(
    tmp_path: Path, log: Log, where: str, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    forged = tampered(tmp_path, log, changes, where)
    result = reperformed(forged)
    assert result.differing == 1
    index = result.differences[0].index
    assert forged.records()[index]["decision"]["effect"] == (changes.get("effect") or _effect(log, index))
    assert run("policy", "reperform", forged.path, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["index"] for one in told["differences"]] == [index]
    assert told["holds"] is False


def _effect(log: Log, index: int) -> str:
    return str(log.records()[index]["decision"]["effect"])


def test_inputs_that_are_redacted_are_reported(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    redacting = POLICY.replace("keys: [owner-card]", "keys: [owner]")
    service_of(tmp_path, log, redacting).run(shop(), ask_all)
    # Orders 1 and 2 have an owner, for two users each; whether an order has none is no secret.
    assert reperformed(log).not_performable["withheld inputs"] == 4
    assert run("policy", "reperform", log.path) == 0
    shown = capsys.readouterr().out
    assert "withheld inputs" in shown
    assert "could not be made again" in shown


def test_policies_may_change_while_requests_come(tmp_path: Path, log: Log) -> None:
    one = service_of(tmp_path, log, reload=10, inventory="warn")
    shut = POLICY.replace("{resource.number: {lt: 100}}", "{resource.number: {lt: 1}}")

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/items/5", ANN)).status == 200
        write_policy(tmp_path, shut)
        deadline = asyncio.get_running_loop().time() + 30
        while (await call(app, "GET", "/items/5", ANN)).status != 403:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)

    routes = [Route("/items/{number:int}", marked("order.item", resource="item/{number}"))]
    records = one.run(app_of(*routes), drive)
    assert len({record["decision"]["policy_digest"] for record in records}) == 2
    result = reperformed(log)
    assert (result.differing, result.not_performable) == (0, {})
    assert result.same == len(records)


def test_two_services_share_one_log(tmp_path: Path, log: Log) -> None:
    strict = POLICY.replace("{resource.number: {lt: 100}}", "{resource.number: {lt: 1}}")

    async def both() -> None:
        for name, policy in (("one", POLICY), ("two", strict)):
            (tmp_path / name).mkdir()
            service = service_of(tmp_path / name, log, policy, service=name)
            async with Running(service.guard(shop())) as running:
                assert running.failed is None
                await call(running.app, "GET", "/items/5", ANN)

    asyncio.run(both())
    effects = {record["service"]["name"]: record["decision"]["effect"] for record in log.outcomes()}
    assert effects == {"one": "allow", "two": "deny"}
    result = reperformed(log)
    assert (result.same, result.differing, result.not_performable) == (2, 0, {})


def test_a_policy_that_the_log_lacks_can_be_given(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    bare = rewritten(tmp_path, log, lambda record: record["action"] != ARCHIVED)
    digest = loads(POLICY, predicates={"odd": lambda question: True}).digest
    assert run("policy", "reperform", bare.path) == 0
    assert digest in capsys.readouterr().out
    file = write_policy(tmp_path, POLICY, "kept.yaml")
    assert run("policy", "reperform", bare.path, "--policy", file, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] >= 30
    assert "policy not in the log" not in told["not_reperformable"]


def test_a_period_can_be_chosen(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    records = service_of(tmp_path, log).run(shop(), ask_all)
    since, until = records[5]["timestamp"], records[9]["timestamp"]
    assert run("policy", "reperform", log.path, "--since", since, "--until", until, "--json") == 0
    assert json.loads(capsys.readouterr().out)["same"] == 4


# --- another policy ------------------------------------------------------------------------------------------------


def backtested(log: Log, policy: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = run("policy", "backtest", log.path, policy, "--json", *more)
    return code, json.loads(capsys.readouterr().out)


def test_the_same_policy_changes_nothing(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    code, told = backtested(log, tmp_path / "policy.yaml", capsys, "--fail-on-change")
    assert (code, told["changed"], told["changes"]) == (0, 0, [])
    assert told["cannot_be_told"] == {"not decided by rules": 3, "predicate in Python": 1}


def test_a_backtest_says_who_gains_and_who_loses(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    text = POLICY.replace("{resource.number: {lt: 100}}", "{resource.number: {gt: 100}}")
    text = text.replace(
        "order.hours: {allow: [{name: day, roles: [clerk], when: {context.time: ",
        "order.hours: {allow: [{name: day, roles: [clerk], when: {resource.colour: ",
    )
    text = text.replace("{between: '00:00-24:00', zone: UTC}", "{equals: blue}")
    new = write_policy(tmp_path, text, "new.yaml")
    code, told = backtested(log, new, capsys, "--fail-on-change")
    assert code == 1
    changes = {(one["action"], one["becomes"]): one for one in told["changes"]}
    assert changes.keys() == {("order.item", "allow"), ("order.item", "deny")}
    gains = changes["order.item", "allow"]
    assert (gains["count"], gains["of"], gains["roles"], gains["why"]) == (1, 2, ["clerk"], "rule low")
    assert changes["order.item", "deny"]["why"] == "default"
    (example,) = gains["examples"]
    assert example["user"] == "ann"
    assert log.records()[example["index"]]["request"]["path"] == "/items/500"
    assert told["cannot_be_told"]["order.hours reads what is not recorded: resource.colour"] == 1
    assert backtested(log, new, capsys)[0] == 0
    assert run("policy", "backtest", log.path, new) == 0
    assert "order.item (clerk): 1 of 2 would be allowed: rule low" in capsys.readouterr().out


def test_a_new_requirement_counts_what_the_handler_said_as_unknown(
    tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    text = POLICY.replace("order.watched: {mode: monitor, ", "order.watched: {require: {reason: true}, ")
    text = text.replace("allow: [lead]", "allow: [clerk]")
    _, told = backtested(log, write_policy(tmp_path, text, "new.yaml"), capsys)
    assert told["cannot_be_told"]["order.watched reads what is not recorded: reason"] == 1


def test_a_policy_that_does_not_load_is_named(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write_policy(tmp_path, "actions: {a.b: {alow: []}}", "new.yaml")
    assert run("policy", "backtest", log.path, broken) == 3
    assert "alow" in capsys.readouterr().err


# --- pruning -----------------------------------------------------------------------------------------------------


def prune_later(log: Log) -> int:
    """Prunes a hundred days later what is older than a month; returns where the log begins then."""
    set_retention(log.path, key_of(log), 1, "tester")
    later = int((datetime.now(UTC) + timedelta(days=100)).timestamp()) * 10**9
    return prune(log.path, key_of(log), "tester", clock=lambda: later).plan.base.size


def test_a_pruned_log_keeps_the_policies_that_kept_decisions_need(tmp_path: Path, log: Log) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    old = {record["decision"]["policy_digest"] for record in log.outcomes()} - {None}

    async def more(app: Any) -> None:
        for _ in range(300):
            await call(app, "GET", "/items/5", ANN)

    service_of(tmp_path, log).run(shop(), more)
    assert len(log.controls(ARCHIVED)) == 1, "the second start found the policy in the log"
    pruned = rewritten(tmp_path, log, lambda record: True, step=5)
    assert prune_later(pruned) > 200
    (restated,) = pruned.controls(ARCHIVED)
    names = [record["action"] for record in pruned.records() if record["kind"] == "control"]
    assert names.index(ARCHIVED) < names.index("audit.pruned")
    assert {restated["extra"]["digest"]} == old
    result = reperformed(pruned)
    assert result.same > 50
    assert (result.differing, result.not_performable) == (0, {})
    store = JournalStore.open(pruned.path, writable=False)
    assert is_archived(store, restated["extra"]["digest"]), "the next start does not write it once more"
    store.close()
    assert run("policy", "reperform", pruned.path) == 0


def test_a_policy_that_nobody_needs_any_more_goes(tmp_path: Path, log: Log) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    other = POLICY.replace("name: shop", "name: shop2")

    async def more(app: Any) -> None:
        for _ in range(300):
            await call(app, "GET", "/items/5", ANN)

    service_of(tmp_path, log, other).run(shop(), more)
    pruned = rewritten(tmp_path, log, lambda record: True, step=5)
    assert prune_later(pruned) > 200
    (restated,) = pruned.controls(ARCHIVED)
    assert json.loads(restated["extra"]["document"])["name"] == "shop2"


def test_a_prune_that_died_after_writing_policies_again_does_not_write_them_a_third_time(
    tmp_path: Path, log: Log
) -> None:
    service_of(tmp_path, log).run(shop(), ask_all)
    signers = signers_of(read_key_file(key_of(log)))
    base = log.records()[-2]["sequence"]
    store = JournalStore.open(log.path)
    assert restate(store, signers, base, [], time.time_ns) == sorted(
        {record["decision"]["policy_digest"] for record in log.outcomes()} - {None}
    )
    assert restate(store, signers, base, [], time.time_ns) == []
    assert restate(store, signers, 0, ["sha256:" + "0" * 64], time.time_ns) == []
    store.close()
    assert len(log.controls(ARCHIVED)) == 2
