"""A service whose policy seals what is personal, under test: it starts, and its records read as before sealing."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from audit_middleware.middleware import AuditMiddleware
from audit_middleware.testing import AuditLog
from tests.kit import write_policy
from tests.sealing.support import ACTIONS, GDPR, HEAD
from tests.sealing.test_service import app, identify


def test_records_are_opened(tmp_path: Path) -> None:
    audit_log = AuditLog(tmp_path)
    service = app()
    policy = write_policy(tmp_path, HEAD + GDPR + ACTIONS)
    keys = {"subject_keys": "/nowhere/subjects", "master_key": "env:NOT_SET"}  # of production
    service.add_middleware(AuditMiddleware, policy=policy, log="/nowhere", service="x", identify=identify, **keys)
    with audit_log.redirected():
        client = TestClient(service)
        assert client.get("/write/7", headers={"x-user": "alice"}).status_code == 200
        found = audit_log.assert_audited("note.write", user="alice", resource="note/7")
        assert found["request"]["path"] == "/write/7"
        assert audit_log.verify().holds
    assert b"alice" not in b"".join(path.read_bytes() for path in audit_log.path.rglob("*") if path.is_file())
