"""CloudEvents 1.0, structured JSON: the record is the data, around it what a broker needs to route and sort it.

Who acted is in the data alone: the extension ``authid`` should hold nothing personal. ``sequence`` sorts the events of
one ``source``, which is one process of a service.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and its extensions.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from .facts import LEVELS, Record, resource_name, severity
from .findings import finding
from .place import Place
from .text import shortened, to_json, visible

_AUTH_TYPES = {"user": "user", "service": "service_account", "system": "system", "anonymous": "unauthenticated"}
_SEVERITY_NUMBERS = (9, 10, 13, 17, 21)  # of OpenTelemetry, as the extension wants them
_TRACE, _SPAN = re.compile(r"[0-9a-f]{32}\Z"), re.compile(r"[0-9a-f]{16}\Z")


def envelope(record: Record, place: Place | None = None) -> dict[str, Any]:
    """One event. The index of its place is text: an integer of CloudEvents has 32 bits."""
    service, trace = record["service"], record["trace"]
    seen = finding(record)
    subject = resource_name(record) if seen is None else f"finding/{seen.id}"
    found: dict[str, Any] = {
        "specversion": "1.0",
        "id": record["action_id"],
        "source": f"/{_quoted(service['name'])}/{_quoted(service['instance'])}",
        "type": f"audit.{record['kind']}.{_quoted(record['action'] or 'unknown')}",
        "time": record["timestamp"],
        "datacontenttype": "application/json",
        "recordedtime": record["recorded_at"],
        "sequence": f"{record['sequence']:020d}",
        "severitytext": severity(record),
        "severitynumber": _SEVERITY_NUMBERS[LEVELS[severity(record)]],
        "authtype": _AUTH_TYPES.get(record["subject"]["type"], "unknown"),
    }
    if subject is not None:
        found["subject"] = visible(shortened(subject, 1024))
    if _TRACE.match(trace["trace_id"] or "") and _SPAN.match(trace["span_id"] or ""):
        found["traceparent"] = f"00-{trace['trace_id']}-{trace['span_id']}-00"
    if place is not None:
        found |= {"logorigin": place.origin, "logindex": str(place.index)}
    found["data"] = dict(record)
    return found


def encode(record: Record, place: Place | None = None) -> bytes:
    """One line of JSON."""
    return to_json(envelope(record, place))


def _quoted(text: str) -> str:
    return quote(shortened(text, 256), safe="", errors="replace") or "unknown"
