"""Time stamps (RFC 3161): a third party's signature over a checkpoint's bytes and a time: it existed by then.

A *request* names the SHA-256 of the checkpoint note and a random nonce; the *response* holds a token that the authority
signed over that digest, the nonce and its time. The stamp is kept as it came (`anchors.keep_stamp`), next to the exact
bytes that it is over. What it shows: whoever trusts the authority knows that the checkpoint, and so every entry under
it, existed at that time. It does not show that it was the only one: that is what witnesses are for.

`check_stamp` checks, in this order:

1. the response is one, and granted;
2. its token is over the digest of these bytes (SHA-256, -384 or -512);
3. the token's signature holds under a certificate for time stamping, which leads to one of the trusted roots; all of
   them valid at the token's time.

Not checked: revocation. Reading and checking DER is the work of ``rfc3161-client``, the extra ``timestamp``; imported
where it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import AnchorUnavailable, ConfigError, TimestampError
from .exchange import check_url, exchange

if TYPE_CHECKING:
    import rfc3161_client
    from cryptography import x509

QUERY_TYPE = "application/timestamp-query"
REPLY_TYPE = "application/timestamp-reply"

_DIGESTS = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}
_GRANTED = 0


def read_roots(data: bytes) -> list[bytes]:
    """Returns the certificates of a PEM file, in DER. Raises `ConfigError` unless there is at least one."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(data)]
    except ValueError as error:
        raise ConfigError(f"time stamp roots: no PEM certificates: {error}") from error


def request_stamp(note: bytes, url: str, *, timeout: float = 30.0) -> bytes:
    """Asks an authority for a stamp over these bytes; returns a response that is over them and answers this request.

    Its signature is not checked: see `check_stamp`. Use it from a thread in which no event loop runs.

    Raises:
        AnchorUnavailable: There was no answer within ``timeout`` seconds, or not one of the protocol.
        TimestampError: The answer is refused: not granted, not over these bytes, or with another nonce.
        ConfigError: The extra is missing, or the URL is none.
    """
    rfc3161 = _client()
    url = check_url(url)
    builder = rfc3161.TimestampRequestBuilder(data=note, hash_algorithm=rfc3161.HashAlgorithm.SHA256)
    request = builder.build()
    headers = {"Content-Type": QUERY_TYPE, "Accept": REPLY_TYPE}
    reply = asyncio.run(exchange("POST", url, request.as_bytes(), headers, patience=timeout))
    kind = (reply.content_type or "").partition(";")[0].strip().lower()
    if reply.status != 200 or kind != REPLY_TYPE:
        raise AnchorUnavailable(f"{url}: answered with status {reply.status} and type {kind!r}, not with a time stamp")
    response = _over(note, reply.body)
    if response.tst_info.nonce != request.nonce:
        raise TimestampError(f"{url}: the time stamp answers another request: its nonce is not ours")
    return reply.body


def check_stamp(note: bytes, response: bytes, roots: Sequence[bytes]) -> datetime:
    """Returns the time, UTC, at which an authority that leads to one of ``roots`` stamped these bytes.

    Args:
        note: The exact bytes.
        response: The DER of the authority's response.
        roots: Trusted certificates, each DER; `read_roots` has them from a PEM file.

    Raises:
        TimestampError: It is malformed, not over these bytes, or not signed by such an authority.
        ConfigError: The extra is missing, there is no root, or one is no certificate.
    """
    rfc3161 = _client()
    trusted = _certificates(roots)
    found = _over(note, response)
    try:
        verifier = rfc3161.VerifierBuilder(roots=trusted).build()
        verifier.verify(found, found.tst_info.message_imprint.message)
    except (rfc3161.VerificationError, ValueError, *_unreadable()) as error:
        raise TimestampError(f"time stamp: not signed by an authority that is trusted: {error}") from error
    return found.tst_info.gen_time


# --- inside ----------------------------------------------------------------------------------------------------------


def _client() -> ModuleType:
    try:
        import rfc3161_client
    except ImportError as error:
        raise ConfigError("time stamps need an extra: pip install 'audit-middleware[timestamp]'") from error
    return rfc3161_client


def _unreadable() -> tuple[type[Exception], ...]:
    """What `cryptography` raises, besides `ValueError`, for a certificate in a response that is none."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    return x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm


def _certificates(roots: Sequence[bytes]) -> list[x509.Certificate]:
    from cryptography import x509

    if not roots:
        raise ConfigError("time stamp roots: there is none, so no authority is trusted")
    try:
        return [x509.load_der_x509_certificate(one) for one in roots]
    except ValueError as error:
        raise ConfigError(f"time stamp roots: no DER certificate: {error}") from error


def _over(note: bytes, response: bytes) -> rfc3161_client.TimeStampResponse:
    """The parsed response, checks 1 and 2 made."""
    try:
        found: rfc3161_client.TimeStampResponse = _client().decode_timestamp_response(sorted_certificates(response))
        status = found.status
        if status != _GRANTED:
            said = " ".join(found.status_string)[:200]
            raise TimestampError(f"time stamp: not granted (status {status}) {said}".rstrip())
        imprint = found.tst_info.message_imprint
        algorithm, digest = imprint.hash_algorithm.dotted_string, imprint.message
    except ValueError as error:
        raise TimestampError(f"time stamp: malformed: {error}") from error
    if algorithm not in _DIGESTS:
        raise TimestampError(f"time stamp: over a digest that is not accepted ({algorithm})")
    if _DIGESTS[algorithm](note).digest() != digest:
        raise TimestampError("time stamp: not over this checkpoint")
    return found


def sorted_certificates(response: bytes) -> bytes:
    """Returns the response with its certificates in the order that DER asks of a SET.

    Authorities send them in any order, OpenSSL among them, and the library refuses that. They are not under the
    token's signature, and what is kept is the response as it came. Anything unexpected is returned as it is.
    """
    # TimeStampResp { status, token { type, [0] { SignedData { version, digests, content, [0] certificates, ...
    try:
        _, inside, _ = _element(response, 0)
        _, _, token = _element(response, inside)
        _, inside, _ = _element(response, token)
        _, _, wrapped = _element(response, inside)
        _, inside, _ = _element(response, wrapped)
        _, place, _ = _element(response, inside)
        for _ in range(3):
            _, _, place = _element(response, place)
        tag, start, end = _element(response, place)
        if tag != 0xA0:
            return response
        certificates, place = [], start
        while place < end:
            _, _, after = _element(response, place)
            certificates.append(response[place:after])
            place = after
    except IndexError:
        return response
    return response[:start] + b"".join(sorted(certificates)) + response[end:] if place == end else response


def _element(data: bytes, start: int) -> tuple[int, int, int]:
    """Tag, start of content and end of the DER element at ``start``. Raises `IndexError` if it is not all there."""
    length, content = data[start + 1], start + 2
    if length & 0x80:
        width = length & 0x7F
        length, content = int.from_bytes(data[content : content + width], "big"), content + width
    if content + length > len(data):
        raise IndexError
    return data[start], content, content + length
