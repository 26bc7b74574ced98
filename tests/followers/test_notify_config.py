"""The section ``notifications:``: strict, with every finding at once, and no secret in what is said about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import FollowerError
from audit_middleware.followers.config import FollowersConfig, load_followers
from audit_middleware.followers.notify.config import channels_of, policy_followers
from audit_middleware.followers.notify.grouping import Limits
from audit_middleware.followers.notify.rules import Heard
from audit_middleware.policy import loads
from audit_middleware.policy.channels import OPTIONS
from tests.followers.support import WHSEC, configured
from tests.stores.samples import record

POLICY = """
version: 1
name: billing
actions:
  payment.refund: {allow: [anyone], notify: {channels: [security], outcomes: [denied]}}
  invoice.delete: {allow: [{name: r, when: {predicate: working_hours}}], notify: [security]}
channels:
  security: {type: webhook, url: '${SECURITY_WEBHOOK_URL}', secret: '${SECURITY_WEBHOOK_SECRET}', detail: full}
"""
GOOD = """
version: 1
notifications:
  policy: policies/billing.yaml
  channels: {ops: {type: slack, url: '${SLACK_URL}'}}
  rules:
    - {name: refused, when: {actions: ['payment.*'], outcome: [denied]}, notify: [security, ops]}
    - {name: findings, when: {actions: [audit.finding], severity: high}, notify: [ops]}
  group: 30s
  cool_down: 5m
  per_hour: 20
  give_up: 2d
