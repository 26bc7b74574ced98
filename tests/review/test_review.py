"""The periodic review over logs made for it: every number, every mark, and names that would like to be markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.cli.review_page import plain
from audit_middleware.errors import LogDamaged
from audit_middleware.ledger.canonical import encode
from audit_middleware.ledger.note import format_vkey
from audit_middleware.ledger.signatures import ED25519, public_key_of
from audit_middleware.model import Frame, Head
from audit_middleware.policy.load import load
from audit_middleware.review.activity import Activity
from audit_middleware.review.tally import Tally
from tests.kit import write_policy
from tests.stores.samples import ORIGIN, new_journal, record

Items = dict[str, dict[str, Any]]
Review = Callable[..., Items]

POLICY = """
roles: {viewer: {}, clerk: {inherits: [viewer]}, admin: {}, auditor: {}}
actions:
  invoice.delete:
    severity: high
    record: request
    allow: [{name: owner-clerk, roles: [clerk]}, {name: admin, roles: [admin]}]
    deny: [{name: guests, roles: [clerk], when: {context.ip: {in_cidr: [10.9.0.0/16]}}}]
  invoice.list: {record: none, allow: [viewer]}
  invoice.watch: {mode: monitor, allow: [admin]}
"""
DENIED: dict[str, Any] = {
    "effect": "deny",
    "cause": "default",
    "rule": None,
    "near_misses": [],
    "detail": None,
    "inputs": None,
}


def decided(mode: str = "enforce", **changes: Any) -> dict[str, Any]:
    return {**DENIED, "policy_digest": None, "mode": mode, **changes}


class Story:
    """Records one after the other, of any process."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._next: dict[str, int] = {}

    def add(self, instance: str = "p1", skip: int = 0, at: datetime | None = None, **changes: Any) -> None:
        number = self._next.get(instance, 0) + skip
        self._next[instance] = number + 1
        made = record(number, instance, **changes)
        if at is not None:
            made["timestamp"] = made["recorded_at"] = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.records.append(made)

    def control(self, action: str, instance: str = "p1", at: datetime | None = None, **extra: Any) -> None:
        decision = decided(effect="not_applicable", cause="no_route")
        self.add(instance, 0, at, kind="control", action=action, extra=extra, user_id="system", decision=decision)

    def write(self, path: Path) -> None:
        new_journal(path, *([encode(one)] for one in self.records)).close()


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def review(tmp_path: Path, story: Story) -> Review:
    """Writes the story as a log and reviews it: the items by title."""

    def work(*options: str, policy: str = POLICY) -> Items:
        path = write_policy(tmp_path, policy)
        if not (tmp_path / "log").exists():
            story.write(tmp_path / "log")
        done = CliRunner().invoke(app, ["review", str(tmp_path / "log"), "--policy", str(path), "--json", *options])
        assert done.exit_code == 0, done.output
        return {item["title"]: item for item in json.loads(done.stdout)["items"]}

    return work


def lines(item: dict[str, Any]) -> dict[str, bool]:
    return {line["text"]: line["attention"] for line in item["lines"]}


def rows(item: dict[str, Any], first: str) -> list[list[str]]:
    return next((table["rows"] for table in item["tables"] if table["columns"][0] == first), [])


def test_what_was_recorded(story: Story, review: Review) -> None:
    for _ in range(3):
        story.add()
    story.add(outcome="error", severity="critical", flags=["credential_refused", "content_dropped"])
    story.add(action="invoice.list", severity="info", user_id="bob")
    story.control("audit.started")
    found = review()
    item = found["Records of the period"]
    assert lines(item) == {
        "6 records of 5 users": False,
        "1 requests ended in an error of the service": True,
        "0 entries could not be read": False,
    }
    assert rows(item, "what") == [
        ["kind", "control", "1"], ["kind", "outcome", "5"], ["decision", "allow", "5"], ["outcome", "error", "1"],
        ["outcome", "success", "4"], ["severity", "critical", "1"], ["severity", "high", "3"],
        ["severity", "info", "1"],
    ]  # fmt: skip
    assert rows(item, "anomaly flagged") == [["credential_refused", "1"], ["content_dropped", "1"]]
    assert lines(found["Gaps: records that could not be written"])[
        "1 records lost captured content because they were too large"
    ]


