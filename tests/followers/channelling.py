"""Receivers of notifications that enforce what the real ones do, as threads; what they take is kept in a list."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword

from audit_middleware.followers.channels import CHANNELS
from audit_middleware.followers.channels.given import Given
from audit_middleware.followers.channels.seam import Channel
from audit_middleware.followers.notify.message import Event, Notification, describe
from audit_middleware.policy.channels import Channel as Settings
from tests.followers.serving import Handler, served
from tests.stores.samples import record

START = 1_767_225_600_000_000


def event(index: int = 5, *, full: bool = False, **changes: Any) -> Event:
    return describe(record(index, **{"outcome": "denied"} | changes), index, "refunds", full=full)


def alert(given: Event | None = None, **changes: Any) -> Notification:
    told = given or event()
    values: dict[str, Any] = {
        "id": "ntf_0123456789abcdef0123456789abcdef", "kind": "alert", "origin": "example.com/log", "event": told,
        "count": 1, "first": told.at, "last": told.at, "indexes": (told.index,), "users": (told.user_id,),
    }  # fmt: skip
    return Notification(**values | changes)


def channel(type: str, **options: Any) -> Channel:
    """A channel as the settings of a policy make it."""

    def finding(key: str, text: str) -> None:
        raise AssertionError(f"{key}: {text}")

    return CHANNELS[type](Given(Settings(type, options), finding))


# --- Slack -------------------------------------------------------------------------------------------------------


@dataclass
class SlackServer:
    """An incoming webhook: its path is its secret, its limits are those of the API, and one message a second."""

    path: str = "/services/T0000/B0000/marked-slack-url"
    url: str = ""
    taken: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refuse: tuple[int, str] | None = None
    window: float = 1.0

    def answer(self, handler: Handler) -> None:
        if handler.path != self.path:
            return handler.say(404, b"no_service")
        if self.refuse is not None:
            return handler.say(self.refuse[0], self.refuse[1].encode(), Retry_After="1")
        problem = slack_problem(handler.body)
        if problem is not None:
            return handler.say(400, problem.encode())
        now = time.monotonic()
        if self.times and now - self.times[-1] < self.window:
            return handler.say(429, b"rate_limited", Retry_After="1")
        self.times.append(now)
        self.taken.append(json.loads(handler.body))
        return handler.say(200, b"ok")


def slack_problem(body: bytes) -> str | None:
    told = json.loads(body)
    if not told.get("text") or len(told["blocks"]) > 50:
        return "invalid_blocks"
    texts = [block["text"]["text"] for block in told["blocks"]]
    if any(not 1 <= len(text) <= 3_000 for text in texts):
        return "invalid_blocks"
    return "msg_too_long" if sum(map(len, [*texts, told["text"]])) > 12_000 else None


SLACK_MENTION = re.compile(r"<[!@#][^>]*>|<[a-z]+:[^>]*>|(?<!\w)@(?:here|channel|everyone)")


def unescaped(text: str) -> str:
    """As Slack shows it."""
    return text.replace("\u200b", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@contextmanager
def slack() -> Iterator[SlackServer]:
    server = SlackServer()
    with served(server.answer) as url:
        server.url = url + server.path
        yield server


# --- PagerDuty ---------------------------------------------------------------------------------------------------


@dataclass
class PagerDutyServer:
    """The Events API v2: its required fields and limits, and one incident for each ``dedup_key``."""

    key: str = "marked0routing0key0000000000000"
    url: str = ""
    taken: list[dict[str, Any]] = field(default_factory=list)
    refuse: int | None = None

    @property
    def incidents(self) -> set[str]:
        return {one["dedup_key"] for one in self.taken}

    def answer(self, handler: Handler) -> None:
        if self.refuse is not None:
            return handler.say(self.refuse, b'{"status":"throttle exceeded"}')
        told = json.loads(handler.body)
        payload = told["payload"]
        good = (
            len(handler.body) <= 512_000
            and told["routing_key"] == self.key
            and told["event_action"] in ("trigger", "acknowledge", "resolve")
            and 0 < len(told["dedup_key"]) <= 255
            and 0 < len(payload["summary"]) <= 1_024
            and payload["source"]
            and payload["severity"] in ("critical", "error", "warning", "info")
            and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", payload["timestamp"])
        )
        if not good:
            return handler.say(400, b'{"status":"invalid event"}')
        self.taken.append(told)
        return handler.say(202, b'{"status":"success"}')


@contextmanager
def pagerduty() -> Iterator[PagerDutyServer]:
    server = PagerDutyServer()
    with served(server.answer) as url:
        server.url = url + "/v2/enqueue"
        yield server


# --- e-mail ------------------------------------------------------------------------------------------------------


@dataclass
class MailServer:
    """An SMTP server with TLS and logins."""

    host: str = "localhost"
    port: int = 0
    ca: Path = Path()
    user: str = "marked-user"
    password: str = "marked-password"
    refused: tuple[str, ...] = ()
    data: str = "250 OK"
    taken: list[Envelope] = field(default_factory=list)
    logins: list[bool] = field(default_factory=list)

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        good = isinstance(given, LoginPassword) and given == LoginPassword(self.user.encode(), self.password.encode())
        self.logins.append(good)
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address in self.refused:
            return "550 no such user marked-password"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:
        if self.data.startswith("250"):
            self.taken.append(envelope)
        return self.data

    def messages(self) -> list[EmailMessage]:
        found = [message_from_bytes(one.original_content or b"", policy=policy.default) for one in self.taken]
        return [one for one in found if isinstance(one, EmailMessage)]


@contextmanager
def mail(folder: Path, security: str = "starttls") -> Iterator[MailServer]:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    server = MailServer(ca=folder / "ca.pem")
    authority.cert_pem.write_to_path(str(server.ca))
    options: dict[str, Any] = {"hostname": "localhost", "port": 0, "authenticator": server.login}
    if security == "starttls":
        options |= {"tls_context": tls, "require_starttls": True, "auth_required": True}
    elif security == "tls":
        options |= {"ssl_context": tls, "auth_require_tls": False}
    controller = _Free(server, **options)
    controller.start()
    server.port = controller.port
    try:
        yield server
    finally:
        controller.stop()


class _Free(Controller):
    """On a port that is free, which its own check of the start must know."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd has no types here
