"""A policy that is swapped while the service runs, and kept where the new one is no good; and policies in the log."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audit_middleware.errors import LogUnavailable
from audit_middleware.evidence.policies import Collector, parts_of
from audit_middleware.frameworks.marks import action
from audit_middleware.policy.load import load, loads
from audit_middleware.wiring import starter
from audit_middleware.wiring.reload import Reload
from tests.kit import Log, Running, call, write_policy
from tests.middleware.service import READER, Service, app_of
from tests.middleware.support import eventually, verified

OPEN = "roles: {reader: {}}\nactions:\n  doc.read: {allow: [reader]}\n"
SHUT = "roles: {reader: {}}\nactions:\n  doc.read: {allow: []}\n"


@action("doc.read")
async def read(request: Request) -> Response:
    return PlainTextResponse("read")


def app() -> Any:
    return app_of(Route("/", read))


async def status(app: Any) -> int | None:
    return (await call(app, "GET", "/", READER)).status


@pytest.fixture
def watched(service: Service) -> Service:
    """A service that looks at its policy often."""
    service.policy = OPEN
    service.settings |= {"reload": 10, "inventory": "enforce"}
    return service


async def until(app: Any, wanted: int) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while await status(app) != wanted:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


STORM = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from audit_middleware.wiring.reload import Reload

parts = SimpleNamespace(
    settings=SimpleNamespace(policy=Path(sys.argv[1])), policy=SimpleNamespace(digest=""), predicates={},
    put=lambda record: None, state=lambda *given: None,
)
adopted = []
reload = Reload(parts, lambda policy, cause: adopted.append(cause), 0)
reload.start()
parent = os.getpid()
if os.fork() == 0:
    until = time.monotonic() + 3
    while time.monotonic() < until:
        os.kill(parent, signal.SIGHUP)
    os._exit(0)
os.wait()
reload.stop()
print(len(adopted))
"""


