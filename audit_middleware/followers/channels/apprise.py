"""What Apprise reaches: some hundred services, each by a URL that holds its secrets. Needs the extra ``apprise``.

Apprise has no limit for the time of an attempt as a whole, and it and its HTTP client log URLs. So it runs in a process
of its own, for one message each: that can be ended, and what it says goes nowhere. It is told the URL by its standard
input, which nobody else sees. All that Apprise answers is whether it worked.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

from pydantic import SecretStr

from ..notify.message import Notification
from ..notify.wording import lines, title
from .given import Given
from .seam import Answer, Line

_TYPES = {"critical": "failure", "high": "failure", "medium": "warning", "low": "info", "info": "info"}
_BAD_URL = 4

# Its exit code: 0 it worked, 1 it did not, 4 the URL is none of Apprise's.
_PROGRAM = f"""
import json, sys
from apprise import Apprise, NotifyFormat
told = json.load(sys.stdin)
target = Apprise()
if not target.add(told["url"]):
    sys.exit({_BAD_URL})
worked = target.notify(body=told["body"], title=told["title"], notify_type=told["type"], body_format=NotifyFormat.TEXT)
sys.exit(0 if worked else 1)
"""


@dataclass(frozen=True, slots=True)
class Apprised:
    """An Apprise URL as configured; ``timeout`` is in seconds."""

    url: SecretStr
    timeout: float

    def open(self) -> Line:
        """See `Channel`."""
        return ApprisedLine(self)


def read_apprise(given: Given) -> Apprised:
    """The settings of an Apprise channel."""
    if importlib.util.find_spec("apprise") is None:
        given.finding("type", "Apprise is not installed: pip install 'audit-middleware[apprise]'")
    return Apprised(given.secret("url"), float(given.number("timeout", 30)))


class ApprisedLine:
    """One process a message."""

    pause = 0.0

    def __init__(self, settings: Apprised) -> None:
        """Starts nothing."""
        self._settings = settings

    def send(self, told: Notification) -> Answer:
        """See `Line`."""
        body = "\n".join(f"{label}: {value}" for label, value in lines(told))
        given = {
            "url": self._settings.url.get_secret_value(),
            "title": title(told),
            "body": body,
            "type": _TYPES.get(told.event.severity, "warning"),
        }
        command = [sys.executable, "-I", "-c", _PROGRAM]
        nowhere = subprocess.DEVNULL
        try:
            code = subprocess.run(  # noqa: S603 - our own program; what it is told comes by standard input
                command, input=json.dumps(given).encode(), stdout=nowhere, stderr=nowhere,
                timeout=self._settings.timeout, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return Answer("later", f"Apprise came to no end within {self._settings.timeout:g} seconds")
        except OSError as error:
            return Answer("later", f"Apprise could not be started: {error.strerror}")
        if code == 0:
            return Answer("taken")
        return Answer("later", "this is no URL of Apprise" if code == _BAD_URL else "Apprise could not deliver it")

    def close(self) -> None:
        """See `Line`: nothing."""
