"""The inventory of routes as files that CI systems read: SARIF 2.1.0 (code scanning) and JUnit XML (test reports)."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..pipeline.inventory import PROBLEMS, Inventory, Problem, Row
from ..version import __version__

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_PREFIX = "audit-routes/"


def sarif(inventory: Inventory, policy: Path) -> dict[str, Any]:
    """One run with one result for each problem, at the endpoint's source, else in the policy file."""
    rules = [{"id": _PREFIX + code, "shortDescription": {"text": text}} for code, text in PROBLEMS.items()]
    driver = {"name": "audit-middleware", "version": __version__, "rules": rules}
    results = [_result(problem, policy) for problem in inventory.findings]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(problem: Problem, policy: Path) -> dict[str, Any]:
    place = source_of(problem.route.endpoint) if problem.route else None
    file, line = place or (str(policy), problem.line or 1)
    where = {"artifactLocation": {"uri": _relative(file)}, "region": {"startLine": line}}
    return {
        "ruleId": _PREFIX + problem.code,
        "level": "error",
        "message": {"text": str(problem)},
        "locations": [{"physicalLocation": where}],
    }


def source_of(endpoint: str) -> tuple[str, int] | None:
    """File and first line of ``module:qualname``; ``None`` where that cannot be found out."""
    module, _, name = endpoint.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    try:
        file, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except (TypeError, OSError):
        return None
    # Code of a library or of the environment is nothing that a reviewer of this repository can change.
    return (file, line) if file is not None and Path(file).is_relative_to(Path.cwd()) else None


def _relative(file: str) -> str:
    path = Path(file)
    return Path(os.path.relpath(path)).as_posix() if path.is_absolute() else path.as_posix()


def junit(inventory: Inventory, policy: Path) -> str:
    """One case for each route, and one for each problem that is no route's. Equal runs give equal bytes."""
    others = [problem for problem in inventory.findings if problem.route is None]
    counts = {
        "tests": str(len(inventory.rows) + len(others)),
        "failures": str(len(inventory.findings)),
        "errors": "0",
        "skipped": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "routes", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"routes under {policy}", **counts})
    for row in inventory.rows:
        _case(suite, row)
    for problem in others:
        case = ElementTree.SubElement(suite, "testcase", {"name": problem.code, "classname": policy.stem})
        ElementTree.SubElement(case, "failure", {"message": problem.text, "type": problem.code})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, row: Row) -> None:
    name = f"{row.route.method} {row.route.template}"
    case = ElementTree.SubElement(suite, "testcase", {"name": name, "classname": row.route.endpoint})
    if row.problem is not None:
        ElementTree.SubElement(case, "failure", {"message": row.problem, "type": row.code or ""})