def test_intents_are_read_and_counted_as_what_they_are(story: Story, review: Review) -> None:
    """An intent has no outcome yet, and is no request that ended."""
    story.add(kind="intent", outcome=None)
    story.add()
    item = review()["Records of the period"]
    assert lines(item)["0 entries could not be read"] is False
    assert lines(item)["2 records of 1 users"] is False
    assert ["kind", "intent", "1"] in rows(item, "what")
    assert ["outcome", "success", "1"] in rows(item, "what")
    assert ["decision", "allow", "1"] in rows(item, "what")


def test_denials(story: Story, review: Review) -> None:
    for user, times in (("eve", 3), ("mallory", 2)):
        for _ in range(times):
            story.add(user_id=user, decision=decided(), outcome="denied")
    story.add(user_id="eve", action=None, decision=decided(cause="error"), outcome="denied")
    story.add(decision=decided(cause="route_mismatch"), outcome="denied", flags=["credential_refused"])
    item = review("--top", "2")["Denials and refused credentials"]
    assert rows(item, "cause") == [["default", "5"], ["error", "1"], ["route_mismatch", "1"]]
    assert rows(item, "user denied") == [["eve", "4"], ["mallory", "2"], ["and 1 more", ""]]
    assert rows(item, "action denied") == [["invoice.delete", "6"], ["(no action)", "1"]]
    assert lines(item) == {
        "7 denials": False,
        "1 requests with a credential that did not verify": True,
        "1 denials because a decision could not be made": True,
        "1 requests that would have run another route than the one decided on": True,
    }


def test_high_actions_roles_and_rules(story: Story, review: Review) -> None:
    story.add(user_id="ann")
    story.add(user_id="ann")
    story.add(user_id="bob", severity="critical")
    story.add(user_id="eve", decision=decided(), outcome="denied")
    nobody: dict[str, Any] = {"type": "anonymous", "roles": [], "tenant": None, "session": None, "properties": {}}
    story.add(user_id="anonymous", subject=nobody)
    story.add(subject={**nobody, "type": "user", "roles": ["clark"]}, severity="low")
    found = review()
    item = found["Use of high and critical actions"]
    assert rows(item, "user") == [
        ["ann", "invoice.delete", "high", "2"],
        ["bob", "invoice.delete", "critical", "1"],
        ["anonymous", "invoice.delete", "high", "1"],
    ]
    assert lines(item)["allowed without a known user: invoice.delete, 1 times"] is True
    roles = found["Roles used and never used"]
    assert rows(roles, "role") == [
        ["admin", "0", "never used"],
        ["auditor", "0", "never used"],
        ["clerk", "3", "used"],
        ["viewer", "0", "by inheritance only"],
    ]
    assert lines(roles)["2 of 4 roles were not used: admin, auditor"]
    assert lines(roles)["1 roles of callers are not in the policy: clark"]
    rules = found["Rules that were never used"]
    assert rows(rules, "action") == [
        ["invoice.delete", "guests", "deny", "never used"],
        ["invoice.delete", "admin", "allow", "never used"],
        ["invoice.list", "viewer", "allow", "cannot be known: record: none"],
        ["invoice.watch", "admin", "allow", "never used"],
    ]
    assert lines(rules) == {"3 of 5 rules were not used": True}


def test_monitor_mode_and_default(story: Story, review: Review) -> None:
    story.add(action="invoice.watch", decision=decided("monitor"), outcome="success")
    item = review()["Actions that are only watched (mode: monitor)"]
    assert rows(item, "action") == [["invoice.watch", "1"]]
    assert lines(item) == {
        "1 of 3 actions are in monitor mode": True,
        "1 requests passed that the policy would deny": True,
        "the policy's default is deny": False,
    }
    loose = review(policy="default: allow\n" + POLICY)["Actions that are only watched (mode: monitor)"]
    assert lines(loose)["the policy's default is allow"]


