"""An archive in an S3 bucket with Object Lock: nobody removes or replaces what is in it before its date.

Each object is put with a retention in the mode COMPLIANCE, which no account can shorten or lift, the bucket owner's
root neither. What a server says about itself is not taken for it: after a put the version, its size, its digest and its
retention are read back; whether the server holds them against deletion only `canary.examine` shows.

*Retry*: after a put whose answer was lost (time-out, cut connection, 5xx) the bucket is looked at before anything is
sent again, so that a retry makes no second version, also on servers that ignore ``If-None-Match``. Two writers that put
the same new name at the same moment on such a server make two versions; each looks afterwards which is the first one,
and that one counts for both. A server that shows a version later than others it dates after it can mislead both; what
is read from an archive is therefore judged by its content, see `evidence.archive_objects`.

*Hidden objects*: Object Lock does not stop a newer version or a delete marker on top. `versions` and `names` look below
them, and `put` compares with the first version, not with the current one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..errors import ArchiveConflict, ArchiveError
from ..model import Stored
from .local import object_name
from .s3_bucket import Place, S3Refusal, asking, connect, how_to_make, md5, parse_place, sha256

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

Entry = tuple[str, str]
"""A key and one of its versions."""

LARGEST = 128 * 2**20
"""Bytes of one object; twice the log's largest segment. What is longer is not ours."""

_FIRST_PAUSE_S = 0.5
_CHUNK = 2**20
_READ_S = 300.0
"""Seconds that reading one object's body may take as a whole."""


