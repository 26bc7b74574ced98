"""An issuer for tests: keys, tokens, and a real HTTP server on 127.0.0.1 that publishes them."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER, AUDIENCE = "https://login.example.com/", "billing"
NOW = 1_800_000_000

RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
RSA_2 = RSAKey.generate_key(2048, {"kid": "rsa-2"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
EC_384 = ECKey.generate_key("P-384", {"kid": "ec-384"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
SECRET = "a secret that is long enough for HS256!"
OCT = OctKey.import_key(SECRET)


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, changed; ``None`` leaves one out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600, "iat": NOW, "roles": ["clerk"], **changes}
    return {name: value for name, value in good.items() if value is not None}


def encoded(part: Any) -> str:
    """One part of a token."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(raw).decode().rstrip("=")


def signed(header: Any, payload: Any, key: Key, alg: str) -> str:
    """A token with any header, signed as if the header said ``alg``: a library would refuse to make some of these."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(JWSRegistry.algorithms[alg].sign(text.encode(), key))}"


def token(key: Key = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A signed token; ``kid`` is the key's."""
    named = {"alg": alg, "typ": "JWT", "kid": key.kid, **(header or {})}
    return signed({name: value for name, value in named.items() if value is not None}, claims(**changes), key, alg)


def public(*keys: Key) -> dict[str, Any]:
    """The JWKS of these keys."""
    return {"keys": [key.as_dict(private=False) for key in keys]}


def scope(text: str | None = None, *more: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    """A request's scope, with a bearer token if one is given."""
    bearer = [(b"authorization", f"Bearer {text}".encode())] if text is not None else []
    return {"type": "http", "headers": [(b"host", b"a"), *bearer, *more], "query_string": b"", **changes}


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class Issuer:
    """What the server answers with, and what it was asked."""

    def __init__(self, secure: bool = False) -> None:
        self.scheme = "https" if secure else "http"
        self.status = 200
        self.body: bytes = b""
        self.headers: dict[str, str] = {"content-type": "application/json"}
        self.requests: list[str] = []
        self.hold: threading.Event | None = None
        self.drip: Callable[[], bool] | None = None  # sends bytes one by one for as long as this is true
        self.port = 0
        self._lock = threading.Condition()

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"{self.scheme}://127.0.0.1:{self.port}/jwks"

    def publish(self, *keys: Key) -> None:
        """The keys from now on."""
        self.status, self.body = 200, json.dumps(public(*keys)).encode()

    def wait_for(self, count: int) -> None:
        """Until so many requests have arrived."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.requests) >= count, 10)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        with self._lock:
            self.requests.append(handler.path)
            self._lock.notify_all()
        try:
            if self.hold is not None:
                self.hold.wait(10)
            handler.send_response(self.status)
            for name, value in self.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            while self.drip is not None and self.drip():
                handler.wfile.write(b" ")
            handler.wfile.write(self.body)
        except OSError:
            pass  # the client has given up: that is what some tests are about


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Issuer]:
    """A running issuer that publishes `RSA`."""
    issuer = Issuer(tls is not None)
    issuer.publish(RSA)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.serve(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    issuer.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        if issuer.hold is not None:
            issuer.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