"""


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURITY_WEBHOOK_URL", "https://hooks.example.com/marked-secret")
    monkeypatch.setenv("SECURITY_WEBHOOK_SECRET", WHSEC)
    monkeypatch.setenv("SLACK_URL", "https://hooks.slack.example/services/marked-secret")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "billing.yaml").write_text(POLICY)


def rules(found: FollowersConfig, channel: str, **changes: Any) -> str | None:
    heard = channels_of(found)[channel].heard
    assert isinstance(heard, Heard)
    return heard.rule_of(record(0, **changes))


def test_a_whole_section(tmp_path: Path) -> None:
    found = configured(tmp_path, GOOD)
    assert [(one.name, one.type, one.start) for one in found.followers] == [
        ("notify-security", "webhook", "now"), ("notify-ops", "slack", "now"),
    ]  # fmt: skip
    security, ops = channels_of(found)["security"], channels_of(found)["ops"]
    assert (security.full, ops.full) == (True, False)
    assert security.limits == ops.limits == Limits(30, 300, 20, 172_800)
    assert "marked-secret" not in repr(found)
    assert WHSEC not in repr(found)


def test_which_channel_hears_of_what(tmp_path: Path) -> None:
    found = configured(tmp_path, GOOD)
    for channel in ("security", "ops"):
        assert rules(found, channel, action="payment.refund", outcome="denied") == "refused", "a rule, then the policy"
    assert rules(found, "security", action="payment.refund", outcome="success") is None
    assert rules(found, "security", action="invoice.delete", outcome="success") == "policy"
    assert rules(found, "ops", action="invoice.delete", outcome="denied") is None, "no denial by itself"
    assert rules(found, "security", action="invoice.delete", kind="intent", outcome=None) is None
    finding = {"action": "audit.finding", "kind": "control", "outcome": None}
    assert rules(found, "ops", severity="high", **finding) == "findings"
    assert rules(found, "ops", severity="medium", **finding) is None
    assert rules(found, "security", severity="high", **finding) is None


def test_beside_followers_and_with_a_services_own_policy(tmp_path: Path) -> None:
    own = loads(POLICY, predicates={"working_hours": lambda request: True})
    beside = "followers:\n  - {name: files, type: jsonl, directory: out}\n"
    path = tmp_path / "followers.yaml"
    path.write_text(GOOD + beside)
    assert [one.name for one in load_followers(path).followers] == ["files", "notify-security", "notify-ops"]
    path.write_text("version: 1\n" + beside)
    assert [one.name for one in load_followers(path).followers] == ["files"]
    assert [one.name for one in load_followers(path, policy=lambda: own).followers] == ["files", "notify-security"]
    path.write_text("version: 1\nnotifications:\n  rules: [{name: a, when: {severity: high}, notify: [security]}]\n")
    assert [one.name for one in load_followers(path, policy=lambda: own).followers] == ["notify-security"]
    with pytest.raises(FollowerError, match="unknown channel 'security'"):
        load_followers(path)
    path.write_text("version: 1\nnotifications: {group: 30s}\n")
    assert channels_of(load_followers(path, policy=lambda: own))["security"].limits.group == 30
    assert [one.name for one in policy_followers(lambda: own, "billing.yaml").followers] == ["notify-security"]


def test_a_policy_that_is_replaced_is_heard_from_the_next_record_on() -> None:
    now = loads(POLICY, predicates={"working_hours": lambda request: True})
    found = policy_followers(lambda: now, "billing.yaml")
    assert rules(found, "security", action="payment.refund", outcome="error") is None
    now = loads(POLICY.replace("[denied]", "[denied, error]"), predicates={"working_hours": lambda request: True})
    assert rules(found, "security", action="payment.refund", outcome="error") == "policy"


def section(*lines: str) -> str:
    return "version: 1\nnotifications:\n" + "".join(f"  {line}\n" for line in lines)


RULE = "rules: [{name: a, when: {severity: high}, notify: [ops]}]"
OPS = "channels: {ops: {type: slack, url: '${SLACK_URL}'}}"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("version: 1\n", ":1: followers: missing"),
        ("version: 1\nnotifications: {}\n", ":2: notifications: nothing causes a notification: give a policy, rules"),
        (section(OPS, RULE, "grup: 60s"), ":5: notifications.grup: unknown key; did you mean 'group'?"),
        (section(OPS, RULE, "group: 60"), "group: expected text, found a number: write '60' in quotes"),
        (section(OPS, RULE, "group: 2h"), "'2h' is not a duration such as 15m (s, m, h, d), at most 3600 seconds"),
        (section(OPS, RULE, "per_hour: 0"), "per_hour: expected 1 to 1000, found 0"),
        (section(OPS, RULE.replace("ops", "osp")), "rules[0].notify[0]: unknown channel 'osp'; did you mean 'ops'?"),
        (section(OPS, RULE.replace("ops", "security")), "'security': if it is a policy's, name that"),
        (section(OPS, "rules: []", "policy: policies/billing.yaml"), "notifications.channels.ops: no rule notifies it"),
        (section(OPS, RULE.replace("severity: high", "")), "rules[0].when: matches every record: say which"),
        (section(OPS, RULE.replace("severity: high", "denials: true")), "rules[0].when.denials: unknown key"),
        (section(OPS, RULE.replace("name: a", "name: policy")), "'policy' is the name of what the policy itself asks"),
        (section(OPS, RULE.replace("name: a", "name: A b")), "rules[0].name: is no name"),
        (section(OPS, RULE.replace(", notify: [ops]", "")), "rules[0].notify: missing"),
        (section(OPS, RULE.replace("[ops]", "[]")), "rules[0].notify: lists no channel"),
        (section(OPS, RULE[:-1] + ", {name: a, when: {severity: low}, notify: [ops]}]"), "name of two rules"),
        (section(OPS.replace("slack", "slak"), RULE), "channels.ops.type: 'slak' is not one of webhook, slack"),
        (section(OPS.replace("SLACK_URL", "NOT_SET"), RULE), "ops.url: the environment variable NOT_SET is not set"),
        (section(OPS.replace("${SLACK_URL}", "https://x/marked-secret"), RULE), "url: a secret does not stand in"),
        (section(OPS.replace("${SLACK_URL}", "file:/nowhere"), RULE), "url: the file cannot be read: No such file"),
        (section("policy: none.yaml"), "notifications.policy: "),
        (
            section("policy: policies/billing.yaml", OPS.replace("ops", "security"), RULE.replace("ops", "security")),
            "notifications.channels.security: the policy has a channel of this name, too",
        ),
        (
            "version: 1\nfollowers: [{name: notify-x, type: jsonl, directory: o}]\n",
            "followers[0].name: begins with notify-, as the followers do that notify",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, finding: str) -> None:
    with pytest.raises(FollowerError) as caught:
        configured(tmp_path, text)
    assert finding in str(caught.value)
    assert "marked-secret" not in str(caught.value)
    assert all(line.startswith(f"{tmp_path}/followers.yaml:") for line in str(caught.value).splitlines())


def test_what_is_wrong_with_the_channels_of_a_policy_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURITY_WEBHOOK_URL", "ftp://marked-secret")
    monkeypatch.setenv("SECURITY_WEBHOOK_SECRET", "marked-secret")
    with pytest.raises(FollowerError) as caught:
        configured(tmp_path, GOOD)
    said = str(caught.value)
    assert ":4: notifications.policy: channels.security.url: is no http or https URL with a host" in said
    assert ":4: notifications.policy: channels.security.secret: must begin with whsec_" in said
    assert "marked-secret" not in said
    own = loads(POLICY, predicates={"working_hours": lambda request: True})
    with pytest.raises(FollowerError, match=r"^billing\.yaml:1: channels\.security\.secret: must begin with whsec_"):
        policy_followers(lambda: own, "billing.yaml")
    assert policy_followers(lambda: own, "billing.yaml", secrets=False).followers, "to look at cursors needs no secret"


PAGE = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()


def test_the_configurations_of_the_page_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)
    policies = [text for text in blocks if "\nactions:" in text]
    sections = [text for text in blocks if "\nnotifications:" in text]
    assert policies
    assert sections
    (tmp_path / "policies" / "billing.yaml").write_text(policies[0])
    for name in re.findall(r"\$\{(\w+)\}", PAGE):
        monkeypatch.setenv(name, WHSEC if "SECRET" in name else "https://hooks.example.com/x")
    folder = tmp_path / "etc"
    folder.mkdir()
    for text in sections:
        assert channels_of(configured(folder, text))
    for text in policies:
        policy = loads(text)
        assert channels_of(policy_followers(lambda policy=policy: policy, "p.yaml"))  # type: ignore[misc]  # bound now


def test_every_setting_is_on_the_page() -> None:
    from audit_middleware.followers.notify.config import KEYS, WHEN_KEYS

    for key in {*KEYS, *WHEN_KEYS, *(key for options in OPTIONS.values() for key in options), *OPTIONS}:
        assert f"`{key}`" in PAGE, key
