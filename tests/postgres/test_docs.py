"""The compose file of the documentation: it is YAML, its settings exist, and its set-up works on a real server."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit_middleware.cli import main
from audit_middleware.settings import PREFIX, Settings
from audit_middleware.stores.opening import open_log, place_of
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD
from tests.servers.running import ROOT

COMPOSE = ROOT / "docs" / "postgres" / "compose.yaml"


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


def test_the_set_up_makes_what_the_services_open(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = services()
    host = database.url.rpartition("@")[2].rpartition("/")[0]
    command = [
        part.replace("@db/audit", f"@{host}/{database.name}").replace("/keys", str(tmp_path))
        for part in found["init"]["command"]
    ]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("AUDIT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    assert (tmp_path / "signing.key").exists()
    script = found["roles"]["entrypoint"][2]
    for statement in script.splitlines():
        if statement.startswith(("CREATE", "GRANT")):  # \getenv and :'password' are psql's
            database.run(statement.replace(":'password'", f"'{PASSWORD}'"))
    database.roles.append("billing_app")
    log = found["billing-1"]["environment"]["AUDIT_LOG"].replace("@db/audit", f"@{host}/{database.name}")
    with closing(open_log(place_of(log, tmp_path / "state"), writable=True)) as store:
        assert store.origin == "audit.example.com/billing"
        assert store.head().size == 0
    assert os.environ["PGPASSWORD"] == PASSWORD, "it came from the environment: no argument holds it"
