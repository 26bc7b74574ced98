"""The billing service, alone and with the middleware around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from audit_middleware.context import RUNNING, Correlation, Notes
from example_app.app import create_app, guard
from tests.kit import Log
from tests.sealing.support import Sealed

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "policies" / "billing.yaml"
HOST = ("127.0.0.1", 50000)


class Forgetful:
    """Takes notes and forgets them: `annotate` refuses to work outside of a guarded request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        running = RUNNING.set(Notes("none", Correlation("none")))
        try:
            await self.app(scope, receive, send)
        finally:
            RUNNING.reset(running)


class Client(TestClient):
    """A client that signs in."""

    def as_(self, name: str) -> dict[str, str]:
        """Headers of a demo user."""
        answer = self.post("/auth/login", data={"username": name, "password": f"{name}-demo"})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def serve(app: FastAPI, host: tuple[str, int] = HOST) -> Client:
    """A client of an application; errors of handlers become responses, as a server would have them."""
    return Client(app, client=host, raise_server_exceptions=False)


@pytest.fixture
def sealed(tmp_path: Path, log: Log) -> Sealed:
    """A log, and the keys of the persons in it, which open what the service sealed."""
    return Sealed(tmp_path, log).make_keys()


@pytest.fixture
def guarded_app(tmp_path: Path, sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The service as it is deployed."""
    monkeypatch.setenv("AUDIT_POLICY", str(POLICY))
    monkeypatch.setenv("AUDIT_LOG", str(sealed.log.path))
    return guard(create_app(tmp_path / "data"))


@pytest.fixture(params=["bare", "guarded"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """The service without and with the middleware: what it does for its users is the same."""
    if request.param == "bare":
        app = create_app(tmp_path / "data")
        app.add_middleware(Forgetful)
    else:
        app = request.getfixturevalue("guarded_app")
    with serve(app) as client:
        yield client
