"""Dead letters: listed, and sent again; killed at any step none is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.errors import FollowerError
from audit_middleware.evidence.delivering import prepare_state
from audit_middleware.evidence.replaying import dead_letters
from audit_middleware.followers.config import load_followers
from audit_middleware.followers.deadletters import DeadLetters
from audit_middleware.followers.destinations.jsonl import JsonLines
from audit_middleware.followers.replay import Replayed, replay
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.stores.journal import JournalStore
from tests.control.support import until
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC, Scripted, dead, dies_at, follower, journal, once, spec
from tests.followers.test_service import command, config, fill
from tests.kit import Log
from tests.middleware.support import check_log
from tests.stores.children import fork
from tests.stores.samples import entry


def rejecting(*indexes: int) -> Callable[[Sequence[Item]], Sent]:
    return lambda items: Sent(len(items), {item.index: "never" for item in items if item.index in indexes})


def left(folder: Path) -> list[tuple[int, str]]:
    return [(one["index"], one["why"]) for one in dead(folder)]


def with_dead_letters(folder: Path, *indexes: int) -> JournalStore:
    store = journal(folder, 20)
    once(follower(store, folder, Scripted(rejecting(*indexes)))[0])
    assert [index for index, _ in left(folder)] == list(indexes)
    return JournalStore.open(store.path, writable=False)


def refuse(action: str, extra: Mapping[str, Any]) -> None:
    raise AssertionError(f"told {action}")


def again(store: JournalStore, folder: Path, destination: Any, *indexes: int) -> tuple[Replayed, list[Replayed]]:
    reports: list[Replayed] = []

    made = spec(destination, batch=3)
    return replay(made, store, folder / "state", refuse, reports.append, indexes), reports


def test_what_is_delivered_leaves_the_file_and_the_rest_stays_with_its_new_reason(tmp_path: Path) -> None:
    store = with_dead_letters(tmp_path, 2, 3, 5, 7, 11)
    sink = Scripted(lambda items: Sent(len(items), {item.index: "still not" for item in items if item.index == 5}))
    done, reports = again(store, tmp_path, sink)
    assert sink.calls == [[2, 3, 5], [7, 11]]
    assert (done.delivered, done.rejected, done.left, done.problem) == ([2, 3, 7, 11], {5: "still not"}, 0, None)
    assert left(tmp_path) == [(5, "still not")]
    assert dead(tmp_path)[0]["record"] == json.loads(entry(5))
    assert [(one.delivered, one.rejected) for one in reports] == [([2, 3], {5: "still not"}), ([7, 11], {})]
    assert again(store, tmp_path, sink, 5)[0].rejected == {5: "still not"}
    assert again(store, tmp_path, Scripted())[0].delivered == [5]
    assert dead(tmp_path) == []
    assert again(store, tmp_path, Scripted())[0] == Replayed()


def test_one_can_be_chosen_and_twice_is_once(tmp_path: Path) -> None:
    store = with_dead_letters(tmp_path, 2, 3, 5)
    file = tmp_path / "state" / "one.dead.jsonl"
    file.write_bytes(file.read_bytes() * 2 + b'{"torn":')
    sink = Scripted()
    assert again(store, tmp_path, sink, 3)[0].delivered == [3]
    assert sink.calls == [[3]]
    assert [index for index, _ in left(tmp_path)] == [2, 5]
    with pytest.raises(FollowerError, match="no dead letter of entry 3, 9"):
        again(store, tmp_path, sink, 3, 9, 2)
    assert sink.calls == [[3]]


@pytest.mark.parametrize(
    "answer", [lambda items: Sent(0, retry="down"), lambda items: Sent(1, retry="down")], ids=["none", "one"]
)
def test_what_may_pass_leaves_the_rest_as_it_was(tmp_path: Path, answer: Callable[[Sequence[Item]], Sent]) -> None:
    store = with_dead_letters(tmp_path, 2, 3, 5)
    done, _ = again(store, tmp_path, Scripted(answer))
    settled = answer([]).settled
    assert (len(done.delivered), done.left, done.problem) == (settled, 3 - settled, "down")
    assert left(tmp_path) == [(index, "never") for index in (2, 3, 5)[settled:]]


def test_a_destination_that_raises_or_settles_nothing(tmp_path: Path) -> None:
    store = with_dead_letters(tmp_path, 2)

    def no_route(items: Sequence[Item]) -> Sent:
        raise FollowerError("no route")

    assert again(store, tmp_path, Scripted(no_route))[0].problem == "no route"
    assert "settled nothing" in str(again(store, tmp_path, Scripted(lambda items: Sent(0)))[0].problem)
    assert left(tmp_path) == [(2, "never")]


def test_a_letter_that_is_not_the_logs_entry_is_not_sent(tmp_path: Path) -> None:
    store, sink = with_dead_letters(tmp_path, 2, 3), Scripted()
    file = tmp_path / "state" / "one.dead.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('"user-2"', '"user-9"'))
    with pytest.raises(FollowerError, match="of entry 2 is not the log's: it was changed"):
        again(store, tmp_path, sink)
    file.write_text(whole.replace('"index":3', '"index":99'))
    with pytest.raises(FollowerError, match="the log has no entry 99"):
        again(store, tmp_path, sink)
    for wrong in ("{}", "[]", '{"at":"","index":1,"why":"","record":[]}'):
        file.write_text(whole + wrong + "\n")
        with pytest.raises(FollowerError, match=r"one\.dead\.jsonl:3: is no dead letter"):
            again(store, tmp_path, sink)
    state = tmp_path / "state" / "one.json"
    file.write_text(whole)
    state.write_text(state.read_text().replace("audit.example.com/test", "example.com/other"))
    with pytest.raises(FollowerError, match=r"stood in the log 'example.com/other'"):
        again(store, tmp_path, sink)
    assert sink.calls == []


def test_files_have_the_logs_order_and_take_no_letters(tmp_path: Path) -> None:
    store = with_dead_letters(tmp_path, 2)
    with pytest.raises(FollowerError, match="another directory"):
        again(store, tmp_path, JsonLines(tmp_path / "out"))
    assert left(tmp_path) == [(2, "never")]


def test_killed_at_each_step_no_letter_is_lost(tmp_path: Path) -> None:
    """Each is delivered at least once, and is in the file until it is and the log was told."""
    store = with_dead_letters(tmp_path, 2, 3, 5, 7, 11)
    file, out = tmp_path / "state" / "one.dead.jsonl", tmp_path / "out"
    told, whole = tmp_path / "told", file.read_bytes()

    def answer(items: Sequence[Item]) -> Sent:
        descriptor = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, b"".join(b"%d\n" % item.index for item in items if item.index != 5))
        os.close(descriptor)
        return Sent(len(items), {item.index: "never" for item in items if item.index == 5})

    def report(part: Replayed) -> None:
        with told.open("a") as file:
            file.write("".join(f"{index}\n" for index in part.delivered))

    def work(_: object) -> None:
        dies_at(number)
        replay(spec(Scripted(answer), batch=3), store, tmp_path / "state", refuse, report)

    killed, number = 0, 1
    while True:
        file.write_bytes(whole)
        out.unlink(missing_ok=True)
        told.unlink(missing_ok=True)
        code = fork(work).wait()
        sent = {int(line) for line in out.read_text().split()} if out.exists() else set()
        kept = {letter.index for letter in DeadLetters(file).read()}
        assert sent | kept == {2, 3, 5, 7, 11}
        assert {2, 3, 7, 11} - kept <= ({int(line) for line in told.read_text().split()} if told.exists() else set())
        again(store, tmp_path, Scripted(answer))
        assert {int(line) for line in out.read_text().split()} == {2, 3, 7, 11}
        assert [index for index, _ in left(tmp_path)] == [5]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed, number = killed + 1, number + 1
    assert killed > 8


def test_the_commands(log: Log, tmp_path: Path) -> None:
    refuse = True

    def answer(handler: Handler) -> None:
        handler.say(400 if refuse and handler.headers["webhook-id"] == bad else 200, b"")

    fill(log, 3)
    bad = log.records()[1]["action_id"]
    with served(answer) as url:
        path = config(tmp_path, f"name: hook, type: webhook, url: '{url}', secret: '${{SIGN}}', allow_private: true")
        dead_command = ("followers", "dead", log.path, "hook", "--config", path)
        replay_command = ("followers", "replay", log.path, "hook", "--config", path)
        process = _follow(log, path)
        try:
            until(lambda: log.controls("audit.delivery_failed"), "a letter is dead")
            busy = command(*replay_command, SIGN=WHSEC)
            assert (busy.returncode, "another process runs these followers" in busy.stderr) == (3, True), busy.stderr
        finally:
            process.terminate()
            process.communicate()
        found = command(*dead_command, "--json")
        (one,) = json.loads(found.stdout)
        assert (found.returncode, one["index"], one["action_id"], one["why"]) == (1, 1, bad, "answered 400")
        found = command(*replay_command, SIGN=WHSEC)
        assert (found.returncode, "1 rejected again" in found.stdout) == (1, True), found.stderr
        refuse = False
        found = command(*replay_command, "--index", "1", SIGN=WHSEC)
        assert (found.returncode, "1 delivered" in found.stdout) == (0, True), found.stderr
    first, second = log.controls("audit.dead_letters_replayed")
    assert first["extra"] == {
        "follower": "hook", "delivered": 0, "rejected": 1, "indexes": [1], "why": ["answered 400"],
    }  # fmt: skip
    assert (second["extra"]["delivered"], second["extra"]["indexes"]) == (1, [1])
    check_log(log)


def test_the_list(log: Log, tmp_path: Path) -> None:
    path = config(tmp_path, f"name: files, type: jsonl, directory: {tmp_path / 'out'}")
    runner = CliRunner()
    listing = ["followers", "dead", str(log.path), "files", "--config", str(path)]
    found = runner.invoke(app, listing)
    assert (found.exit_code, found.stdout) == (0, "files: no dead letters\n")
    DeadLetters(prepare_state(log.path, load_followers(path)) / "files.dead.jsonl").add(
        [Item(4, entry(4))], {4: "cannot be\x1b[31m shown"}, 10**18
    )
    found = runner.invoke(app, listing)
    assert found.exit_code == 1
    for part in ("4 ", "019b76da-a800-7000-8000-045a7bfd0004", "\\x1b[31m", "2001-09-09T01:46:40.000000Z"):
        assert part in found.stdout, part
    with pytest.raises(FollowerError, match="no follower 'other' in the configuration; there are: files"):
        dead_letters(log.path, load_followers(path), "other")


def _follow(log: Log, path: Path) -> Any:
    arguments = [sys.executable, "-m", "audit_middleware", "follow", str(log.path), "--config", str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, stdout=pipe, stderr=pipe, env=os.environ | {"SIGN": WHSEC})
