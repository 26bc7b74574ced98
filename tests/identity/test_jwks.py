"""Keys behind a URL, from a real server: rotation, outage, hostile answers, several loops."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import uvloop
from joserfc.jwk import OctKey, RSAKey

from audit_middleware.errors import ConfigError, IdentityError, IdentityUnavailable
from audit_middleware.identity.jwks import RemoteKeys, parse_jwks
from audit_middleware.identity.jwt import JWTIdentifier
from audit_middleware.model import Subject
from tests.identity.issuer import (
    AUDIENCE,
    EC,
    ISSUER,
    RSA,
    RSA_2,
    SECRET,
    Clock,
    Issuer,
    public,
    scope,
    serving,
    token,
)

T = TypeVar("T")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serving() as running:
        yield running


class Service:
    """A service that verifies tokens of the issuer; its clock moves when told to."""

    def __init__(self, issuer: Issuer, **changes: Any) -> None:
        self.clock = Clock()
        arguments: dict[str, Any] = {"clock": Clock(), "monotonic": self.clock, "timeout_s": 2, **changes}
        self.identifier = JWTIdentifier(
            issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256"], jwks_url=issuer.url, **arguments
        )

    async def ask(self, text: str) -> Subject | None:
        answer = self.identifier(scope(text))
        return answer if answer is None or isinstance(answer, Subject) else await answer

    def who(self, text: str) -> Subject | None:
        return asyncio.run(self.ask(text))


def test_keys_are_fetched_once_and_kept(issuer: Issuer) -> None:
    service = Service(issuer)
    assert service.who(token()) is not None
    assert service.who(token(sub="bob")) is not None
    service.clock.now += 299
    assert service.who(token(sub="carol")) is not None
    assert issuer.requests == ["/jwks"]
    service.clock.now += 1
    assert service.who(token(sub="dave")) is not None
    assert len(issuer.requests) == 2


def test_without_a_credential_nothing_is_fetched(issuer: Issuer) -> None:
    service = Service(issuer)
    assert service.identifier(scope()) is None
    with pytest.raises(IdentityError):
        service.who("no.token")
    assert issuer.requests == []


def test_a_new_key_is_found_at_once(issuer: Issuer) -> None:
    service = Service(issuer)
    service.who(token())
    issuer.publish(RSA, RSA_2)
    service.clock.now += 10
    assert service.who(token(RSA_2)) is not None
    assert len(issuer.requests) == 2


def test_unknown_keys_cost_the_issuer_one_fetch_in_ten_seconds(issuer: Issuer) -> None:
    service = Service(issuer)
    service.who(token())
    for second in range(100):
        with pytest.raises(IdentityError):
            service.who(token(RSA_2, header={"kid": f"made-up-{second}"}))
        service.clock.now += 1
    assert len(issuer.requests) == 1 + 9
    assert service.who(token()) is not None


def test_a_key_that_is_withdrawn_takes_its_tokens_with_it(issuer: Issuer) -> None:
    service = Service(issuer)
    assert service.who(token()) is not None
    assert isinstance(service.identifier(scope(token())), Subject)
    issuer.publish(RSA_2)
    service.clock.now += 300
    with pytest.raises(IdentityError):
        service.who(token())
    assert service.who(token(RSA_2)) is not None


def test_a_key_that_changes_under_its_kid_is_a_change(issuer: Issuer) -> None:
    service = Service(issuer)
    assert service.who(token()) is not None
    issuer.publish(RSAKey.generate_key(2048, {"kid": "rsa-1"}))
    service.clock.now += 300
    with pytest.raises(IdentityError):
        service.who(token())


def test_an_outage_is_bridged_with_the_keys_at_hand(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(issuer, stale_s=3600)
    service.who(token())
    issuer.status = 503
    service.clock.now += 3599
    assert service.who(token()) is not None
    assert service.who(token(sub="bob")) is not None
    assert len(issuer.requests) == 2, "within ten seconds a failed fetch is not tried again"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the issuer's JWKS could not be fetched: status 503"
    ]
    service.clock.now += 1
    with pytest.raises(IdentityUnavailable):
        service.who(token())
    with pytest.raises(IdentityUnavailable):
        service.who(token(sub="bob"))
    issuer.status = 200
    service.clock.now += 10
    assert service.who(token()) is not None


def test_without_any_keys_it_is_unavailable_and_tried_again_soon(issuer: Issuer) -> None:
    service = Service(issuer)
    issuer.status = 500
    for _ in range(3):
        with pytest.raises(IdentityUnavailable):
            service.who(token())
    assert len(issuer.requests) == 1
    issuer.status = 200
    service.clock.now += 1
    assert service.who(token()) is not None


def test_an_unknown_key_during_an_outage_is_no_verdict(issuer: Issuer) -> None:
    service = Service(issuer)
    service.who(token())
    issuer.status = 500
    service.clock.now += 10
    with pytest.raises(IdentityUnavailable):
        service.who(token(RSA_2))
    assert service.who(token()) is not None


def test_nobody_listens(issuer: Issuer) -> None:
    with serving() as gone:
        service = Service(gone)
    with pytest.raises(IdentityUnavailable) as caught:
        service.who(token())
    assert "127.0.0.1" not in str(caught.value)


OCT_JWK = {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa-1"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [1, null, "x", []]}',
        b"[" * 100_000,
        b'{"keys": [' + b"[" * 50_000,
        b" " * 300_000 + b"{}",
        json.dumps({"keys": [OCT_JWK]}).encode(),
        json.dumps({"keys": [{"kty": "RSA"}]}).encode(),
        json.dumps({"keys": [{"kty": "RSA", "n": "AA", "e": "AQAB"}]}).encode(),
        json.dumps({"keys": [{"kty": "RSA", "n": 5, "e": []}]}).encode(),
        json.dumps({"keys": [{"kty": ["RSA"]}, {"kty": "XYZ"}]}).encode(),
        json.dumps({"keys": [{**RSA.as_dict(private=False), "use": "enc"}]}).encode(),
        json.dumps({"keys": [{**RSA.as_dict(private=False), "key_ops": ["encrypt"]}]}).encode(),
        json.dumps({"keys": [{**RSA.as_dict(private=False), "key_ops": 5}]}).encode(),
        json.dumps({"keys": [{**RSA.as_dict(private=False), "kid": {"a": 1}}]}).encode(),
        json.dumps(public(EC)).encode(),
        json.dumps({"keys": [RSA.as_dict(private=False)] * 101}).encode(),
        b"\xff\xfe",
    ],
)
@pytest.mark.filterwarnings("ignore:Key size should be")
def test_a_hostile_answer_changes_nothing(issuer: Issuer, body: bytes) -> None:
    good, issuer.body = issuer.body, body
    service = Service(issuer)
    with pytest.raises(IdentityUnavailable):
        service.who(token())
    issuer.body = good
    service.clock.now += 1
    assert service.who(token()) is not None
    issuer.body = body
    service.clock.now += 300
    assert service.who(token(sub="bob")) is not None, "the old keys stay"
    assert len(issuer.requests) == 3


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_one_bad_key_does_not_hide_the_good_ones(issuer: Issuer) -> None:
    bad = [OCT_JWK, {"kty": "RSA"}, {"kty": "ML-DSA", "kid": "pq"}, 5, {"kty": "RSA", "n": "AA", "e": "AQAB"}]
    issuer.body = json.dumps({"keys": [*bad, RSA.as_dict(private=False)]}).encode()
    assert Service(issuer).who(token()) is not None


def test_a_published_secret_is_never_a_key() -> None:
    hmac = OctKey.import_key(SECRET, {"kid": "k"}).as_dict()
    ring = parse_jwks(json.dumps({"keys": [hmac, RSA.as_dict(private=False)]}).encode(), ["RS256"])
    assert [key.key_type for key in ring.keys] == ["RSA"]


def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    with serving() as other:
        issuer.status = 302
        issuer.headers["location"] = other.url
        with pytest.raises(IdentityUnavailable):
            Service(issuer).who(token())
        assert other.requests == []


def test_a_compressed_answer_is_not_unpacked(issuer: Issuer) -> None:
    import gzip

    issuer.headers["content-encoding"] = "gzip"
    issuer.body = gzip.compress(issuer.body)
    with pytest.raises(IdentityUnavailable):
        Service(issuer).who(token())


def test_an_issuer_that_hangs_costs_the_time_limit(issuer: Issuer) -> None:
    issuer.hold = threading.Event()
    with pytest.raises(IdentityUnavailable):
        Service(issuer, timeout_s=0.2).who(token())


def test_an_issuer_that_drips_costs_the_time_limit_too(issuer: Issuer) -> None:
    """Each read is quick: only a limit on the whole answer ends this."""
    ended = threading.Event()
    issuer.drip = lambda: not ended.wait(0.02)
    try:
        with pytest.raises(IdentityUnavailable):
            Service(issuer, timeout_s=0.3).who(token())
    finally:
        ended.set()


def test_many_requests_at_once_make_one_fetch(issuer: Issuer) -> None:
    service = Service(issuer)

    async def run() -> list[Subject | None]:
        return await asyncio.gather(*(service.ask(token(sub=f"u{n}")) for n in range(30)))

    subjects = asyncio.run(run())
    assert [subject.id for subject in subjects if subject] == [f"u{n}" for n in range(30)]
    assert len(issuer.requests) == 1


def test_while_one_request_fetches_the_others_use_the_old_keys(issuer: Issuer) -> None:
    service = Service(issuer)
    service.who(token())
    service.clock.now += 300
    issuer.hold = threading.Event()

    async def run() -> None:
        first = asyncio.ensure_future(service.ask(token(sub="first")))
        await asyncio.to_thread(issuer.wait_for, 2)
        assert await service.ask(token(sub="second")) is not None
        assert not first.done()
        assert issuer.hold is not None
        issuer.hold.set()
        assert await first is not None

    asyncio.run(run())


def test_a_cancelled_fetch_neither_breaks_the_next_nor_buys_another(issuer: Issuer) -> None:
    service = Service(issuer)
    service.who(token())
    service.clock.now += 10
    hold = issuer.hold = threading.Event()

    async def run() -> None:
        asked = asyncio.ensure_future(service.ask(token(RSA_2)))
        await asyncio.to_thread(issuer.wait_for, 2)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        for _ in range(5):
            with pytest.raises(IdentityError):
                await service.ask(token(RSA_2))

    asyncio.run(run())
    hold.set()
    issuer.hold = None
    assert len(issuer.requests) == 2
    service.clock.now += 10
    issuer.publish(RSA_2)
    assert service.who(token(RSA_2)) is not None


def in_uvloop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(make())


@pytest.mark.parametrize("run", [lambda make: asyncio.run(make()), in_uvloop], ids=["asyncio", "uvloop"])
def test_several_loops_share_one_identifier(issuer: Issuer, run: Callable[[Any], Any]) -> None:
    service = Service(issuer)

    async def many(loop: int) -> int:
        answers = [await service.ask(token(sub=f"{loop}-{n}")) for n in range(10)]
        return sum(answer is not None for answer in answers)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda loop: run(lambda: many(loop)), range(4))) == [10] * 4
    assert len(issuer.requests) <= 4, "at most one fetch in each loop"


def test_the_next_loop_needs_nothing_of_the_last(issuer: Issuer) -> None:
    service = Service(issuer)
    for n in range(3):
        service.clock.now += 300
        assert service.who(token(sub=f"u{n}")) is not None
    assert len(issuer.requests) == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://login.example.com/jwks", "whoever can change the answer"),
        ("http://10.0.0.1/jwks", "whoever can change the answer"),
        ("http://localhost.example.com/jwks", "whoever can change the answer"),
        ("ftp://login.example.com/jwks", "must be an https:// URL"),
        ("file:///etc/passwd", "must be an https:// URL"),
        ("/jwks", "must be an https:// URL"),
        ("https://", "must be an https:// URL"),
        ("https://a:port/", "is no URL"),
    ],
)
def test_urls_that_cannot_be_trusted_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RemoteKeys(url, ["RS256"])


@pytest.mark.parametrize("url", ["https://a/jwks", "http://localhost:1/x", "http://127.1.2.3/", "http://[::1]:8080/"])
def test_urls_that_can(url: str) -> None:
    RemoteKeys(url, ["RS256"])
    RemoteKeys("http://login.internal/jwks", ["RS256"], allow_insecure=True)


def test_tls_is_verified() -> None:
    """A server whose certificate nobody vouches for is not believed."""
    import datetime
    import ssl
    import tempfile
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(path)
    with serving(tls) as issuer:
        with pytest.raises(IdentityUnavailable):
            Service(issuer).who(token())
        assert issuer.requests == []


def test_no_warning_of_ours_names_the_url(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    issuer.body = b"{}"
    with pytest.raises(IdentityUnavailable):
        Service(issuer).who(token())
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("audit_middleware")]
    assert ours == ["the issuer's JWKS could not be fetched: no list of at most 100 keys"]
