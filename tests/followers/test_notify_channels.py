"""Each channel against a server that enforces its limits: what is said, what an answer means, what is not injected."""

from __future__ import annotations

import json
import logging
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook as Standard

from audit_middleware.followers.channels import CHANNELS, apprise, smtp
from audit_middleware.followers.channels import pagerduty as pagerduty_channel
from audit_middleware.followers.channels import slack as slack_channel
from audit_middleware.followers.channels.given import Given
from audit_middleware.followers.notify.message import Notification, clean, trial
from audit_middleware.followers.notify.wording import data, lines, title
from audit_middleware.policy.channels import OPTIONS
from audit_middleware.policy.channels import Channel as Settings
from tests.followers.channelling import (
    SLACK_MENTION,
    alert,
    channel,
    event,
    mail,
    pagerduty,
    slack,
    slack_problem,
    unescaped,
)
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC

NASTY = [
    *("a\nb", "a\r\nBcc: all@example.com", "\r\n\r\nbody", "<!channel>", "<@U012AB3CD>", "<!subteam^S1|x>"),
    *("@here @channel", "<https://evil.example|click>", "a|b", "&lt;!here&gt;", "a\u2028b\u2029c", "\x00\x1b[31m"),
    *("\u202egnp.exe", "\ud800", ".\r\n.", "=?utf-8?q?=0D=0ABcc:x?=", "x" * 64_000, "*b* _i_ `c`", "é漢字🙂", ""),
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=300), st.text("<>&|@!#\r\n\t ", max_size=80))


def test_every_type_has_a_channel_and_every_key_is_read() -> None:
    assert set(CHANNELS) == set(OPTIONS)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING", WHSEC)


# --- what is said ------------------------------------------------------------------------------------------------


def test_a_webhook_verifies_with_the_reference_library_and_is_thin() -> None:
    taken: list[tuple[bytes, dict[str, str]]] = []

    def answer(handler: Handler) -> None:
        taken.append((handler.body, {name.lower(): value for name, value in handler.headers.items()}))
        handler.say(200, b"")

    with served(answer) as url:
        line = channel("webhook", url=url, secret="${SIGNING}", allow_private=True).open()
        told = alert(event(reason="confidential", request={"body": {"content": "confidential"}}))
        assert line.send(told).verdict == "taken"
        assert line.send(alert(event(full=True, reason="because of the customer"))).verdict == "taken"
        line.close()
    (body, headers), (whole, _) = taken
    found: Any = Standard(WHSEC).verify(body, headers)
    assert (found["type"], headers["webhook-id"]) == ("notification", told.id)
    assert "confidential" not in body.decode()
    said = found["data"]
    assert (said["action"], said["outcome"], said["severity"], said["user_id"], said["rule"], said["log"]) == (
        "invoice.delete", "denied", "high", "user-5", "refunds", "example.com/log",
    )  # fmt: skip
    assert (said["index"], said["action_id"], said["time"]) == (5, told.event.action_id, "2026-01-01T00:00:05Z")
    assert json.loads(whole)["data"]["detail"]["reason"] == "because of the customer"


def test_slack_takes_what_is_said_one_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with slack() as server:
        monkeypatch.setenv("SLACK", server.url)
        line = channel("slack", url="${SLACK}", allow_private=True).open()
        assert line.pause >= 1.0
        server.window = 600
        assert line.send(alert()).verdict == "taken"
        limited = line.send(alert())
        assert (limited.verdict, limited.after) == ("later", 1.0)
        line.close()
    (told,) = server.taken
    assert told["text"] == "[high] invoice.delete denied: user-5"
    shown = "\n".join(block["text"]["text"] for block in told["blocks"])
    for part in ("*rule:* refunds", "*log:* example.com/log", "*entry:* 5", "*outcome:* denied"):
        assert part in shown
    assert told["link_names"] is False


