"""Destinations that speak their protocol and enforce its limits, as processes that can be killed and started again.

``python -m tests.followers.receivers KIND PORT FILE``: what was taken is appended to FILE, a JSON line each, before it
is acknowledged; so it outlives a kill.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.control.support import until

LARGEST = 300_000
"""Bytes of a request that the Elasticsearch here takes."""


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
                taken.append({"id": id, "index": document["audit_log"]["index"], "record": document["audit"]})
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
        if any(log["audit"]["reason"] == "poison" for log in logs):
            return self.reply(400, {"errors": [{"title": "Bad request"}]})
        self.keep(*({"id": log["audit"]["action_id"], **log} for log in logs))
        return self.reply(202, {})


class WebhookHandler(_Handler):
    """Takes any message, and keeps what a receiver would verify."""

    def do_POST(self) -> None:
        data = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.keep({"id": headers.get("webhook-id"), "headers": headers, "body": data.decode(), "path": self.path})
        self.reply(200, {})


def _serve_syslog(port: int, file: Path) -> None:
    """Octet counting, one connection after another."""
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connected, _ = listener.accept()
        with connected, connected.makefile("rb") as stream, file.open("ab") as out:
            while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                out.write(json.dumps({"message": stream.read(int(length)).decode()}).encode() + b"\n")
                out.flush()


def serve(kind: str, port: int, file: Path) -> None:
    """Serves until the process ends."""
    if kind == "syslog":
        _serve_syslog(port, file)
    handler = {"elasticsearch": ElasticsearchHandler, "webhook": WebhookHandler, "datadog": DatadogHandler}[kind]
    known = [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
    made = type("Handler", (handler,), {"file": file, "kept": {one["id"]: True for one in known}})
    ThreadingHTTPServer(("127.0.0.1", port), made).serve_forever()


class Receiver:
    """One receiver on a port of its own."""

    def __init__(self, kind: str, file: Path) -> None:
        self.kind, self.file = kind, file
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Receiver:
        """Starts it and waits until it listens."""
        command = [sys.executable, "-m", "tests.followers.receivers", self.kind, str(self.port), str(self.file)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ})
        until(self._listens, "the receiver listens")
        return self

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

    def taken(self) -> list[dict[str, Any]]:
        """What it took, in order."""
        lines = self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
