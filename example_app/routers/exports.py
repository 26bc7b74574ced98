"""Exports: data that leaves the service, as files."""

from __future__ import annotations

import csv
import io
import secrets

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from audit_middleware import action, annotate

from ..billing import Parts
from ..storage import Row

router = APIRouter(prefix="/exports", tags=["exports"])


@router.post("", status_code=201)
@action("export.create")
def create_export(parts: Parts, month: str | None = None) -> dict[str, str]:
    """Writes the invoices of a month, or all, into a CSV file."""
    with parts.storage.transaction() as db:
        rows = db.all("SELECT * FROM invoices WHERE month = coalesce(?, month) ORDER BY id", month)
    name = secrets.token_hex(8)
    folder = parts.storage.folder("exports")
    (folder / f"{name}.csv").write_text(as_csv(rows))
    annotate(impact={"count": len(rows)}, extra={"export": name})
    return {"export": name}


@router.get("/{export}")
@action("export.download", resource="export/{export}")
def download(export: str, parts: Parts) -> FileResponse:
    """The file, as an attachment."""
    path = parts.storage.folder("exports") / f"{export}.csv"
    if not export.isalnum() or not path.is_file():
        raise HTTPException(404, "No such export")
    return FileResponse(path, media_type="text/csv", filename=f"invoices-{export}.csv")


def as_csv(rows: list[Row]) -> str:
    """Rows as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["id"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
