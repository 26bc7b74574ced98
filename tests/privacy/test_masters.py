"""Master keys: files, variables and a KMS; what each refuses, and in which words."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from audit_middleware.errors import AuditError, ConfigError, MasterKeyError, SubjectKeysError
from audit_middleware.privacy.keys import create_keys, open_keys, rotate_master
from audit_middleware.privacy.masters import HeldMaster, make_master, master_file, open_master
from audit_middleware.protocols import MasterKey
from tests.archives.serving import ENVIRONMENT, REGION, Server, moto_server
from tests.privacy.keying import ORIGIN, user

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
OTHER = "audit.example.com/other"


@pytest.fixture(scope="module")
def kms_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A KMS as a process of its own."""
    server = moto_server(tmp_path_factory.mktemp("kms"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def kms(kms_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key in it: its ID."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms_server.url)
    return str(kms_client().create_key()["KeyMetadata"]["KeyId"])


def kms_client() -> Any:
    return boto3.client("kms", region_name=REGION)


@pytest.fixture(params=["file", "env", "awskms"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A master key of each kind."""
    if request.param == "awskms":
        return f"awskms:{request.getfixturevalue('kms')}"
    if request.param == "env":
        monkeypatch.setenv("BILLING_MASTER", TEXT)
        return "env:BILLING_MASTER"
    make_master(f"file:{tmp_path / 'master'}")
    return f"file:{tmp_path / 'master'}"


# --- all kinds -------------------------------------------------------------------------------------------------------


def test_what_it_wraps_it_unwraps(url: str) -> None:
    one, two = open_master(url, ORIGIN), open_master(url, ORIGIN)
    wrapped = one.wrap(KEY)
    assert KEY not in wrapped
    assert two.unwrap(wrapped) == KEY
    assert one.name == url
    assert url in repr(one)
    with pytest.raises(MasterKeyError, match="a key of 32 bytes is expected, not of 31"):
        one.wrap(KEY[1:])


def test_what_was_wrapped_for_one_log_opens_for_no_other(url: str) -> None:
    wrapped = open_master(url, ORIGIN).wrap(KEY)
    with pytest.raises(MasterKeyError) as refused:
        open_master(url, OTHER).unwrap(wrapped)
    assert url in str(refused.value)


def test_every_altered_byte_is_refused(url: str) -> None:
    master = open_master(url, ORIGIN)
    wrapped = master.wrap(KEY)
    for at in range(len(wrapped)) if len(wrapped) < 60 else range(0, len(wrapped), 17):
        damaged = bytearray(wrapped)
        damaged[at] ^= 1
        with pytest.raises(MasterKeyError):
            master.unwrap(bytes(damaged))
    for piece in (b"", wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(AuditError):
            master.unwrap(piece)


def test_a_store_moves_from_any_kind_to_any(url: str, tmp_path: Path) -> None:
    master: MasterKey = open_master(url, ORIGIN)
    create_keys(tmp_path / "store", ORIGIN, master)
    keys = open_keys(tmp_path / "store", ORIGIN, master)
    key = keys.of(user(1))
    keys.commit()
    held = HeldMaster("env:NEXT", KEY[::-1], ORIGIN)
    with pytest.raises(MasterKeyError, match="is the one in force already"):
        keys.check_other(open_master(url, ORIGIN))
    keys.check_other(held)
    rotate_master(keys, held)
    with pytest.raises(MasterKeyError):
        open_keys(tmp_path / "store", ORIGIN, master)
    rotate_master(keys, master)
    keys.close()
    again = open_keys(tmp_path / "store", ORIGIN, open_master(url, ORIGIN))
    assert again.find(user(1)) == key
    again.close()


@pytest.mark.parametrize(
    "wrong", ["", TEXT, "master", "file:", "env:", "awskms:", "file://x/y", "vault:key", "file:a\0b"]
)
def test_what_is_no_url_of_a_master_key_is_not_repeated(wrong: str) -> None:
    for call in (lambda: open_master(wrong, ORIGIN), lambda: make_master(wrong), lambda: master_file(wrong)):
        with pytest.raises(MasterKeyError, match=r"^master key: expected file:PATH, env:NAME or awskms:KEY$"):
            call()


# --- files and variables ---------------------------------------------------------------------------------------------


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'master'}"
    make_master(url)
    text = (tmp_path / "master").read_text()
    assert stat.S_IMODE((tmp_path / "master").stat().st_mode) == 0o600
    assert len(base64.b64decode(text)) == 32
    with pytest.raises(MasterKeyError, match="exists already; a key is never overwritten"):
        make_master(url)
    assert (tmp_path / "master").read_text() == text
    make_master(f"file:{tmp_path / 'second'}")
    assert (tmp_path / "second").read_text() != text


def test_a_file_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master"
    with pytest.raises(MasterKeyError, match="it is made by: audit-middleware subject init LOG"):
        open_master(f"file:{path}", ORIGIN)
    make_master(f"file:{path}")
    path.chmod(0o640)
    with pytest.raises(MasterKeyError, match=r"others have access \(mode 0640\). Run: chmod 600"):
        open_master(f"file:{path}", ORIGIN)
    with pytest.raises(MasterKeyError, match="is not a regular file"):
        open_master(f"file:{tmp_path}", ORIGIN)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(MasterKeyError, match="is not a regular file"):
        open_master(f"file:{tmp_path / 'pipe'}", ORIGIN)


@pytest.mark.parametrize("text", ["hello", TEXT[:-4], TEXT + TEXT, "*" + TEXT[1:], "PRIVATE+KEY+x+12345678+" + TEXT])
def test_a_text_of_another_shape_is_refused_and_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_MASTER", text)
    with pytest.raises(MasterKeyError, match="is not 32 bytes as base64") as refused:
        open_master("env:BILLING_MASTER", ORIGIN)
    assert text not in str(refused.value)
    assert ("it is a signing key" in str(refused.value)) == text.startswith("PRIVATE")


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (None, "", "  \n"):
        if text is not None:
            monkeypatch.setenv("BILLING_MASTER", text)
        with pytest.raises(MasterKeyError, match="environment variable BILLING_MASTER: holds no key"):
            open_master("env:BILLING_MASTER", ORIGIN)


def test_another_key_is_told_from_damage() -> None:
    one, two = HeldMaster("env:ONE", KEY, ORIGIN), HeldMaster("env:TWO", KEY[::-1], ORIGIN)
    wrapped = one.wrap(KEY)
    with pytest.raises(MasterKeyError, match=f"env:TWO: is another key: .* was wrapped by {wrapped[1:9].hex()}"):
        two.unwrap(wrapped)
    with pytest.raises(MasterKeyError, match=r"env:ONE: is the right one, but .* is damaged"):
        one.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]))
    with pytest.raises(MasterKeyError, match="was not wrapped by a file's or variable's key, or is damaged"):
        one.unwrap(b"\x02" + wrapped[1:])


def test_the_form_of_what_is_wrapped_stays() -> None:
    """What older stores hold must open for ever."""
    wrapped = bytes.fromhex(WRAPPED)
    assert HeldMaster("env:ONE", KEY, ORIGIN).wrap(KEY[::-1]) == wrapped
    assert HeldMaster("env:ONE", KEY, ORIGIN).unwrap(wrapped) == KEY[::-1]


WRAPPED = "015059a57ce6c1c0d048dbe897e43baef6df2e083741390245bbfbe3f2c12aba05ce95a46e98f4d94ca6d6425b85547c6c"


@pytest.mark.parametrize("url", ["env:NAME", "awskms:alias/audit"])
def test_only_a_file_is_made_here(url: str) -> None:
    with pytest.raises(MasterKeyError, match="only a file is made here"):
        make_master(url)


# --- the KMS ---------------------------------------------------------------------------------------------------------


def test_a_key_of_the_kms_by_its_arn_and_its_alias(kms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = kms_client()
    arn = client.describe_key(KeyId=kms)["KeyMetadata"]["Arn"]
    client.create_alias(AliasName=f"alias/audit-{kms}", TargetKeyId=kms)
    wrapped = open_master(f"awskms:{kms}", ORIGIN).wrap(KEY)
    assert open_master(f"awskms:alias/audit-{kms}", ORIGIN).unwrap(wrapped) == KEY
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert open_master(f"awskms:{arn}", ORIGIN).unwrap(wrapped) == KEY
    with pytest.raises(MasterKeyError, match="region"):
        open_master(f"awskms:{kms}", ORIGIN)


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (400, "IncorrectKeyException", MasterKeyError, "is another key than the one that wrapped the store"),
        (400, "InvalidCiphertextException", MasterKeyError, "did not wrap what the store"),
        (400, "DisabledException", MasterKeyError, "the KMS refuses to decrypt with it"),
        (400, "AccessDeniedException", MasterKeyError, "the KMS refuses to decrypt with it"),
        (400, "ThrottlingException", SubjectKeysError, "the KMS does not decrypt now"),
        (500, "KMSInternalException", SubjectKeysError, "the KMS does not decrypt now"),
        (503, "Whatever", SubjectKeysError, "the KMS does not decrypt now"),
    ],
)
def test_what_the_kms_answers_is_told_apart(
    status: int, code: str, error: type[AuditError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that the server of the other tests does not give, from one that gives nothing else."""

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"__type": code, "message": "no"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("audit_middleware.privacy.masters_kms._TRIES", 1)
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(error, match=f"{said}.*{code}"):
            open_master("awskms:alias/audit", ORIGIN).unwrap(b"wrapped")
        server.shutdown()


def test_a_key_that_the_kms_does_not_have(kms: str) -> None:
    with pytest.raises(MasterKeyError, match=r"the KMS refuses to encrypt with it \(NotFoundException\)"):
        open_master("awskms:12345678-1234-1234-1234-123456789012", ORIGIN).wrap(KEY)


def test_another_key_of_the_kms(kms: str) -> None:
    wrapped = open_master(f"awskms:{kms}", ORIGIN).wrap(KEY)
    second = str(kms_client().create_key()["KeyMetadata"]["KeyId"])
    with pytest.raises(MasterKeyError):
        open_master(f"awskms:{second}", ORIGIN).unwrap(wrapped)


def test_a_kms_that_cannot_be_reached_is_no_wrong_key(kms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(SubjectKeysError, match=r"the KMS cannot be reached \(EndpointConnectionError\)"):
            open_master(f"awskms:{kms}", ORIGIN).wrap(KEY)


def test_without_credentials(kms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(MasterKeyError, match="Unable to locate credentials"):
        open_master(f"awskms:{kms}", ORIGIN).wrap(KEY)


def test_without_boto3_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"pip install 'audit-middleware\[kms\]'"):
        open_master("awskms:alias/audit", ORIGIN)
