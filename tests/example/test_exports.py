"""What the billing service really records, in every format, against the schemas of their destinations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI

from audit_middleware.formats import FORMATS
from audit_middleware.formats.identities import change
from tests.example.conftest import serve
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.schema_files import errors, ocsf_schema, own, published
from tests.sealing.support import Sealed

Record = dict[str, Any]


@pytest.fixture
def records(guarded_app: FastAPI, sealed: Sealed) -> list[Record]:
    """Refusals, a refund, accounts and roles that change, a broken request, and what the log says of itself."""
    with serve(guarded_app) as client:
        admin, viewer = client.as_("admin-1"), client.as_("viewer-1")
        client.delete("/v1/invoices/1001")
        client.delete("/v1/invoices/1001", headers=viewer)
        client.post("/v1/invoices", content=b"{", headers=viewer)
        client.get("/nowhere?a=b|c=d", headers={"User-Agent": "cef|=\\ \u00e9".encode()})
        refund = {"invoice_id": 1001, "amount_cents": 4_200, "note": "paid twice"}
        client.post("/v1/tenants/north/refunds", json=refund, headers=client.as_("support-1"))
        client.post("/v1/service-accounts", json={"name": "nightly", "role": "exporter"}, headers=admin)
        client.put("/v1/users/clerk-1/roles", json={"roles": ["clerk", "admin"]}, headers=admin)
    return sealed.opened()


def test_lines_are_read_back(records: list[Record]) -> None:
    assert len(records) > 10
    for record in records:
        name = record["action_id"]
        assert parse_cef(FORMATS["cef"].encoder()(record).decode()).fields["externalId"] == name
        assert parse_leef(FORMATS["leef"].encoder()(record).decode()).fields["externalId"] == name
        assert parse_rfc5424(FORMATS["rfc5424"].encoder()(record).decode()).fields["action_id"] == name


def test_json_is_what_destinations_take(records: list[Record]) -> None:
    for record in records:
        made = {name: json.loads(FORMATS[name].encoder()(record)) for name in ("k8s", "datadog", "cloudtrail")}
        assert errors(own("k8s-audit.k8s.io-v1-Event"), made["k8s"]) == []
        assert errors(own("datadog-http-log-item"), made["datadog"]) == []
        assert errors(own("cloudtrail-lake-eventData"), json.loads(made["cloudtrail"]["eventData"])) == []


@published
def test_ocsf_takes_every_record(records: list[Record]) -> None:
    classes = set()
    for record in records:
        event = json.loads(FORMATS["ocsf"].encoder()(record))
        classes.add(event["class_uid"])
        assert errors(ocsf_schema("1.8.0", event["class_uid"]), event) == [], record["action"]
    assert classes == {6003, 3001, 3005}


def test_changes_of_accounts_are_found_by_their_names(records: list[Record]) -> None:
    found = {record["action"]: change(record) for record in records}
    assert {action for action, one in found.items() if one is not None} == {"service_account.create", "user.set_roles"}
    roles, account = found["user.set_roles"], found["service_account.create"]
    assert roles is not None
    assert account is not None
    assert (roles.kind, roles.activity, roles.target, roles.privileges) == (
        "user_access",
        "assign",
        "clerk-1",
        ("admin",),
    )
    assert (account.kind, account.activity, account.target) == ("account_change", "create", "nightly")