def test_exemptions(story: Story, review: Review) -> None:
    story.add()
    day = datetime.now(UTC).date()
    ends = {"past": day - timedelta(days=2), "soon": day + timedelta(days=10), "late": day + timedelta(days=300)}
    routes = [f"  - {{match: GET /{name}, exempt: why {name}, until: {end}}}" for name, end in ends.items()]
    routes.append("  - {match: GET /ever, exempt: a probe}")
    item = review(policy=POLICY + "routes:\n" + "\n".join(routes))["Exempt routes"]
    assert lines(item) == {
        f"GET /past: the exemption ended on {ends['past']}; the route is denied": True,
        f"GET /soon: the exemption ends on {ends['soon']}": True,
    }
    assert ["GET /ever", "a probe", "no end"] in rows(item, "route")
    assert len(rows(item, "route")) == 4
    kept = review(policy=POLICY)["Exempt routes"]
    assert lines(kept) == {"0 exemptions, none ends within 30 days": False}


def test_policy_changes(story: Story, review: Review, tmp_path: Path) -> None:
    digest = load(write_policy(tmp_path, POLICY)).digest
    for name in ("sha256:aa", "sha256:aa", "sha256:bb", digest, digest):
        story.control("audit.policy_loaded", policy="test", digest=name)
    found = review()["Changes of the policy"]
    assert lines(found) == {
        "2 times another policy than before was loaded": True,
        f"in force at the end: {digest} (billing)": False,
        f"under review: {digest}": False,
    }
    assert [row[3] for row in rows(found, "entry")] == ["sha256:bb", digest]
    other = review(policy=POLICY.replace("auditor: {}", "auditor: {}, more: {}"))["Changes of the policy"]
    assert [text for text, marked in lines(other).items() if marked and "no service loaded" in text]


def test_many_restarts_hide_no_change_of_policy(story: Story, review: Review) -> None:
    for number in range(120):
        story.control("audit.policy_loaded", digest="sha256:aa" if number < 100 else "sha256:bb")
    assert lines(review()["Changes of the policy"])["1 times another policy than before was loaded"]


def test_processes_gaps_and_keys(story: Story, review: Review) -> None:
    story.control("audit.started", "p1")
    story.add("p1")
    story.add("p1", skip=4)
    story.control("audit.gap", "p1", count=17, cause="disk full", to="b")
    story.control("audit.unencodable", "p1", error="RecursionError")
    story.control("audit.key_rotated", "p1", new_vkey="example+k+1")
    story.control("audit.stopped", "p1")
    story.control("audit.started", "p2")
    story.add("p2")
    story.add("p1")
    found = review()
    starts = found["Starts and stops of recording"]
    assert lines(starts) == {
        "2 starts, 1 stops": False,
        "1 processes without a stop": True,
        "0 announced actions without an outcome": False,
    }
    assert [row[0] for row in rows(starts, "process")] == ["p2"]
    gaps = found["Gaps: records that could not be written"]
    assert lines(gaps)["4 sequence numbers of processes are not in the log"]
    assert [text for text, marked in lines(gaps).items() if marked and text.startswith("1 gaps; 18 records lost")]
    assert rows(gaps, "entry")[0][2:] == ["audit.gap", "system", "count 17, to b, cause disk full"]
    keys = found["Changes of signing keys"]
    assert lines(keys) == {"1 changes of keys": True}
    assert rows(keys, "entry")[0][4] == "new_vkey example+k+1"


def test_the_clock_and_the_period(story: Story, review: Review) -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for minutes in (0, 1, 2, -30, 3, 4):
        story.add(at=start + timedelta(minutes=minutes), user_id=f"at {minutes}")
    found = review()
    jumps = lines(found["Jumps of the clock"])
    assert jumps["1 times the clock of an entry is more than 2 seconds before that of the entry before"] is True
    assert "6 entries; the oldest is of 2026-03-01" in next(iter(lines(found["Retention"])))
    one = review("--since", "2026-03-01T12:01:00Z", "--until", "2026-03-01T12:03:00Z")
    assert "2 records of 2 users" in lines(one["Records of the period"])
    early = review("--until", "2026-03-01T12:01:00Z")
    assert "2 records of 2 users" in lines(early["Records of the period"]), "one of them stands behind later ones"
    none = review("--since", "2027-01-01")
    assert lines(none["Records of the period"])["0 records of 0 users"] is True


