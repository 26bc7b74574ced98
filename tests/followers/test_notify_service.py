"""Notifications of a service, of a process of its own, and by hand: with real servers and a real log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Standard
from starlette.applications import Starlette
from starlette.routing import Route

from audit_middleware import AuditMiddleware
from audit_middleware.cli import main
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.signers import signers_of
from audit_middleware.signing import read_key_file
from tests.control.support import eventually, read, run, until
from tests.followers.channelling import slack
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC
from tests.kit import Log, call, write_policy
from tests.middleware.support import check_log

POLICY = """
actions:
  doc.read: {allow: [authenticated], notify: {channels: [security], outcomes: [denied]}}
channels:
  security: {type: webhook, url: '${HOOK}', secret: '${SIGN}', allow_private: true}
"""


class Hook:
    """A webhook that verifies what it takes."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.status = 200

    def answer(self, handler: Handler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if self.status == 200:
            self.taken.append(Standard(WHSEC).verify(handler.body, headers))
        handler.say(self.status, b"")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    made = Hook()
    with served(made.answer) as url:
        monkeypatch.setenv("HOOK", f"{url}/marked-secret-path")
        monkeypatch.setenv("SIGN", WHSEC)
        yield made


def service(log: Log, policy: Path, **settings: Any) -> Starlette:
    app = Starlette(routes=[Route("/", read)])
    given: dict[str, Any] = {"policy": policy, "log": str(log.path), "service": "billing"} | settings
    app.add_middleware(AuditMiddleware, **given)
    return app


def test_a_service_tells_what_its_policy_asks_for_and_says_so_in_its_log(log: Log, tmp_path: Path, hook: Hook) -> None:
    async def drive(app: Any) -> None:
        for _ in range(5):
            assert (await call(app, "GET", "/")).status == 401
        await eventually(lambda: log.controls("audit.notified"), "the log says so")

    assert run(service(log, write_policy(tmp_path, POLICY)), drive) is None
    first = hook.taken[0]["data"]
    assert (first["action"], first["outcome"], first["rule"]) == ("doc.read", "denied", "policy")
    assert log.records()[first["index"]]["action_id"] == first["action_id"]
    told = log.controls("audit.notified")[0]
    assert (told["severity"], told["extra"]["channel"], told["extra"]["indexes"]) == (
        "info",
        "security",
        [first["index"]],
    )
    assert len(hook.taken) == 1, "the other four are counted"
    assert "marked-secret" not in json.dumps(log.records())
    check_log(log)


def test_a_channel_without_its_secret_stops_the_start(log: Log, tmp_path: Path) -> None:
    failed = run(service(log, write_policy(tmp_path, POLICY)))
    assert "policy.yaml:1: channels.security.url: the environment variable HOOK is not set" in str(failed)


def _next(cursor: Path) -> int:
    return int(json.loads(cursor.read_text())["next"]) if cursor.exists() else 0


def test_a_policy_that_is_replaced_notifies_from_the_next_record_on(
    log: Log, tmp_path: Path, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    policy = write_policy(tmp_path, POLICY.replace("[denied]", "[aborted]"))

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/")).status == 401
        cursor = log.path / ".state" / "followers" / "notify-security.json"
        await eventually(
            lambda: log.outcomes() and _next(cursor) > log.records().index(log.outcomes()[0]), "it is read"
        )
        write_policy(tmp_path, POLICY + "  other: {type: slack, url: '${OTHER}'}\n")
        await eventually(lambda: len(log.controls("audit.policy_loaded")) == 2, "the new policy is in force")
        assert (await call(app, "GET", "/")).status == 401
        await eventually(lambda: hook.taken, "of which somebody is told")

    assert run(service(log, policy, reload=50), drive) is None
    records = log.records()
    assert hook.taken[0]["data"]["index"] > records.index(log.controls("audit.policy_loaded")[1])
    assert "new or changed channels count from the next start on: ['other']" in caplog.text


def test_a_dead_channel_slows_no_request(log: Log, tmp_path: Path, hook: Hook) -> None:
    hook.status = 503

    async def drive(app: Any) -> None:
        for _ in range(20):
            assert (await call(app, "GET", "/")).status == 401
        state = log.path / ".state" / "followers" / "notify-security.problem.json"
        await eventually(state.exists, "the trouble is shown")
        assert "answered 503" in state.read_text()

    assert run(service(log, write_policy(tmp_path, POLICY)), drive) is None
    assert log.controls("audit.notified") == []
    hook.status = 200
    assert run(service(log, tmp_path / "policy.yaml")) is None, "the next start tells what waited"
    assert [one["data"]["kind"] for one in hook.taken] == ["alert"]
    check_log(log)


# --- by commands -------------------------------------------------------------------------------------------------


@dataclass
class Said:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Said]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""

    def run_it(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        out, err = capsys.readouterr()
        return Said(code if isinstance(code, int) else 0, out, err)

    return run_it


def test_one_test_notification_is_sent_and_said(
    tmp_path: Path, hook: Hook, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = write_policy(tmp_path, POLICY)
    done = command("notify", "test", "--channel", "security", "--policy", policy)
    assert (done.returncode, done.stdout) == (0, "security (webhook): taken\n"), done.stderr
    assert hook.taken[0]["data"]["kind"] == "test"
    config = tmp_path / "followers.yaml"
    config.write_text("version: 1\nnotifications: {policy: policy.yaml}\n")
    for status, verdict in ((503, "later"), (400, "never"), (410, "gone")):
        hook.status = status
        found = command("notify", "test", "--channel", "security", "--config", config, "--json")
        said = json.loads(found.stdout)
        assert (found.returncode, said["verdict"], said["type"]) == (1, verdict, "webhook")
        assert said["why"].endswith(f"answered {status}")
        assert "marked-secret" not in found.stdout + found.stderr
    assert command("notify", "test", "--channel", "security").returncode == 2
    unknown = command("notify", "test", "--channel", "securty", "--policy", policy)
    assert unknown.returncode == 2
    assert "did you mean 'security'?" in unknown.stderr
    monkeypatch.setenv("SIGN", "marked-secret")
    wrong = command("notify", "test", "--channel", "security", "--policy", policy)
    assert wrong.returncode == 3
    assert "must begin with whsec_" in wrong.stderr
    assert "marked-secret" not in wrong.stderr


CONFIG = """
version: 1
notifications:
  channels: {ops: {type: slack, url: '${SLACK}', allow_private: true}}
  rules:
    - {name: beats, when: {actions: [audit.heartbeat]}, notify: [ops]}
  group: 1h
  cool_down: 1h
"""


def beat(log: Log, count: int, *, user: str = "root") -> None:
    writer = ControlWriter(signers_of(read_key_file(Path(f"{log.path}.key"))))
    fields = {"user_id": user}
    made = [statement("audit.heartbeat", extra={"interval_s": 60}, fields=fields) for _ in range(count)]
    write_control(log.path, writer, made)


@pytest.fixture
def follow() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `follow` processes, and ends what is left of them."""
    made: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "audit_middleware", "follow", *map(str, arguments), "--interval", "0.05"]
        made.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                     env=os.environ | {"AUDIT_RECORD_READS": "1"}))  # fmt: skip
        return made[-1]

    yield begin
    for one in made:
        one.kill()
        one.communicate()


def test_killed_processes_lose_no_alert(
    log: Log,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    follow: Callable[..., subprocess.Popen[str]],
) -> None:
    config = tmp_path / "followers.yaml"
    config.write_text(CONFIG)
    with slack() as server:
        monkeypatch.setenv("SLACK", server.url)
        assert command("followers", "reset", log.path, "notify-ops", "--config", config, "--to", "now").returncode == 0
        for number in range(3):
            beat(log, 4, user=f"user-{number}")
            process = follow(log.path, "--config", config)
            state = log.path / ".state" / "followers" / "notify-ops.state.json"
            until(lambda: state.exists() and f"user-{number}" in state.read_text(), "it is counted")  # noqa: B023
            process.kill()
            process.wait()
        process = follow(log.path, "--config", config)
        until(lambda: len(log.controls("audit.log_exported")) >= 4, "it listens to signals")
        until(lambda: log.controls("audit.notified"), "it is told and recorded")
        process.send_signal(signal.SIGTERM)
        said, problems = process.communicate(timeout=100)
    assert process.returncode == 0, problems
    first = server.taken[0]["text"]
    assert first == "[info] audit.heartbeat: user-0"
    kept = json.loads(state.read_bytes())
    families = list(kept["grouped"]["families"].values())
    kinds = kept["grouped"]["kinds"].values()
    counted = sum(one["counted"]["count"] for one in [*families, *kinds])
    assert counted + 1 == 12, "each record was counted once, through every kill"
    (one,) = json.loads(command("followers", "status", log.path, "--config", config, "--json").stdout)
    assert (one["follower"], one["type"], one["problem"]) == ("notify-ops", "slack", None)
    assert "marked-slack-url" not in said + problems + json.dumps(log.records()) + state.read_text()
    check_log(log)


def test_a_policy_is_enough_for_the_commands(log: Log, tmp_path: Path, hook: Hook, command: Command) -> None:
    policy = write_policy(tmp_path, POLICY)
    assert command("follow", log.path, "--policy", policy, "--check").returncode == 0
    found = command("followers", "status", log.path, "--policy", policy, "--json")
    (one,) = json.loads(found.stdout)
    assert (one["follower"], one["state"]) == ("notify-security", "new")
    assert command("followers", "status", log.path).returncode == 2
    assert command("followers", "reset", log.path, "notify-security", "--policy", policy, "--to", "now").returncode == 0
    (one,) = json.loads(command("followers", "status", log.path, "--policy", policy, "--json").stdout)
    assert one["next"] == 0
    state = log.path / ".state" / "followers" / "notify-security.state.json"
    state.write_text("{}")
    assert command("followers", "reset", log.path, "notify-security", "--policy", policy, "--to", "now").returncode == 0
    assert not state.exists(), "also what a follower cannot read any more is begun anew"
