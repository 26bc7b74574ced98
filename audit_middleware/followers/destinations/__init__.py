"""The destinations by the name that a configuration gives them: which keys each has, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..config import Options
from ..sink import Destination
from . import cloudtrail, datadog, detectors, elasticsearch, jsonl, otlp, syslog, webhook

Read = Callable[[Options], Destination]

TYPES: Mapping[str, tuple[tuple[str, ...], Read]] = MappingProxyType(
    {
        "jsonl": (jsonl.KEYS, jsonl.read_jsonl),
        "webhook": (webhook.KEYS, webhook.read_webhook),
        "elasticsearch": (elasticsearch.KEYS, elasticsearch.read_elasticsearch),
        "datadog": (datadog.KEYS, datadog.read_datadog),
        "detectors": (detectors.KEYS, detectors.read_detectors),
        "syslog": (syslog.KEYS, syslog.read_syslog),
        "otlp": (otlp.KEYS, otlp.read_otlp),
        "cloudtrail": (cloudtrail.KEYS, cloudtrail.read_cloudtrail),
    }
)
