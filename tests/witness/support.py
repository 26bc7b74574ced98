"""Logs with two histories, witnesses on real sockets, and trust files for both."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.errors import AuditError
from audit_middleware.evidence.cosign import Round, Submitter
from audit_middleware.evidence.witness import Cosigner, Witness
from audit_middleware.evidence.witness_state import WitnessState
from audit_middleware.ledger import tree
from audit_middleware.ledger.checkpoint import Checkpoint
from audit_middleware.ledger.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    Signer,
    Verifier,
    cosignature_line,
    format_signer_key,
    format_vkey,
    sign,
)
from audit_middleware.ledger.submission import (
    Submission,
    format_submission,
    parse_submission,
)
from audit_middleware.ledger.trust import Policy, parse_policy
from audit_middleware.signing import Ed25519Signer, MLDSA44Signer, write_key_file
from audit_middleware.stores.journal import JournalStore
from audit_middleware.web.witness import serve_witness
from tests.kit import steady_port
from tests.publish.support import numbered
from tests.servers.running import until
from tests.stores.samples import ORIGIN, SEAL, SIGNER, VKEY

ROOT = Path(__file__).parents[2]
NAME = "witness.example/w"
NOW = 1_800_000_000
FORK = 7
"""From this entry on the two histories differ."""


def log_key(origin: str) -> Ed25519Signer:
    """A log's key, from its origin."""
    return SIGNER if origin == ORIGIN else Ed25519Signer(origin, sha256(origin.encode()).digest())


def cosigner(name: str = NAME, byte: int = 9) -> Cosigner:
    """An Ed25519 witness key."""
    return Cosigner(COSIGNATURE_ED25519, Ed25519Signer(name, bytes([byte]) * 32))


def pq_cosigner(name: str = NAME, byte: int = 9) -> Cosigner:
    """An ML-DSA-44 witness key."""
    return Cosigner(COSIGNATURE_MLDSA44, MLDSA44Signer(name, bytes([byte]) * 32))


@cache
def _leaf(history: str, index: int) -> bytes:
    return tree.leaf_hash(f"{'a' if index < FORK else history}-{index}".encode())


def _read(history: str) -> tree.Read:
    def read(level: int, index: int) -> bytes:
        start, end = index << level, (index + 1) << level
        return tree.root(tree.append(0, (), [_leaf(history, one) for one in range(start, end)])[1])

    return read


@cache
def root(history: str, size: int) -> bytes:
    """The root of a history's first entries."""
    return tree.root(tree.append(0, (), [_leaf(history, one) for one in range(size)])[1])


def proof(history: str, old: int, new: int) -> tuple[bytes, ...]:
    """The consistency proof within a history; none where there cannot be one."""
    return tree.consistency_proof(old, new, _read(history)) if old <= new else ()


def note(history: str, size: int, origin: str = ORIGIN, signer: Signer | None = None) -> bytes:
    """A signed checkpoint."""
    return sign(Checkpoint(origin, size, root(history, size)).text(), [signer or log_key(origin)])


def request(history: str, old: int, new: int, origin: str = ORIGIN, **changes: Any) -> bytes:
    """The body of an add-checkpoint request with a right proof, unless one is given."""
    hashes = changes.pop("hashes", None)
    return format_submission(
        Submission(old, proof(history, old, new) if hashes is None else hashes, note(history, new, origin, **changes))
    )


def logs(*origins: str) -> Policy:
    """What a witness trusts."""
    lines = [f"log {format_vkey(one, log_key(one).public_key)}" for one in origins or (ORIGIN,)]
    return parse_policy("\n".join([*lines, "quorum none\n"]).encode())


def make_witness(
    folder: Path, *cosigners: Cosigner, trust: Policy | None = None, clock: Callable[[], int] | None = None
) -> Witness:
    """A witness whose memory is in this folder, old or new."""
    state = WitnessState(folder) if (folder / ".lock").exists() else WitnessState.create(folder)
    return Witness(cosigners or (cosigner(),), trust or logs(), state, clock or (lambda: NOW * 10**9))


