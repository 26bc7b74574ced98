"""The demo runs as a user runs it, ends by itself, and leaves nothing running behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.evidence.keys import create_log
from audit_middleware.persons import pseudonym
from example_app.demo import ORIGIN
from example_app.stage.damage import change_one_byte, copy_log
from example_app.stage.errors import Surprise
from example_app.stage.server import serve
from tests.example.conftest import ROOT
from tests.kit import Log
from tests.sealing.support import Sealed

Record = dict[str, Any]
COMMAND = [sys.executable, "-m", "example_app.demo", "--keep"]
pytestmark = pytest.mark.timeout(400)


def start(folder: Path) -> subprocess.Popen[str]:
    """The demo, with its output captured."""
    environment = {**os.environ, "COLUMNS": "100"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, str(folder)], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def server_pids(folder: Path) -> list[int]:
    """Every process that the server said it has started."""
    return [int(pid) for pid in re.findall(r"Started \w+ process \[(\d+)\]", (folder / "server.log").read_text())]


def running(pid: int) -> bool:
    """Does this process run? One that was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True)
class Ran:
    """One whole run."""

    folder: Path
    code: int
    output: str
    errors: str

    @cached_property
    def records(self) -> list[Record]:
        """What the log holds."""
        return Log(self.folder / "audit", "").records()

    @cached_property
    def opened(self) -> list[Record]:
        """The same, as far as it opens."""
        return Sealed(self.folder, Log(self.folder / "audit", "")).opened(ORIGIN)

    def chapter(self, number: int) -> str:
        """What one chapter tells."""
        return self.output.partition(f"\n{number}. ")[2].partition(f"\n{number + 1}. ")[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The demo, run once for the tests that look at it."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    demo = start(folder)
    output, errors = demo.communicate(timeout=300)
    return Ran(folder, demo.returncode, output, errors)


def test_the_demo_ends_well(ran: Ran) -> None:
    assert ran.code == 0, ran.output + ran.errors
    assert not [pid for pid in server_pids(ran.folder) if running(pid)]


def test_the_demo_shows_everything(ran: Ran) -> None:
    chapters = re.findall(r"^\d+\. (.*)$", ran.output, re.MULTILINE)
    assert chapters == [
        "A log is made",
        "The service is used",
        "The trail",
        "One record in full",
        "What followed the log",
        "Personal data",
        "The log is verified",
        "Somebody edits a copy",
        "An old copy is put back",
        "Yours to explore",
    ]
    for status in (101, 200, 201, 202, 401, 403, 404, 405, 422, 500):
        assert re.search(rf"^   {status}  ", ran.output, re.MULTILINE), f"no request was answered with {status}"
    assert not re.search(r"4111 1111|41111111", ran.output)


def test_every_request_of_the_demo_is_explained_in_one_line(ran: Ran) -> None:
    tour = ran.chapter(2).splitlines()
    requests = [number for number, line in enumerate(tour) if re.match(r"   \d{3}  ", line)]
    assert len(requests) > 20
    for number in requests:
        below = tour[number + 1 : number + 3]
        assert re.match(r"        \S.{10,90}$", below[0]), below
        assert not below[-1].startswith("        ") or len(below) == 1, below


def test_the_refusal_arrives_in_three_formats_and_signed(ran: Ran) -> None:
    told = ran.chapter(5)
    [refused] = [one for one in ran.records if one["action"] == "refund.create" and one["outcome"] == "denied"]
    token = str(pseudonym(refused["user_id"]))
    assert token.startswith("token.v1.")
    for start in ("OCSF, in a file: ", "ECS, in a file: ", "CEF, over syslog: "):
        (line,) = [one for one in told.splitlines() if one.strip().startswith(start)]
        assert "refund.create" in line
        assert token[:15] in line
        assert "support-2" not in line
    files = [*(ran.folder / "shipped").iterdir(), *(ran.folder / "search").iterdir()]
    assert all(token in file.read_text() and "support-2" not in file.read_text() for file in files)
    assert "[high] refund.create denied: support-2" in told
    assert "Somebody changes their own roles or permissions: admin-1" in told
    assert told.count("signature verified") == 2
    assert re.search(r"^critical .*changes their own roles", told, re.MULTILINE)
    recorded = [one["action"] for one in ran.records]
    assert "audit.finding" in recorded
    assert recorded.count("audit.notified") >= 2
    assert recorded.count("audit.personal_opened") == 1


def test_a_person_is_erased_and_nothing_else(ran: Ran) -> None:
    told = ran.chapter(6)
    shown = re.findall(r"^\d+ +\S+ \S+ +(\S+(?: \(\w+…\))?) +refund\.create +tenant/(\S+)", told, re.MULTILINE)
    assert [who.split(" ")[0] for who, _ in shown] == [
        "sealed", "sealed", "support-2", "support-1", "erased", "support-1",
    ]  # fmt: skip
    assert [where for _, where in shown] == ["token", "token", "north", "north", "north", "north"]
    [erased] = [one for one in ran.records if one["action"] == "audit.subject_erased"]
    assert erased["extra"]["basis"] == "Art. 17(1)(a)"
    refunds = [one for one in ran.opened if one["action"] == "refund.create"]
    assert [one["user_id"].split(" ")[0] for one in refunds] == ["erased", "support-1"]
    assert refunds[1]["request"]["body"]["content"]["note"] == "paid twice; card [redacted]"
    verified = ran.chapter(7)
    assert f"{ORIGIN}: holds" in verified
    assert "1 person was erased, says the log" in verified
    assert re.search(r"^holds: entry \d+ of billing.example/audit$", verified, re.MULTILINE)


def test_an_old_copy_is_known_by_the_archive(ran: Ran) -> None:
    told = ran.chapter(9)
    first, _, second = told.partition("/early")
    assert "holds" in first
    assert "does not hold" not in first
    assert re.search(r"^0 +truncated ", second, re.MULTILINE)
    assert list((ran.folder / "archive" / "checkpoints").iterdir())


def test_the_demo_leaves_a_log_of_two_workers(ran: Ran) -> None:
    records = ran.records
    assert len({one["service"]["instance"] for one in records if one["service"]["name"] != "audit-middleware"}) == 2
    assert {record["outcome"] for record in records if record["kind"] != "intent"} == {
        "success",
        "denied",
        "failure",
        "error",
    }
    case = [record for record in records if record["trace"]["correlation_id"] == "case-4711"]
    assert {record["action"] for record in case} == {"refund.create", "refund.approve", "payout.create"}


def test_the_payout_was_announced_before_it_ran(ran: Ran) -> None:
    records = ran.records
    [intent] = [index for index, record in enumerate(records) if record["kind"] == "intent"]
    [outcome] = [index for index, record in enumerate(records) if record["intent_id"] is not None]
    assert intent < outcome
    assert records[intent]["action"] == records[outcome]["action"] == "payout.create"
    assert records[outcome]["intent_id"] == records[intent]["action_id"]
    assert records[intent]["outcome"] is None
    assert "The payout is there twice: announced before it ran" in ran.output
    shown = re.search(r"^\d+ .* payout\.create .* intent\b.*\n\d+ .* payout\.create .* 201\b", ran.output, re.MULTILINE)
    assert shown, "the trail does not show the intent before its outcome"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_its_server_along(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    demo = start(folder)
    until = time.monotonic() + 120
    while "startup complete" not in ((folder / "server.log").read_text() if (folder / "server.log").exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.02)
    demo.send_signal(number)
    demo.communicate(timeout=120)
    assert demo.returncode == 128 + number
    pids = server_pids(folder)
    assert pids
    assert not [pid for pid in pids if running(pid)]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    demo = start(tmp_path)
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert "is not empty" in " ".join(output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    settings = {"AUDIT_POLICY": str(tmp_path / "none.yaml"), "BILLING_DATA": str(tmp_path / "data")}
    with serve(tmp_path / "server.log", settings) as server:
        with pytest.raises(Surprise):
            server.wait_ready()
        assert "none.yaml" in server.said()
    assert not [pid for pid in server_pids(tmp_path) if running(pid)]


def test_the_damage_is_one_byte(tmp_path: Path) -> None:
    create_log(tmp_path / "audit", ORIGIN)
    journal = next((tmp_path / "audit" / "journal").iterdir(), tmp_path / "audit" / "journal" / "0.jsonl")
    line = b'{"action_id":"1","amount_cents":4200}\n'
    journal.write_bytes(b'{"action_id":"0","amount_cents":4200}\n' + line)
    copy = copy_log(tmp_path / "audit", tmp_path / "copy")
    damage = change_one_byte(copy, "1", '"amount_cents":', "4", "9")
    assert damage.file.read_bytes() == journal.read_bytes()[: -len(line)] + line.replace(b"4200", b"9200")
    assert journal.read_bytes()[damage.offset : damage.offset + 1] == b"4"
    with pytest.raises(Surprise):
        change_one_byte(copy, "2", '"amount_cents":', "4", "9")
