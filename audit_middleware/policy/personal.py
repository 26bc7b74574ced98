"""``personal:``: which fields of a record are personal data, and what is done with each before it is hashed.

What a policy says is compiled to one mapping from paths in the record to treatments, and the same for each action that
is stricter. In a compiled mapping

* every path is a field of `fields.FIELDS` or a member of one; parts (``request``) and profiles are spelled out;
* a member is there only where it is treated otherwise than what it lies in, and never weaker, because what is sealed as
  a whole cannot show a member;
* members come before what they lie in, so whoever carries it out in this order treats them first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ..errors import PolicyError
from ..persons import HOWS, How, Personal, Treatment, Whose
from .document import MapNode, Node, ScalarNode
from .findings import join, nearest
from .reader import Reader

__all__ = [
    "CLEAR",
    "NOTHING",
    "effective",
    "in_words",
    "merged",
    "read_personal",
    "read_stricter",
    "strength",
    "to_json",
]

CLEAR = Treatment("clear")
NOTHING: Personal = MappingProxyType({})
TREATMENT_KEYS = ("as", "of")
WHOSE: tuple[Whose, ...] = ("subject", "resource")
_Asked = tuple[How, Whose | None]
_SYNONYMS = {"redact": "drop", "remove": "drop", "encrypt": "seal", "hash": "commit", "pseudonym": "token"}


class _Said(msgspec.Struct, frozen=True):
    """One line of a mapping: what a field shall be, where it is said, and under which name."""

    treatment: Treatment
    line: int
    where: str


def strength(treatment: Treatment) -> int:
    """How strict a treatment is; 0 is clear. Whose key is taken makes none stricter."""
    return HOWS.index(treatment.how)


def effective(personal: Personal, path: str) -> Treatment:
    """What is done with the value at a path: the strictest of what is said of it and of what it lies in."""
    found = [personal[one] for one in (path, *_around(path)) if one in personal]
    return max(found, key=strength, default=CLEAR)


def merged(policy: Personal, own: Personal) -> Personal:
    """The policy's treatments and those of one action, which are at least as strict."""
    return _compiled({**policy, **own}) if own else policy


def to_json(personal: Personal) -> dict[str, Any]:
    """The treatments as the language writes them."""
    return {path: _word(treatment) for path, treatment in personal.items()}


def in_words(treatment: Treatment) -> str:
    """Such as ``seal`` and ``seal of resource``."""
    return treatment.how if isinstance(_word(treatment), str) else f"{treatment.how} of {treatment.of}"


def _word(treatment: Treatment) -> str | dict[str, str]:
    # The token of resource.id is of the resource without being told so.
    if treatment.of == "subject" or treatment.how == "token":
        return treatment.how
    return {"as": treatment.how, "of": treatment.of}


def _around(path: str) -> Iterator[str]:
    """What a path lies in, from the nearest on."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _compiled(found: Mapping[str, Treatment]) -> Personal:
    kept: dict[str, Treatment] = {}
    for path, treatment in found.items():
        over = max((found[one] for one in _around(path) if one in found), key=strength, default=CLEAR)
        if strength(treatment) > strength(over) or (treatment != over and strength(treatment) == strength(over) > 0):
            kept[path] = treatment
    return MappingProxyType({path: kept[path] for path in sorted(kept, key=lambda one: (-one.count("."), one))})


# --- reading -----------------------------------------------------------------------------------------------------


def read_personal(reader: Reader, node: Node, path: str = "personal") -> tuple[Personal, str | None]:
    """The policy's ``personal:``, compiled, and the profile it starts from."""
    from .profiles import PROFILES  # here, as with the fields: many policies call nothing personal

    profile: str | None = None
    said: dict[str, _Said] = {}
    if isinstance(node, MapNode):
        if "profile" in node.items:
            profile = reader.choice(node.items["profile"].value, join(path, "profile"), tuple(PROFILES), "")
        said = _fields(reader, node, path)
    elif isinstance(node, ScalarNode):
        profile = reader.choice(node, path, tuple(PROFILES), "")
    else:
        text = f"expected a profile ({', '.join(PROFILES)}) or a mapping of fields to treatments, found a list"
        reader.findings.add(node.line, path, text)
    base = {field: entry.treatment for field, entry in PROFILES.get(profile or "", {}).items()}
    return _compiled(_nested(reader, base, said, f" by the profile {profile}")), profile


