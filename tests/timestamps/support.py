"""A time stamp authority of OpenSSL behind a small HTTP server, with authorities that cheat."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.witness.support import Script

CONFIG = """
[tsa]
default_tsa = main
[main]
serial = ./serial
crypto_device = builtin
signer_cert = ./tsa.crt
signer_key = ./tsa.key
certs = ./ca.crt
signer_digest = sha256
default_policy = 1.3.6.1.4.1.64829.99.1
digests = sha256, sha384, sha512
ordering = yes
tsa_name = yes
ess_cert_id_alg = sha256
[stamping]
extendedKeyUsage = critical,timeStamping
basicConstraints = critical,CA:false
[mail]
extendedKeyUsage = emailProtection
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
"""


@dataclass
class Authority:
    """A certificate authority and the time stamp authority under it."""

    folder: Path

    @property
    def roots(self) -> Path:
        """The trusted certificate, PEM."""
        return self.folder / "ca.crt"

    def openssl(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Runs the tool in the authority's folder."""
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.folder, input=stdin, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def reply(self, query: bytes) -> bytes:
        """The response to a query, as ``openssl ts`` makes it."""
        (self.folder / "query").write_bytes(query)
        self.openssl("ts", "-reply", "-config", "ts.cnf", "-queryfile", "query", "-out", "reply")
        return (self.folder / "reply").read_bytes()

    def query(self, data: bytes, *options: str) -> bytes:
        """A query of our own making over some bytes."""
        return self.openssl("ts", "-query", "-sha256", "-cert", *options, "-data", "/dev/stdin", stdin=data)


def make_authority(folder: Path, purpose: str = "stamping") -> Authority:
    """Makes an authority; with another purpose its certificate is not one for time stamps."""
    folder.mkdir()
    (folder / "ts.cnf").write_text(CONFIG)
    (folder / "serial").write_text("01\n")
    made = Authority(folder)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    made.openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", f"/CN=CA {folder.name}", "-days", "3650",
        "-config", "ts.cnf", "-extensions", "authority",
    )  # fmt: skip
    made.openssl("req", "-new", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=TSA", "-config", "ts.cnf")
    made.openssl(
        "x509", "-req", "-in", "tsa.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650",
        "-extfile", "ts.cnf", "-extensions", purpose, "-out", "tsa.crt",
    )  # fmt: skip
    return made


@contextlib.contextmanager
def stamping(
    answer: Callable[[bytes], bytes], kind: str = "application/timestamp-reply", status: int = 200
) -> Iterator[str]:
    """A server whose response to a query is what ``answer`` makes of it; its URL."""

    def handle(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return status, {"Content-Type": kind}, answer(body)

    with Script(handle).running() as url:
        yield f"{url}/tsr"


def flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each byte of some data with one bit changed."""
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        yield position, bytes(changed)


def missing(name: str, real: Any) -> Callable[..., Any]:
    """An import function for which one package is not installed."""

    def load(wanted: str, *arguments: Any, **options: Any) -> Any:
        if wanted.partition(".")[0] == name:
            raise ImportError(name)
        return real(wanted, *arguments, **options)

    return load
