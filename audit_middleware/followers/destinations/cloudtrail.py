"""CloudTrail Lake: PutAuditEvents into a channel of an integration with an event data store.

Limits of the call (AWS's service model): 100 events and 1 MB; an event is what the format ``cloudtrail`` makes of a
record, at most 256 KB, with its SHA-256, which AWS checks. The channel's ARN says region and account.

boto3 finds the credentials, checks and signs the call and reads the answer; the request itself goes by our `Poster`
(botocore's event ``before-send``), because botocore limits no request as a whole and takes proxies from the
environment. Its retries are off.

The answer is read event by event. An event that is there already counts as delivered; what is wrong with an event is a
dead letter; throttling, AWS's own failures and what is wrong with channel or account are tried again.

Source: https://docs.aws.amazon.com/awscloudtraildata/latest/APIReference/API_PutAuditEvents.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from ...errors import FollowerError
from ...formats import cloudtrail
from ..config import Options
from ..post import Poster
from ..sink import Item, Sent, Way

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_cloudtrail_data import CloudTrailDataServiceClient

KEYS = (
    "channel", "region", "external_id", "endpoint_url", "access_key_id", "secret_access_key", "session_token", "ca",
    "timeout",
)  # fmt: skip
MOST, LARGEST = 100, 1_000_000
_CHANNEL = re.compile(r"arn:aws[a-z-]*:cloudtrail:([a-z0-9-]{1,32}):([0-9]{12}):channel/[A-Za-z0-9._/-]{3,128}")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z0-9]+){1,4}")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]{2,1224}")
_ID = re.compile(r"[-_A-Za-z0-9]{1,128}")
_THERE = "DuplicatedAuditEventId"
_NEVER = frozenset(("FieldTooLong", "FieldNotFound", "InvalidChecksum", "InvalidData", "InvalidEventSource"))
_ABOUT_THE_EVENTS = frozenset((_THERE, "ValidationException", "ValidationError", "SerializationException"))
_LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True)
class CloudTrail:
    """A channel as configured. Without ``keys`` (id, secret, token) boto3 looks for credentials where it does."""

    channel: str
    region: str
    account: str
    external_id: SecretStr | None = None
    endpoint_url: SecretStr | None = None
    keys: tuple[SecretStr, SecretStr, SecretStr | None] | None = None
    ca: Path | None = None
    timeout: float = 30.0

    def open(self, way: Way) -> CloudTrailSink:
        """See `Destination`."""
        return CloudTrailSink(self)


def read_cloudtrail(options: Options) -> CloudTrail:
    """The settings of a channel."""
    channel = options.text("channel")
    parts = _CHANNEL.fullmatch(channel)
    if channel and parts is None:
        options.finding("channel", "is no ARN of a channel: arn:aws:cloudtrail:REGION:ACCOUNT:channel/ID")
    found, account = (parts[1], parts[2]) if parts is not None else ("", cloudtrail.ACCOUNT)
    region = options.text("region", found)
    if region and not _REGION.fullmatch(region):
        options.finding("region", "is no region's name, such as eu-central-1")
    external_id = options.secret("external_id")
    if external_id is not None and not _EXTERNAL_ID.fullmatch(external_id.get_secret_value() or "none"):
        options.finding("external_id", "is none: 2 to 1224 letters, digits and _+=,.@:/-")
    endpoint = options.url("endpoint_url", "")
    key, secret, token = (options.secret(name) for name in ("access_key_id", "secret_access_key", "session_token"))
    if (key is None) != (secret is None):
        options.finding("access_key_id" if secret is None else "secret_access_key", "both keys go together")
    elif token is not None and key is None:
        options.finding("session_token", "goes with access_key_id and secret_access_key")
    return CloudTrail(
        channel=channel,
        region=region,
        account=account,
        external_id=external_id,
        endpoint_url=endpoint if endpoint.get_secret_value() else None,
        keys=(key, secret, token) if key is not None and secret is not None else None,
        ca=options.path("ca"),
        timeout=options.integer("timeout", 30, 1, 120),
    )


class CloudTrailSink:
    """Makes one call after another."""

    def __init__(self, settings: CloudTrail) -> None:
        self._settings = settings
        self._poster: Poster | None = None
        self._after: float | None = None
        self._client = self._made()

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        rejected, events, size, settled = dict[int, str](), dict[str, dict[str, str]](), 0, 0
        for item in items:
            event = self._event(item)
            if event is None:
                rejected[item.index] = "is no record of schema version 1"
            else:
                length = len(json.dumps(event)) + 2  # as botocore writes it
                if len(events) == MOST or size + length > LARGEST - 64 or event["id"] in events:
                    break
                events[event["id"]] = event
                size += length
            settled += 1
        items = items[:settled]
        if not events:
            return Sent(settled, rejected)
        answer = self._put(list(events.values()))
        if isinstance(answer, Mapping):
            return self._by_event(items, rejected, dict(_results(answer)))
        if not answer.about_the_events:
            return Sent(0, retry=f"{self._place}: answered {answer}", after=self._after)
        if settled > 1:
            return self.send(items[: settled // 2])
        return Sent(1, {} if answer.code == _THERE else {items[0].index: f"answered {answer}"})

    def _by_event(self, items: Sequence[Item], rejected: dict[int, str], results: Mapping[str, str]) -> Sent:
        for settled, item in enumerate(items):
            code = "" if item.index in rejected else results.get(item.id, "nothing")
            if code in _NEVER:
                rejected[item.index] = f"answered {code}"
            elif code not in ("", _THERE):
                return Sent(settled, rejected, f"{self._place}: answered {code} for a record", self._after)
        return Sent(len(items), rejected)

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()
        if self._poster is not None:
            self._poster.close()

    @property
    def _place(self) -> str:
        return self._poster.place if self._poster is not None else "CloudTrail Lake"

    def _event(self, item: Item) -> dict[str, str] | None:
        try:
            event = cloudtrail.audit_event(item.record, self._settings.account)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return None
        return event if isinstance(event["id"], str) and _ID.fullmatch(event["id"]) else None

    def _put(self, events: list[dict[str, str]]) -> Mapping[str, Any] | _Refusal:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        given: dict[str, Any] = {"auditEvents": events, "channelArn": self._settings.channel}
        if self._settings.external_id is not None:
            given["externalId"] = self._settings.external_id.get_secret_value()
        self._after = None
        try:
            return self._client.put_audit_events(**given)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            return _Refusal(int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), _word(code))
        except NoCredentialsError:
            where = "set access_key_id and secret_access_key, or give them where AWS's tools look"
            raise FollowerError(f"{self._place}: no AWS credentials were found: {where}") from None
        except BotoCoreError as error:  # the class alone: its text may quote what was sent
            raise FollowerError(f"{self._place}: {type(error).__name__}") from None

    # --- how it is sent -----------------------------------------------------------------------------------------------

    def _made(self) -> CloudTrailDataServiceClient:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as problem:
            extra = f"{problem.name}: pip install 'audit-middleware[cloudtrail]'"
            raise FollowerError(f"the destination cloudtrail needs {extra}") from problem
        settings = self._settings
        key, secret, token = (_plain(one) for one in settings.keys or (None, None, None))
        # The URL is what was configured here, and nothing of AWS_ENDPOINT_URL or ~/.aws/config.
        options: dict[str, Any] = {"ignore_configured_endpoint_urls": True}
        config = Config(retries={"total_max_attempts": 1, "mode": "standard"}, **options)
        try:
            session = boto3.Session(key, secret, token, region_name=settings.region)
            client = session.client("cloudtrail-data", endpoint_url=_plain(settings.endpoint_url), config=config)
        except (BotoCoreError, ValueError) as error:
            raise FollowerError(f"CloudTrail Lake: {type(error).__name__}") from None
        client.meta.events.register("before-send.cloudtrail-data.PutAuditEvents", self._carry)
        return client

    def _carry(self, request: AWSPreparedRequest, **_: object) -> Any:
        """Called by botocore in the middle of `put_audit_events`; the answer is an ``AWSResponse``."""
        from botocore.awsrequest import AWSResponse

        if self._poster is None:
            settings = self._settings
            self._poster = Poster(request.url, patience=settings.timeout, ca=settings.ca, largest=_LARGEST_ANSWER)
        headers = {str(name): _text(value) for name, value in request.headers.items()}
        body = request.body if isinstance(request.body, bytes) else str(request.body or "").encode()
        reply = self._poster.post(body, headers)
        self._after = reply.after
        answered: Any = dict(reply.headers)  # the stubs ask for urllib3's; any mapping is taken
        return AWSResponse(request.url, reply.status, answered, _Raw(reply.body))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The whole call was refused."""

    status: int
    code: str

    @property
    def about_the_events(self) -> bool:
        return self.status == 413 or (self.status == 400 and self.code in _ABOUT_THE_EVENTS)

    def __str__(self) -> str:
        return f"{self.status} {self.code}".strip()


@dataclass(frozen=True, slots=True)
class _Raw:
    """The body of an answer, as botocore reads it."""

    body: bytes

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.body


def _results(answer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Id and error code of each event; no code for one that was taken."""
    for one in answer.get("successful") or ():
        yield str(one.get("id")), ""
    for one in answer.get("failed") or ():
        yield str(one.get("id")), _word(one.get("errorCode")) or "no reason"


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _word(code: object) -> str:
    """An error's code; anything else that stands in its place may quote a record."""
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z.]{1,64}", code) else ""


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
