"""The pieces for CI systems: they are what those systems take, and every command in them runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from audit_middleware.cli import app

ROOT = Path(__file__).parents[2]
GITHUB, GITLAB = ROOT / "docs" / "ci" / "github.yml", ROOT / "docs" / "ci" / "gitlab.yml"
EXAMPLE = {"POLICY": "policies/billing.yaml", "APP": "example_app.app:app", "COVERAGE": "100"}


def read(path: Path) -> Any:
    """The file as CI reads it: ``on`` is a word there, and true in YAML 1.1."""
    found = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def commands(path: Path) -> list[str]:
    if path == GITHUB:
        steps = read(path)["jobs"]["audit"]["steps"]
        return [step["run"] for step in steps if "audit-middleware" in step.get("run", "")]
    return [line.removesuffix(" || failed=1") for line in read(path)["audit"]["script"] if "audit-middleware" in line]


COMMANDS = [(path.stem, command) for path in (GITHUB, GITLAB) for command in commands(path)]


@pytest.mark.parametrize(
    ("path", "schema"), [(GITHUB, "vendor.github-workflows"), (GITLAB, "vendor.gitlab-ci")], ids=["github", "gitlab"]
)
def test_they_have_the_systems_own_schema(path: Path, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_mistakes(tmp_path: Path) -> None:
    wrong = tmp_path / "github.yml"
    wrong.write_text(GITHUB.read_text().replace("runs-on:", "run-on:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(wrong)]
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_both_run_the_same_gates() -> None:
    assert commands(GITHUB) == commands(GITLAB)
    assert len(commands(GITHUB)) == 4


def test_the_workflow_can_be_called_and_runs_every_gate_whatever_failed_before() -> None:
    workflow = read(GITHUB)
    inputs = workflow["on"]["workflow_call"]["inputs"]
    assert {name for name, one in inputs.items() if one.get("required")} == {"policy", "app"}
    job = workflow["jobs"]["audit"]
    gates = [step for step in job["steps"] if "audit-middleware" in step.get("run", "")]
    assert all("cancelled()" in step["if"] for step in gates[1:])
    # What a caller gives reaches a shell through the environment only, never by being pasted into a script.
    assert not any("${{" in step.get("run", "") for step in job["steps"])
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}


def test_every_report_that_is_written_is_handed_over() -> None:
    written = {name for command in commands(GITHUB) for name in re.findall(r"--(?:sarif|junit) (\S+)", command)}
    assert written == {"audit-lint.sarif", "audit-policy.xml", "audit-routes.sarif", "audit-routes.xml"}
    steps = read(GITHUB)["jobs"]["audit"]["steps"]
    uploaded = {step["with"]["sarif_file"] for step in steps if "upload-sarif" in step.get("uses", "")}
    assert uploaded == {name for name in written if name.endswith(".sarif")}
    artifacts = read(GITLAB)["audit"]["artifacts"]
    assert artifacts["reports"]["junit"] == "audit-*.xml"
    assert artifacts["when"] == "always"


def test_no_variable_is_taken_for_a_setting() -> None:
    """Names with AUDIT_ in front are settings of the service, and unknown ones stop its start."""
    names = [*read(GITHUB)["jobs"]["audit"]["env"], *read(GITLAB)["audit"]["variables"]]
    assert not [name for name in names if name.startswith("AUDIT_")]


def options() -> Iterator[tuple[str, set[str]]]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, TyperGroup) else {"": command}
        for second, leaf in inner.items():
            yield f"{name} {second}".strip(), {option for one in leaf.params for option in one.opts}


def known(command: str) -> bool:
    """Does this version have the command with these options?"""
    _, name, second, *_ = command.split()
    have = dict(options())
    found = have.get(name, have.get(f"{name} {second}"))
    return found is not None and set(re.findall(r"--[a-z]+", command)) <= found


@pytest.mark.parametrize(("system", "command"), COMMANDS, ids=[f"{system}-{line[17:33]}" for system, line in COMMANDS])
def test_every_command_runs_over_the_example(system: str, command: str, tmp_path: Path) -> None:
    assert known(command), f"this version has no {command}"
    for folder in ("policies", "example_app"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | EXAMPLE | {"BILLING_DATA": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    line = command.replace("audit-middleware", f"{sys.executable} -m audit_middleware")
    done = subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind, name in re.findall(r"--(sarif|junit) (\S+)", command):
        text = (tmp_path / name).read_text()
        if kind == "junit":
            assert ElementTree.fromstring(text).tag in ("testsuites", "testsuite")
        else:
            assert json.loads(text)["version"] == "2.1.0"


def test_gitlabs_job_fails_if_any_gate_does(tmp_path: Path) -> None:
    """The whole script with a command that fails at one of its calls."""
    script = "\n".join(read(GITLAB)["audit"]["script"])
    fake = tmp_path / "audit-middleware"
    fake.write_text('#!/bin/sh\necho "$1 $2" >> calls\ntest "$1 $2" != "$FAILS"\n')
    fake.chmod(0o755)
    for fails, code in (("", 0), ("policy check", 1), ("policy test", 1), ("routes example_app.app:app", 1)):
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = os.environ | EXAMPLE | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILS": fails}
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment)
        assert done.returncode == code, fails
        assert len((tmp_path / "calls").read_text().splitlines()) == 4
