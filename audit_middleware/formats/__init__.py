"""The record in the formats of other systems: each a pure function of one decoded record, nothing else goes in.

Nobody signs these: what is proved is the entry in the log, which `jsonl` gives as it is. All others are for reading,
searching and alerting elsewhere; ``action_id`` stands whole in each of them, so that any copy leads back to its entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

from ..errors import ConfigError
from . import cef, cloudevents, cloudtrail, datadog, ecs, jsonl, kubernetes, leef, ocsf, otlp, rfc5424

__all__ = ["FORMATS", "Encode", "Format", "format_named"]

Encode = Callable[[Mapping[str, Any]], bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: What ``--format`` takes.
        title: What it is, for people.
        media_type: Of a file of many records.
        framing: ``lines``: each record is a line that ends with U+000A. ``array``: together they are one JSON array.
        function: A record to bytes, without line end; raises nothing for a record of schema version 1.
        options: Further arguments that the function takes, each with a check that raises `ConfigError`.
    """

    name: str
    title: str
    media_type: str
    framing: Literal["lines", "array"]
    function: Callable[..., bytes]
    options: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)

    def encoder(self, **options: object) -> Encode:
        """The function with options given; those that are ``None`` are left at their default.

        Raises:
            ConfigError: This format does not take an option, or not this value.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in self.options:
                raise ConfigError(f"the format {self.name} takes no {name}")
            self.options[name](value)
        return partial(self.function, **given) if given else self.function


_NDJSON: Final = "application/x-ndjson"
_ALL = (
    Format("jsonl", "the record itself: canonical entries as JSON Lines", _NDJSON, "lines", jsonl.encode),
    Format("ocsf", "OCSF 1.8", _NDJSON, "lines", ocsf.encode),
    Format("ocsf-1.9", "OCSF 1.9-dev with record_integrity", _NDJSON, "lines", ocsf.encode_with_integrity),
    Format("ecs", "Elastic Common Schema 9.4", _NDJSON, "lines", ecs.encode),
    Format("datadog", "Datadog logs intake v2", "application/json", "array", datadog.encode),
    Format("cloudevents", "CloudEvents 1.0, structured JSON", _NDJSON, "lines", cloudevents.encode),
    Format("k8s", "Kubernetes audit.k8s.io/v1 events", _NDJSON, "lines", kubernetes.encode),
    Format("cef", "ArcSight Common Event Format 0", "text/plain; charset=utf-8", "lines", cef.encode),
    Format("leef", "QRadar Log Event Extended Format 2.0", "text/plain; charset=utf-8", "lines", leef.encode),
    Format("rfc5424", "syslog", "text/plain; charset=utf-8", "lines", rfc5424.encode,
           {"enterprise": rfc5424.check_enterprise}),
    Format("cloudtrail", "CloudTrail Lake auditEvents", "application/json", "array", cloudtrail.encode,
           {"account": cloudtrail.check_account}),
    Format("otlp", "OpenTelemetry log records, OTLP/JSON", _NDJSON, "lines", otlp.encode),
)  # fmt: skip

FORMATS: Final[Mapping[str, Format]] = MappingProxyType({one.name: one for one in _ALL})
"""Every format by its name."""


def format_named(name: str) -> Format:
    """The format of this name. Raises `ConfigError` that lists the names there are."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name[:64]!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