def test_the_policy_in_force_before_the_period(story: Story, review: Review) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    story.control("audit.policy_loaded", at=start, digest="sha256:aa")
    story.control("audit.policy_loaded", at=start + timedelta(days=30), digest="sha256:bb")
    item = review("--since", "2026-03-15")["Changes of the policy"]
    assert lines(item)["1 times another policy than before was loaded"]


def test_what_starts_after_the_period_is_not_in_it(story: Story, review: Review) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    story.control("audit.started", "p1", at=start)
    story.control("audit.started", "p2", at=start + timedelta(days=30))
    item = review("--until", "2026-03-15")["Starts and stops of recording"]
    assert lines(item)["1 starts, 0 stops"] is False


def test_announced_actions_without_an_outcome(story: Story, review: Review) -> None:
    story.add(kind="intent")
    assert lines(review()["Starts and stops of recording"])["1 announced actions without an outcome"]


def test_verification(story: Story, review: Review, tmp_path: Path) -> None:
    story.add()
    item = review()["Verification of the log"]
    assert lines(item)["last verification on record: none"] is True
    item = review("--verify")["Verification of the log"]
    held = "verified for this review with the log's own list of keys: holds, 1 entries"
    assert lines(item)[held] is False
    config = tmp_path / "log" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "vkeys": [format_vkey(ORIGIN, public_key_of(ED25519, bytes(32)))]}))
    item = review("--verify")["Verification of the log"]
    assert [text for text, marked in lines(item).items() if marked and "does not hold" in text]


def test_a_damaged_log_cannot_be_reviewed(story: Story, review: Review, tmp_path: Path) -> None:
    story.add()
    story.write(tmp_path / "log")
    [segment] = (tmp_path / "log" / "journal").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"owner-clerk", b"owner-klerc", 1))
    with pytest.raises(AssertionError):
        review()
    arguments = ["review", str(tmp_path / "log"), "--policy", str(tmp_path / "policy.yaml")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, LogDamaged)


def test_reads_that_are_on_record(story: Story, review: Review) -> None:
    story.control("audit.log_read", command="query", records=5)
    item = review()["Who read the log"]
    assert lines(item) == {"1 reads and exports on record": False}
    assert rows(item, "entry")[0][4] == "command query, records 5"


def test_a_policy_with_predicates_is_reviewed(
    story: Story, review: Review, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.add()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "review_predicates.py").write_text("def on_call(request):\n    return True\n")
    policy = POLICY.replace(
        "{name: admin, roles: [admin]}", "{name: admin, roles: [admin], when: {predicate: on_call}}"
    )
    assert review("--predicates", "review_predicates", policy=policy)
    with pytest.raises(AssertionError):
        review(policy=policy)


def test_findings_and_blocks(story: Story, review: Review) -> None:
    story.control("audit.finding", title="Many refusals of one user", level="medium", user_id="ann", effect=None)
    story.control("audit.block_lifted", who="ann", reason="INC-881", by="root")
    story.add(user_id="ann", decision=decided(cause="blocked"), outcome="denied")
    item = review()["Findings and blocks"]
    assert lines(item) == {
        "1 findings of detectors": True,
        "1 denials of blocked callers": True,
        "1 changes of blocks by hand, or lists that could not be used": True,
    }
    told = [row[4] for row in rows(item, "entry")]
    assert any("title Many refusals of one user" in text for text in told), told


def test_tests_of_the_policy(story: Story, review: Review, tmp_path: Path) -> None:
    story.add()
    assert any(lines(review()["Tests of the policy"]).values()), "no tests are nothing to be proud of"
    (tmp_path / "policy_test.yaml").write_text(
        "subjects: {ann: {id: ann, roles: [admin]}}\n"
        "tests: [{name: t, subjects: [ann], actions: [invoice.watch], expect: [{actions: {invoice.watch: allow}}]}]\n"
    )
    item = review()["Tests of the policy"]
    assert lines(item) == {
        "the policy's tests, run for this review: 1 passed, 0 failed, 0 skipped": False,
        "exercised: 20% of rules, 0% of conditions": True,
    }
    (tmp_path / "policy_test.yaml").write_text("tests: 7\n")
    assert any("could not be run" in text for text in lines(review()["Tests of the policy"]))


