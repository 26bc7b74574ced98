"""E-mail over SMTP: plain text, encrypted by STARTTLS or TLS. Needs the extra ``email``.

Headers are made by the standard library's ``EmailMessage`` from text that is one line already, so nothing of a record
can begin a header of its own. ``Message-ID`` is made of the notification's id: a repetition is the same message to a
mail system. What is about one key is one thread (``References``).
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import re
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from pathlib import Path

from pydantic import SecretStr

from ...errors import FollowerError
from ..notify.message import Notification
from ..notify.wording import lines, title
from .given import Given
from .seam import Answer, Line

SUBJECT = 250
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server, a sender and recipients as configured; ``timeout`` is in seconds."""

    host: str
    port: int
    security: str
    sender: str
    recipients: tuple[str, ...]
    username: SecretStr
    password: SecretStr
    ca: Path | None
    timeout: float

    def open(self) -> Line:
        """See `Channel`."""
        try:
            tls = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise FollowerError(f"{self.ca}: no certificates can be read there: {type(error).__name__}") from error
        return MailLine(self, tls)


def read_email(given: Given) -> Mail:
    """The settings of a mail channel."""
    if importlib.util.find_spec("aiosmtplib") is None:
        given.finding("type", "e-mail needs aiosmtplib: pip install 'audit-middleware[email]'")
    security = given.text("security", "starttls")
    return Mail(
        given.text("host"), given.number("port", _PORTS[security]), security, given.text("from"), given.texts("to"),
        given.secret("username"), given.secret("password"), given.path("ca"), float(given.number("timeout", 20)),
    )  # fmt: skip


def message(told: Notification, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """The message; every header is one line."""
    domain = re.sub(r"[^a-z0-9.-]", "-", told.origin.partition("/")[0].lower()).strip(".-") or "audit"
    thread = hashlib.sha256(f"{told.origin}\0{told.event.key}".encode("utf-8", "replace")).hexdigest()[:32]
    made = EmailMessage(policy=SMTP)
    made["From"], made["To"] = sender, ", ".join(recipients)
    # An encoded word (RFC 2047) of somebody else's would be decoded to what `clean` has taken out.
    made["Subject"] = title(told)[:SUBJECT].replace("=?", "= ?")
    made["Date"] = formatdate(told.last / 1_000_000, usegmt=True)
    made["Message-ID"] = f"<{told.id}@{domain}>"
    made["References"] = f"<key_{thread}@{domain}>"
    made["Auto-Submitted"] = "auto-generated"
    text = "\n".join(f"{label}: {value}" for label, value in lines(told))
    made.set_content(f"{title(told)}\n\n{text}\n", charset="utf-8", cte="base64")
    return made


class MailLine:
    """One connection a message: notifications are rare."""

    pause = 0.0

    def __init__(self, mail: Mail, tls: ssl.SSLContext) -> None:
        """Connects to nothing."""
        self._mail, self._tls = mail, tls
        self._place = f"smtp://{mail.host}:{mail.port}"
        self._runner = asyncio.Runner()

    def send(self, told: Notification) -> Answer:
        """See `Line`. Of errors only their kind and the server's code are shown: their text may hold what was sent."""
        return self._runner.run(self._send(message(told, self._mail.sender, self._mail.recipients)))

    async def _send(self, made: EmailMessage) -> Answer:
        from aiosmtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused, SMTPResponseException, send

        mail = self._mail
        try:
            async with asyncio.timeout(mail.timeout):
                refused, _ = await send(
                    made, sender=mail.sender, recipients=list(mail.recipients), hostname=mail.host, port=mail.port,
                    username=mail.username.get_secret_value() or None,
                    password=mail.password.get_secret_value() or None,
                    use_tls=mail.security == "tls", start_tls=mail.security == "starttls",
                    tls_context=self._tls if mail.security != "none" else None, timeout=mail.timeout,
                )  # fmt: skip
        except SMTPDataError as error:
            said = f"{self._place}: answered {error.code}"
            return Answer("never" if error.code >= 500 else "later", said)
        except SMTPRecipientsRefused as error:
            codes = sorted({one.code for one in error.recipients})
            return Answer("later", f"{self._place}: refused every recipient: {', '.join(map(str, codes))}")
        except SMTPResponseException as error:
            return Answer("later", f"{self._place}: {type(error).__name__}: {error.code}")
        except (SMTPException, TimeoutError, OSError, ValueError) as error:
            return Answer("later", f"{self._place}: {type(error).__name__}")
        if refused:
            codes = sorted({one.code for one in refused.values()})
            text = f"{len(refused)} of {len(mail.recipients)} recipients were refused: {', '.join(map(str, codes))}"
            return Answer("taken", text)
        return Answer("taken")

    def close(self) -> None:
        """See `Line`."""
        self._runner.close()
