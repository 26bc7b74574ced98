"""The reference pages say what the code says: settings, commands, record, errors, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

import audit_middleware
from audit_middleware import errors
from audit_middleware.cli import app, main
from audit_middleware.cli.inspect import record_schema
from audit_middleware.policy.load import loads
from audit_middleware.settings import Settings
from tests.kit import Running, call

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def read(name: str) -> str:
    return (DOCS / name).read_text()


def test_every_setting_is_documented() -> None:
    page = read("settings.md")
    for name, field in Settings.model_fields.items():
        assert f"`{name}`" in page, name
        assert str(field.description) in page, f"{name}: the page has another description"


def commands(group: TyperGroup, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


def test_every_command_and_option_is_documented() -> None:
    page = read("cli.md")
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    listed = commands(group)
    assert len(listed) >= 9
    for name, command in listed.items():
        section = re.search(rf"^## `{re.escape(name)}`\n(.*?)(?=^## |\Z)", page, re.S | re.M)
        assert section, f"{name} has no section"
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in section[1], f"{name} {option} is not documented"


def test_every_error_is_in_the_tree() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type)}
    for name in names:
        assert name in (errors.__doc__ or ""), name
        assert issubclass(getattr(errors, name), errors.AuditError)


def test_the_published_schema_is_the_models() -> None:
    assert json.loads(read("record.schema.json")) == record_schema(), (
        "run: audit-middleware schema > docs/record.schema.json"
    )


def test_every_field_of_the_record_is_documented() -> None:
    page = read("record.md")
    for name in record_schema()["properties"]:
        assert f"`{name}`" in page, name


def test_the_public_names_are_few_documented_and_frozen() -> None:
    assert sorted(audit_middleware.__all__) == [
        "AuditError",
        "AuditMiddleware",
        "CorrelationFilter",
        "Resource",
        "Subject",
        "__version__",
        "action",
        "annotate",
        "correlate_client",
        "current_action_id",
        "current_subject",
        "record",
    ]
    text = "\n".join(page.read_text() for page in PAGES)
    for name in audit_middleware.__all__:
        assert getattr(audit_middleware, name) is not None
        assert name in text or name == "__version__", f"{name} is nowhere in the documentation"


def fenced(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}", match[1])
        for page in PAGES
        for text in [page.read_text()]
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M)
    ]


@pytest.mark.parametrize(("where", "code"), fenced("python"), ids=[where for where, _ in fenced("python")])
def test_python_in_the_documentation_runs(where: str, code: str) -> None:
    exec(compile(code, where, "exec"), {"__name__": "docs"})


@pytest.mark.parametrize(("where", "text"), fenced("yaml"), ids=[where for where, _ in fenced("yaml")])
def test_policies_in_the_documentation_load(where: str, text: str) -> None:
    if text.startswith("version:") and "\nactions:" in text:
        loads(text, where)


def test_the_readmes_first_steps_work_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands, the five lines and the policy of the README, and nothing else."""
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\$ audit-middleware ((?:subject )?init .*?)(?: +#.*)?$", readme, re.M)
    assert [one.split()[0] for one in commands] == ["init", "subject"]
    code = re.findall(r"^```python\n(.*?)^```", readme, re.S | re.M)[0]
    policy = re.findall(r"^```yaml\n(.*?)^```", readme, re.S | re.M)[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "billing.yaml").write_text(policy)
    for command in commands:
        monkeypatch.setattr("sys.argv", ["audit-middleware", *command.split()])
        with contextlib.suppress(SystemExit):
            main()
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(code, "README.md", "exec"), names)

    async def ask() -> int | None:
        async with Running(names["app"]) as running:
            assert running.failed is None, running.failed
            return (await call(names["app"], "DELETE", "/invoices/1")).status

    assert asyncio.run(ask()) == 401


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_project_speaks_of_itself_alone() -> None:
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"/(tmp|root|work|home)/", text), page
