"""Slack, by an incoming webhook; also Mattermost and others that take the same message.

What Slack refuses: more than 50 blocks, more than 3,000 characters in a section's text, and in practice more than about
13,000 in all; and more than one message a second. Its notation gives ``&``, ``<`` and ``>`` a meaning: escaped, they
make no link, no mention and no ``<!channel>`` (Slack, "Formatting text for app surfaces"). Bare ``@here`` means
something where names are linked: that is switched off, and an invisible character behind the sign takes away the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..notify.message import Notification, clean
from ..notify.wording import lines, title
from .given import Given, Http
from .seam import HttpLine, Line

SECTION, TOTAL, PAUSE = 3_000, 12_000, 1.05
HEAD, VALUE = 500, 300
"""Characters of the title and of a value before they are escaped, which makes one character five at most."""
_BREAK = "\u200b"  # zero width: behind an @ or # nothing is a name any more
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": f"@{_BREAK}", "#": f"#{_BREAK}"})


def escape(text: str) -> str:
    """Text that Slack shows as it is."""
    return text.translate(_ESCAPES)


@dataclass(frozen=True, slots=True)
class Slack:
    """An incoming webhook as configured."""

    http: Http

    def __repr__(self) -> str:
        return "Slack(...)"

    def open(self) -> Line:
        """See `Channel`."""
        return HttpLine(self.http.open(), _encode, pause=PAUSE)


def read_slack(given: Given) -> Slack:
    """The settings of an incoming webhook."""
    return Slack(given.http(given.url()))


def _encode(told: Notification) -> tuple[bytes, Mapping[str, str]]:
    body = json.dumps(message(told), ensure_ascii=False).encode()
    return body, {"Content-Type": "application/json; charset=utf-8"}


def message(told: Notification) -> dict[str, Any]:
    """The message as JSON. What does not fit is left out, whole lines at a time."""
    head = escape(clean(title(told), HEAD))
    room = TOTAL - 2 * len(head)
    texts = [f"*{head}*"]
    for label, value in lines(told):
        line = f"*{label}:* {escape(clean(value, VALUE))}"
        if len(line) + 1 > room:
            break
        room -= len(line) + 1
        if len(texts) == 1 or len(texts[-1]) + 1 + len(line) > SECTION:
            texts.append(line)
        else:
            texts[-1] += f"\n{line}"
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}} for text in texts]
    return {
        "text": head,
        "blocks": blocks,
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }
