"""Where things stand in a policy file: the lines that findings point to. A compiled policy does not know them."""

from __future__ import annotations

from collections.abc import Iterator

from .document import ListNode, MapNode, Node, ScalarNode, compose
from .findings import Findings

__all__ = ["Places"]


class Places:
    """Lines, from 1, of roles, channels, actions, rules and personal data of a policy that loads.

    ``personal`` is the line of the whole, ``None`` where the file says nothing of it; ``fields`` are the lines in
    it, by the names that the file uses.
    """

    def __init__(self, text: str, filename: str) -> None:
        tree = compose(text.removeprefix("\ufeff"), Findings(filename))
        self.roles = dict(_lines(_child(tree, "roles")))
        self.channels = dict(_lines(_child(tree, "channels")))
        self.actions = dict(_lines(_child(tree, "actions")))
        self.personal = dict(_lines(tree)).get("personal")
        self.fields = dict(_lines(_child(tree, "personal")))
        self._rules: dict[tuple[str, str], int] = {}
        for action in self.actions:
            body = _child(_child(tree, "actions"), action)
            for effect in ("allow", "deny"):
                rules = _child(body, effect)
                for rule in rules.items if isinstance(rules, ListNode) else ():
                    self._rules[action, _name(rule)] = rule.line

    def rule(self, action: str, name: str) -> int:
        """The line of a rule, or of its action."""
        return self._rules.get((action, name), self.actions.get(action, 1))


def _child(node: Node | None, key: str) -> Node | None:
    return node.items[key].value if isinstance(node, MapNode) and key in node.items else None


def _lines(node: Node | None) -> Iterator[tuple[str, int]]:
    if isinstance(node, MapNode):
        yield from ((key, pair.line) for key, pair in node.items.items())


def _name(rule: Node) -> str:
    named = _child(rule, "name") if isinstance(rule, MapNode) else rule
    return named.text.strip() if isinstance(named, ScalarNode) else ""
