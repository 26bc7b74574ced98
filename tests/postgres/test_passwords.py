"""No message shows the password of a URL: wrong options, mistyped URLs, a server that is away, a bug of ours."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from audit_middleware.cli import main
from audit_middleware.errors import AuditError, ConfigError, LogUnavailable
from audit_middleware.settings import load_settings
from audit_middleware.stores.opening import place_of
from audit_middleware.stores.postgres import PostgresStore, initialise
from audit_middleware.urls import hide, secrets_in
from tests.servers.running import ROOT

PASSWORD = "blowfish7/x?y#z@w"
GOOD = f"postgresql://ann:{quote(PASSWORD, safe='')}@127.0.0.1:1/audit"
"""A URL as it should be, of a server that is away."""

MISTYPED = [
    f"postgresql://ann:{PASSWORD}@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7/x@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7?x@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7#x@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7[@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7]@127.0.0.1:1/audit",
    "postgresql://ann:blow@fish7@127.0.0.1:1/audit",
    "postgresql://ann:7777/blowfish7@127.0.0.1:1/audit",
    "postgresql://ann:7777?blowfish7@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7\u2100@127.0.0.1:1/audit",  # a sign that urlsplit refuses, and repeats
    "postgresql://ann:blowfish7 x@127.0.0.1:1/audit",
    "postgresql://ann:blowfish7",
    "postgresql://ann:blowfish7@127.0.0.1:port/audit",
    "postgresql://ann:blowfish7@127.0.0.1:1/audit?passwort=blowfish7",
    "postgresql://127.0.0.1:1/audit?user=ann&password=blowfish7",
    "postgresql://127.0.0.1:1/audit?user=ann&password=blowfish7&x=y",
    "postgresql:/ann:blowfish7@127.0.0.1:1/audit",
    "postgress://ann:blowfish7@127.0.0.1:1/audit",
    "postgresql+psycopg://ann:blowfish7@127.0.0.1:1/audit",
    "PostgreSQL://ann:blowfish7@127.0.0.1:1/audit",
]
COMMANDS = [
    ["query", "{}"],
    ["query", "{}", "--limit", "{}"],
    ["query", "{}", "--since", "{}"],
    ["query", "{}", "{}"],
    ["query", "--{}", "x"],
    ["query", "{}", "--no-such-option={}"],
    ["{}"],
    ["tail", "{}", "-n", "{}"],
    ["show", "{}", "1"],
    ["verify", "{}", "--vkey", "{}"],
    ["verify", "{}", "--processes", "{}"],
    ["init", "{}", "--origin", "example.com/x"],
    ["copy", "{}", "{}"],
    ["follow", "{}", "--config", "{}"],
    ["followers", "reset", "{}", "x", "--config", "{}", "--to", "now"],
    ["blocks", "add", "{}", "ann", "--for", "{}", "--reason", "x"],
    ["blocks", "list", "{}"],
    ["publish", "{}", "{}"],
    ["checkpoint", "{}"],
    ["prune", "{}"],
    ["retention", "{}"],
    ["keys", "list", "{}"],
    ["detect", "{}", "--rules", "{}"],
    ["cosign", "{}", "--trust", "{}"],
    ["archive", "put", "{}", "{}"],
]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AUDIT_STATE", raising=False)
    monkeypatch.chdir(tmp_path)


def assert_hidden(text: str) -> None:
    shown = text.lower()
    for part in ("blow", "fish7", "7777"):
        assert part not in shown, text


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["audit-middleware", *arguments])
    before = sys.stderr
    with pytest.raises(SystemExit) as end:
        main()
    assert sys.stderr is before
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out + captured.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_shows_it(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    with caplog.at_level(logging.DEBUG):
        code, shown = run([part.replace("{}", GOOD) for part in command], monkeypatch, capsys)
    assert code in (2, 3), shown
    assert_hidden(shown + caplog.text)
    assert not [path for path in tmp_path.rglob("*") if "blow" in str(path)]


@pytest.mark.parametrize("url", MISTYPED)
def test_a_mistyped_url_is_not_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (["query", url], ["query", url, "--limit", url], ["init", url, "--origin", "example.com/x"]):
        code, shown = run(command, monkeypatch, capsys)
        assert code in (2, 3), shown
        assert_hidden(shown)
    for attempt in (PostgresStore.open, place_of):
        try:
            attempt(url)
        except AuditError as problem:
            assert_hidden(str(problem))
    with pytest.raises((ConfigError, LogUnavailable)) as refused:
        initialise(url, "example.com/x", ["key"], "2026-01-01T00:00:00Z")
    assert_hidden(str(refused.value))
    assert not [path for path in tmp_path.rglob("*") if "fish7" in str(path)]


def test_a_service_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (GOOD, *MISTYPED):
        monkeypatch.setenv("AUDIT_LOG", url)
        try:
            settings = load_settings({"policy": "policy.yaml", "service": "x"})
        except AuditError as problem:
            assert_hidden(str(problem))
        else:
            assert_hidden(repr(settings) + str(settings))


def test_a_traceback_does_not_show_it(tmp_path: Path) -> None:
    """Even a bug of ours: what is raised with a URL in it."""
    code = (
        "import sys, audit_middleware.cli as cli\n"
        "def bug(): raise RuntimeError(f'a bug with {sys.argv[2]} in it')\n"
        "cli.app = bug\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "query", GOOD], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "RuntimeError: a bug with postgresql://ann:***@127.0.0.1:1/audit in it" in done.stderr
    assert_hidden(done.stderr)


def test_what_is_hidden_and_what_is_not() -> None:
    text = "see postgresql://user@host:5432/database or a log at postgresql://db/x?origin=example.com/y, password=*"
    assert hide(text.removesuffix(", password=*")) == text.removesuffix(", password=*")
    assert hide("at postgres://a:b@h/d and x?password=abc&sslmode=y") == (
        "at postgres://a:***@h/d and x?password=***&sslmode=y"
    )
    assert secrets_in(["--log=postgresql://a:b%40cd@h/d", "x", "ab"]) == {"b%40cd", "b@cd"}