def test_routes_without_an_action(
    story: Story, review: Review, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.add()
    assert "not checked" in next(iter(lines(review()["Routes without an action"])))
    (tmp_path / "reviewed_shop.py").write_text(
        "from starlette.applications import Starlette\nfrom starlette.routing import Route\n"
        "from audit_middleware import action\n@action('invoice.list')\ndef one(request): ...\n"
        "def two(request): ...\napp = Starlette(routes=[Route('/one', one), Route('/two', two)])\n"
    )
    monkeypatch.chdir(tmp_path)
    item = review("--app", "reviewed_shop:app")["Routes without an action"]
    assert lines(item)["2 routes, 1 of them without an action"]
    assert any("GET /two (reviewed_shop:two): has no action" in text for text in lines(item))


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page(story: Story, tmp_path: Path) -> None:
    story.add(user_id="<img src=x>|`rm`**[a](http://b)**\x1b[31m@me", decision=decided(), outcome="denied")
    story.write(tmp_path / "log")
    policy, page = write_policy(tmp_path, POLICY), tmp_path / "review.md"
    arguments = ["review", str(tmp_path / "log"), "--policy", str(policy)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert "19 items" in done.output
    text = page.read_text()
    assert text.count("- [ ] reviewed by ____________________ on") == text.count("\n## ") == 19
    [row] = [line for line in text.splitlines() if "img src" in line]
    assert row == (r"| \<img src=x\>\|\`rm\`\*\*\[a\](http:\//b)\*\*\\x1b\[31m\@me | 1 |"), "nothing in it is markup"
    assert "- **(!)** 1 roles" not in text
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0
    assert printed.stdout.startswith("# Periodic review of ")
    done = CliRunner().invoke(app, [*arguments, "--json", "--out", str(page)])
    assert done.exit_code == 0
    assert json.loads(page.read_text())["size"] == 1


def test_names_that_are_no_markup_stay_as_they_are() -> None:
    assert plain("invoice.delete by snake_case-user_1") == "invoice.delete by snake_case-user_1"
    assert plain("_under_ and www.example") == r"\_under\_ and www\.example"
    assert len(plain("x" * 5000)) == 200


def test_wrong_use(story: Story, tmp_path: Path) -> None:
    story.add()
    story.write(tmp_path / "log")
    policy = str(write_policy(tmp_path, POLICY))
    run = CliRunner().invoke
    assert run(app, ["review", str(tmp_path / "log"), "--policy", policy, "--since", "whenever"]).exit_code == 2
    assert run(app, ["review", str(tmp_path / "log")]).exit_code == 2
    assert run(app, ["review", str(tmp_path / "nowhere"), "--policy", policy]).exit_code != 0


# --- bounded memory ----------------------------------------------------------------------------------------------


def test_a_tally_is_bounded_and_says_what_it_lost() -> None:
    tally: Tally[int] = Tally(10)
    for number in range(1000):
        tally.add(-1)
        tally.add(number)
    assert len(tally) <= 21
    assert tally.top(1) == [(-1, 1000)]
    assert tally.total == 2000
    assert sum(count for _, count in tally.top(100)) + tally.rest == 2000


def test_processes_are_bounded() -> None:
    activity = Activity()
    decision = decided(effect="not_applicable", cause="no_route")
    for number in range(1200):
        entry = encode(record(0, f"p{number}", kind="control", action="audit.started", decision=decision))
        activity.read([Frame(number, (entry,), Head())])
    assert len(activity.processes) == 1000
    assert activity.ended_silently.total == 200
    assert activity.started == 1200


def test_what_is_no_record_is_counted() -> None:
    activity = Activity()
    activity.read([Frame(0, (b'{"kind":7}', b'{"n":1}'), Head())])
    assert activity.unreadable == 1
