"""Servers that drip, pour, or ask for patience for ever."""

from __future__ import annotations

import gzip
import logging
import threading
import time

import httpx
import pytest

from audit_middleware.errors import FollowerError
from audit_middleware.followers.post import LONGEST_WAIT, Poster, Reply
from tests.followers.serving import Handler, served


def test_a_server_that_sends_a_byte_now_and_then_is_given_up() -> None:
    gone = threading.Event()

    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not gone.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    with served(drip) as url:
        poster = Poster(url, patience=0.5)
        started = time.monotonic()
        with pytest.raises(FollowerError, match=r"no whole answer within 0\.5 seconds"):
            poster.post(b"x", {})
        assert time.monotonic() - started < 30
        gone.set()
        poster.close()


def test_an_endless_answer_is_not_kept() -> None:
    def pour(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(gzip.compress(b"\0" * 2**20) * 16)

    with served(pour) as url:
        poster = Poster(url, patience=20, largest=1 << 16)
        with pytest.raises(FollowerError, match=r"more than 65536 bytes"):
            poster.post(b"x", {})
        poster.close()


def test_retry_after_is_read_and_bounded() -> None:
    def after(text: str) -> float | None:
        return Reply(429, {"retry-after": text}, b"").after

    assert after("3") == 3
    assert after("99999999999") == LONGEST_WAIT
    assert after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert after("Wed, 21 Oct 2099 07:28:00 GMT") == LONGEST_WAIT
    beyond = ("Wed, 21 Oct 2015 07:28:00 +99999999999999", "99999999999999999999 Oct 2015 07:28:00 GMT")
    assert [after(text) for text in beyond] == [None] * 2, "dates that no calendar has"
    assert [after(text) for text in ("", "soon", "-1", "1e9", "\u0663")] == [None] * 5


def test_a_url_that_cannot_be_reached_is_said_without_its_path() -> None:
    with pytest.raises(FollowerError, match=r"^https://a: this is no URL that can be reached$"):
        Poster("https://a/secret\x01path", patience=1)


def test_at_debug_nothing_of_our_requests_is_in_the_applications_log(caplog: pytest.LogCaptureFixture) -> None:
    """A redirect may name the secret URL; what the application asks for by the same library is its own to log."""

    def redirect(handler: Handler) -> None:
        handler.say(308, b"", Location="https://hooks.example.com/secret-path")

    caplog.set_level(logging.DEBUG)
    with served(redirect) as url:
        poster = Poster(f"{url}/secret-path", patience=60)
        assert poster.post(b"x", {"Authorization": "Bearer secret-token"}).status == 308
        poster.close()
        assert "secret" not in caplog.text
        assert httpx.post(url, content=b"x", timeout=60).status_code == 308
    assert "receive_response_headers" in caplog.text, "the level is DEBUG, and it would have been there"
