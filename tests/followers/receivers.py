"""Destinations that speak their protocol and enforce its limits, as processes that can be killed and started again.

``python -m tests.followers.receivers KIND PORT FILE``: what was taken is appended to FILE, a JSON line each, before it
is acknowledged; so it outlives a kill.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.control.support import until
from tests.kit import steady_port

LARGEST = 300_000
"""Bytes of a request that the Elasticsearch here takes."""

OTLP_LARGEST = 4 * 2**20
"""Bytes of a request, unpacked, that the receiver of log records here takes."""

CHANNEL = "arn:aws:cloudtrail:eu-central-1:123456789012:channel/EXAMPLE8-0558-4f7e-a06a-43969EXAMPLE"
AUDIT_EVENT = {"id", "eventData", "eventDataChecksum"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    file: Path
    kept: dict[str, bool]

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def keep(self, *taken: dict[str, Any]) -> None:
        with self.file.open("ab") as file:
            file.write(b"".join(json.dumps(one).encode() + b"\n" for one in taken))

    def reply(self, status: int, value: Any, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)


class ElasticsearchHandler(_Handler):
    """The bulk API of one data stream: only ``create``, 409 for an id that is there, strict about the bodies."""

    def do_POST(self) -> None:
        data = self.body()
        if self.headers.get("Authorization") != "ApiKey c2VjcmV0LWVzLWtleQ==":
            return self.reply(401, {"error": "unauthorised"})
        if self.path != "/logs-audit-test/_bulk" or self.headers["Content-Type"] != "application/x-ndjson":
            return self.reply(404, {"error": "no such index"})
        if len(data) > LARGEST:
            return self.reply(413, {"error": "too large"})
        lines = data.split(b"\n")
        if lines.pop() != b"" or len(lines) % 2:
            return self.reply(400, {"error": "The bulk request must be terminated by a newline"})
        items, taken = [], []
        for head, text in zip(lines[::2], lines[1::2], strict=True):
            id, document = json.loads(head)["create"]["_id"], json.loads(text)
            if not document.get("@timestamp"):
                error = {"type": "document_parsing_exception", "reason": f"data stream timestamp field: {text!r}"}
                items.append({"create": {"_id": id, "status": 400, "error": error}})
            elif id in self.kept:
                items.append({"create": {"_id": id, "status": 409, "error": {"type": "version_conflict"}}})
            else:
                self.kept[id] = True
                taken.append({"id": id, "text": text.decode()})
                items.append({"create": {"_id": id, "status": 201}})
        self.keep(*taken)
        return self.reply(200, {"errors": bool(len(taken) < len(items)), "items": items})


class DatadogHandler(_Handler):
    """The logs intake: its key, its limits, and 202."""

    def do_POST(self) -> None:
        data = self.body()
        if self.headers.get("DD-API-KEY") != "secret-dd-key":
            return self.reply(403, {"errors": [{"title": "Forbidden"}]})
        logs = json.loads(data)
        if len(data) > 5_000_000 or len(logs) > 1_000 or max(map(len, map(json.dumps, logs))) > 1_000_000:
            return self.reply(413, {"errors": [{"title": "Payload too large"}]})
        if any(log["audit"].get("reason") == "poison" for log in logs):
            return self.reply(400, {"errors": [{"title": "Bad request"}]})
        self.keep(*({"id": log["audit"]["id"], "text": json.dumps(log)} for log in logs))
        return self.reply(202, {})


class WebhookHandler(_Handler):
    """Takes any message, and keeps what a receiver would verify."""

    def do_POST(self) -> None:
        data = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.keep({"id": headers.get("webhook-id"), "headers": headers, "text": data.decode(), "path": self.path})
        self.reply(200, {})


class _Scripted(_Handler):
    """Gives the answers first that `Receiver.answer_next` left, one a request, and takes nothing with them."""

    def scripted(self) -> bool:
        script = self.file.with_suffix(".next")
        answers = json.loads(script.read_text()) if script.exists() else []
        if answers:
            status, headers = answers.pop(0)
            script.write_text(json.dumps(answers))
            self.reply(status, {"message": "not now: top secret"}, **headers)
            return True
        return False


class OtlpHandler(_Scripted):
    """Log records as protobuf, strictly: no field that the definitions do not have, 4 MiB, ids of the right length.
    Records with the reason "poison" are refused by a partial success, and a request with "malformed" as a whole."""

    def do_POST(self) -> None:
        from google.protobuf import json_format
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
            ExportLogsServiceRequest,
            ExportLogsServiceResponse,
        )

        data = self.body()
        if self.scripted():
            return
        if self.headers.get("Authorization") != "Bearer secret-otlp-token":
            return self.reply(401, {"message": "who are you?"})
        if self.path != "/v1/logs" or self.headers["Content-Type"] != "application/x-protobuf":
            return self.reply(404, {"message": "no such endpoint"})
        if len(data) > OTLP_LARGEST:
            return self.reply(413, {"message": "too large"})
        request = ExportLogsServiceRequest()
        try:
            request.ParseFromString(data)
        except DecodeError:
            return self.reply(400, {"message": "no protobuf"})
        size = request.ByteSize()
        request.DiscardUnknownFields()
        if request.ByteSize() != size or not request.resource_logs:
            return self.reply(400, {"message": "unknown fields, or nothing at all"})
        taken, refused = [], 0
        for described in request.resource_logs:
            for scope in described.scope_logs:
                for line in scope.log_records:
                    known = {one.key: one.value for one in line.attributes}
                    reason = known["audit.reason"].string_value if "audit.reason" in known else ""
                    if reason == "malformed" or len(line.trace_id) not in (0, 16) or len(line.span_id) not in (0, 8):
                        return self.reply(400, {"message": f"malformed: {reason}"})
                    if reason == "poison":
                        refused += 1
                        continue
                    made = {
                        "id": known["log.record.uid"].string_value,
                        "resource": json_format.MessageToDict(described.resource),
                        "scope": json_format.MessageToDict(scope.scope),
                        "record": json_format.MessageToDict(line),
                        "headers": dict(self.headers.items()),
                    }
                    taken.append(made)
        self.keep(*taken)
        answer = ExportLogsServiceResponse()
        if refused:
            answer.partial_success.rejected_log_records = refused
            answer.partial_success.error_message = "the reason was poison"
        body = answer.SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class CloudTrailHandler(_Scripted):
    """PutAuditEvents as AWS's service model has it: signature, limits and checksums are looked at; an id that is there
    is answered with DuplicatedAuditEventId. The reason of a record may be the error code to answer for it."""

    def do_POST(self) -> None:
        data = self.body()
        if self.scripted():
            return
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query, strict_parsing=True))
        if not self._signed(data):
            return self.reply(403, {"message": "top secret"}, x_amzn_ErrorType="InvalidSignatureException:http://x/")
        if address.path != "/PutAuditEvents" or query.pop("channelArn") != CHANNEL or query != {"externalId": "ext-1"}:
            return self.reply(404, {"message": "top secret"}, x_amzn_ErrorType="ChannelNotFound")
        events = json.loads(data).pop("auditEvents")
        ids = [event["id"] for event in events]
        if not 1 <= len(events) <= 100 or len(data) > 1_000_000:
            return self.reply(413, {"message": "top secret"}, x_amzn_ErrorType="RequestEntityTooLarge")
        if len(set(ids)) != len(ids):
            return self.reply(400, {"message": "top secret"}, x_amzn_ErrorType="DuplicatedAuditEventId")
        taken, good, failed = [], [], []
        for event in events:
            id, text = event["id"], event["eventData"]
            told = self._fault(event)
            if told is not None:
                failed.append({"id": id, "errorCode": told, "errorMessage": f"top secret: {text[:64]}"})
            else:
                self.kept[id] = True
                good.append({"id": id, "eventID": f"aws-{id}"})
                taken.append({"id": id, "event": json.loads(text)})
        self.keep(*taken)
        return self.reply(200, {"successful": good, "failed": failed})

    def _fault(self, event: dict[str, Any]) -> str | None:
        text = event["eventData"]
        if base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() != event["eventDataChecksum"]:
            return "InvalidChecksum"
        if not re.fullmatch("[-_A-Za-z0-9]{1,128}", event["id"]) or set(event) != AUDIT_EVENT:
            return "InvalidData"
        if len(text.encode()) > 256 * 1024:
            return "FieldTooLong"
        data = json.loads(text)
        if data["recipientAccountId"] != CHANNEL.split(":")[4]:
            return "InvalidRecipient"
        reason = data["additionalEventData"].get("reason")
        if event["id"] in self.kept:
            return "DuplicatedAuditEventId"
        return str(reason) if reason else None

    def _signed(self, data: bytes) -> bool:
        """Signature version 4, computed anew over what came."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-central-1/cloudtrail-data/aws4_request, "
            r"SignedHeaders=(\S+), Signature=([0-9a-f]{64})",
            self.headers.get("Authorization", ""),
        )
        if found is None or "host" not in found[1] or "x-amz-date" not in found[1]:
            return False
        url = f"http://{self.headers['Host']}{self.path}"
        headers = {name: self.headers[name] for name in found[1].split(";")}
        request = AWSRequest("POST", url, headers, data)
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials("AKIDEXAMPLE", "secret-aws-key"), "cloudtrail-data", "eu-central-1")
        return bool(found[2] == auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


def _serve_syslog(port: int, file: Path) -> None:
    """Octet counting, one connection after another."""
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connected, _ = listener.accept()
        with connected, connected.makefile("rb") as stream, file.open("ab") as out:
            while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                text = stream.read(int(length))
                if len(text) == int(length):
                    out.write(json.dumps({"text": text.decode()}).encode() + b"\n")
                    out.flush()


def _cut_torn_line(file: Path) -> None:
    """Killed in the middle of a line, the last one was never acknowledged."""
    if file.exists():
        data = file.read_bytes()
        os.truncate(file, data.rfind(b"\n") + 1)


def serve(kind: str, port: int, file: Path) -> None:
    """Serves until the process ends."""
    if kind == "syslog":
        _serve_syslog(port, file)
    handler = {
        "elasticsearch": ElasticsearchHandler,
        "webhook": WebhookHandler,
        "datadog": DatadogHandler,
        "otlp": OtlpHandler,
        "cloudtrail": CloudTrailHandler,
    }[kind]
    _cut_torn_line(file)
    known = [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
    made = type("Handler", (handler,), {"file": file, "kept": {one["id"]: True for one in known}})
    ThreadingHTTPServer(("127.0.0.1", port), made).serve_forever()


class Receiver:
    """One receiver on a port of its own."""

    def __init__(self, kind: str, file: Path) -> None:
        self.kind, self.file = kind, file
        self.port = steady_port()  # it must still be free when it is started again
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Receiver:
        """Starts it and waits until it listens."""
        self._process = subprocess.Popen(self.command(), cwd=Path(__file__).parents[2], env={**os.environ})
        until(self._listens, "the receiver listens")
        return self

    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "tests.followers.receivers", self.kind, str(self.port), str(self.file)]

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def answer_next(self, *answers: tuple[int, dict[str, str]]) -> None:
        """Status and headers of the next answers; what comes with these requests is not taken."""
        self.file.with_suffix(".next").write_text(json.dumps(answers))

    def stop(self) -> None:
        """Lets it stand still: its kernel goes on taking what it has room for."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def count(self) -> int:
        """How many it took."""
        return self.file.read_bytes().count(b"\n") if self.file.exists() else 0

    def taken(self) -> list[dict[str, Any]]:
        """What it took, in order."""
        lines = self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []
        return [json.loads(line) for line in lines]


class Rsyslog(Receiver):
    """rsyslogd with a configuration of its own: it writes what it understood of each message, as JSON."""

    def __init__(self, file: Path, tls: Path | None = None) -> None:
        """``tls`` is a folder with ``ca.pem``, ``cert.pem`` and ``key.pem``."""
        super().__init__("rsyslog", file)
        names = {"host": "hostname", "app": "app-name", "process": "procid", "id": "msgid", "pri": "pri",
                 "data": "structured-data", "time": "timereported", "text": "msg"}  # fmt: skip
        date = ' dateFormat="rfc3339"'
        fields = "\n".join(
            f'property(outname="{ours}" name="{name}" format="jsonf"{date if ours == "time" else ""})'
            for ours, name in names.items()
        )
        driver = ""
        files = ""
        if tls is not None:
            driver = ' streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon"'
            files = "".join(
                f' defaultNetstreamDriver{kind}File="{tls / name}"'
                for kind, name in {"CA": "ca.pem", "Cert": "cert.pem", "Key": "key.pem"}.items()
            )
        self._config = file.with_suffix(".conf")
        self._config.write_text(
            f"""global(workDirectory="{file.parent}" maxMessageSize="128k"
  parser.escapeControlCharacterTab="off"{files})
module(load="imtcp"{driver})
template(name="fields" type="list" option.jsonf="on") {{
{fields}
}}
ruleset(name="audit") {{ action(type="omfile" file="{file}" template="fields") }}
input(type="imtcp" address="127.0.0.1" port="{self.port}" ruleset="audit")
"""
        )

    def command(self) -> list[str]:
        """In the foreground, beside any other."""
        found = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found, "these tests need rsyslog: apt-get install rsyslog rsyslog-openssl"
        return [found, "-n", "-f", str(self._config), "-i", str(self._config.with_suffix(".pid"))]


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
