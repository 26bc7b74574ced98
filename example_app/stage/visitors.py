"""The people and machines that use the service during the demo."""

from __future__ import annotations

from typing import Any

import httpx

from ..seed import DEMO_USERS
from .errors import Surprise
from .teller import Teller

NOBODY = "nobody"


class Visitors:
    """Sends requests as somebody, prints what came back, and stops the demo where that is not what was expected."""

    def __init__(self, url: str, teller: Teller) -> None:
        # A new connection for each request, so that the kernel deals them out to both workers.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=url, limits=limits, timeout=10)
        self.teller = teller
        self._tokens: dict[str, str] = {}

    def sign_in(self, *names: str) -> None:
        """Gets a token for each of these demo users."""
        for name in names:
            form = {"username": name, "password": DEMO_USERS[name][2]}
            answer = self.client.post("/auth/login", data=form)
            if answer.status_code != 200:
                raise Surprise(f"{name} could not sign in: {answer.status_code} {answer.text}")
            self.remember(name, answer)

    def remember(self, name: str, answer: httpx.Response) -> None:
        """Keeps the token that this answer holds."""
        self._tokens[name] = answer.json()["access_token"]

    def headers(self, name: str) -> dict[str, str]:
        """The headers that say who is calling."""
        return {"Authorization": f"Bearer {self._tokens[name]}"} if name in self._tokens else {}

    def ask(
        self,
        expect: int,
        name: str,
        method: str,
        path: str,
        shows: str,
        *,
        headers: dict[str, str] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """One request: ``expect`` is the status it must have, ``shows`` what the reader should see in it."""
        answer = self.client.request(method, path, headers=self.headers(name) | (headers or {}), **content)
        self.told(expect, answer.status_code, name, method, path, shows, answer.text)
        for header in ("audit-id", "x-correlation-id"):
            if header not in answer.headers:
                raise Surprise(f"{method} {path} came back without {header}")
        return answer

    def told(self, expect: int, status: int, name: str, method: str, path: str, shows: str, body: str = "") -> None:
        """Prints one exchange; raises when it is not the one expected."""
        self.teller.request(status, name, method, path, shows)
        if status != expect:
            raise Surprise(f"{method} {path} as {name} answered {status}, not {expect}: {body[:500]}")