def test_pagerduty_makes_one_incident_for_a_rule_and_a_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pagerduty() as server:
        monkeypatch.setenv("KEY", server.key)
        line = channel("pagerduty", routing_key="${KEY}", url=server.url, allow_private=True).open()
        for told in (
            alert(),
            alert(event(6)),
            alert(event(12, user_id="user-5", action="invoice.purge")),
            alert(kind="repeated"),
        ):
            assert line.send(told).verdict == "taken"
        long = alert(event(user_id="x" * 64_000), origin="o" * 300)
        assert line.send(long).verdict == "taken"
        line.close()
    assert len(server.incidents) == 3
    first = server.taken[0]
    assert first["dedup_key"] == "example.com/log/refunds/user-5"
    assert first["payload"]["severity"] == "error"
    assert first["payload"]["custom_details"]["index"] == 5


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_encrypted_logged_in_and_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    with mail(tmp_path, security) as server:
        monkeypatch.setenv("MAIL_USER", server.user)
        monkeypatch.setenv("MAIL_PASSWORD", server.password)
        line = channel(
            "email", host="localhost", port=server.port, security=security, ca=str(server.ca),
            to=("b@example.com", "c@example.com"), username="${MAIL_USER}", password="${MAIL_PASSWORD}",
            **{"from": "audit@example.com"},
        ).open()  # fmt: skip
        assert [line.send(alert()).verdict for _ in range(2)] == ["taken", "taken"]
        server.refused = ("c@example.com",)
        some = line.send(alert())
        assert (some.verdict, some.why) == ("taken", "1 of 2 recipients were refused: 550")
        server.refused = ("b@example.com", "c@example.com")
        assert line.send(alert()).verdict == "later"
        server.refused, server.data = (), "554 marked-password is spam"
        never = line.send(alert())
        assert (never.verdict, never.why) == ("never", f"smtp://localhost:{server.port}: answered 554")
        server.data = "451 later"
        assert line.send(alert()).verdict == "later"
        line.close()
    assert all(server.logins)
    assert server.taken[0].rcpt_tos == ["b@example.com", "c@example.com"]
    first, second = server.messages()[:2]
    assert first["Subject"] == "[high] invoice.delete denied: user-5"
    assert first["Message-ID"] == second["Message-ID"] == "<ntf_0123456789abcdef0123456789abcdef@example.com>"
    assert "log: example.com/log\n" in first.get_content().replace("\r\n", "\n")


def test_mail_is_not_sent_to_a_server_that_does_not_encrypt_or_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL", "x")
    login = {"username": "${MAIL}", "password": "${MAIL}"}
    folders = [tmp_path / name for name in ("plain", "other")]
    for folder in folders:
        folder.mkdir()
    with mail(folders[0], "none") as plain, mail(folders[1], "starttls") as other:
        for server, more in ((plain, login), (plain, {}), (other, login | {"ca": str(plain.ca)}), (other, {})):
            address: dict[str, Any] = {
                "host": "localhost",
                "port": server.port,
                "from": "a@example.com",
                "to": ("b@example.com",),
            }
            line = channel("email", **address, **more).open()
            answer = line.send(alert())
            assert answer.verdict == "later"
            line.close()
            assert not server.taken
            assert not server.logins


