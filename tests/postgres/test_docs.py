"""The example twice on one log, as the page and its compose file have it: their commands run, and do what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from audit_middleware.cli import main
from audit_middleware.ledger.canonical import decode
from audit_middleware.persons import pseudonym
from audit_middleware.settings import PREFIX, Settings
from audit_middleware.stores.opening import open_log, place_of
from tests.kit import steady_port
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, binaries
from tests.servers.running import PATIENCE, ROOT, until

COMPOSE = ROOT / "docs" / "postgres" / "compose.yaml"
PAGE = ROOT / "docs" / "postgres.md"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_every_variable_is_a_setting() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named = {name for one in services().values() for name in one["environment"] if name.startswith(PREFIX)}
    assert {"AUDIT_LOG", "AUDIT_STATE", "AUDIT_KEY"} <= named
    assert named <= known


def test_the_services_share_the_log_and_not_the_folder() -> None:
    found = services()
    one, two = found["billing-1"], found["billing-2"]
    assert one["environment"] == two["environment"]
    assert one["ports"] != two["ports"]
    assert set(one["volumes"]) ^ set(two["volumes"]) == {"state-1:/state", "state-2:/state"}
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    mounted = {text.split(":")[0] for each in found.values() for text in each.get("volumes", ())}
    assert {name for name in mounted if not name.startswith(".")} == set(volumes)


@pytest.fixture
def billing_app(database: Database) -> Iterator[None]:
    """The role of both is the server's, not the database's: one test at a time, whatever worker runs it."""
    yield
    database.roles.append("billing_app")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are run: with the example's policy, the commands of this package, and passwords in a file."""
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("audit-middleware", "audit_middleware"), ("uvicorn", "uvicorn")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    secret = tmp_path / "pgpass"
    secret.write_text(f"*:*:*:*:{PASSWORD}\n")
    secret.chmod(0o600)
    for name in [one for one in os.environ if one.startswith((PREFIX, "BILLING_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), str(binaries()), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PGPASSFILE", str(secret))
    return tmp_path


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("billing_app")
def test_the_commands_of_the_page(database: Database, folder: Path) -> None:
    found = re.findall(r"^```sh (\S+)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert [name for name, _ in found] == ["set-up", "start", "ask"]
    one, two = steady_port(), steady_port()
    wait = "".join(
        f"until curl -sf http://127.0.0.1:{port}/healthz > /dev/null; do kill -0 $! && sleep 0.1; done\n"
        for port in (one, two)
    )
    begin = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n"
    script = begin + "".join(text + wait * (name == "start") for name, text in found)
    parts = urlsplit(database.url)
    for said, here in (
        ("@localhost/audit", f"@{parts.hostname}:{parts.port}/{database.name}"),
        ("PASSWORD '...'", f"PASSWORD '{PASSWORD}'"),
        ("8001", str(one)),
        ("8002", str(two)),
    ):
        assert said in script
        script = script.replace(said, here)
    ran = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for customer in ("Harbour Books", "Mill Lane Bakery", "Old Bridge Cycles"):
        assert customer in ran.stdout
    assert PASSWORD not in ran.stdout + ran.stderr
    url = f"{database.url}?origin=billing.example/audit"
    with closing(open_log(place_of(url, folder / "state"))) as store:
        records = [decode(entry) for frame in store.frames() for entry in frame.entries]
    read = [one for one in records if one["action"] == "customer.read"]
    assert len({one["resource"]["id"] for one in read}) == 3
    assert len({pseudonym(one["user_id"]) for one in read}) == 1, "on both services one person is one token"
    assert all(pseudonym(one["user_id"]) != one["user_id"] for one in read), "sealed"
    for customer in ("customer/1", "customer/2", "customer/3"):
        assert re.search(rf" clerk-1 +customer\.read +{customer} ", ran.stdout), ran.stdout
    assert len({one["service"]["instance"] for one in read}) == 2
    assert sum(one["action"] == "audit.started" for one in records) == 2


@pytest.mark.usefixtures("billing_app")
def test_the_compose_file(database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its set-up makes what its services open, and both answer; each with the volumes that it names."""
    found = services()
    host = database.url.rpartition("@")[2].rpartition("/")[0]

    def here(text: str, which: dict[str, Any]) -> str:
        """A part of a command or of the environment, on this machine."""
        text = text.replace("@db/audit", f"@{host}/{database.name}").replace("0.0.0.0", "127.0.0.1")
        for volume, path in (one.split(":")[:2] for one in which["volumes"]):
            text = re.sub(f"^(file:)?{path}(?=/|$)", rf"\g<1>{folder / volume}", text)
        return text

    monkeypatch.delenv("PGPASSFILE")

    def once(which: dict[str, Any]) -> None:
        """A command of ours, as a container runs it."""
        monkeypatch.setattr(sys, "argv", [here(part, which) for part in which["command"]])
        monkeypatch.setenv("AUDIT_STATE", here(which["environment"]["AUDIT_STATE"], which))
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None)

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    (folder / "keys").mkdir()
    once(found["init"])
    assert (folder / "keys" / "signing.key").exists()
    script = found["roles"]["entrypoint"][2]
    for statement in script.splitlines():
        if statement.startswith(("CREATE", "GRANT")):  # \getenv and :'password' are psql's
            database.run(statement.replace(":'password'", f"'{PASSWORD}'"))
    once(found["persons"])
    assert (folder / "keys" / "master.key").exists()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("billing-1", "billing-2"):
            service, port = found[name], steady_port()
            environment = {key: here(value, service) for key, value in service["environment"].items()}
            words = [here(part, service) if part != "8000" else str(port) for part in service["command"]]
            more = environment | {"PGPASSWORD": PASSWORD}
            running.append(subprocess.Popen(words, cwd=folder, env=os.environ | more))
            until(lambda port=port: running[-1].poll() is not None or answers(port), "an answer")  # type: ignore[misc]
            assert httpx.get(f"http://127.0.0.1:{port}/v1/customers/1").status_code == 401
    finally:
        for process in running:
            process.terminate()
        for process in running:
            assert process.wait(PATIENCE) in (0, -signal.SIGTERM), "as uvicorn of each version ends"
    log = here(found["billing-1"]["environment"]["AUDIT_LOG"], found["billing-1"])
    with closing(open_log(place_of(log, folder / "state"))) as store:
        assert store.origin == "audit.example.com/billing"
        records = [decode(entry) for frame in store.frames() for entry in frame.entries]
    assert [one["action"] for one in records].count("audit.started") == 2
    assert [one["decision"]["effect"] for one in records if one["action"] == "customer.read"] == ["deny", "deny"]
    assert os.environ["PGPASSWORD"] == PASSWORD, "it came from the environment: no argument holds it"
