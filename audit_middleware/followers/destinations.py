"""The destinations by the name that a configuration gives them: which keys each has, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from . import datadog, elasticsearch, jsonl, syslog, webhook
from .config import Options
from .sink import Destination

Read = Callable[[Options], Destination]

TYPES: Mapping[str, tuple[tuple[str, ...], Read]] = MappingProxyType(
    {
        "jsonl": (jsonl.KEYS, jsonl.read_jsonl),
        "webhook": (webhook.KEYS, webhook.read_webhook),
        "elasticsearch": (elasticsearch.KEYS, elasticsearch.read_elasticsearch),
        "datadog": (datadog.KEYS, datadog.read_datadog),
        "syslog": (syslog.KEYS, syslog.read_syslog),
    }
)