def test_apprise_reaches_its_own_kind_of_server(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def answer(handler: Handler) -> None:
        taken.append((handler.path, json.loads(handler.body)))
        handler.say(200 if len(taken) == 1 else 500, b"")

    with served(answer) as url:
        monkeypatch.setenv("APPRISE", url.replace("http://", "json://") + "/marked-apprise-path")
        line = channel("apprise", url="${APPRISE}").open()
        assert line.send(alert()).verdict == "taken"
        failed = line.send(alert())
        assert (failed.verdict, failed.why) == ("later", "Apprise could not deliver it")
    path, told = taken[0]
    assert path == "/marked-apprise-path"
    assert told["title"] == "[high] invoice.delete denied: user-5"
    assert "log: example.com/log" in told["message"]
    assert told["type"] == "failure"
    monkeypatch.setenv("APPRISE", "nosuchservice://marked")
    wrong = channel("apprise", url="${APPRISE}").open().send(alert())
    assert (wrong.verdict, wrong.why) == ("later", "this is no URL of Apprise")


def test_apprise_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    over: list[bool] = []

    def hang(handler: Handler) -> None:
        while not over:
            time.sleep(0.02)

    with served(hang) as url:
        monkeypatch.setenv("APPRISE", url.replace("http://", "json://") + "/?rto=100")
        answer = channel("apprise", url="${APPRISE}", timeout=3).open().send(alert())
        assert (answer.verdict, answer.why) == ("later", "Apprise came to no end within 3 seconds")
        over.append(True)


def test_a_finding_says_what_was_found_in_every_channel() -> None:
    extra = {
        "finding_id": "f-1", "rule": "burst", "title": "Burst of refunds", "level": "high", "dimension": "rate",
        "group": "ann", "observed": 120, "baseline": "12.5", "window_s": 60, "evidence_count": 120, "user_id": "ann",
    }  # fmt: skip
    told = alert(event(kind="control", action="audit.finding", extra=extra))
    said = dict(lines(told))
    assert (said["finding title"], said["finding dimension"], said["finding observed"], said["finding baseline"]) == (
        "Burst of refunds", "rate", "120", "12.5",
    )  # fmt: skip
    assert "outcome" not in said
    assert data(told)["finding"]["observed"] == "120"


def test_a_test_notification_can_be_said_by_every_channel(tmp_path: Path) -> None:
    told = trial("notify test on host", "ntf_00", 1_767_225_600_000_000)
    assert title(told) == "Test notification of notify test on host"
    assert slack_problem(json.dumps(slack_channel.message(told)).encode()) is None
    assert pagerduty_channel.message(told)["payload"]["summary"]
    assert smtp.message(told, "a@example.com", ("b@example.com",))["Subject"]


# --- what an answer means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(204, "taken"), (302, "later"), (400, "never"), (401, "later"), (404, "later"), (410, "gone"), (413, "never"),
     (422, "never"), (429, "later"), (500, "later"), (503, "later")],
)  # fmt: skip
def test_what_a_status_means(monkeypatch: pytest.MonkeyPatch, status: int, verdict: str) -> None:
    paths = []

    def answer(handler: Handler) -> None:
        paths.append(handler.path)
        handler.say(status, b"secret words of the other side", Location="/elsewhere", Retry_After="7")

    with served(answer) as url:
        monkeypatch.setenv("URL", url + "/marked-path")
        monkeypatch.setenv("KEY", "marked-key")
        for made in (
            channel("webhook", url="${URL}", secret="${SIGNING}", allow_private=True),
            channel("slack", url="${URL}", allow_private=True),
            channel("pagerduty", url=url + "/marked-path", routing_key="${KEY}", allow_private=True),
        ):
            assert "marked" not in repr(made)
            line = made.open()
            found = line.send(alert())
            line.close()
            if (status, "pagerduty") == (410, type(made).__module__.rsplit(".", 1)[1]):
                assert found.verdict == "later", "of PagerDuty nothing says that an integration is gone"
                continue
            assert found.verdict == verdict
            assert found.after == (7.0 if verdict == "later" else None)
            assert "marked" not in str(found.why)
            assert "secret words" not in str(found.why)
    assert set(paths) == {"/marked-path"}


def test_a_private_address_is_reached_only_if_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda handler: pytest.fail("was reached")) as url:
        monkeypatch.setenv("URL", url)
        for type, options in (
            ("webhook", {"url": url, "secret": "${SIGNING}"}),
            ("slack", {"url": "${URL}"}),
            ("pagerduty", {"url": url, "routing_key": "${SIGNING}"}),
        ):
            line = channel(type, **options).open()
            answer = line.send(alert())
            line.close()
            assert answer.verdict == "later"
            assert "allow_private" in str(answer.why)


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    for module in (smtp, apprise):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    given = Given(
        Settings("email", {"host": "a", "from": "a@b.example", "to": ("c@d.example",)}), lambda *one: said.append(one)
    )
    smtp.read_email(given)
    apprise.read_apprise(Given(Settings("apprise", {}), lambda *one: said.append(one)))
    assert [text.partition("pip install ")[2] for _, text in said] == [
        "'audit-middleware[email]'", "'audit-middleware[apprise]'",
    ]  # fmt: skip


# --- what cannot be injected -------------------------------------------------------------------------------------


@st.composite
def hostile(draw: st.DrawFn) -> Notification:
    fields: dict[str, Any] = {
        name: draw(TEXT) for name in ("user_id", "reason", "initiator_ip", "severity", "outcome", "event")
    }
    extra = {name: draw(TEXT) for name in ("title", "rule", "dimension", "observed", "baseline", "user_id")}
    kind = draw(st.sampled_from(["outcome", "control"]))
    action = draw(st.sampled_from(["invoice.delete", "audit.finding"]))
    resource = {"type": draw(TEXT), "id": draw(TEXT), "properties": {}}
    told = event(full=True, kind=kind, action=action, extra=extra, resource=resource, **fields)
    users = tuple(clean(draw(TEXT)) for _ in range(draw(st.integers(1, 8))))
    return alert(told, kind=draw(st.sampled_from(["alert", "repeated", "gathered", "held"])), users=users, count=3)


