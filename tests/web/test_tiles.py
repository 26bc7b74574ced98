"""A published log over HTTP: a real server, asked for everything that is there and much that is not."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from audit_middleware.archives.local import Folder
from audit_middleware.ledger import tiles, tree
from audit_middleware.ledger.checkpoint import open_checkpoint
from audit_middleware.web.tiles import serve_tiles
from tests.kit import steady_port
from tests.publish.support import files, numbered, publish
from tests.stores.samples import ORIGIN, VERIFIERS, new_journal, small


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 300 entries, published in its own directory: the journal lies beside the tiles."""
    folder = tmp_path_factory.mktemp("web")
    publish(new_journal(folder / "log", numbered(0, 300)), folder / "log")
    return folder / "log"


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    """The server as an operator starts it; stopped by its process ID."""
    chosen = steady_port()
    command = [sys.executable, "-m", "audit_middleware", "serve", str(root), "--port", str(chosen)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(chosen, process)
        yield chosen
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "the server ended"
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request with the path exactly as given: no client tidies it up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_every_published_file_is_served(port: int, root: Path) -> None:
    published = {name: data for name, data in files(root).items() if name.startswith(("tile/", "checkpoint"))}
    assert len(published) == 6
    for name, data in published.items():
        status, headers, body = ask(port, f"/{name}")
        assert (status, body) == (200, data), name
        assert headers["etag"] == f'"{sha256(data).hexdigest()}"'
        if name == "checkpoint":
            assert headers["content-type"] == "text/plain; charset=utf-8"
            assert "max-age=1," in headers["cache-control"]
        else:
            assert headers["content-type"] == "application/octet-stream"
            assert headers["cache-control"] == "public, max-age=31536000, immutable"
        assert headers["x-content-type-options"] == "nosniff"


def test_head_and_conditional_requests(port: int, root: Path) -> None:
    for name in ("checkpoint", "tile/0/000"):
        _, headers, body = ask(port, f"/{name}")
        status, same, nothing = ask(port, f"/{name}", "HEAD")
        assert (status, nothing) == (200, b"")
        assert same["content-length"] == str(len(body))
        assert {key: same[key] for key in ("etag", "content-type", "cache-control")} == {
            key: headers[key] for key in ("etag", "content-type", "cache-control")
        }
        for given in (headers["etag"], f'"other", W/{headers["etag"]}', "*"):
            status, kept, nothing = ask(port, f"/{name}", If_None_Match=given)
            assert (status, nothing) == (304, b"")
            assert kept["etag"] == headers["etag"]
        assert ask(port, f"/{name}", If_None_Match='"other"')[0] == 200


OUTSIDE = [
    "/", "/config.json", "/journal/00000000000000000000.jsonl", "/.state/lock", "/index.sqlite", "/checkpoint/",
    "/tile", "/tile/", "/tile/0", "/tile/0/", "/tile/0/000/", "/tile/0/000.p", "/tile/0/000.p/256", "/tile/0/0",
    "/tile/00/000", "/tile/0/x000/000", "/tile/64/000", "/tile/0/001", "/tile/0/999.p/7", "/tile/entries/001.p/0",
    "/tile/data/000", "/tile/0/../../config.json", "/tile/0/../0/000", "/../log/config.json", "//checkpoint",
    "/%2e%2e/config.json", "/tile/0/%2e%2e/%2e%2e/config.json", "/..%2fconfig.json", "/tile/0/000%00",
    "/tile/0/000%0a", "/tile/%30/000%2f", "/tile\\0\\000", "/tile/-1/000", "/tile/0/%d9%a0%d9%a0%d9%a0",
    "/tile/entries/../../journal/00000000000000000000.jsonl", "/CHECKPOINT", "/tile/0/" + "x999/" * 40 + "000",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_else_is_served(port: int, path: str) -> None:
    status, _, body = ask(port, path)
    assert status in (404, 400), (status, body[:80])
    assert b"origin" not in body


def test_nothing_can_be_written(port: int, root: Path) -> None:
    before = files(root)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(port, "/checkpoint", method)[0] == 405
    assert files(root) == before


def test_a_client_can_verify_an_entry_by_http_alone(port: int) -> None:
    checkpoint, _ = open_checkpoint(ask(port, "/checkpoint")[2], ORIGIN, VERIFIERS)

    def get(level: int, n: int, width: int) -> bytes:
        return ask(port, "/" + tiles.tile_path(level, n, width))[2]

    proof = tree.inclusion_proof(17, checkpoint.size, tiles.hash_reader(checkpoint.size, get))
    entries = tiles.decode_bundle(ask(port, "/" + tiles.entries_path(0))[2])
    assert entries[17] == small(17)
    tree.verify_inclusion(tree.leaf_hash(entries[17]), 17, checkpoint.size, proof, checkpoint.root)


def test_it_can_be_mounted(root: Path) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    client = TestClient(Starlette(routes=[Mount("/log", serve_tiles(Folder(root)))]))
    assert client.get("/log/checkpoint").content == (root / "checkpoint").read_bytes()
    assert client.get("/checkpoint").status_code == 404
    assert client.get("/log/config.json").status_code == 404


def test_what_is_not_published_is_not_served(tmp_path: Path) -> None:
    new_journal(tmp_path / "log", numbered(0, 3))
    command = [sys.executable, "-m", "audit_middleware", "serve", str(tmp_path / "log"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "Publish first: audit-middleware publish" in done.stderr


def test_without_uvicorn_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from audit_middleware.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "pip install" in done.stderr
    assert "uvicorn" in done.stderr
