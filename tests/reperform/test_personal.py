"""Decisions whose inputs are sealed: never made again from something else, and made again when they are opened."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.cli import main
from audit_middleware.evidence.recorded import decisions
from audit_middleware.evidence.reperform import SEALED, Policies, Verdict, perform
from audit_middleware.frameworks.marks import action
from audit_middleware.ledger.canonical import decode, encode
from audit_middleware.model import Frame, Head, Resource, Subject
from audit_middleware.persons import Personal, Treatment
from audit_middleware.policy.evaluate import Policy
from audit_middleware.policy.load import loads
from audit_middleware.privacy.opening import Opener
from audit_middleware.privacy.sealing import Sealing
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log, MemoryKeys, call
from tests.policy.generated import attributes, policies, resources, subjects
from tests.reperform.support import decided, written
from tests.reperform.test_inputs import QUICK, offers, policy_of, requirements
from tests.sealing.support import HEAD, Sealed

FIELDS = (
    "user_id", "subject.roles", "subject.tenant", "subject.session", "initiator_ip", "reason", "resource.id",
    "decision.inputs.values", "decision.detail", "request.path",
)  # fmt: skip


def declared(hows: list[Any]) -> Any:
    """What a policy may declare of these fields."""
    return st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(hows).map(Treatment), min_size=1, max_size=4)


def judged(entry: bytes, policy: Policy, opener: Opener | None = None) -> Verdict | None:
    show = None if opener is None else (lambda record: opener.opened(record, keep=True))
    ((_, record),) = decisions([Frame(0, (entry,), Head(1))], 0, 1, opened=show)
    assert record is not None
    return perform(record, Policies({policy.digest: policy.canonical}.get))


@QUICK
@given(
    policies, requirements, subjects, resources, attributes, offers,
    declared(["seal", "token", "commit", "drop"]), declared(["seal", "token"]),
)  # fmt: skip
def test_what_is_sealed_is_never_taken_for_something_else(
    body: Any, require: Any, subject: Subject, resource: Resource, context: Any, headers: Any, any: Personal,
    openable: Personal,
) -> None:  # fmt: skip
    policy = policy_of(body, require)
    entry = written(decided(policy, "a.b", subject, resource, context, headers))
    before = judged(entry, policy)
    assert before is not None
    hidden = judged(encode(Sealing(MemoryKeys(), ORIGIN).apply(decode(entry), any)), policy)
    assert hidden is not None
    assert hidden.state != "differs", (any, hidden)
    assert hidden.state == before.state or hidden.why == SEALED
    keys = MemoryKeys()
    sealed = encode(Sealing(keys, ORIGIN).apply(decode(entry), openable))
    assert judged(sealed, policy, Opener(keys, ORIGIN)) == before
    everyone = frozenset(key.token for key in keys.rows.values())
    erased = judged(sealed, policy, Opener(keys, ORIGIN, everyone))
    assert erased is not None
    assert erased.state != "differs"


FIRST = "version: 1\nname: other\n" + HEAD


def test_only_what_the_rules_read_counts() -> None:
    plain = loads(FIRST + "actions: {a.b: {allow: [clerk]}}")
    reading = loads(FIRST + "actions: {a.b: {allow: [{name: own, roles: [clerk], when: {subject.tenant: {in: [x]}}}]}}")
    subject, thing = Subject("ann", roles=("clerk",), tenant="x"), Resource("note", "7")
    personal = {"user_id": Treatment("seal"), "subject.tenant": Treatment("seal")}
    for policy, expected in ((plain, "same"), (reading, "not re-performable")):
        entry = written(decided(policy, "a.b", subject, thing, {}))
        sealed = encode(Sealing(MemoryKeys(), ORIGIN).apply(decode(entry), personal))
        verdict = judged(sealed, policy)
        assert verdict is not None
        assert verdict.state == expected
        assert verdict.why == ("" if expected == "same" else SEALED)


# --- the commands --------------------------------------------------------------------------------------------------

OWN = (
    HEAD + "personal: gdpr\nactions:\n  note.read: {allow: [{name: own, roles: [clerk], when: "
    "{subject.id: {in: [marked-user-ann, marked-user-bob]}}}]}\n"
)


def identify(scope: Any) -> Subject:
    return Subject(dict(scope["headers"])[b"x-user"].decode(), roles=("clerk",))


@pytest.fixture
def sealed(log: Log, tmp_path: Path) -> Sealed:
    """A log of decisions that read who asked."""
    made = Sealed(tmp_path, log).make_keys()

    @action("note.read", resource="note/{id}")
    async def handle(request: Request) -> PlainTextResponse:
        return PlainTextResponse("done")

    app = made.guard(Starlette(routes=[Route("/{id}", handle)]), OWN, identify=identify)

    async def drive() -> None:
        for user, status in (("marked-user-ann", 200), ("marked-user-bob", 200), ("marked-user-eve", 403)):
            assert (await call(app, "GET", "/7", [(b"x-user", user.encode())])).status == status

    made.run(app, drive)
    return made


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*arguments: object) -> tuple[int, Any, str]:
        monkeypatch.setenv("AUDIT_RECORD_READS", "1")
        monkeypatch.setattr(sys, "argv", ["audit-middleware", "policy", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(said.out or "null"), said.err

    return command


def test_reperform_counts_what_is_sealed_apart_and_opens_it_for_a_reason(sealed: Sealed, policy: Any) -> None:
    code, told, _ = policy("reperform", sealed.log.path)
    assert (code, told["same"], told["not_reperformable"]) == (0, 0, {"sealed": 3})
    code, told, _ = policy("reperform", sealed.log.path, "--open", "--because", "CASE-4")
    assert (code, told["same"], told["not_reperformable"]) == (0, 3, {})
    (read,) = [one for one in sealed.log.controls("audit.log_read") if one["extra"]["filters"].get("open")]
    assert read["extra"]["filters"]["because"] == "CASE-4"
    assert "marked-user-eve" not in json.dumps(sealed.log.records()), "of whom the policy says nothing"
    code, _, err = policy("reperform", sealed.log.path, "--open")
    assert code == 2
    assert "--because" in err


def test_backtest_tells_nothing_of_what_is_sealed_until_it_is_opened(sealed: Sealed, policy: Any) -> None:
    new = sealed.folder / "new.yaml"
    new.write_text("version: 1\nname: new\n" + OWN.replace(", marked-user-bob", ""))
    code, told, _ = policy("backtest", sealed.log.path, new)
    assert (code, told["changed"]) == (0, 0)
    assert told["cannot_be_told"] == {"note.read reads what is sealed: subject.id": 3}
    code, told, _ = policy("backtest", sealed.log.path, new, "--open", "--because", "CASE-5")
    assert (told["changed"], told["cannot_be_told"]) == (1, {})
    (change,) = told["changes"]
    assert [one["user"] for one in change["examples"]] == ["marked-user-bob"]
    everybody = sealed.folder / "everybody.yaml"
    everybody.write_text(FIRST + "actions:\n  note.read: {allow: [clerk]}\n")
    _, told, _ = policy("backtest", sealed.log.path, everybody)
    assert (told["changed"], told["cannot_be_told"]) == (1, {}), "this one does not read who asked"
    assert told["changes"][0]["examples"][0]["user"].startswith("token.v1.")


def test_a_difference_names_the_caller_by_token(sealed: Sealed) -> None:
    with closing(JournalStore.open(sealed.log.path, writable=False)) as store:
        found = [record for _, record in decisions(store.frames(), 0, store.head().size) if record is not None]
    assert {record.user_id.partition(".")[0] for record in found} <= {"sealed", "token"}
