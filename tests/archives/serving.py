"""Real S3 servers as processes of their own, and a proxy in front that does what networks and servers do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from audit_middleware.archives.s3 import S3Archive
from tests.kit import steady_port

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 300.0  # seconds until a test that waits for something gives up; never part of a claim
REGION: Literal["eu-central-1"] = "eu-central-1"
KEY_ID, SECRET = "AKIAEXAMPLEEXAMPLE00", "a-secret-that-no-message-may-show-0123456789"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
NO_SERVER = "no S3 server: run `make s3-server`, or name a Python that has it in AUDIT_TEST_S3_PYTHON"


def s3_python() -> str | None:
    """The Python of the environment that the S3 server is installed in; ``None``: there is none."""
    if named := os.environ.get("AUDIT_TEST_S3_PYTHON"):
        return named
    made = ROOT / ".venv-s3" / "bin" / "python"
    return str(made) if made.exists() else None


class Server:
    """One server; what it holds is gone when it is killed. Started again, it has the same port."""

    def __init__(self, python: str, script: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command = [python, str(HERE / script)]
        self._folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self._environment.pop("PYTHONPATH", None)  # ours is not its
        self._process: subprocess.Popen[bytes] | None = None
        self.port = steady_port()

    @property
    def url(self) -> str:
        """As an endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Until it answers; it is slow only the first time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                [*self._command, str(self.port), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self._folder / "errors").read_text()
        self.port = int(line)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
        return self

    def kill(self) -> None:
        """At once, as a power cut would."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait(PATIENCE)
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def s3_server(folder: Path) -> Server:
    """LocalStack's S3 provider, whose Object Lock holds."""
    python = s3_python()
    assert python is not None
    return Server(python, "s3_server.py", folder)


def moto_server(folder: Path, **environment: str) -> Server:
    """moto, whose Object Lock does not."""
    return Server(sys.executable, "moto_server.py", folder, environment)


def make_bucket(endpoint: str, bucket: str, *, lock: bool = True) -> str:
    """Makes a bucket; returns the URL of an archive in it, without a check of it."""
    _client(endpoint).create_bucket(
        Bucket=bucket,
        ObjectLockEnabledForBucket=lock,
        CreateBucketConfiguration={"LocationConstraint": REGION},
    )
    return f"s3://{bucket}/log?endpoint_url={endpoint}&region={REGION}&timeout=120"


@cache
def _client(endpoint: str) -> S3Client:
    """One for all buckets of a server: to make one takes longer than to make a bucket."""
    return S3Archive.open(f"s3://unused?endpoint_url={endpoint}&region={REGION}", writable=False).client


@dataclass
class Asked:
    """A request on its way: a rule may change it. ``answer`` instead of the server's: a status and S3's code."""

    method: str
    path: str
    headers: Message
    body: bytes
    answer: tuple[int, str] | None = None
    cut: bool = False  # the server has answered, and nobody will know what
    change_body: Callable[[bytes], bytes] | None = None  # of the answer
    cut_body: bool = False  # the answer ends in the middle

    def has(self, word: str) -> bool:
        """True if the query asks for such a thing."""
        return word in self.path.partition("?")[2]


@dataclass
class Proxy:
    """Between a client and a server; what happens to each request is for ``rule`` to say.

    ``in_turn``: one request reaches the server at a time. Then a conditional PUT is one step, as it is at AWS, also
    where the server looks and stores in two, and dates a version before it shows it.
    """

    upstream: int
    rule: Callable[[Asked], object] = lambda asked: None
    in_turn: bool = False
    seen: list[str] = field(default_factory=list)
    port: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """As an endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """While the block lasts."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                proxy._pass(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join(PATIENCE)
            server.server_close()

    def _pass(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        asked = Asked(handler.command, handler.path, handler.headers, body)
        self.seen.append(f"{asked.method} {asked.path}")
        self.rule(asked)
        handler.close_connection = True
        if asked.answer is not None:
            status, code = asked.answer
            found = b"" if asked.method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            headers = [("Content-Type", "application/xml")]
        else:
            with self._turn if self.in_turn else nullcontext():
                status, headers, found = self._ask(asked)
        if asked.cut:
            return
        if asked.change_body is not None:
            found = asked.change_body(found)
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        handler.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(length if asked.method == "HEAD" and length else len(found)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(found[: len(found) // 2] if asked.cut_body else found)

    def _ask(self, asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.upstream, timeout=PATIENCE)
        try:
            connection.putrequest(asked.method, asked.path, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                if name.lower() not in ("expect", "content-length"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(asked.body)))
            connection.endheaders(asked.body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