def read_stricter(reader: Reader, node: Node, path: str, policy: Personal) -> Personal:
    """An action's own ``personal:``: what is not as the policy has it, and at least as strict."""
    if not isinstance(node, MapNode):
        reader.table(node, path)
        return NOTHING
    if "profile" in node.items:
        line = node.items["profile"].line
        reader.findings.add(line, join(path, "profile"), "a profile is of the whole policy: name fields here")
    said = _fields(reader, node, path)
    for field, one in said.items():
        if (over := _stricter(policy, field, one.treatment)) is not None:
            text = f"{one.treatment.how} is weaker than the policy's {policy[over].how} of {over}"
            reader.findings.add(one.line, one.where, f"{text}: an action may only be stricter")
    whole = merged(policy, _nested(reader, {}, said, ""))
    return MappingProxyType({name: treatment for name, treatment in whole.items() if policy.get(name) != treatment})


def _weaker(one: Treatment, other: Treatment) -> bool:
    return strength(one) < strength(other)


def _stricter(policy: Personal, field: str, treatment: Treatment) -> str | None:
    """What of the policy an action's treatment of a field would undo; ``clear`` speaks of all members as well."""
    related = [one for one in (field, *_around(field)) if one in policy]
    if treatment == CLEAR:
        related += [one for one in policy if one.startswith(f"{field}.")]
    return next((one for one in related if _weaker(treatment, policy[one])), None)


def _nested(
    reader: Reader, base: Mapping[str, Treatment], said: Mapping[str, _Said], by: str
) -> Mapping[str, Treatment]:
    """``base`` with what is said of it; what is hidden as a whole cannot show a member."""
    whole = dict(base) | {path: one.treatment for path, one in said.items()}
    for path, one in said.items():
        over = next((name for name in _around(path) if name in whole and _weaker(one.treatment, whole[name])), None)
        if over is not None:
            text = f"{one.treatment.how} is weaker than {whole[over].how} of {over}{'' if over in said else by}"
            reader.findings.add(one.line, one.where, f"{text}, which hides all of it: name members instead")
    return whole


def _fields(reader: Reader, node: MapNode, path: str) -> dict[str, _Said]:
    """What a mapping says of each field; where a part of the record and a field in it are named, the field counts."""
    from .fields import canonical_path, leaves, problem

    named: dict[str, tuple[_Asked, int, str]] = {}
    if not node.items:
        reader.findings.add(node.line, path, "nothing is declared: remove it, or name a field")
    for name, pair in node.items.items():
        where = join(path, name)
        asked = _asked(reader, pair.value, where) if name != "profile" else None
        if name == "profile":
            continue
        try:
            field = canonical_path(name)
        except PolicyError as error:
            reader.findings.add(pair.line, where, str(error))
            continue
        if field in named:
            reader.findings.add(pair.line, where, f"{field} is treated on line {named[field][1]} already")
        elif asked is not None:
            named[field] = (asked, pair.line, where)
    found: dict[str, _Said] = {}
    for field, (asked, line, where) in sorted(named.items(), key=lambda one: len(leaves(one[0])), reverse=True):
        for leaf in leaves(field):
            treatment = _of(leaf, asked)
            if (text := problem(leaf, treatment)) is not None:
                reader.findings.add(line, where, text)
                break
            found[leaf] = _Said(treatment, line, where)
    return found


def _asked(reader: Reader, node: Node, path: str) -> _Asked | None:
    """The treatment as written: what is done, and whose data it is where that is said."""
    whose: Whose | None = None
    if isinstance(node, MapNode):
        pairs = reader.table(node, path, TREATMENT_KEYS, required=("as",))
        if "of" in pairs:
            whose = reader.choice(pairs["of"].value, join(path, "of"), WHOSE, "subject")
        if "as" not in pairs:
            return None
        node, path = pairs["as"].value, join(path, "as")
    text = reader.text(node, path)
    for how in HOWS:
        if how == text:
            return how, whose
    if text:
        hint = f"; did you mean '{_SYNONYMS[text]}'?" if text in _SYNONYMS else nearest(text, HOWS)
        reader.findings.add(node.line, path, f"'{text}' is not one of {', '.join(HOWS)}", hint)
    return None


def _of(leaf: str, asked: _Asked) -> Treatment:
    """The pseudonym of what was acted on is its own; anything else is of who asked, unless another is named."""
    how, whose = asked
    return Treatment(how, whose or ("resource" if leaf == "resource.id" and how == "token" else "subject"))