@settings(deadline=None, max_examples=150)
@given(hostile())
def test_no_text_of_a_record_is_more_than_text(told: Notification) -> None:
    labelled = lines(told)
    for text in (title(told), *(value for _, value in labelled)):
        assert text.isprintable(), "one line, nothing invisible"
    # Slack: within the limits, no mention, no link; and it shows what was said.
    message = slack_channel.message(told)
    body = json.dumps(message, ensure_ascii=False).encode()
    assert slack_problem(body) is None, slack_problem(body)
    shown = [message["text"], *(block["text"]["text"] for block in message["blocks"])]
    for text in shown:
        assert not SLACK_MENTION.search(text)
        assert "<" not in text
        assert ">" not in text
    assert unescaped(shown[0]) == clean(title(told), slack_channel.HEAD).replace("\u200b", "")
    first = f"*{labelled[0][0]}:* {clean(labelled[0][1], slack_channel.VALUE)}"
    assert unescaped(shown[2]).split("\n")[0] == first.replace("\u200b", "")
    # Mail: read back by a parser, the headers are those that were meant, and the text is the text.
    raw = smtp.message(told, "audit@example.com", ("b@example.com",)).as_bytes()
    parsed = message_from_bytes(raw, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert sorted(parsed.keys()) == [
        "Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version", "Message-ID",
        "References", "Subject", "To",
    ]  # fmt: skip
    assert parsed["To"] == "b@example.com"
    assert "\n" not in parsed["Subject"]
    meant = title(told)[: smtp.SUBJECT].replace("=?", "= ?")
    assert "".join(parsed["Subject"].split()) == "".join(meant.split()), "folding may move a space, and no more"
    lines_back = parsed.get_content().replace("\r\n", "\n").split("\n")
    assert lines_back[2:-1] == [f"{label}: {value}" for label, value in labelled]
    # PagerDuty: within the limits.
    payload = pagerduty_channel.message(told)
    assert 0 < len(payload["dedup_key"]) <= 255
    assert payload["dedup_key"].isprintable()
    assert 0 < len(payload["payload"]["summary"]) <= pagerduty_channel.SUMMARY
    assert payload["payload"]["severity"] in ("critical", "error", "warning", "info")
    assert len(json.dumps(payload, ensure_ascii=False).encode()) < pagerduty_channel.LARGEST
    assert json.loads(json.dumps(data(told), ensure_ascii=False)) == data(told)


# --- secrets -----------------------------------------------------------------------------------------------------

MARK = "Zq7-marked-secret"
SECRETS = [(kind, key) for kind, keys in OPTIONS.items() for key, one in keys.items() if one.kind in ("secret", "url")]
USUAL: dict[str, dict[str, Any]] = {
    "webhook": {"url": "https://127.0.0.1:1/", "secret": "${SIGNING}"},
    "slack": {"url": "${URL}"},
    "pagerduty": {"routing_key": "${URL}", "url": "https://127.0.0.1:1/"},
    "email": {"host": "127.0.0.1", "port": 1, "from": "a@b.example", "to": ("c@d.example",)},
    "apprise": {"url": "${URL}"},
}


@pytest.mark.parametrize(("kind", "key"), SECRETS)
@example(before="https://", after="\n")
@example(before="https://", after="%%%")
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.sampled_from(["", "https://", "http://x/", "https://u:", "whsec_", "ftp://", "https://[", "\u2028"]),
    after=st.sampled_from(["", "@host/", "/path?x=y#z", ":99999/", ":0/", "\n", "%%%", "é"]),
)
def test_whatever_a_secret_is_nothing_that_is_said_repeats_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, key: str, before: str, after: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("URL", "https://127.0.0.1:1/")
    monkeypatch.setenv("MARKED", before + MARK + after)
    said: list[str] = []
    given_settings = Settings(kind, USUAL[kind] | {key: "${MARKED}"})
    made = CHANNELS[kind](Given(given_settings, lambda *found: said.extend(found)))
    said.append(repr(made))
    if len(said) == 1 and kind != "apprise":  # its settings are right; what it says is no more than that it failed
        line = made.open()
        answer = line.send(alert())
        line.close()
        assert answer.verdict == "later"
        said.append(str(answer))
    if before != "https://":  # then it is a host's name, which errors show
        assert MARK.lower() not in (str(said) + caplog.text).lower()
