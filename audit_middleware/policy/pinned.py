"""Assertions about what is done with personal data: ``personal: gdpr`` in a test file.

They hold when in the records of the actions meant each field is treated as strictly as it says, or more: so nobody
weakens a treatment, or leaves a profile, without a test that fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..persons import Personal, Treatment
from .document import ListNode, MapNode, Node, ScalarNode
from .evaluate import Policy
from .findings import join, nearest
from .personal import effective, in_words, read_personal, strength
from .reader import Reader

__all__ = ["PINNED_KEYS", "Pinned", "read_pinned", "violations"]

PINNED_KEYS = ("fields", "actions")
_EVERY = ("*",)


@dataclass(frozen=True, slots=True)
class Pinned:
    """In records of the actions that one of the globs matches, ``fields`` are treated at least so. With every action
    those of requests without one are meant, too."""

    fields: Personal
    actions: tuple[str, ...] = _EVERY

    def __str__(self) -> str:
        fields = next(iter(self.fields), "nothing") if len(self.fields) < 2 else f"{len(self.fields)} fields"
        return f"personal: {fields} in {', '.join(self.actions)}"

    def meant(self, policy: Policy) -> Mapping[str, Personal]:
        """What is done in the records of each action that is meant."""
        found = {
            name: policy.personal_of(name)
            for name in policy.actions
            if any(fnmatchcase(name, glob) for glob in self.actions)
        }
        return {"records without an action": policy.personal, **found} if self.actions == _EVERY else found


def violations(policy: Policy, pinned: Pinned) -> tuple[str, ...]:
    """One line for each field that is treated less strictly, and where; none when the assertion holds."""
    found: dict[str, list[str]] = {}
    for name, personal in pinned.meant(policy).items():
        for path, wanted in sorted(pinned.fields.items()):
            there = effective(personal, path)
            if not _as_strict(there, wanted):
                text = f"{path} is {in_words(there)}, expected {in_words(wanted)} or stricter"
                found.setdefault(text, []).append(name)
    return tuple(f"{text}: {', '.join(names)}" for text, names in found.items())


def _as_strict(there: Treatment, wanted: Treatment) -> bool:
    """Whose key it is matters where the resource's is wanted and a key is taken at all."""
    other = wanted.of == "resource" and there.how in ("seal", "commit") and there.of != "resource"
    return strength(there) >= strength(wanted) and not other


def read_pinned(reader: Reader, node: Node, policy: Policy) -> Iterator[tuple[Pinned, int]]:
    """The assertions of ``personal:`` in a test file, each with its line: a profile, fields, or a list of both kinds
    with the actions that are meant."""
    if isinstance(node, ListNode):
        if not node.items:
            reader.findings.add(node.line, "personal", "an empty list says nothing")
        for where, item in reader.items(node, "personal"):
            yield _one(reader, item, where, policy), item.line
    else:
        yield _one(reader, node, "personal", policy), node.line


def _one(reader: Reader, node: Node, path: str, policy: Policy) -> Pinned:
    if not isinstance(node, MapNode) or not set(node.items) & set(PINNED_KEYS):
        return Pinned(read_personal(reader, node, path)[0])
    pairs = reader.table(node, path, PINNED_KEYS, required=("fields",))
    fields = read_personal(reader, pairs["fields"].value, join(path, "fields"))[0] if "fields" in pairs else {}
    if "actions" not in pairs:
        return Pinned(fields)
    listed, where = pairs["actions"].value, join(path, "actions")
    if isinstance(listed, ScalarNode):
        globs = {reader.text(listed, where): (listed.line, where)}
    else:
        globs = reader.texts(listed, where)
    for glob, (line, at) in globs.items():
        if not any(fnmatchcase(name, glob) for name in policy.actions):
            reader.findings.add(line, at, f"'{glob}' matches no action", nearest(glob, policy.actions))
    if isinstance(listed, ListNode) and not globs:
        reader.findings.add(listed.line, where, "an empty list says nothing")
    return Pinned(fields, tuple(globs))
