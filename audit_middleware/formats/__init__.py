"""The record in the formats of other systems: each a pure function of one decoded record.

Nobody signs these: what is proved is the entry in the log, which `jsonl` gives as it is. All others are for reading,
searching and alerting elsewhere; ``action_id`` stands whole in each of them, so that any copy leads back to its entry.
Who knows where an entry stands may say it (`place`), and gets the same shape with that in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

from ..errors import ConfigError
from . import cef, cloudevents, cloudtrail, datadog, ecs, fields, jsonl, kubernetes, leef, ocsf, otlp, rfc5424
from .place import Locate, Place, in_json, in_text

__all__ = ["FORMATS", "Encode", "EncodePlaced", "Format", "Place", "format_named"]

Encode = Callable[[Mapping[str, Any]], bytes]
EncodePlaced = Callable[[Mapping[str, Any], Place], bytes]


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
        locate: Reads the place back from what the function made; ``None`` for a format that has no room for it.
    """

    name: str
    title: str
    media_type: str
    framing: Literal["lines", "array"]
    function: Callable[..., bytes]
    options: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    locate: Locate | None = None

    @property
    def is_json(self) -> bool:
        """True where one record is one JSON object."""
        return "json" in self.media_type

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

    def placing(self, **options: object) -> EncodePlaced:
        """The same with the place of each entry beside its record; raises as `encoder`."""
        encode: Callable[..., bytes] = self.encoder(**options)
        if self.locate is None:
            return lambda record, _: encode(record)
        return lambda record, place: encode(record, place=place)


_NDJSON: Final = "application/x-ndjson"
_TEXT: Final = "text/plain; charset=utf-8"
_LIMIT: Final = {"limit": fields.check_limit}
_below_audit = in_json(lambda found: (found["audit"]["log"]["origin"], found["audit"]["log"]["index"]))
_unmapped = in_json(lambda found: (found["unmapped"]["log"]["origin"], found["unmapped"]["log"]["index"]))
_ALL = (
    Format("jsonl", "the record itself: canonical entries as JSON Lines", _NDJSON, "lines", jsonl.encode,
           locate=in_json(lambda found: (found["log"], found["index"]))),
    Format("ocsf", "OCSF 1.8", _NDJSON, "lines", ocsf.encode, locate=_unmapped),
    Format("ocsf-1.9", "OCSF 1.9-dev with record_integrity", _NDJSON, "lines", ocsf.encode_with_integrity,
           locate=_unmapped),
    Format("ecs", "Elastic Common Schema 9.4", _NDJSON, "lines", ecs.encode, {"stream": ecs.check_stream},
           locate=_below_audit),
    Format("datadog", "Datadog logs intake v2", "application/json", "array", datadog.encode,
           {"tags": datadog.check_tags}, locate=_below_audit),
    Format("cloudevents", "CloudEvents 1.0, structured JSON", _NDJSON, "lines", cloudevents.encode,
           locate=in_json(lambda found: (found["logorigin"], found["logindex"]))),
    Format("k8s", "Kubernetes audit.k8s.io/v1 events", _NDJSON, "lines", kubernetes.encode,
           locate=in_json(kubernetes.place_in)),
    Format("cef", "ArcSight Common Event Format 0", _TEXT, "lines", cef.encode, _LIMIT,
           locate=in_text(r" deviceExternalId=((?:\\.|[^\\=])*) flexNumber1=(\d+) flexNumber1Label=log index\Z")),
    Format("leef", "QRadar Log Event Extended Format 2.0", _TEXT, "lines", leef.encode, _LIMIT,
           locate=in_text(r"\tlog=([^\t]*)\tindex=(\d+)\Z", escape="")),
    Format("rfc5424", "syslog", _TEXT, "lines", rfc5424.encode, {"enterprise": rfc5424.check_enterprise, **_LIMIT},
           locate=in_text(r' log="((?:\\.|[^"\\\]])*)" index="(\d+)"\] ')),
    Format("cloudtrail", "CloudTrail Lake auditEvents", "application/json", "array", cloudtrail.encode,
           {"account": cloudtrail.check_account}),
    Format("otlp", "OpenTelemetry log records, OTLP/JSON", _NDJSON, "lines", otlp.encode,
           locate=in_json(otlp.place_in)),
)  # fmt: skip

FORMATS: Final[Mapping[str, Format]] = MappingProxyType({one.name: one for one in _ALL})
"""Every format by its name."""


def format_named(name: str) -> Format:
    """The format of this name. Raises `ConfigError` that lists the names there are."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name[:64]!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
