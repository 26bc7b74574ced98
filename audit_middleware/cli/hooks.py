"""The pre-commit hooks: ``python -m audit_middleware.cli.hooks check|test FILE...``, with the files that changed.

``--predicates=MODULE:NAME`` before the files is for policies that name Python predicates.

pre-commit gives policies and their tests in one list, in any order. A policy is checked once; tests are run for each
policy that is given or whose test file is. Exit code 1 if anything fails, 2 for wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import PolicyError
from ..policy.conditions import PredicateFunction
from ..policy.load import load
from ..policy.suite import EXIT_OK, run
from .imports import load_predicates
from .output import USAGE, err, shown

_TEST = ("_test.yaml", "_test.yml")


def policies(files: Iterable[str]) -> Iterator[Path]:
    """The policies among these files, each once."""
    return (path for path in _unique(map(Path, files)) if not path.name.endswith(_TEST))


def tested(files: Iterable[str]) -> Iterator[Path]:
    """The policies whose tests are to be run: those given, and for a test file every policy in its folder."""
    found: list[Path] = []
    for path in map(Path, files):
        beside = path.parent.glob("*.y*ml") if path.name.endswith(_TEST) else [path]
        found += sorted(one for one in beside if not one.name.endswith(_TEST))
    return _unique(found)


def check(path: Path, predicates: Mapping[str, PredicateFunction]) -> bool:
    """Does the policy load?"""
    try:
        load(path, predicates=predicates)
    except PolicyError as problem:
        err.print(shown(str(problem), newlines=True))
        return False
    return True


def test(path: Path, predicates: Mapping[str, PredicateFunction]) -> bool:
    """Do the policy's tests pass? A policy without tests does not."""
    result = run(path, predicates=predicates)
    if result.exit_code != EXIT_OK:
        err.print(shown(result.tree(), newlines=True))
    return result.exit_code == EXIT_OK


_OPTION = "--predicates="
_Holds = Callable[[Path, Mapping[str, PredicateFunction]], bool]
_COMMANDS: dict[str, tuple[Callable[[Iterable[str]], Iterator[Path]], _Holds]] = {
    "check": (policies, check),
    "test": (tested, test),
}


def main(arguments: list[str]) -> int:
    """Runs one hook over all of its files; every failure is shown."""
    if not arguments or arguments[0] not in _COMMANDS:
        err.print("usage: python -m audit_middleware.cli.hooks check|test [--predicates=MODULE:NAME] FILE...")
        return USAGE
    select, holds = _COMMANDS[arguments[0]]
    files = [text for text in arguments[1:] if not text.startswith(_OPTION)]
    given = next((text.removeprefix(_OPTION) for text in arguments[1:] if text.startswith(_OPTION)), None)
    predicates = load_predicates(given)
    failed = [path for path in select(files) if not holds(path, predicates)]
    return 1 if failed else 0


def _unique(paths: Iterable[Path]) -> Iterator[Path]:
    return iter(dict.fromkeys(paths))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
