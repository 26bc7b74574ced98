"""A bucket as the archive uses it: its URL, a client with bounds, and what went wrong in words without secrets.

The client is boto3 (the extra ``s3``), imported when a bucket is opened. Credentials come from the standard chain of
AWS: environment, profile, container, instance. They are never part of a URL or a setting of ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import ArchiveError, ConfigError
from .local import object_name

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_CODE = re.compile(r"[\w.-]{1,64}", re.ASCII)
_CONNECT_S = 5.0
_CONNECTIONS = 16
_YES_NO = {"true": True, "false": False}
_AMBIGUOUS = frozenset({"RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable"})
_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where an archive is. ``timeout`` is how long one try waits for an answer, in seconds; then come the others."""

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint_url: str | None = None
    path_style: bool | None = None
    profile: str | None = None
    timeout: float = 20.0
    tries: int = 3

    def __str__(self) -> str:
        """The URL without its settings."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def parse_place(url: str, settings: Mapping[str, Any]) -> Place:
    """Reads ``s3://bucket/prefix?setting=value``; settings given apart come first.

    Raises:
        ConfigError: not such a URL, a setting that there is not, or one with a wrong value. Shows no value but names.
    """
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
        raise ConfigError(
            "archive: expected s3://bucket/prefix, with a valid name of a bucket and without credentials (they come "
            "from the environment, a profile or the machine, as for all tools of AWS)"
        )
    try:
        place = Place(parts.netloc, object_name(prefix) if prefix else "")
    except ValueError as error:
        raise ConfigError(f"archive s3://{parts.netloc}: the prefix {error}") from None
    for name, value in [*parse_qsl(parts.query, keep_blank_values=True), *settings.items()]:
        if value is not None:
            place = _with(place, name, value)
    return place


def _with(place: Place, name: str, value: Any) -> Place:
    where = f"archive {place}: setting {name[:40]}"
    changed: dict[str, Any] = {}
    if name in ("region", "profile"):
        changed[name] = str(value)
    elif name == "endpoint_url":
        changed[name] = _endpoint(str(value), where)
    elif name == "path_style":
        changed[name] = value if isinstance(value, bool) else _YES_NO.get(value)
        if changed[name] is None:
            raise ConfigError(f"{where}: expected true or false")
    elif name in ("timeout", "tries"):
        try:
            number = float(value) if name == "timeout" else int(value)
        except ValueError:
            raise ConfigError(f"{where}: expected a number") from None
        if not (0 < number <= 600 if name == "timeout" else 1 <= number <= 10):
            raise ConfigError(f"{where}: expected {'up to 600 seconds' if name == 'timeout' else '1 to 10'}")
        changed[name] = number
    else:
        known = "region, endpoint_url, path_style, profile, timeout or tries"
        raise ConfigError(f"{where}: there is none; expected {known}")
    return replace(place, **changed)


def _endpoint(url: str, where: str) -> str:
    parts = urlsplit(url)
    plain = not (parts.username or parts.password or parts.query or parts.fragment) and parts.path in ("", "/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ConfigError(f"{where}: expected https://host or https://host:port, and nothing else")
    return url


class S3Refusal(ArchiveError):
    """What the server answered, or that it did not: ``code`` is S3's, or the client's name for what went wrong.

    ``ambiguous``: nobody knows whether it was done, and it may work when tried again.
    """

    def __init__(self, message: str, code: str, *, ambiguous: bool, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.ambiguous = ambiguous
        self.status = status


def connect(place: Place) -> tuple[S3Client, S3Client]:
    """Two clients; nothing is sent yet. The first tries again by itself, the second never does.

    Raises:
        ArchiveError: boto3 is missing, or the settings of AWS on this machine cannot be used.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ArchiveError(f"{place}: needs boto3: pip install 'audit-middleware[s3]'") from None
    path_style = place.endpoint_url is not None if place.path_style is None else place.path_style
    common = Config(
        signature_version="s3v4",
        connect_timeout=min(_CONNECT_S, place.timeout),
        read_timeout=place.timeout,
        s3={"addressing_style": "path" if path_style else "auto"},
        max_pool_connections=_CONNECTIONS,
        # Older servers refuse what newer clients add by themselves; what we want checked we send ourselves.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_supported",
    )
    try:
        session = boto3.Session(profile_name=place.profile, region_name=place.region)
        client, once = (
            session.client(
                "s3",
                endpoint_url=place.endpoint_url,
                config=common.merge(Config(retries={"mode": "standard", "total_max_attempts": tries})),
            )
            for tries in (place.tries, 1)
        )
    except (BotoCoreError, ValueError) as error:  # its text may hold a URL or a path of the settings: named only
        raise ArchiveError(f"{place}: the settings of AWS cannot be used: {type(error).__name__}") from None
    for one in (client, once):
        one.meta.events.register("before-call.s3", _add_md5)
    return client, once


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Object Lock wants a digest of what is sent, and the servers of ten years agree on this one only."""
    body = params.get("body")
    if isinstance(body, bytes) and body and "Content-MD5" not in params["headers"]:
        params["headers"]["Content-MD5"] = md5(body)


def md5(data: bytes) -> str:
    """As the header ``Content-MD5`` has it; against accidents on the way, not against anybody."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def sha256(data: bytes) -> str:
    """As the header ``x-amz-checksum-sha256`` has it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@contextlib.contextmanager
def asking(place: Place, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes an `S3Refusal` that says where, at what, and what to do.

    Only the server's code is shown, never its text: what a server writes back may hold what it was sent. Inside stands
    nothing but a call of the client and the reading of its answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _refusal(place, what, error.response) from None
    except ResponseParserError:
        raise S3Refusal(f"{place}: {what}: this answer is not one of S3", "ParserError", ambiguous=True) from None
    except BotoCoreError as error:
        raise _failure(place, what, error) from None
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        # The client's parsers take an answer for well-formed; what they stumble over depends on what is wrong in it.
        code = type(error).__name__
        raise S3Refusal(f"{place}: {what}: this answer is not one of S3 ({code})", code, ambiguous=True) from None


def _refusal(place: Place, what: str, response: Any) -> S3Refusal:
    found = str(response.get("Error", {}).get("Code", ""))
    code = found if _CODE.fullmatch(found) else "an unreadable code"
    meta = response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    ambiguous = code in _AMBIGUOUS or (status >= 500 and status != 501)
    advice = _advice(place, code)
    text = f"{place}: {what}: {code}" + (f": {advice}" if advice else "")
    return S3Refusal(text, code, ambiguous=ambiguous, status=status)


def _advice(place: Place, code: str) -> str:
    if code == "NoSuchBucket":
        return "there is no such bucket. " + how_to_make(place)
    if code in _CREDENTIALS:
        return "the credentials are not accepted; they come from the environment, a profile or the machine"
    if code in ("AccessDenied", "403"):
        return "these credentials may not do this; docs/archive.md has the permissions that are needed"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return "the bucket is in another region; add ?region="
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is wrong"
    return ""


def _failure(place: Place, what: str, error: Exception) -> S3Refusal:
    from botocore import exceptions as known

    code = type(error).__name__
    where = f" at {place.endpoint_url}" if place.endpoint_url else ""
    missing = (known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError)
    cut = (known.HTTPClientError, known.ConnectionError, known.IncompleteReadError, known.FlexibleChecksumError)
    if isinstance(error, missing):
        said = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        return S3Refusal(f"{place}: {what}: {said}", code, ambiguous=False)
    if isinstance(error, cut):
        said = f"no whole answer from the server{where} ({code})"
        return S3Refusal(f"{place}: {what}: {said}", code, ambiguous=True)
    return S3Refusal(f"{place}: {what}: {code}", code, ambiguous=False)


def how_to_make(place: Place) -> str:
    """The command that makes the bucket as it must be."""
    words = ["aws s3api create-bucket", f"--bucket {place.bucket}", "--object-lock-enabled-for-bucket"]
    if place.region not in (None, "us-east-1"):
        words.append(f"--create-bucket-configuration LocationConstraint={place.region}")
    if place.endpoint_url:
        words.append(f"--endpoint-url {place.endpoint_url}")
    return f"Make it: {' '.join(words)}"
