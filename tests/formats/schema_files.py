"""The schemas of destinations: those written from documentation are here, published ones are read where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

ROOT = Path(__file__).resolve().parents[2]
OWN = Path(__file__).parent / "schemas"
PUBLISHED = Path(os.environ.get("AUDIT_TEST_SCHEMAS") or ROOT.parent / "shared" / "schemas")

published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="no published schemas here; set AUDIT_TEST_SCHEMAS to their folder"
)


def errors(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Everything that a schema has against a value."""
    found = validator_for(schema, default=Draft202012Validator)(schema).iter_errors(value)
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in found]


def ocsf_schema(version: str, kind: int) -> dict[str, Any]:
    """The schema of a class. That of 3001 and 3005 lacks ``actor``, which both classes have whatever the profile (it
    was lost in their conversion): it is taken from API Activity."""
    names = {6003: "api_activity", 3001: "account_change", 3005: "user_access", 2004: "detection_finding"}
    schema: dict[str, Any] = json.loads((PUBLISHED / f"ocsf-{version}-{names[kind]}.schema.json").read_text())
    if kind in (3001, 3005):
        other = json.loads((PUBLISHED / f"ocsf-{version}-api_activity.schema.json").read_text())
        assert "actor" not in schema["properties"], "the published schema was repaired: use it as it is"
        schema["properties"]["actor"] = other["properties"]["actor"]
        schema["$defs"] = other["$defs"] | schema["$defs"]
    return schema


def own(name: str) -> dict[str, Any]:
    """One of the schemas that are here."""
    schema: dict[str, Any] = json.loads((OWN / f"{name}.schema.json").read_text())
    return schema
