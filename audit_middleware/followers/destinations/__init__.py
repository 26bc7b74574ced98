"""The destinations by the name that a configuration gives them: which keys each has, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..config import Options
from ..sink import Destination
from . import cloudtrail, datadog, detectors, elasticsearch, jsonl, otlp, syslog, webhook

Read = Callable[[Options], Destination]


class Own(NamedTuple):
    """Which value of which key makes a destination send the log's own text; ``otherwise`` is the key's default."""

    key: str = ""
    value: str = ""
    otherwise: str = ""

    def chosen(self, options: Options) -> bool:
        """Is that configured?"""
        return bool(self.key) and self.value == (options.text(self.key) if options.given(self.key) else self.otherwise)


_NEVER = Own()

TYPES: Mapping[str, tuple[tuple[str, ...], Read, Own | None]] = MappingProxyType(
    {
        "jsonl": (jsonl.KEYS, jsonl.read_jsonl, Own("format", "jsonl", "jsonl")),
        "webhook": (webhook.KEYS, webhook.read_webhook, Own("payload", "whole", "thin")),
        "elasticsearch": (elasticsearch.KEYS, elasticsearch.read_elasticsearch, Own("format", "jsonl", "ecs")),
        "datadog": (datadog.KEYS, datadog.read_datadog, _NEVER),
        "detectors": (detectors.KEYS, detectors.read_detectors, None),
        "syslog": (syslog.KEYS, syslog.read_syslog, Own("format", "jsonl", "rfc5424")),
        "otlp": (otlp.KEYS, otlp.read_otlp, _NEVER),
        "cloudtrail": (cloudtrail.KEYS, cloudtrail.read_cloudtrail, _NEVER),
    }
)
