"""The signer, key files and key variables."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from audit_middleware.errors import KeyFileError
from audit_middleware.ledger import note
from audit_middleware.protocols import Signer
from audit_middleware.signing import (
    Ed25519Signer,
    key_from_environment,
    read_key_file,
    replace_key_file,
    write_key_file,
)


def test_rfc_8032_vector() -> None:
    """RFC 8032 section 7.1, test 2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signer: Signer = Ed25519Signer("audit.example/log", seed)
    assert signer.name == "audit.example/log"
    assert signer.public_key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signer.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_threads_may_share_it() -> None:
    signer = Ed25519Signer("a", bytes(32))
    key = Ed25519PublicKey.from_public_bytes(signer.public_key)

    def work(number: int) -> None:
        for step in range(50):
            message = b"%d %d" % (number, step)
            key.verify(signer.sign(message), message)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_process_that_was_forked_signs_the_same() -> None:
    signer = Ed25519Signer("a", bytes(32))
    before = signer.sign(b"message")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # nothing of pytest may run here
        os.write(writing, signer.sign(b"message"))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert told == before == signer.sign(b"message")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(KeyFileError, match=f"{size} bytes"):
        Ed25519Signer("a", bytes(size))


def test_the_key_is_never_shown() -> None:
    seed = bytes(range(32))
    signer = Ed25519Signer("a", seed)
    assert repr(signer) == "Ed25519Signer('a')"
    assert not hasattr(signer, "__dict__")


def test_a_key_file_round_trip(tmp_path: Path) -> None:
    text = note.format_signer_key("audit.example/log", bytes(range(32)))
    path = tmp_path / "log.key"
    before = os.umask(0)
    try:
        write_key_file(path, text)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key_file(path) == text
    assert read_key_file(str(path)) == text
    name, seed = note.parse_signer_key(read_key_file(path))
    assert Ed25519Signer(name, seed).name == "audit.example/log"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    write_key_file(path, "one")
    with pytest.raises(KeyFileError, match="never overwritten"):
        write_key_file(path, "two")
    assert read_key_file(path) == "one"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        write_key_file(tmp_path / "link", "three")
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        write_key_file(tmp_path / "missing" / "log.key", "one")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644, 0o777, 0o620])
def test_a_key_file_that_others_can_get_at(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.key"
    write_key_file(path, "one")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}") as caught:
        read_key_file(path)
    assert "one" not in str(caught.value)
    path.chmod(0o400)
    assert read_key_file(path) == "one"


def test_key_files_that_are_none(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(KeyFileError, match=words):
            read_key_file(path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        read_key_file(fifo)  # does not hang
    for content, words in ((b"", "holds no key"), (b" \n", "holds no key"), (b"\xff\xfe", "not text")):
        path = tmp_path / "bad"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match=words):
            read_key_file(path)


def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_KEY", " PRIVATE+KEY+x\n")
    assert key_from_environment("LOG_KEY") == "PRIVATE+KEY+x"
    for value in ("", "  "):
        monkeypatch.setenv("LOG_KEY", value)
        with pytest.raises(KeyFileError, match="LOG_KEY"):
            key_from_environment("LOG_KEY")
    monkeypatch.delenv("LOG_KEY")
    with pytest.raises(KeyFileError, match="LOG_KEY"):
        key_from_environment("LOG_KEY")
    os.environb[b"LOG_KEY"] = b"\xff"
    with pytest.raises(KeyFileError, match="not text"):
        key_from_environment("LOG_KEY")


def test_a_key_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.key"
    with pytest.raises(KeyFileError, match="No such file"):
        replace_key_file(path, "one")
    write_key_file(path, "one")
    replace_key_file(path, "two")
    assert read_key_file(path) == "two"
    assert path.stat().st_mode & 0o777 == 0o600

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyFileError, match="Input/output error"):
        replace_key_file(path, "three")
    monkeypatch.undo()
    assert read_key_file(path) == "two"
    replace_key_file(path, "four")
    assert read_key_file(path) == "four"
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod"):
        replace_key_file(path, "five")