class S3Archive:
    """A `protocols.Archive` in a bucket. Safe from any thread."""

    def __init__(self, place: Place, client: S3Client, writer: S3Client) -> None:
        """See `open`. ``writer`` never tries again by itself."""
        self.bucket = place
        self.client = client
        self.writer = writer
        self._conditional = True  # until a server says that it does not know If-None-Match

    @classmethod
    def open(
        cls,
        url: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        path_style: bool | None = None,
        profile: str | None = None,
        timeout: float | None = None,
        tries: int | None = None,
        writable: bool = True,
    ) -> S3Archive:
        """The archive below a prefix of a bucket that is there. Credentials come from the standard chain of AWS.

        Args:
            url: ``s3://bucket/prefix``; the settings below may stand in its query.
            region: of the bucket, if the environment does not say.
            endpoint_url: another server than AWS.
            path_style: ``host/bucket/key`` instead of ``bucket.host/key``. Default: for an ``endpoint_url``.
            profile: of the AWS configuration.
            timeout: seconds that one try waits for the server to say something. Default: 20.
            tries: how often, all in all, what may be repeated is tried. Default: 3.
            writable: checks that the bucket has versioning and Object Lock; a reader needs neither.

        Raises:
            ConfigError: the URL or a setting is wrong.
            ArchiveError: boto3 is missing, the bucket cannot be reached, or it is not as it must be.
        """
        given = {"region": region, "endpoint_url": endpoint_url, "path_style": path_style, "profile": profile}
        place = parse_place(url, given | {"timeout": timeout, "tries": tries})
        archive = cls(place, *connect(place))
        if writable:
            archive.check()
        return archive

    @property
    def place(self) -> str:
        """``s3://bucket/prefix``."""
        return str(self.bucket)

    def check(self) -> None:
        """Raises `ArchiveError` unless the bucket says that it has versioning and Object Lock."""
        with asking(self.bucket, "GetBucketVersioning"):
            versioning = self.client.get_bucket_versioning(Bucket=self.bucket.bucket).get("Status")
        if versioning != "Enabled" or not self.lock_configuration():
            raise ArchiveError(
                f"{self.place}: the bucket has no Object Lock, so nothing in it is immutable. It is best given when a "
                f"bucket is made. {how_to_make(self.bucket)}"
            )

    def lock_configuration(self) -> dict[str, Any] | None:
        """The bucket's Object Lock as S3 describes it; ``None``: it has none."""
        try:
            with asking(self.bucket, "GetObjectLockConfiguration"):
                found = self.client.get_object_lock_configuration(Bucket=self.bucket.bucket)
        except S3Refusal as refusal:
            if refusal.code in ("ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"):
                return None
            raise
        configuration = dict(found.get("ObjectLockConfiguration", {}))
        return configuration if configuration.get("ObjectLockEnabled") == "Enabled" else None

    # --- writing -------------------------------------------------------------------------------------------------

    def put(self, name: str, data: bytes, until: float | None) -> Stored:
        """As the protocol says; ``until`` is rounded up to a second.

        If we die here: nothing, or the whole locked version, which the next put of it finds.

        Raises:
            ArchiveConflict: The first version of this name holds other bytes.
            ArchiveError: Among others, the server took the object and does not show the lock that it was given.
        """
        object_name(name)
        if len(data) > LARGEST:
            raise ArchiveError(f"{self.place}: {name} has {len(data)} bytes, more than {LARGEST}")
        end = None if until is None else math.ceil(until)
        for tried in range(1, self.bucket.tries + 1):
            first = self._first(name)
            if first is not None:
                return self._again(first, data, end)
            try:
                return self._put_new(name, data, end)
            except S3Refusal as refusal:
                if refusal.code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                    continue  # somebody was faster; who, and with what, is seen by looking
                if not refusal.ambiguous or tried == self.bucket.tries:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2 ** (tried - 1) * random.uniform(0.5, 1.0))  # noqa: S311
        first = self._first(name)
        if first is None:
            raise ArchiveError(f"{self.place}: {name} is said to be there already, and is not; try again later")
        return self._again(first, data, end)

    def _put_new(self, name: str, data: bytes, end: int | None) -> Stored:
        """Stores a version and reads it back."""
        asked: dict[str, Any] = {"ContentMD5": md5(data), "ChecksumSHA256": sha256(data)}
        if end is not None:
            asked |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": datetime.fromtimestamp(end, UTC)}
        if self._conditional:
            asked["IfNoneMatch"] = "*"
        try:
            with asking(self.bucket, f"PutObject {name}"):
                answer = self.writer.put_object(**self.at(name), Body=data, **asked)
        except S3Refusal as refusal:
            if refusal.status != 501 or not self._conditional:
                raise
            self._conditional = False
            return self._put_new(name, data, end)
        version = answer.get("VersionId")
        if version is None or version == "null":
            raise ArchiveError(f"{self.place}: {name}: the server made no version; versioning is off, or not there")
        # A server that ignores If-None-Match, or looks and stores in two steps, lets others in between.
        first = next(reversed(list(self._version_ids(name))), version)
        if first != version and (found := self.stored(name, first)) is not None:
            return self._again(found, data, end)
        return self._checked(name, version, data, end)

    def _again(self, first: Stored, data: bytes, end: int | None) -> Stored:
        """The object that is there already, if it is the same; its lock is made as long as asked."""
        if first.size != len(data) or self.get(first.name, first.version) != data:
            raise ArchiveConflict(
                f"{self.place}: {first.name} (version {first.version}) is there with other bytes; it is immutable, so "
                "one of the two was altered. Nothing was changed. Verify the log and the archive"
            )
        version = first.version or "null"
        if end is not None and not _holds(first, end):
            with asking(self.bucket, f"PutObjectRetention {first.name}"):
                self.client.put_object_retention(
                    **self.at(first.name),
                    VersionId=version,
                    Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.fromtimestamp(end, UTC)},
                )
        return self._checked(first.name, version, data, end)

    def _checked(self, name: str, version: str, data: bytes, end: int | None) -> Stored:
        """What the server shows of a version that was just put: that its header was accepted proves nothing."""
        found = self.stored(name, version)
        if found is None or found.size != len(data):
            raise ArchiveError(f"{self.place}: {name} (version {version}) was taken, and is not there as it was sent")
        if end is not None and found.stored_at is not None and end <= found.stored_at:
            raise ArchiveError(
                f"{self.place}: {name}: its lock was to end before the server's clock says that it was stored: this "
                "machine's clock is wrong, or the server's. It is there, and not locked"
            )
        if end is not None and not _holds(found, end):
            raise ArchiveError(
                f"{self.place}: {name} (version {version}) was taken, but the server does not show it locked until "
                f"{datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ}. Either it does not lock, which "
                "`audit-middleware archive check` shows, or the credentials lack s3:GetObjectRetention"
            )
        return found

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, name: str, version: str | None = None) -> bytes | None:
        """As the protocol says. Raises `ArchiveError` for more than `LARGEST` bytes."""
        chosen: dict[str, Any] = self.at(name) | ({} if version is None else {"VersionId": version})
        tried = 0
        while True:
            tried += 1
            try:
                with asking(self.bucket, f"GetObject {name}"):
                    answer = self.client.get_object(**chosen)
            except S3Refusal as refusal:
                if refusal.status == 405 or refusal.code in ("NoSuchKey", "NoSuchVersion"):  # 405: a delete marker
                    return None
                raise
            try:
                with asking(self.bucket, f"GetObject {name}"):
                    return self._body(name, answer["Body"])
            except S3Refusal:  # cut in the middle: the client repeats a request by itself, not a body
                if tried >= self.bucket.tries:
                    raise

    def _body(self, name: str, body: Any) -> bytes:
        deadline = time.monotonic() + _READ_S
        read = bytearray()
        try:
            while chunk := body.read(_CHUNK):
                read += chunk
                if len(read) > LARGEST or time.monotonic() > deadline:
                    raise ArchiveError(
                        f"{self.place}: {name} has more than {LARGEST} bytes, or came slower than {_READ_S:.0f} seconds"
                    )
        finally:
            body.close()
        return bytes(read)

    def versions(self, name: str) -> Sequence[Stored]:
        """As the protocol says, with each one's lock."""
        found = (self.stored(name, version) for version in reversed(list(self._version_ids(name))))
        return [one for one in found if one is not None]

    def names(self, prefix: str) -> Iterator[str]:
        """As the protocol says."""
        above = f"{self.bucket.prefix}/" if self.bucket.prefix else ""
        last = None
        for versions, markers in self._pages(above + (f"{object_name(prefix)}/" if prefix else "")):
            for key in sorted({key for key, _ in versions + markers}):
                name = key.removeprefix(above)
                if key != last and _is_name(name):  # a key's versions may reach into the next page
                    yield name
                last = key

    def stored(self, name: str, version: str | None = None) -> Stored | None:
        """One version as the server shows it; ``None`` if there is none."""
        chosen: dict[str, Any] = self.at(name) | ({} if version is None else {"VersionId": version})
        try:
            with asking(self.bucket, f"HeadObject {name}"):
                return _shown(name, version, self.client.head_object(**chosen))
        except S3Refusal as refusal:
            if refusal.status in (404, 405):  # 405: this version is a delete marker
                return None
            raise

    def at(self, name: str) -> dict[str, Any]:
        """Bucket and key of an object, as the client's arguments."""
        prefix = f"{self.bucket.prefix}/" if self.bucket.prefix else ""
        return {"Bucket": self.bucket.bucket, "Key": prefix + object_name(name)}

    def _first(self, name: str) -> Stored | None:
        """The first version of an object, also of one that is hidden.

        By a list, not by a HEAD of the name: not every server's 404 says that there is a delete marker.
        """
        for version in reversed(list(self._version_ids(name))):
            if (found := self.stored(name, version)) is not None:
                return found
        return None

    def _version_ids(self, name: str) -> Iterator[str]:
        """The newest first, as S3 lists them."""
        key = self.at(name)["Key"]
        for versions, markers in self._pages(key):
            yield from (version for found, version in versions if found == key)
            if any(found > key for found, _ in versions + markers):
                return  # this key's are listed before all that it is the beginning of

    def _pages(self, prefix: str) -> Iterator[tuple[list[Entry], list[Entry]]]:
        """Versions and delete markers, page by page."""
        with asking(self.bucket, "ListObjectVersions"):
            pages = self.client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket.bucket, Prefix=prefix):
                if "IsTruncated" not in page:  # 200 and nothing, as something in between may say: no empty archive
                    raise LookupError("IsTruncated")
                yield (
                    [(one["Key"], one["VersionId"]) for one in page.get("Versions", ())],
                    [(one["Key"], one["VersionId"]) for one in page.get("DeleteMarkers", ())],
                )


def _shown(name: str, version: str | None, answer: Any) -> Stored:
    until = answer.get("ObjectLockRetainUntilDate")
    return Stored(
        name,
        answer["ContentLength"],
        answer.get("VersionId", version),
        answer["LastModified"].timestamp(),
        until.timestamp() if until is not None else None,
        answer.get("ObjectLockMode") == "COMPLIANCE" and until is not None,
    )


def _holds(found: Stored, end: int) -> bool:
    return found.locked and found.until is not None and found.until >= end


def _is_name(name: str) -> bool:
    try:
        object_name(name)
    except ValueError:
        return False
    return True
