"""The OpenTelemetry SDK's exporter of log records, carried by our `Poster`. Imports what the extra ``otlp`` brings.

Left to itself the exporter takes a redirect for a delivery, does not look into the answer (so a partial success is a
success), sleeps between retries of its own, limits no request as a whole, and takes proxies, passwords and headers
from the environment. So it gets a `requests.Session` whose only adapter hands each request to a `Poster`, keeps the
answer, and tells the exporter that all is well: what the answer means, and when to try again, is not its business.
The reasons stand in docs/adr/0024.

Records go out in the log's order. The exporter collects what has equal resources, which would let records of one
process overtake those of another: each run of records of one process has a resource of its own here, equal to none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context
from requests import PreparedRequest, Response, Session
from requests.adapters import BaseAdapter

from ...errors import FollowerError
from ..post import Poster, Reply


class Exporter:
    """Sends log records, and returns what the receiver answered."""

    def __init__(self, url: str, poster: Poster, headers: Mapping[str, str], *, compress: bool) -> None:
        made = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": "gzip"} if compress else {})
        self._carrier = _Carrier(poster, made | dict(headers))
        session = Session()
        session.trust_env = False
        session.mount("http://", self._carrier)
        session.mount("https://", self._carrier)
        compression = Compression.Gzip if compress else Compression.NoCompression
        self._exporter = OTLPLogExporter(endpoint=url, compression=compression, session=session)
        self._place = poster.place

    def export(self, lines: Sequence[Mapping[str, Any]]) -> Reply:
        """Sends records, each a ``LogsData`` as `formats.otlp` writes it, in one request.

        Raises:
            FollowerError: There was no answer that can be used.
        """
        self._carrier.reply = self._carrier.problem = None
        self._exporter.export(list(log_records(lines)))
        if self._carrier.reply is not None:
            return self._carrier.reply
        raise self._carrier.problem or FollowerError(f"{self._place}: the exporter made no request")

    def refused(self, reply: Reply) -> int:
        """How many records a 2xx answer says were refused.

        Raises:
            FollowerError: It is not the answer of a receiver of log records; what is there took nothing.
        """
        found = ExportLogsServiceResponse()
        try:
            if "json" in reply.headers.get("content-type", "") and reply.body:
                told = json.loads(reply.body)
                if not isinstance(told, dict):
                    raise ValueError("no object")
                json_format.ParseDict(told, found, ignore_unknown_fields=True)
            else:
                found.ParseFromString(reply.body)
        except (DecodeError, json_format.ParseError, ValueError, RecursionError):
            raise FollowerError(f"{self._place}: the answer is not one of OTLP") from None
        return int(found.partial_success.rejected_log_records)

    def close(self) -> None:
        """Ends the exporter; the `Poster` is whose who made it."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK left the annotation out


class _Carrier(BaseAdapter):
    """Sends by a `Poster`, with these headers and none of the environment's, and keeps what came of it."""

    def __init__(self, poster: Poster, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._poster, self._headers = poster, headers
        self.reply: Reply | None = None
        self.problem: FollowerError | None = None

    def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
        """Raises nothing, and says 200: whatever else is said, the exporter would try again or log."""
        body = request.body if isinstance(request.body, bytes) else b""
        try:
            self.reply = self._poster.post(body, self._headers)
        except FollowerError as problem:
            self.problem = problem
        answer = Response()
        answer.status_code = 200
        return answer

    def close(self) -> None:
        """Nothing: see `Exporter.close`."""


class _Run(Resource):
    """The resource of one run of records, equal to itself alone."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def log_records(lines: Iterable[Mapping[str, Any]]) -> Iterator[ReadableLogRecord]:
    """The SDK's own values for records as OTLP/JSON has them, in order."""
    for described, run in groupby((one["resourceLogs"][0] for one in lines), key=lambda one: one["resource"]):
        resource = _Run(_attributes(described["attributes"]))
        for one in run:
            (scope,) = one["scopeLogs"]
            (line,) = scope["logRecords"]
            yield ReadableLogRecord(_log_record(line), resource, InstrumentationScope(scope["scope"]["name"]))


def _log_record(line: Mapping[str, Any]) -> LogRecord:
    # A context is always given: without one the record would get the trace of whoever calls.
    trace = SpanContext(int(line.get("traceId", "0"), 16), int(line.get("spanId", "0"), 16), is_remote=True)
    return LogRecord(
        timestamp=int(line["timeUnixNano"]),
        observed_timestamp=int(line["observedTimeUnixNano"]),
        context=set_span_in_context(NonRecordingSpan(trace)),
        severity_text=line["severityText"],
        severity_number=SeverityNumber(line["severityNumber"]),
        body=line["body"]["stringValue"],
        attributes=_attributes(line["attributes"]),
        event_name=line["eventName"],
    )


def _attributes(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: Mapping[str, Any]) -> Any:
    if "arrayValue" in value:
        return [_value(one) for one in value["arrayValue"]["values"]]
    return int(value["intValue"]) if "intValue" in value else value["stringValue"]