def test_a_storm_of_signals_stops_nothing(tmp_path: Path) -> None:
    """A handler is interrupted by the next signal, anywhere."""
    command = [sys.executable, "-c", STORM, str(write_policy(tmp_path, OPEN))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 0


def test_whatever_happens_the_next_file_counts(watched: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drive(app: Any) -> None:
        asked: list[Any] = []

        def break_(*given: Any) -> Any:
            asked.append(given)
            raise ZeroDivisionError("an application's route that cannot be listed")

        with monkeypatch.context() as patch:
            patch.setattr(starter, "list_routes", break_)
            write_policy(watched.folder, SHUT)
            await eventually(lambda: asked, "the new file is looked at")
            assert await status(app) == 200
        write_policy(watched.folder, SHUT + "# again\n")
        await until(app, 403)

    watched.run(app(), drive)


def test_a_policy_that_is_in_force_is_never_called_refused(watched: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the log cannot be opened at that moment: it is told as soon as it can be."""

    async def drive(app: Any) -> None:
        assert await status(app) == 200

        def refuse(*given: Any, **more: Any) -> Any:
            raise LogUnavailable("the folder is away")

        monkeypatch.setattr(starter, "open_log", refuse)
        write_policy(watched.folder, SHUT)
        await until(app, 403)

    records = watched.run(app(), drive)
    assert watched.log.controls("audit.policy_refused") == []
    digest = records[-1]["decision"]["policy_digest"]
    assert watched.log.controls("audit.policy_loaded")[-1]["extra"]["digest"] == digest
    archived = watched.log.controls("audit.policy_archived")
    assert digest in str(archived[-1])


def test_a_changed_file_is_in_force_for_the_next_request(watched: Service) -> None:
    async def drive(app: Any) -> None:
        assert await status(app) == 200
        write_policy(watched.folder, SHUT)
        await until(app, 403)
        write_policy(watched.folder, OPEN)
        await until(app, 200)

    records = watched.run(app(), drive)
    first, second, third = watched.log.controls("audit.policy_loaded")
    assert "cause" not in first["extra"]
    assert second["extra"]["cause"] == "file changed"
    assert second["extra"]["previous"] == first["extra"]["digest"] == third["extra"]["digest"]
    digests = {record["decision"]["policy_digest"] for record in records}
    assert digests == {first["extra"]["digest"], second["extra"]["digest"]}
    assert {record["outcome"] for record in records} == {"success", "denied"}
    assert len(watched.log.controls("audit.routes_listed")) == 3
    assert len(watched.log.controls("audit.policy_archived")) == 2, "each policy once"
    assert verified(watched.log).holds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (OPEN.replace("allow", "alow"), "did you mean 'allow'"),
        ("actions:\n  doc.write: {allow: [anyone]}\n", "do not fit together"),
        ("\x00", "policy.yaml"),
        (None, "cannot be read"),
        ("pipe", "not a regular file"),
    ],
)
def test_a_file_that_is_no_good_changes_nothing(
    watched: Service, text: str | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def drive(app: Any) -> None:
        assert await status(app) == 200
        file = watched.folder / "policy.yaml"
        if text is None:
            file.unlink()
        elif text == "pipe":  # nobody writes to it: who opens it, waits
            file.unlink()
            os.mkfifo(file)
        else:
            write_policy(watched.folder, text)
        await eventually(lambda: watched.log.controls("audit.policy_refused"), "the refusal is recorded")
        assert await status(app) == 200
        await asyncio.sleep(0.1)
        assert len(watched.log.controls("audit.policy_refused")) == 1, "said once"
        aside = watched.folder / "aside"
        aside.mkdir()
        write_policy(aside, SHUT).replace(file)  # in one step: in between, a missing file would be refused once more
        await until(app, 403)

    watched.run(app(), drive)
    (refused,) = watched.log.controls("audit.policy_refused")
    (loaded, replaced) = watched.log.controls("audit.policy_loaded")
    assert problem in refused["extra"]["problem"]
    assert refused["extra"]["kept"] == loaded["extra"]["digest"] != replaced["extra"]["digest"]
    assert problem in caplog.text


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Seen at a different length each time it is looked at: what counts is what stands still."""
    whole = "version: 1\nname: test\n" + SHUT
    path = write_policy(tmp_path, OPEN)
    told: list[Any] = []
    parts: Any = SimpleNamespace(
        settings=SimpleNamespace(policy=path), predicates={}, policy=load(path), put=told.append, state=lambda *a: a
    )
    adopted: list[str] = []
    watch = Reload(parts, lambda policy, cause: adopted.append(policy.digest), 1)
    for size in range(1, len(whole), 3):
        path.write_text(whole[:size])
        watch.look()
    path.write_text(whole)
    watch.look()
    assert adopted == told == []
    watch.look()
    assert adopted == [loads(whole).digest]
    watch.look()
    assert len(adopted) == 1
    path.write_text("half")
    watch.look(asked=True)
    assert told[0][0] == "audit.policy_refused", "at a signal there is nothing to wait for"


def test_comments_are_no_change(watched: Service) -> None:
    async def drive(app: Any) -> None:
        write_policy(watched.folder, OPEN + "# a comment\n")
        await asyncio.sleep(0.2)
        assert await status(app) == 200

    watched.run(app(), drive)
    assert len(watched.log.controls("audit.policy_loaded")) == 1


def test_what_is_redacted_changes_as_well(watched: Service) -> None:
    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/", READER, query=b"colour=red")).status == 200
        await eventually(watched.log.outcomes, "the first record")
        write_policy(watched.folder, OPEN + "redact: {keys: [colour]}\n")
        await eventually(lambda: len(watched.log.controls("audit.policy_loaded")) == 2, "the policy is replaced")
        assert (await call(app, "GET", "/", READER, query=b"colour=red")).status == 200

    records = watched.run(app(), drive)
    assert [record["request"]["query"] for record in records] == ["colour=red", "colour=[redacted]"]


def test_switched_off(watched: Service) -> None:
    watched.settings |= {"reload": None}

    async def drive(app: Any) -> None:
        write_policy(watched.folder, SHUT)
        await asyncio.sleep(0.2)
        assert await status(app) == 200

    watched.run(app(), drive)


def test_a_large_policy_is_archived_in_parts_and_once(watched: Service) -> None:
    names = [f"doc.number-{number}-{'é' * 40}" for number in range(1200)]
    extra = "".join(f"  doc.n{number}: {{allow: [reader]}}\n" for number, _ in enumerate(names))
    roles = "roles: {reader: {}, " + ", ".join(f"'{name}': {{}}" for name in names) + "}\n"
    watched.policy = roles + "actions:\n  doc.read: {allow: [reader]}\n" + extra
    for _ in range(2):

        async def drive(app: Any) -> None:
            assert await status(app) == 200

        watched.run(app(), drive)
    parts = watched.log.controls("audit.policy_archived")
    assert len(parts) == parts[0]["extra"]["parts"] > 2
    collector = Collector()
    (digest,) = [found for record in watched.log.records() if (found := collector.add(record))]
    policy = loads(collector.documents[digest].decode())
    assert policy.digest == digest == watched.log.controls("audit.policy_loaded")[0]["extra"]["digest"]


def test_a_document_that_is_not_what_its_digest_says() -> None:
    (part,) = parts_of("sha256:" + "0" * 64, b"{}")
    record = {"kind": "control", "action": "audit.policy_archived", "service": {"instance": "x"}, "extra": part}
    assert Collector().add(record) is None


# --- real processes ----------------------------------------------------------------------------------------------

SERVICE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_middleware import AuditMiddleware, action

@action("doc.read")
async def read(request):
    return PlainTextResponse("read")

app = Starlette(routes=[Route("/", read)])
app.add_middleware(AuditMiddleware, service="test", reload=0)
"""


def test_sighup_of_a_real_server(tmp_path: Path, log: Log) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    policy = write_policy(tmp_path, "actions: {doc.read: {allow: [anyone]}}\n")
    environment = os.environ | {"AUDIT_POLICY": str(policy), "AUDIT_LOG": str(log.path), "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "server.log"
    with output.open("w") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"],
            cwd=tmp_path, env=environment, stderr=written,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "running on " not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        address = output.read_text().partition("running on ")[2].split()[0]
        with httpx.Client(base_url=address, timeout=30) as client:
            assert client.get("/").status_code == 200
            write_policy(tmp_path, "actions: {doc.read: {allow: []}}\n")
            assert client.get("/").status_code == 200, "only when it is asked to"
            server.send_signal(signal.SIGHUP)
            while client.get("/").status_code == 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    finally:
        server.kill()
        server.wait()
    assert log.controls("audit.policy_loaded")[1]["extra"]["cause"] == "SIGHUP"
    assert verified(log).holds


def test_the_application_keeps_its_own_handler(watched: Service) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))

    async def main() -> None:
        guarded = app()
        async with Running(watched.guard(guarded)):
            write_policy(watched.folder, SHUT)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(guarded, 403)

    try:
        asyncio.run(main())
        assert heard == [signal.SIGHUP]
        os.kill(os.getpid(), signal.SIGHUP)
        assert len(heard) == 2, "and has it back"
    finally:
        signal.signal(signal.SIGHUP, before)
