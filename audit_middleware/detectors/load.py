"""Rule files to rules, strictly: everything wrong is reported at once, with file and line.

A file of one's own with the id of a shipped rule takes its place; with ``status: deprecated`` it switches the rule off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, PolicyError
from ..formats.text import canonical
from ..policy.document import ListNode, MapNode, Node, Pair, compose, decode
from ..policy.findings import Findings, nearest
from .model import Detection, Rule, Rules
from .read import Head, RuleReader, read_head
from .read_correlation import read_correlation, references
from .read_custom import USER, read_custom
from .read_detection import read_detection, read_logsource

__all__ = ["SHIPPED", "load_rules"]

SHIPPED: Final = Path(__file__).parent / "rules"
_MAX_FILES = 2_000


def load_rules(paths: Sequence[Path], *, shipped: bool) -> Rules:
    """The rules in these files, and in all ``*.yml`` and ``*.yaml`` below these folders; with ``shipped`` also ours.

    Raises:
        ConfigError: A file cannot be read or is no rule of the subset; the message holds every finding, one a line.
    """
    problems: list[str] = []
    read = [_File(path, ours=True) for path in _files(SHIPPED)] if shipped else []
    for path in paths:
        try:
            read += [_File(found, ours=False) for found in _files(path)]
        except OSError as error:
            raise ConfigError(f"{path}: the rules cannot be read: {error.strerror or error}") from None
    for one in read:
        problems += one.attempt(one.open)
    whole = _without_replaced([one for one in read if one.head is not None])
    problems += _same_names(whole)
    rules = _resolved(whole, problems) if not problems else []
    if problems:
        raise ConfigError("\n".join(problems))
    return Rules(tuple(rules), _digest(whole), {one.id: str(one.path) for one in whole})


def _files(path: Path) -> list[Path]:
    """In an order that is the same everywhere. Raises `OSError`."""
    if not path.is_dir():
        path.stat()
        return [path]
    found = [one for one in path.rglob("*") if one.suffix in (".yml", ".yaml") and one.is_file()]
    if len(found) > _MAX_FILES:
        raise OSError(0, f"more than {_MAX_FILES} files")
    return sorted(found, key=lambda one: one.relative_to(path).parts)


@dataclass
class _File:
    """One rule file on its way to a rule."""

    path: Path
    ours: bool
    head: Head | None = None
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    root: Node | None = None
    rule: Rule | None = None
    refers: tuple[str, ...] = ()
    generate: bool = False

    @property
    def id(self) -> str:
        return "" if self.head is None else self.head.id

    @property
    def names(self) -> tuple[str, ...]:
        """What others may call it."""
        return () if self.head is None else tuple(name for name in (self.head.id, self.head.name) if name)

    @property
    def off(self) -> bool:
        """Kept for reference only."""
        return self.head is not None and not self.head.on

    @property
    def correlation(self) -> bool:
        return "correlation" in self.pairs

    def attempt(self, step: Any, *arguments: Any) -> list[str]:
        """Does one step; returns what is wrong."""
        findings = Findings(str(self.path))
        try:
            step(RuleReader(findings), *arguments)
            findings.close()
        except PolicyError as error:
            return [str(error)]
        except OSError as error:
            return [f"{self.path}: {error.strerror}"]
        return []

    def open(self, reader: RuleReader) -> None:
        """Reads all that needs no other file."""
        self.root = compose(decode(self.path.read_bytes(), reader.findings), reader.findings)
        head, self.pairs = read_head(reader, self.root)
        custom = read_custom(reader, self.pairs.get("custom"), correlation=self.correlation)
        if self.correlation:
            self.refers = tuple(references(reader, self.pairs))
        elif "logsource" in self.pairs and "detection" in self.pairs:
            kind, service = read_logsource(reader, self.pairs["logsource"].value)
            body = Detection(kind, service, read_detection(reader, self.pairs["detection"].value), custom.detector)
            users = any(one.name in USER for one in custom.group_by)
            names = tuple(one.name for one in custom.group_by)
            self.rule = Rule(
                head.id, head.name or head.id, head.title, head.level, body, names, custom.group_by, custom.cooldown,
                head.on, users or custom.detector is None, custom.respond,
            )  # fmt: skip
        reader.findings.close()
        self.head = head

    def correlate(self, reader: RuleReader, known: Mapping[str, _File]) -> None:
        """Reads a correlation; what it refers to has been read."""
        head = self.head
        if head is None:  # only whole files get here
            return
        reader.taxonomy = head.taxonomy
        places = references(reader, self.pairs)
        for name, (line, path) in places.items():
            if name not in known:
                reader.findings.add(line, path, f"there is no rule '{name}'", nearest(name, known))
            elif known[name].off:
                reader.findings.add(line, path, f"the rule '{name}' is switched off by its status")
        rules = {name: (one.head, one.rule) for name, one in known.items() if one.head and one.rule}
        body, group = read_correlation(reader, self.pairs, rules)
        self.generate = group.generate
        custom = read_custom(reader, self.pairs.get("custom"), correlation=True)
        if custom.respond is not None and not group.users:
            text = "only a rule whose group-by has the user can respond"
            reader.findings.add(self.pairs["custom"].line, "custom.respond", text)
        reader.findings.close()
        self.rule = Rule(
            head.id, head.name or head.id, head.title, head.level, body, group.names, (), body.span,
            head.on, group.users, custom.respond,
        )  # fmt: skip


def _without_replaced(files: Sequence[_File]) -> list[_File]:
    """Without shipped rules whose id a file of the user's has."""
    own = {one.id for one in files if not one.ours}
    return [one for one in files if not (one.ours and one.id in own)]


def _same_names(files: Sequence[_File]) -> Iterator[str]:
    seen: dict[str, _File] = {}
    for one in files:
        for name in one.names:
            if name in seen:
                yield f"{one.path}:1: the rule '{name}' is already in {seen[name].path}"
            seen[name] = one


def _resolved(files: Sequence[_File], problems: list[str]) -> list[Rule]:
    """All rules that are on, each after those that it refers to."""
    known = {name: one for one in files for name in one.names}
    done: dict[str, _File] = {}
    used: set[str] = set()

    def visit(one: _File, above: tuple[str, ...]) -> None:
        if one.id in above:
            problems.append(f"{one.path}:1: the rule refers to itself, by way of {' and '.join(above)}")
        if one.id in done or one.id in above:
            return
        for name in one.refers:
            if name in known:
                visit(known[name], (*above, one.id))
        if one.correlation and not problems:
            problems.extend(one.attempt(one.correlate, known))
            if not problems and not one.off and not one.generate:
                used.update(known[name].id for name in one.refers)
        done[one.id] = one

    for one in sorted(files, key=lambda one: one.id):
        visit(one, ())
    rules = [one.rule for one in done.values() if one.rule is not None and not one.off]
    return [replace(rule, alone=rule.alone and rule.id not in used) for rule in rules]


def _digest(files: Sequence[_File]) -> str:
    """Over what the files say; not over comments, white space and names of files."""
    return sha256(canonical([[one.id, _said(one.root)] for one in sorted(files, key=lambda one: one.id)])).hexdigest()


def _said(node: Node | None) -> Any:
    if isinstance(node, MapNode):
        return {key: _said(pair.value) for key, pair in node.items.items()}
    if isinstance(node, ListNode):
        return [_said(item) for item in node.items]
    return None if node is None else [node.text, node.plain]
