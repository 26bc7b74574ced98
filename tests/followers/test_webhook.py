"""Signed webhooks, verified with the reference library, and addresses that must not be reached."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook as Standard

from audit_middleware.errors import FollowerError
from audit_middleware.followers.destinations.webhook import PAYLOADS, Webhook, read_key, sign
from audit_middleware.followers.post import Poster, is_public
from audit_middleware.followers.sink import Sent
from audit_middleware.formats import FORMATS, Place
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC, append, arrived, cursor, follower, items, journal, running, way
from tests.stores.samples import entry

KEY = read_key(WHSEC)


def hook(url: str, **more: Any) -> Webhook:
    given: dict[str, Any] = {"keys": (KEY,), "allow_private": True} | more
    return Webhook(SecretStr(url), **given)


def test_the_example_of_the_specification() -> None:
    signed = sign(KEY, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", 1674087231, b'{"type":"contact.created"}')
    assert signed == "v1,Jqzl9RJ76enxkFSyP/9X/iNK19sO8QIPJScWcG4i7i0="


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"])
def test_what_is_no_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        read_key(secret)


def test_webhooks_through_an_outage_verify_with_the_reference_library(
    tmp_path: Path, receiver: Callable[[str], Receiver]
) -> None:
    store, server = journal(tmp_path, 20), receiver("webhook")
    other = "whsec_" + "C2FtcGxlU2VjcmV0U2FtcGxlU2VjcmV0"
    url = f"{server.url}/hooks/secret-path"
    made, _ = follower(store, tmp_path, hook(url, keys=(KEY, read_key(other)), payload="whole"), batch=50)
    with running(made):
        until(lambda: cursor(tmp_path) == 20, "the first records arrive")
        server.kill()
        append(store, 200)
        until(lambda: made.problem, "the outage is noticed")
        assert "secret-path" not in str(made.problem)
        server.start()
        until(lambda: len(server.taken()) > 60, "some arrive")
        server.kill()
        server.start()
        until(lambda: cursor(tmp_path) == 220, "everything arrives")
    taken = server.taken()
    indexes = [json.loads(one["text"])["data"]["index"] for one in taken]
    assert list(dict.fromkeys(indexes)) == list(range(220)), "nothing lost, first arrivals in order"
    assert len({one["id"] for one in taken}) == 220, "a repetition has the same id"
    for secret in (WHSEC, other):
        told: Any = Standard(secret).verify(taken[5]["text"], taken[5]["headers"])
        assert told["type"] == "invoice.delete"
        assert told["data"]["record"] == json.loads(entry(5))
        assert taken[5]["id"] == told["data"]["record"]["action_id"]


def test_a_thin_payload_names_the_record_and_no_more(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("webhook")
    sink = hook(server.url).open(way(tmp_path))
    assert sink.send(items(3, reason="confidential", action="strange action/ü")) == Sent(1)
    told = json.loads(server.taken()[0]["text"])
    assert told["type"] == "strange_action__"
    assert set(told["data"]) == {
        "log", "index", "action_id", "kind", "action", "event", "severity", "outcome", "decision",
    }  # fmt: skip
    assert "confidential" not in server.taken()[0]["text"]
    sink.close()


@pytest.mark.parametrize("payload", [name for name in PAYLOADS if name not in ("thin", "whole")])
def test_a_format_is_the_whole_body_and_signed(
    tmp_path: Path, receiver: Callable[[str], Receiver], payload: str
) -> None:
    server = receiver("webhook")
    sink = hook(server.url, payload=payload).open(way(tmp_path))
    assert sink.send([*items(3), *items(4, service=None)]) == Sent(2, {4: f"cannot be shown as {payload}: TypeError"})
    (one,) = server.taken()
    Standard(WHSEC).verify(one["text"], one["headers"])
    assert arrived(server, payload) == [3]
    kind = "application/cloudevents+json" if payload == "cloudevents" else "application/json"
    assert one["headers"]["content-type"] == kind
    assert one["text"].encode() == FORMATS[payload].placing()(items(3)[0].record, Place("example.com/log", 3))
    sink.close()


@pytest.mark.parametrize(
    ("status", "settled", "rejected"),
    [
        (204, 2, {}), (400, 2, {0: "answered 400", 1: "answered 400"}), (401, 0, {}), (404, 0, {}), (410, 0, {}),
        (429, 0, {}), (302, 0, {}), (500, 0, {}),
    ],
)  # fmt: skip
def test_what_a_status_means(tmp_path: Path, status: int, settled: int, rejected: dict[int, str]) -> None:
    def answer(handler: Handler) -> None:
        asked.append(handler.path)
        handler.say(status, b"", Location="/elsewhere", Retry_After="7")

    asked: list[str] = []
    with served(answer) as url:
        sink = hook(url + "/here").open(way(tmp_path))
        sent = sink.send(items(0, 1))
        assert (sent.settled, sent.rejected, sent.retry is None) == (settled, rejected, settled == 2)
        assert sent.after == (None if settled else 7.0)
        assert set(asked) == {"/here"}, "no redirect is followed"
        sink.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.1.2.3", "[::ffff:10.0.0.1]", "2130706433"],
)
def test_a_private_address_is_not_reached(tmp_path: Path, host: str) -> None:
    with served(lambda handler: pytest.fail("was reached")) as url:
        port = url.rsplit(":", 1)[1]
        sink = hook(f"http://{host}:{port}/", allow_private=False).open(way(tmp_path))
        sent = sink.send(items(0))
        assert sent.settled == 0
        assert "allow_private" in str(sent.retry)
        sink.close()


def test_which_addresses_are_public() -> None:
    for public in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"):
        assert is_public(public), public
    for other in (
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1",
        "5f00::1", "2001:db8::1", "3fff::1", "no address",
    ):  # fmt: skip
        assert not is_public(other), other


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is looked up once; the certificate is checked against the name."""
    authority = trustme.CA()
    certificate = authority.issue_cert("hooks.example.com")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    monkeypatch.setattr("audit_middleware.followers.post.is_public", lambda address: True)
    seen: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "hooks.example.com":
            seen.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with authority.cert_pem.tempfile() as ca, served(lambda handler: handler.say(200, b""), tls) as url:
        port = url.rsplit(":", 1)[1]
        poster = Poster(f"https://hooks.example.com:{port}/", patience=20, ca=Path(ca), guarded=True)
        assert poster.post(b"x", {}).status == 200
        poster.close()
        assert seen == ["hooks.example.com"]
        wrong = Poster(f"https://127.0.0.1:{port}/", patience=20, ca=Path(ca), guarded=True)
        with pytest.raises(FollowerError, match="ConnectError"):
            wrong.post(b"x", {})
        wrong.close()