def trust_text(*witnesses: tuple[str, Verifier, str | None], quorum: str | None = None, vkey: str = VKEY) -> str:
    """A trust file for the log: its witnesses, and how many of them (default: all)."""
    lines = [f"log {vkey}"]
    lines += [f"witness {name} {verifier.vkey} {url or ''}".rstrip() for name, verifier, url in witnesses]
    if quorum is None:
        lines += ["group all all " + " ".join(name for name, _, _ in witnesses)]
    elif quorum.isdigit():
        lines += [f"group all {quorum} " + " ".join(name for name, _, _ in witnesses)]
    return "\n".join([*lines, f"quorum {'none' if quorum == 'none' else 'all'}\n"])


def trust_of(*witnesses: tuple[str, Verifier, str | None], quorum: str | None = None) -> Policy:
    """The same, parsed."""
    return parse_policy(trust_text(*witnesses, quorum=quorum).encode())


@contextlib.contextmanager
def serving(witness: Witness, **options: Any) -> Iterator[str]:
    """A witness on a real socket, in a thread; its URL."""
    config = uvicorn.Config(
        serve_witness(witness, **options), host="127.0.0.1", port=0, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the server's start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


@dataclass
class Script:
    """A server that answers what it is told to, and remembers what it was asked."""

    answer: Callable[[str, str, bytes], tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """On a real socket; its URL."""
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.asked.append((self.command, self.path, body))
                status, headers, data = script.answer(self.command, self.path, body)
                with contextlib.suppress(OSError):  # whoever asked may have given up
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(data)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_POST = _handle

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self.url
        finally:
            server.shutdown()
            thread.join(60)
            server.server_close()


class WitnessProcess:
    """``witness serve`` as an operator runs it."""

    def __init__(self, folder: Path, trust: Path, key: Path, *more: str) -> None:
        self.port = steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = ["witness", "serve", "--state", str(folder), "--key", str(key), "--trust", str(trust)]
        command = [sys.executable, "-m", "audit_middleware", *arguments, "--port", str(self.port), *more]
        self.output = trust.with_name(f"output-{self.port}")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)

    def ready(self) -> WitnessProcess:
        """Once it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/{'0' * 64}/checkpoint").status_code == 404
            return False

        until(answers, "the witness's start")
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        return self.process.wait(60)


def witness_files(
    folder: Path, *origins: str, cosigners: Sequence[tuple[int, int]] = ((COSIGNATURE_ED25519, 9),)
) -> Any:
    """A key file and a trust file for `WitnessProcess`."""
    folder.mkdir(exist_ok=True)
    trust, key = folder / "logs", folder / "witness.key"
    lines = [f"log {format_vkey(one, log_key(one).public_key)}" for one in origins or (ORIGIN,)]
    trust.write_text("\n".join([*lines, "quorum none\n"]))
    write_key_file(key, "\n".join(format_signer_key(NAME, bytes([byte]) * 32, kind) for kind, byte in cosigners))
    return trust, key


# --- asking witnesses -------------------------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
W1, W2, W3 = (cosigner(f"witness.example/w{n}", n) for n in (1, 2, 3))
V1, V2, V3 = (one.verifier for one in (W1, W2, W3))


def submitter(log: Path, trust: Policy, **options: Any) -> Submitter:
    return Submitter(JournalStore.open(log, writable=False), log, trust, **{"patience": 20.0, **options})


def ask(log: Path, trust: Policy, **options: Any) -> Round:
    result = submitter(log, trust, **options).round()
    assert result is not None
    return result


def grow(log: Path, start: int, stop: int) -> None:
    store = JournalStore.open(log)
    store.append(numbered(start, stop), SEAL)
    store.close()


def honest(one: Any = W1) -> Callable[[str, str, bytes], Answer]:
    """Cosigns whatever comes."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        if method == "GET":
            return 404, {}, b""
        note = parse_submission(body).note
        text = note.rpartition(b"\n\n")[0].decode() + "\n"
        return 200, TEXT, cosignature_line(text, one.signer, one.kind, NOW)

    return answer


def always(status: int, headers: dict[str, str], body: bytes) -> Callable[[str, str, bytes], Answer]:
    return lambda method, path, _: (status, headers, body) if method == "POST" else (404, {}, b"")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, AuditError):
        return 3, "", str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr
