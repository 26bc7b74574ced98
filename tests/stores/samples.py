"""A log key, records and batches for the tests of stores, writer and verifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from pydantic import BaseModel

from audit_middleware.errors import RecordError
from audit_middleware.ledger import canonical, note
from audit_middleware.ledger.examine import RawFrame
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Head
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.protocols import LogStore, Sealer
from audit_middleware.schema import Record
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.journal import JournalStore

ORIGIN = "audit.example.com/test"
SIGNER = Ed25519Signer(ORIGIN, bytes(range(32)))
VKEY = note.format_vkey(ORIGIN, SIGNER.public_key)
VERIFIERS = [note.parse_vkey(VKEY)]
SEAL = make_sealer(ORIGIN, [SIGNER])
CREATED = "2026-01-01T00:00:00Z"


def record(sequence: int, instance: str = "process-1", **changes: Any) -> dict[str, Any]:
    """One valid record; its action id follows from instance and sequence."""
    moment = f"2026-01-01T00:{sequence // 60 % 60:02}:{sequence % 60:02}.000000Z"
    number = crc32(instance.encode()) * 2**16 + sequence
    values: dict[str, Any] = {
        "schema_version": 1,
        "action_id": f"019b76da-a800-7000-8000-{number:012x}",
        "timestamp": moment,
        "recorded_at": f"2026-01-01T{sequence // 3600 % 24:02}:{sequence // 60 % 60:02}:{sequence % 60:02}.000000Z",
        "duration_us": 1500,
        "kind": "outcome",
        "intent_id": None,
        "sequence": sequence,
        "service": {"name": "billing", "version": "1.0", "instance": instance, "environment": None},
        "action": "invoice.delete",
        "event": "INVOICE_DELETED",
        "severity": "high",
        "user_id": f"user-{sequence % 7}",
        "subject": {"type": "user", "roles": ["clerk"], "tenant": None, "session": None, "properties": {}},
        "source": {"method": "jwt", "issuer": None, "detail": None},
        "initiator_ip": "192.0.2.7",
        "forwarded": {"untrusted": [], "header": None},
        "user_agent": "curl/8",
        "resource": {"type": "invoice", "id": str(sequence), "properties": {}},
        "reason": None,
        "impact": None,
        "decision": {
            "effect": "allow",
            "cause": "rule",
            "rule": "owner-clerk",
            "near_misses": [],
            "inputs": None,
            "policy_digest": None,
            "mode": "enforce",
            "detail": None,
        },
        "outcome": "success",
        "request": {
            "protocol": "http",
            "method": "DELETE",
            "route": "/invoices/{id}",
            "path": f"/invoices/{sequence}",
            "path_params": {},
            "query": None,
            "headers": {},
            "size": 0,
            "digest": None,
            "body": None,
        },
        "response": {"status": 204, "size": 0, "error": None, "body": None},
        "trace": {
            "trace_id": f"{number:032x}",
            "span_id": None,
            "parent": None,
            "correlation_id": f"c-{sequence}",
            "request_id": None,
            "client_correlation_id": None,
        },
        "flags": [],
        "extra": {},
    }
    return _completed(values, Record) | changes


def _completed(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Fields that the record has got since this was written are unknown here: null."""
    for name, field in model.model_fields.items():
        value = values.setdefault(name, None)
        if isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            _completed(value, field.annotation)
    return values


def entry(sequence: int, instance: str = "process-1", **changes: Any) -> bytes:
    """The canonical bytes of `record`."""
    return canonical.encode(record(sequence, instance, **changes))


class Overtaken:
    """A sealer behind whose back somebody appends while it does what needs no head."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def __call__(self, head: Head, entries: Sequence[bytes]) -> Head:
        raise AssertionError("the one made for the batch was to be asked")

    def ahead(self, entries: Sequence[bytes]) -> Sealer:
        self._store.append([small(9)], SEAL)
        return SEAL


def small(number: int) -> bytes:
    """An entry that is no record: the smallest that still tells itself apart."""
    return b'{"n":%d}' % number


def batches(*sizes: int, instance: str = "process-1") -> list[list[bytes]]:
    """Records in batches of these sizes, counted through."""
    result, start = [], 0
    for size in sizes:
        result.append([entry(number, instance) for number in range(start, start + size)])
        start += size
    return result


def new_journal(path: Path, *groups: Sequence[bytes], **options: Any) -> JournalStore:
    """A journal with these batches in it."""
    JournalStore.create(path, ORIGIN, [VKEY], CREATED).close()
    store = JournalStore.open(path, **options)
    for group in groups:
        store.append(group, SEAL)
    return store


def check_record(data: bytes) -> None:
    """Check 2 as the command line does it: canonical bytes, and the record's schema."""
    canonical.decode(data)
    try:
        Record.model_validate_json(data)
    except ValueError as error:
        raise RecordError(str(error)) from error


class Readable(Protocol):
    """A store that can be verified."""

    def raw_frames(self) -> Iterable[RawFrame]:
        """Everything that is there."""
        ...


def report_on(store: Readable, **options: Any) -> Report:
    """Verifies the whole log."""
    return verify(store.raw_frames(), ORIGIN, VERIFIERS, **options)


def assert_holds(store: Readable, **options: Any) -> Report:
    """Verifies the whole log and fails the test with what was found."""
    report = report_on(store, **options)
    assert report.holds, report.findings
    return report


def entries_of(store: Any) -> list[bytes]:
    """All entries, by the store's own reading."""
    return [one for frame in store.frames() for one in frame.entries]


def segments_of(path: Path) -> list[Path]:
    """The segment files of a journal, in order."""
    return sorted((path / "journal").glob("*.jsonl"))
