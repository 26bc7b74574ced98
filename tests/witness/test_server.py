"""A witness over HTTP: its paths and limits, two processes with one memory, kill -9, and the command."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from audit_middleware.errors import KeyFileError
from audit_middleware.evidence.witness_keys import cosigners_of, new_cosigner_key, read_cosigners
from audit_middleware.evidence.witness_state import WitnessState
from audit_middleware.ledger.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.ledger.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    format_vkey,
    open_note,
    parse_vkey,
)
from audit_middleware.ledger.submission import cosignatures_in, origin_hash
from audit_middleware.web.witness import LARGEST
from tests.kit import make_log
from tests.servers.running import until
from tests.stores.samples import ORIGIN, VERIFIERS, VKEY
from tests.witness.support import (
    NAME,
    WitnessProcess,
    cosigner,
    log_key,
    make_witness,
    note,
    pq_cosigner,
    request,
    root,
    run,
    serving,
    witness_files,
)


def post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{url}/add-checkpoint", content=body, timeout=60)


def test_the_paths_and_nothing_else(tmp_path: Path) -> None:
    name = origin_hash(ORIGIN)
    with serving(make_witness(tmp_path / "state")) as url:
        assert httpx.get(f"{url}/{name}/checkpoint").status_code == 404
        first = post(url, request("a", 0, 5))
        assert (first.status_code, first.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        again = post(url, request("a", 0, 5))
        assert (again.status_code, again.headers["content-type"], again.text) == (409, "text/x.tlog.size", "5\n")
        shown = httpx.get(f"{url}/{name}/checkpoint")
        assert shown.content == note("a", 5) + first.content
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert "max-age=1" in shown.headers["cache-control"]
        unchanged = httpx.get(f"{url}/{name}/checkpoint", headers={"If-None-Match": shown.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        for path in (f"/{name.upper()}/checkpoint", f"/{name}", f"/{name}/checkpoint%0A", "/.lock/checkpoint", "/"):
            assert httpx.get(url + path).status_code == 404, path
        assert httpx.get(f"{url}/..%2f{name}/checkpoint").status_code == 404
        assert httpx.get(f"{url}/add-checkpoint").status_code == 405
        assert httpx.put(f"{url}/{name}/checkpoint", content=b"x").status_code == 405


def test_bodies_without_end_and_without_haste(tmp_path: Path) -> None:
    witness = make_witness(tmp_path / "state")
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n"

    def connected(url: str) -> socket.socket:
        host, port = url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def raw(url: str, data: bytes) -> bytes:
        with connected(url) as connection:
            connection.sendall(data)
            return connection.recv(65536).split(b"\r\n")[0]

    with serving(witness, patience=0.2) as hasty:
        assert raw(hasty, head + b"Content-Length: 100\r\n\r\nold 0\n") == b"HTTP/1.1 408 Request Timeout"
    with serving(witness) as url:
        assert post(url, b"old 0\n\n" + b"x" * LARGEST).status_code == 413
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        assert raw(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5).startswith(b"HTTP/1.1 413 ")
        with connected(url) as gone:
            gone.sendall(head + b"Content-Length: 100\r\n\r\nold 0\n")
        assert post(url, bytes(range(256)) * 100).status_code == 400
        assert post(url, request("a", 0, 5)).status_code == 200


def test_two_processes_on_one_memory_never_fork(tmp_path: Path) -> None:
    """Eight logs, each forked by its operator, each half submitted to another process at the same moment."""
    origins = [f"audit.example/race-{number}" for number in range(8)]
    trust, key = witness_files(tmp_path / "files", *origins)
    WitnessState.create(tmp_path / "state").close()
    first, second = (WitnessProcess(tmp_path / "state", trust, key) for _ in range(2))
    try:
        first.ready()
        second.ready()
        for origin in origins:
            barrier = threading.Barrier(4)

            def race(
                half: tuple[str, str], origin: str = origin, barrier: threading.Barrier = barrier
            ) -> tuple[str, int]:
                barrier.wait(60)
                return half[0], post(half[1], request(half[0], 0, 12, origin)).status_code

            halves = [("a", first.url), ("b", second.url), ("a", second.url), ("b", first.url)]
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(race, halves))
            won = [history for history, status in answers if status == 200]
            assert sorted(status for _, status in answers) == [200, 409, 409, 409]
            loser = "b" if won == ["a"] else "a"
            for server in (first, second):
                assert post(server.url, request(loser, 12, 12, origin)).status_code == 422
                assert post(server.url, request(loser, 12, 14, origin)).status_code == 422
                shown = httpx.get(f"{server.url}/{origin_hash(origin)}/checkpoint").content
                keys = [parse_vkey(format_vkey(origin, log_key(origin).public_key))]
                assert open_checkpoint(shown, origin, keys)[0] == Checkpoint(origin, 12, root(won[0], 12))
    finally:
        first.stop()
        second.stop()


def test_killed_and_started_again(tmp_path: Path) -> None:
    """kill -9 while it cosigns as fast as it can: what it answered is what it remembers, or less than that."""
    trust, key = witness_files(tmp_path / "files")
    server = WitnessProcess(tmp_path / "state", trust, key, "--new").ready()
    answered: list[int] = []

    def grow() -> None:
        size = 0
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    answer = client.post(f"{server.url}/add-checkpoint", content=request("a", size, size + 1))
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                size += 1
                answered.append(size)

    thread = threading.Thread(target=grow)
    thread.start()
    until(lambda: len(answered) > 20, "some cosignatures")
    server.stop(signal.SIGKILL)
    thread.join(60)
    again = WitnessProcess(tmp_path / "state", trust, key).ready()
    try:
        held = int(post(again.url, request("a", 0, 1)).text)
        assert answered[-1] <= held <= answered[-1] + 1
        assert post(again.url, request("b", held, held + 1)).status_code == 422
        assert post(again.url, request("a", held, held + 1)).status_code == 200
    finally:
        assert again.stop() in (0, -signal.SIGTERM)


# --- the command and its keys ----------------------------------------------------------------------------------------


def test_a_witnesss_keys(tmp_path: Path) -> None:
    file = tmp_path / "witness.key"
    code, said, _ = run("keys", "new", "--cosigner", "--ml-dsa", "--name", NAME, "--out", file)
    assert (code, file.stat().st_mode & 0o777) == (0, 0o600)
    vkeys = [line.split()[-1] for line in said.splitlines() if line.startswith("verifier key")]
    assert [parse_vkey(one).type for one in vkeys] == [COSIGNATURE_ED25519, COSIGNATURE_MLDSA44]
    assert run("keys", "show", file)[1].split() == vkeys
    assert [one.verifier.vkey for one in read_cosigners(file)] == vkeys
    assert run("keys", "new", "--cosigner", "--name", NAME, "--out", file)[0] == 3
    assert run("keys", "new", "--ml-dsa", "--name", NAME, "--out", tmp_path / "x")[0] == 2
    (vkey,) = new_cosigner_key(NAME, tmp_path / "one.key")
    assert parse_vkey(vkey).type == COSIGNATURE_ED25519
    file.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_cosigners(file)


def test_keys_that_are_no_witnesss(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    with pytest.raises(KeyFileError, match=r"is the signing key of the log example\.com/test"):
        read_cosigners(Path(f"{log.path}.key"))
    new_cosigner_key(NAME, tmp_path / "w.key")
    line = (tmp_path / "w.key").read_text().strip()
    for text in ("", f"{line}\n{line}", line[:-3], line.replace(NAME, "other.example")):
        with pytest.raises(KeyFileError):
            cosigners_of(text, "here")
    with pytest.raises(KeyFileError) as problem:
        cosigners_of(line[:-3], "here")
    assert line[-20:-3] not in str(problem.value)
    # And a log cannot be written with a witness's key.
    assert run("init", tmp_path / "log2", "--origin", NAME, "--key", tmp_path / "w.key")[0] == 3


def test_what_serving_refuses(tmp_path: Path) -> None:
    trust, key = witness_files(tmp_path / "files")
    options = ("--state", tmp_path / "state", "--key", key, "--trust", trust)
    code, _, problem = run("witness", "serve", *options)
    assert (code, "no witness's state here" in problem) == (3, True)
    trust.write_text(f"witness w {cosigner().verifier.vkey}\nquorum none\n")
    assert "lists no log" in run("witness", "serve", *options, "--new")[2]
    own = format_vkey(NAME, cosigner().signer.public_key)
    trust.write_text(f"log {own}\nquorum none\n")
    code, _, problem = run("witness", "serve", *options, "--new")
    assert (code, "watches itself" in problem) == (3, True)
    assert not (tmp_path / "state").exists()


def test_the_command_with_both_keys(tmp_path: Path) -> None:
    kinds = ((COSIGNATURE_ED25519, 9), (COSIGNATURE_MLDSA44, 9))
    trust, key = witness_files(tmp_path / "files", cosigners=kinds)
    server = WitnessProcess(tmp_path / "state", trust, key, "--new").ready()
    try:
        answer = post(server.url, request("a", 0, 5))
        keys = [cosigner().verifier, pq_cosigner().verifier]
        text = Checkpoint(ORIGIN, 5, root("a", 5)).text()
        assert len(cosignatures_in(answer.content, text, keys)) == 2
        shown = httpx.get(f"{server.url}/{origin_hash(ORIGIN)}/checkpoint").content
        assert len(open_note(shown, [*VERIFIERS, *keys]).verified) == 3
    finally:
        server.stop()
    said = server.output.read_text()
    assert f"cosigns as {keys[0].vkey}" in said
    assert f"the log    {parse_vkey(VKEY).name}" in said
