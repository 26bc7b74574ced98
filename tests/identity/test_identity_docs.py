"""The examples of docs/identity.md and docs/correlation.md run, and their tables and defaults are true."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit_middleware.context import RUNNING, Correlation, Notes
from audit_middleware.identity.jwt import JWTIdentifier
from audit_middleware.identity.proxies import ClientAddress
from audit_middleware.identity.starlette_user import from_scope

DOCS = Path(__file__).parents[2] / "docs"
IDENTITY, CORRELATION = (DOCS / "identity.md").read_text(), (DOCS / "correlation.md").read_text()


def examples(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), names)
    return names


def test_there_are_examples() -> None:
    assert (len(examples(IDENTITY)), len(examples(CORRELATION))) == (3, 3)


@pytest.mark.parametrize("code", examples(IDENTITY))
def test_identifiers_of_the_page_can_be_made(code: str) -> None:
    assert callable(run(code)["identify"])


def test_the_client_of_the_page_carries_correlation() -> None:
    client = run(examples(CORRELATION)[0])["client"]
    assert isinstance(client, httpx.AsyncClient)
    assert len(client.event_hooks["request"]) == 1


def test_the_handler_of_the_page_formats_lines() -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        handler = run(examples(CORRELATION)[1])["handler"]
        record = logging.makeLogRecord({"levelname": "INFO", "msg": "x"})
        assert handler.filter(record)
        assert handler.format(record) == "INFO - - - x"
    finally:
        root.handlers[:] = before


def test_the_annotation_of_the_page_is_noted() -> None:
    notes = Notes("a", Correlation("c"))
    token = RUNNING.set(notes)
    try:
        run(examples(CORRELATION)[2])["create_invoice"](100)
    finally:
        RUNNING.reset(token)
    assert notes.reason == "TICKET-7"
    assert notes.impact == {"before": None, "after": {"amount": 100}, "count": 1}
    assert notes.resource == {"type": "invoice", "id": "inv-42", "properties": {"owner": "u1"}}
    assert notes.extra == {"batch": "2026-01"}


def test_the_table_of_addresses_is_true() -> None:
    rows = re.findall(r"^\| (`[\d.]+`) \| (.*?) ?\| (.*) \|$", IDENTITY, re.MULTILINE)
    assert len(rows) == 4
    for peer, header, given in rows:
        lines = [(b"x-forwarded-for", header.strip("` ").encode())] if header.strip() else []
        initiator, rest = ClientAddress(["10.0.0.0/24"]).of({"client": (peer.strip("`"), 1), "headers": lines})
        first, _, others = given.partition(", untrusted ")
        assert initiator == (None if first == "none" else first.strip("`"))
        assert rest["untrusted"] == re.findall(r"`(.*?)`", others)


def test_every_option_is_on_the_page() -> None:
    described = inspect.getdoc(JWTIdentifier) or ""
    for name in inspect.signature(JWTIdentifier).parameters:
        if name in ("clock", "monotonic"):  # for tests
            continue
        assert f"\n    {name}: " in described, name
    for name in (
        "leeway_s",
        "cache_s",
        "stale_s",
        "roles_claim",
        "id_claim",
        "type_claim",
        "tenant_claim",
        "session_claim",
    ):
        assert f"`{name}`" in IDENTITY, name
    for name in ("header", "cookie", "websocket_query", "keys"):
        assert f"`{name}=`" in IDENTITY, name
    for name in inspect.signature(from_scope).parameters:
        assert f"{name}=" in IDENTITY, name


def test_the_defaults_on_the_page_are_those_of_the_code() -> None:
    parameters = inspect.signature(JWTIdentifier).parameters
    for name in ("leeway_s", "cache_s", "stale_s", "id_claim", "session_claim"):
        stated = re.search(rf"`{name}`\s\(`?([\w]+)`?\)", IDENTITY)
        assert stated is not None, name
        assert stated[1] == str(parameters[name].default)
