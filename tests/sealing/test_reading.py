"""Personal data by command: found by the id, shown as what it is, opened only with a reason, and recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from audit_middleware.cli.reading import SWITCH
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.erasures import ERASED
from audit_middleware.evidence.signers import signers_of
from audit_middleware.frameworks.marks import action
from audit_middleware.model import Subject
from audit_middleware.persons import Person
from audit_middleware.signing import read_key_file
from tests.kit import call
from tests.sealing.support import Sealed

USERS = ("alice", "bob", "alice")


@action("note.write", resource="note/{id}")
async def write(request: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


def identify(scope: Any) -> Subject:
    return Subject(dict(scope["headers"])[b"x-user"].decode(), roles=("clerk",))


@pytest.fixture
def trail(sealed: Sealed) -> Sealed:
    """Three requests of two persons, under the profile `gdpr`."""
    app = sealed.guard(Starlette(routes=[Route("/notes/{id}", write)]), identify=identify)

    async def drive() -> None:
        for user in USERS:
            assert (await call(app, "GET", "/notes/secret-7", [(b"x-user", user.encode())])).status == 200

    sealed.run(app, drive)
    return sealed


def command(trail: Sealed, *words: str) -> tuple[int, str, str]:
    """What a command printed, as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", words[0], str(trail.log.path), *words[1:]],
        env=dict(os.environ, **{SWITCH: "1"}), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def lines(trail: Sealed, *words: str) -> list[dict[str, Any]]:
    code, printed, problem = command(trail, *words, "--json")
    assert code == 0, problem
    return [json.loads(line) for line in printed.splitlines()]


def in_log(trail: Sealed, *words: str) -> list[str]:
    """Which of these words are somewhere in the log's files."""
    data = b"".join(path.read_bytes() for path in sorted(trail.log.path.rglob("*")) if path.is_file())
    return [word for word in words if word.encode() in data]


def erase(trail: Sealed, user: str) -> None:
    """As an erasure does: told the log first, then the key is destroyed."""
    with trail.keys() as keys:
        found = keys.find(Person("user", user))
        assert found is not None
        signers = signers_of(read_key_file(Path(f"{trail.log.path}.key")))
        write_control(trail.log.path, ControlWriter(signers), [statement(ERASED, "high", {"tokens": [found.token]})])
        keys.erase([found.token])


def kinds(found: Sequence[dict[str, Any]]) -> set[str]:
    return {str(line["personal"].get("user_id")) for line in found}


def test_a_person_is_found_by_the_id_and_shown_by_a_token(trail: Sealed) -> None:
    code, printed, problem = command(trail, "query", "--user", "alice")
    assert (code, problem) == (0, "")
    assert "2 of" in printed
    assert "sealed (" in printed
    assert "alice" not in printed
    found = lines(trail, "query", "--user", "alice")
    assert kinds(found) == {"sealed"}
    assert {line["record"]["user_id"].split(".")[0] for line in found} == {"sealed"}
    token = found[0]["record"]["user_id"].split(".")[2]
    assert lines(trail, "query", "--user", f"token.v1.{token}") == found
    assert len(lines(trail, "query", "--resource", "note/secret-7", "--limit", "0")) == len(USERS)


def test_a_search_tells_the_log_no_name(trail: Sealed) -> None:
    command(trail, "query", "--user", "alice", "--resource", "note/secret-7")
    command(trail, "query", "--user", "nobody-we-know")
    assert in_log(trail, "alice", "secret-7", "nobody-we-know") == []
    said = [one["extra"]["filters"] for one in trail.log.controls("audit.log_read")]
    assert said[0]["user"].startswith("token.v1.")
    assert said[0]["resource"].startswith("note/token.v1.")
    assert said[1]["user"] == "[redacted]"


def test_opening_needs_a_reason_and_is_recorded(trail: Sealed) -> None:
    code, _, problem = command(trail, "query", "--open")
    assert code == 2
    assert "--because" in problem
    found = lines(trail, "query", "--user", "alice", "--open", "--because", "case 12")
    assert [line["record"]["user_id"] for line in found] == ["alice", "alice"]
    assert {line["record"]["resource"]["id"] for line in found} == {"secret-7"}
    assert kinds(found) == {"opened"}
    said = trail.log.controls("audit.log_read")[-1]["extra"]["filters"]
    assert (said["open"], said["because"]) == (True, "case 12")
    code, printed, _ = command(trail, "show", str(found[0]["index"]), "--open", "--because", "case 12")
    assert code == 0
    assert '"user_id": "alice"' in printed
    assert '"path": "/notes/secret-7"' in printed


def test_erased_and_unreadable_are_told_apart(trail: Sealed) -> None:
    erase(trail, "alice")
    everything = lines(trail, "query", "--kind", "outcome", "--limit", "0", "--open", "--because", "case 12")
    states = {line["record"]["user_id"].split(" ")[0]: line["personal"]["user_id"] for line in everything}
    assert states == {"erased": "erased", "bob": "opened"}
    assert command(trail, "query", "--user", "alice")[0] == 1  # nobody is called so any more
    printed = command(trail, "query", "--kind", "outcome", "--limit", "0")[1]
    assert ("erased (" in printed, "sealed (" in printed) == (True, True)
    with trail.keys() as keys:
        bob = keys.find(Person("user", "bob"))
        assert bob is not None
        keys.erase([bob.token])  # and nobody told the log
    everything = lines(trail, "query", "--kind", "outcome", "--limit", "0", "--open", "--because", "case 12")
    assert kinds(everything) == {"erased", "unreadable"}


def test_without_the_keys_all_but_opening_goes_on(trail: Sealed) -> None:
    shutil.move(f"{trail.log.path}.master", f"{trail.log.path}.elsewhere")
    code, printed, problem = command(trail, "query", "--user", "alice")
    assert code == 1
    assert "nobody is looked up by a token" in problem
    assert in_log(trail, "alice") == []
    code, printed, _ = command(trail, "query", "--limit", "0")
    assert (code, "sealed (" in printed) == (0, True)
    code, _, problem = command(trail, "query", "--open", "--because", "case 12")
    assert code == 3
    assert "master key" in problem
    shutil.move(f"{trail.log.path}.elsewhere", f"{trail.log.path}.master")
    shutil.move(trail.place, f"{trail.place}.elsewhere")
    assert command(trail, "query", "--open", "--because", "case 12")[0] == 3


def test_an_export_has_tokens_unless_it_is_opened(trail: Sealed, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert command(trail, "export", "--format", "ecs", "--kind", "outcome", "--out", str(target))[0] == 0
    text = target.read_text()
    assert "token.v1." in text
    assert "sealed.v1." not in text
    assert "secret-7" not in text
    reason = ("--open", "--because", "case 12")
    assert command(trail, "export", "--format", "ecs", "--kind", "outcome", "--out", str(target), *reason)[0] == 0
    assert [json.loads(line)["user"]["id"] for line in target.read_text().splitlines()] == list(USERS)
    assert command(trail, "export", "--format", "jsonl", "--out", str(target))[0] == 0
    assert "sealed.v1." in target.read_text()


def test_tail_learns_of_an_erasure_on_the_way(trail: Sealed) -> None:
    erase(trail, "bob")
    printed = command(trail, "tail", "-n", "50")[1]
    assert ("erased (" in printed, "sealed (" in printed) == (True, True)
