"""Small parsers for the line formats, written from their specifications and not from our code."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PAIR = re.compile(r"([A-Za-z][A-Za-z0-9_.\[\]]*)=((?:\\.|[^\\=])*?)(?= [A-Za-z][A-Za-z0-9_.\[\]]*=|\Z)", re.S)
_PRI = re.compile(r"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) ")


@dataclass
class Line:
    """What a parser found: the header's parts, the fields, and what follows them."""

    header: list[str]
    fields: dict[str, str]
    message: str = ""


def parse_cef(line: str) -> Line:
    """CEF:0, strictly: every backslash must begin an escape, and nothing may be left over."""
    assert line.startswith("CEF:0|")
    parts, rest = _split_header(line[len("CEF:0|") :], 6)
    fields: dict[str, str] = {}
    at = 0
    while at < len(rest):
        found = _PAIR.match(rest, at)
        assert found, f"no field at {rest[at : at + 40]!r}"
        assert found[1] not in fields, found[1]
        fields[found[1]] = _unescape(found[2], {"\\": "\\", "=": "=", "n": "\n", "r": "\r"})
        at = found.end() + 1
    return Line(parts, fields)


def parse_leef(line: str) -> Line:
    """LEEF:2.0 with a delimiter in hexadecimal."""
    version, vendor, product, release, event, delimiter, rest = line.split("|", 6)
    assert (version, delimiter) == ("LEEF:2.0", "x09")
    fields: dict[str, str] = {}
    for pair in rest.split(chr(int(delimiter[1:], 16))):
        name, found, value = pair.partition("=")
        assert found
        assert name not in fields, name
        fields[name] = value
    return Line([vendor, product, release, event], fields)


def parse_rfc5424(line: str) -> Line:
    """One message with one element of structured data."""
    head = _PRI.match(line)
    assert head, line[:80]
    at = head.end()
    assert line[at] == "["
    name = re.compile(r"\[([!-~]+?@\d+)").match(line, at)
    assert name
    at = name.end()
    fields: dict[str, str] = {}
    while line[at] != "]":
        pair = re.compile(r' ([!-<>-\\^-~]{1,32})="((?:\\["\\\]]|[^"\\\]])*)"').match(line, at)
        assert pair, f"no parameter at {line[at : at + 40]!r}"
        assert pair[1] not in fields, pair[1]
        fields[pair[1]] = _unescape(pair[2], {"\\": "\\", '"': '"', "]": "]"})
        at = pair.end()
    assert line[at + 1] == " "
    return Line([*head.groups(), name[1]], fields, line[at + 2 :])


def _split_header(text: str, count: int) -> tuple[list[str], str]:
    parts: list[str] = []
    part, at = "", 0
    while len(parts) < count:
        char = text[at]
        if char == "\\":
            assert text[at + 1] in "\\|", f"no escape: {text[at : at + 2]!r}"
            part += text[at + 1]
            at += 1
        elif char == "|":
            parts.append(part)
            part = ""
        else:
            part += char
        at += 1
    return parts, text[at:]


def _unescape(text: str, known: dict[str, str]) -> str:
    out, at = "", 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
            out += known[text[at]]
        else:
            out += text[at]
        at += 1
    return out
