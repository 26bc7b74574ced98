"""The pre-commit hooks, run by pre-commit itself over repositories made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from audit_middleware.cli import hooks

ROOT = Path(__file__).parents[2]
IDENTITY = {
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.com", "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.com",
}  # fmt: skip
POLICY = "version: 1\nname: shop\nroles: {clerk: {}}\nactions: {a.b: {allow: [clerk]}}\n"
TESTS = (
    "subjects: {ann: {id: ann, roles: [clerk]}}\n"
    "tests: [{name: t, subjects: [ann, nobody], actions: [a.b], expect: [{subject: ann, actions: {a.b: allow}}]}]\n"
)
SHOP = """
from starlette.applications import Starlette
from starlette.routing import Route
from audit_middleware import action


@action("a.b")
def page(request): ...


app = Starlette(routes=[Route("/", page)])
"""


class Repository:
    """A repository that uses the hooks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "service"
        self._environment = os.environ | IDENTITY | {
            "PRE_COMMIT_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        hooked = folder / "hooks"
        hooked.mkdir()
        shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooked)
        self._commit(hooked)
        revision = self._git(hooked, "rev-parse", "HEAD").strip()
        (self.path / "policies").mkdir(parents=True)
        self.write("policies/shop.yaml", POLICY)
        self.write("policies/shop_test.yaml", TESTS)
        self.write("shop.py", SHOP)
        # In the environment that is here, instead of one that would have to be downloaded.
        ids = ("audit-policy-check", "audit-policy-test", "audit-routes")
        used: list[dict[str, object]] = [{"id": name, "language": "system"} for name in ids]
        used[2]["args"] = ["shop:app", "--policy", "policies/shop.yaml"]
        config = {"repos": [{"repo": str(hooked), "rev": revision, "hooks": used}]}
        self.write(".pre-commit-config.yaml", yaml.safe_dump(config))
        self._commit(self.path)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def run(self, *arguments: str) -> tuple[int, str]:
        """``pre-commit run``; exit code and output."""
        self._git(self.path, "add", "-A")
        command = [sys.executable, "-m", "pre_commit", "run", "--color", "never", *(arguments or ("--all-files",))]
        done = subprocess.run(command, cwd=self.path, env=self._environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def _commit(self, path: Path) -> None:
        self._git(path, "init", "-q")
        self._git(path, "add", "-A")
        self._git(path, "commit", "-qm", "all")

    def _git(self, path: Path, *arguments: str) -> str:
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        done = subprocess.run(command, cwd=path, env=self._environment, capture_output=True, text=True, check=True)
        return done.stdout


def test_pre_commit_runs_the_hooks(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    code, output = repository.run()
    assert code == 0, output
    assert output.count("Passed") == 3

    repository.write("policies/shop.yaml", POLICY.replace("[clerk]", "[clark]"))
    code, output = repository.run("audit-policy-check", "--all-files")
    assert code == 1
    assert "unknown role 'clark'; did you mean 'clerk'?" in output

    repository.write("policies/shop.yaml", POLICY.replace("[clerk]", "[anyone]"))
    code, output = repository.run("audit-policy-test", "--files", "policies/shop_test.yaml")
    assert code == 1
    assert "nobody a.b: expected deny, got allow" in output

    repository.write("policies/shop.yaml", POLICY)
    repository.write("shop.py", SHOP.replace('@action("a.b")', ""))
    code, output = repository.run("audit-routes", "--all-files")
    assert code == 1
    assert "GET / (shop:page): has no action" in output


def test_the_manifest_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hook", ["audit-policy-check", "audit-policy-test"])
def test_try_repo_installs_and_runs(hook: str, tmp_path: Path) -> None:
    """As a user would try them: pre-commit clones this repository and installs it."""
    environment = os.environ | {"PRE_COMMIT_HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "pre_commit", "try-repo", str(ROOT), hook, "--all-files"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if "No matching distribution" in output or "NewConnectionError" in output:
        pytest.skip("the package registry cannot be reached from here")
    assert done.returncode == 0, output
    assert "Passed" in output


# --- which files ---------------------------------------------------------------------------------------------------


def test_a_test_file_stands_for_the_policies_beside_it(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "a_test.yaml", "notes.txt"):
        (tmp_path / name).touch()
    files = [str(tmp_path / "a_test.yaml"), str(tmp_path / "a.yaml"), str(tmp_path / "a.yaml")]
    assert [path.name for path in hooks.policies(files)] == ["a.yaml"]
    assert [path.name for path in hooks.tested(files)] == ["a.yaml", "b.yml"]
    assert [path.name for path in hooks.tested([str(tmp_path / "b.yml")])] == ["b.yml"]


def test_every_failure_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("version: 7\n")
    assert hooks.main(["check", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 1
    shown = capsys.readouterr().err
    assert "a.yaml" in shown
    assert "b.yaml" in shown
    assert hooks.main(["test", str(tmp_path / "a.yaml")]) == 1


def test_a_policy_without_tests_does_not_pass(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY)
    assert hooks.main(["check", str(tmp_path / "a.yaml")]) == 0
    assert hooks.main(["test", str(tmp_path / "a.yaml")]) == 1
    (tmp_path / "a_test.yaml").write_text(TESTS)
    assert hooks.main(["test", str(tmp_path / "a.yaml")]) == 0


def test_wrong_use() -> None:
    assert hooks.main([]) == 2
    assert hooks.main(["lint", "x"]) == 2


def test_policies_with_predicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "allow: [{name: r, roles: [clerk], when: {predicate: on_call}}]"
    Path("shop.yaml").write_text(POLICY.replace("allow: [clerk]", rule))
    Path("shop_test.yaml").write_text(TESTS)
    Path("hook_predicates.py").write_text("def on_call(request):\n    return True\n")
    for name in ("check", "test"):
        assert hooks.main([name, "--predicates=hook_predicates", "shop.yaml"]) == 0
        assert hooks.main([name, "shop.yaml"]) == 1
        assert "none were given" in capsys.readouterr().err
