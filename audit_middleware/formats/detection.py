"""What OCSF 1.8's class Detection Finding (2004) has of a finding, beside what every class has.

A finding is new, an alert, and observed: nothing was blocked by it. ``anomaly_analyses`` says what was observed and
what was usual; ``related_events`` are the entries of the log that are the evidence, by their index.

Source: https://schema.ocsf.io/1.8.0/classes/detection_finding
"""

from __future__ import annotations

from typing import Any, Final

from .facts import Record
from .findings import Finding

LEFT_OUT: Final = ("actor", "src_endpoint", "http_request", "http_response", "status_detail")
"""What the class does not have of other classes' members, or what would say something else in it."""

_RULE, _STATISTICAL = 1, 3
_OBSERVED, _DETECTED = 3, 15


def detection(record: Record, found: Finding) -> dict[str, Any]:
    """The members of the class; severity apart, which stands with that of other records."""
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "status_id": 1,
        "action_id": _OBSERVED,
        "disposition_id": _DETECTED,
        "is_alert": True,
        "count": found.count,
        "start_time": found.first,
        "end_time": found.last,
        "finding_info": {
            "uid": found.id,
            "title": found.title,
            "types": [found.dimension] if found.dimension else [],
            "first_seen_time": found.first,
            "last_seen_time": found.last,
            "analytic": {
                "type_id": _RULE if found.baseline is None else _STATISTICAL,
                "uid": found.rule,
                "name": found.name,
            },
            "related_events": [{"uid": str(index), "type": "log entry"} for index in found.evidence],
            "related_events_count": found.count,
        },
        "anomaly_analyses": _anomalies(record, found),
        "evidences": _evidences(found),
    }


def _anomalies(record: Record, found: Finding) -> list[dict[str, Any]]:
    if found.observed is None:
        return []
    observed: dict[str, Any] = {"value": found.observed}
    if found.window_s:
        observed["timespan"] = {"duration_secs": found.window_s}
    parameter = {"observation_parameter": found.dimension or "observed"}
    targets = found.group or ((("user_id", found.user),) if found.user else (("service", record["service"]["name"]),))
    made: dict[str, Any] = {
        "analysis_targets": [{"name": value, "type": name} for name, value in targets],
        "anomalies": [{**parameter, "observations": [observed]}],
    }
    if found.baseline is not None:
        made["baselines"] = [{**parameter, "observations": [{"value": found.baseline}]}]
    return [made]


def _evidences(found: Finding) -> list[dict[str, Any]]:
    made: dict[str, Any] = {}
    if found.user is not None:
        made["actor"] = {"user": {"uid": found.user, "name": found.user}}
    if found.group:
        made["data"] = dict(found.group)
    return [made] if made else []
