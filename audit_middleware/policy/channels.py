"""Reads ``channels:``: where notifications go. A closed table of settings for each type; no secret is ever in the file.

A secret is a reference, ``${VARIABLE}`` or ``file:PATH``: the text of the reference is all that a policy holds, shows
and digests; only the notifier fetches what it names. What stands where a secret should be is never repeated in a
finding, whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from .document import Node, Pair, ScalarNode
from .findings import join
from .reader import Reader

__all__ = ["CHANNEL_NAME", "CHANNEL_TYPES", "OPTIONS", "Channel", "Option", "Value", "is_reference", "read_channels"]

Value = str | int | bool | tuple[str, ...]
Kind = Literal["secret", "url", "text", "address", "addresses", "word", "flag", "number", "path"]

CHANNEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9.:_-]{1,255}", re.ASCII)


class Option(msgspec.Struct, frozen=True):
    """One setting: what it is, and what it says in an editor. ``words`` are those of a word, ``most`` of a number."""

    kind: Kind
    told: str
    required: bool = False
    words: tuple[str, ...] = ()
    most: int = 0


_DETAIL = Option("word", "full: also the reason, the resource and the address of the caller.", words=("thin", "full"))
_PRIVATE = Option("flag", "Allow addresses that are not on the public internet.")
_CA = Option("path", "A PEM file with the certificate authorities to trust instead of the public ones.")
_TIMEOUT = Option("number", "Seconds for one attempt.", most=60)
_HTTP = {"detail": _DETAIL, "allow_private": _PRIVATE, "ca": _CA, "timeout": _TIMEOUT}

OPTIONS: Mapping[str, Mapping[str, Option]] = MappingProxyType(
    {
        "webhook": {
            "url": Option("url", "http or https; written out, or a reference.", required=True),
            "secret": Option("secret", "A reference to whsec_ and the base64 of 24 to 64 bytes.", required=True),
            "previous_secret": Option("secret", "A second signature with it."),
            **_HTTP,
        },
        "slack": {"url": Option("secret", "A reference to the URL of an incoming webhook.", required=True), **_HTTP},
        "pagerduty": {
            "routing_key": Option("secret", "A reference to an Events API v2 integration key.", required=True),
            "url": Option("url", "Another Events API than that of the US region."),
            **_HTTP,
        },
        "email": {
            "host": Option("text", "The SMTP server.", required=True),
            "from": Option("address", "The sender's address.", required=True),
            "to": Option("addresses", "The recipients' addresses.", required=True),
            "port": Option("number", "Default: 587, with tls 465, with none 25.", most=65_535),
            "security": Option("word", "How the connection is encrypted.", words=("starttls", "tls", "none")),
            "username": Option("secret", "A reference to a user's name."),
            "password": Option("secret", "A reference to the password."),
            "detail": _DETAIL,
            "ca": _CA,
            "timeout": _TIMEOUT,
        },
        "apprise": {
            "url": Option("secret", "A reference to an Apprise URL.", required=True),
            "detail": _DETAIL,
            "timeout": _TIMEOUT,
        },
    }
)
"""The settings of each type of channel, by key."""

CHANNEL_TYPES: tuple[str, ...] = tuple(OPTIONS)
_NO_SECRET = "a secret does not stand in this file: write ${VARIABLE} or file:PATH"  # noqa: S105 - a message


class Channel(msgspec.Struct, frozen=True):
    """Where notifications go: its type, and the settings that the file gives; secrets as references."""

    type: str
    options: Mapping[str, Value]


def is_reference(text: str) -> bool:
    """Whether a text names a secret instead of being one."""
    return (text.startswith("file:") and len(text) > len("file:")) or VARIABLE.fullmatch(text) is not None


def url_problem(url: str) -> str | None:
    """What is wrong with the URL of a destination, without showing it; ``None`` if nothing is."""
    if not url.isprintable() or " " in url:
        return "holds a space, a line break or another character that no URL has"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        return "is no http or https URL with a host"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password: give them by the settings that are made for secrets"
    return "has a fragment (#), which no server would see" if parts.fragment else None


def read_channels(reader: Reader, node: Node, path: str = "channels") -> dict[str, Channel]:
    """The channels of a mapping, by name; what is wrong becomes findings."""
    found: dict[str, Channel] = {}
    for name, pair in reader.table(node, path).items():
        where = join(path, name)
        if not CHANNEL_NAME.fullmatch(name):
            text = "is no name: at most 40 small letters, digits, - and _; it becomes a file's name"
            reader.findings.add(pair.line, where, text)
        found[name] = _channel(reader, pair.value, where)
    return found


def _channel(reader: Reader, node: Node, path: str) -> Channel:
    pairs = reader.table(node, path, required=("type",))
    if "type" not in pairs:
        return Channel("", MappingProxyType({}))
    kind = reader.choice(pairs["type"].value, join(path, "type"), CHANNEL_TYPES, "")
    if not kind:
        return Channel("", MappingProxyType({}))
    options = OPTIONS[kind]
    required = [key for key, option in options.items() if option.required]
    pairs = reader.table(node, path, ("type", *options), required=required)
    values = {
        key: _value(reader, options[key], pair, join(path, key)) for key, pair in sorted(pairs.items()) if key != "type"
    }
    if kind == "email":
        _login(reader, values, node.line, path)
    return Channel(kind, MappingProxyType(values))


def _login(reader: Reader, values: Mapping[str, Value], line: int, path: str) -> None:
    if ("username" in values) != ("password" in values):
        reader.findings.add(line, path, "username and password go together")
    elif "password" in values and values.get("security") == "none":
        text = "security: none would send the password in the clear"
        reader.findings.add(line, join(path, "security"), text)


def _value(reader: Reader, option: Option, pair: Pair, path: str) -> Value:
    node = pair.value
    if option.kind in ("secret", "url"):
        return _outside(reader, option.kind, node, path)
    if option.kind == "flag":
        return reader.flag(node, path)
    if option.kind == "number":
        return reader.integer(node, path, 1, option.most)
    if option.kind == "word":
        return reader.choice(node, path, option.words, option.words[0])
    if option.kind == "addresses":
        found = reader.texts(node, path)
        for text, (line, where) in found.items():
            _address(reader, text, line, where)
        if not found:
            reader.findings.add(node.line, path, "lists no address")
        return tuple(found)
    text = reader.text(node, path)
    if option.kind == "address":
        _address(reader, text, node.line, path)
    elif option.kind == "text" and text and not HOST.fullmatch(text):
        reader.findings.add(node.line, path, "is no name of a host")
    return text


def _outside(reader: Reader, kind: str, node: Node, path: str) -> str:
    """A reference, or a URL; read here, because the reader's own findings repeat what they found."""
    text = node.text.strip() if isinstance(node, ScalarNode) else ""
    if is_reference(text) and "\n" not in text and "\t" not in text:
        return text
    if kind == "secret" or not text:
        reader.findings.add(node.line, path, _NO_SECRET if kind == "secret" else "expected a URL or a reference")
        return ""
    if problem := url_problem(text):
        reader.findings.add(node.line, path, problem)
        return ""
    return text


def _address(reader: Reader, text: str, line: int, path: str) -> None:
    if text and not ADDRESS.fullmatch(text):
        reader.findings.add(line, path, "is no plain e-mail address such as security@example.com")
