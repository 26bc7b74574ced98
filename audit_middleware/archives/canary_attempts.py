"""What an examination tries on its canaries, and what the credentials may do where no lock forbids it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from .s3 import S3Archive
from .s3_bucket import S3Refusal, asking, sha256

Answer = Literal["refused", "accepted", "error"]

_REFUSALS = frozenset({400, 403, 409, 412})
"""Statuses that say no. Others say that something is not there, not known, or did not work."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's answer; ``broken`` says what gave way, if something beside the canary did."""

    answer: Answer
    code: str | None = None
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """A locked version; ``until`` in seconds since the epoch."""

    name: str
    version: str
    data: bytes
    until: int


class Bench:
    """Where canaries are made, tried and read back: one run below ``canary/``."""

    def __init__(self, archive: S3Archive, run: str, seconds: int) -> None:
        """Puts one unlocked object: its time says what the server's clock says. Raises `ArchiveError`."""
        self.archive = archive
        self.folder = f"canary/{run}"
        self.seconds = seconds
        self.able: set[str] = set()
        self.left: list[str] = []
        self.lock = archive.lock_configuration() or {"ObjectLockEnabled": "Enabled"}
        first = archive.put(f"{self.folder}/clock", b"clock\n", None)
        self.until = int(first.stored_at or time.time()) + seconds

    def canary(self, name: str) -> Canary:
        """Puts an object and locks it. Raises `ArchiveError`, also where the server does not show the lock."""
        full = f"{self.folder}/{name}"
        data = f"{full}\nA canary: it is locked for some minutes and may be removed afterwards.\n".encode()
        stored = self.archive.put(full, data, self.until)
        return Canary(full, stored.version or "null", data, self.until)

    def kept(self, canary: Canary) -> bool | None:
        """True if the locked version has its bytes and its lock; ``None``: it cannot be read."""
        try:
            found = self.archive.stored(canary.name, canary.version)
            data = self.archive.get(canary.name, canary.version)
        except S3Refusal:
            return None
        return data == canary.data and found is not None and found.locked and (found.until or 0) >= canary.until

    def ask(self, what: str, **arguments: Any) -> Answered:
        """One request that may be refused, sent once; ``what`` is the client's name for it."""
        bucket = self.archive.bucket
        try:
            with asking(bucket, what):
                answer = getattr(self.archive.writer, what)(Bucket=bucket.bucket, **arguments)
        except S3Refusal as refusal:
            said_no = refusal.status in _REFUSALS and not refusal.ambiguous
            return Answered("refused" if said_no else "error", refusal.code)
        for error in answer.get("Errors", ()):  # of a multi-delete, which is answered with 200
            code = str(error.get("Code", ""))
            return Answered("refused" if code == "AccessDenied" else "error", code)
        return Answered("accepted")

    def key(self, name: str) -> str:
        """An object's whole key."""
        return str(self.archive.at(name)["Key"])

    def restore_versioning(self) -> None:
        """Versioning as it was: enabled."""
        if self.ask("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"}).answer != "accepted":
            self.left.append("the bucket's versioning may be suspended: enable it")

    def restore_lock(self) -> None:
        """The bucket's Object Lock configuration as it was, unless it still is."""
        with contextlib.suppress(S3Refusal):
            if self.archive.lock_configuration() == self.lock:
                return
        if self.ask("put_object_lock_configuration", ObjectLockConfiguration=self.lock).answer != "accepted":
            self.left.append(f"the bucket's Object Lock configuration was {self.lock}: set it again")

    # --- what the credentials may do -----------------------------------------------------------------------------

    def try_permissions(self) -> None:
        """Does what the attempts need where no lock forbids it, and notes in ``able`` what was accepted."""
        for many in ("", "many_"):
            if self._gone(self._object(f"{many}free", None), many, bypass=False):
                self.able.add(f"{many}delete")
            if self._gone(self._object(f"{many}governed", "GOVERNANCE"), many, bypass=True):
                self.able |= {f"{many}delete", f"{many}delete_bypass"}  # which needs the one permission and the other
        longer = self.canary("longer")
        if self.ask("put_object_retention", **self.retention(longer, "COMPLIANCE", 1)).answer == "accepted":
            self.able.add("retention")
        governed = self._object("shorter", "GOVERNANCE")
        if governed is not None:
            asked = self.retention(governed, "GOVERNANCE", -self.seconds // 2) | {"BypassGovernanceRetention": True}
            if self.ask("put_object_retention", **asked).answer == "accepted":
                self.able.add("retention_bypass")
        if self.ask("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"}).answer == "accepted":
            self.able.add("versioning")
        if self.ask("put_object_lock_configuration", ObjectLockConfiguration=self.lock).answer == "accepted":
            self.able.add("object_lock")

    def _object(self, name: str, mode: str | None) -> Canary | None:
        """An object that may be removed; ``None`` if it cannot be made, or the bucket locks it by itself."""
        full = f"{self.folder}/{name}"
        asked: dict[str, Any] = {}
        if mode is not None:
            asked = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": datetime.fromtimestamp(self.until, UTC)}
        put = self.ask("put_object", Key=self.key(full), Body=b"-", ChecksumSHA256=sha256(b"-"), **asked)
        if put.answer != "accepted":
            return None
        try:
            found = self.archive.stored(full)
        except S3Refusal:
            return None
        if found is None or found.version is None or found.locked or (mode is None and found.until is not None):
            return None
        return Canary(full, found.version, b"-", self.until)

    def _gone(self, made: Canary | None, many: str, *, bypass: bool) -> bool:
        if made is None or self.delete(made, many=bool(many), bypass=bypass).answer != "accepted":
            return False
        try:
            return self.archive.stored(made.name, made.version) is None
        except S3Refusal:
            return False

    # --- requests ------------------------------------------------------------------------------------------------

    def delete(self, canary: Canary, *, many: bool = False, bypass: bool = False) -> Answered:
        """Deletes this version."""
        asked: dict[str, Any] = {"BypassGovernanceRetention": True} if bypass else {}
        if many:
            objects = [{"Key": self.key(canary.name), "VersionId": canary.version}]
            return self.ask("delete_objects", Delete={"Objects": objects, "Quiet": True}, **asked)
        return self.ask("delete_object", Key=self.key(canary.name), VersionId=canary.version, **asked)

    def retention(self, canary: Canary, mode: str | None, later: int) -> dict[str, Any]:
        """Arguments that set a retention ``later`` seconds later than it is; without a mode, that remove it."""
        wanted = {}
        if mode is not None:
            wanted = {"Mode": mode, "RetainUntilDate": datetime.fromtimestamp(canary.until + later, UTC)}
        return {"Key": self.key(canary.name), "VersionId": canary.version, "Retention": wanted}


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt. ``needs``: what the credentials must be able to, so that a refusal shows something.

    ``harmless``: S3 allows it, and the locked version must be there all the same.
    """

    name: str
    what: str
    needs: tuple[str, ...]
    act: Callable[[Bench, Canary], Answered]
    harmless: bool = False


def _delete(*, many: bool = False, bypass: bool = False) -> Callable[[Bench, Canary], Answered]:
    return lambda bench, canary: bench.delete(canary, many=many, bypass=bypass)


def _retain(mode: str | None, *, shorter: bool = False, bypass: bool = False) -> Callable[[Bench, Canary], Answered]:
    def act(bench: Bench, canary: Canary) -> Answered:
        asked = bench.retention(canary, mode, -bench.seconds // 2 if shorter else 0)
        return bench.ask("put_object_retention", **asked | ({"BypassGovernanceRetention": True} if bypass else {}))

    return act


def _overwrite(bench: Bench, canary: Canary) -> Answered:
    answered = bench.ask("put_object", Key=bench.key(canary.name), Body=b"another")
    if answered.answer == "accepted" and not _first_is(bench, canary):
        return Answered("accepted", None, "the locked version is not the first one of its name any more")
    return answered


def _hide(bench: Bench, canary: Canary) -> Answered:
    answered = bench.ask("delete_object", Key=bench.key(canary.name))
    if not _first_is(bench, canary) or canary.name not in bench.archive.names(bench.folder):
        return Answered(answered.answer, answered.code, "below a delete marker the locked version is not listed")
    return answered


def _first_is(bench: Bench, canary: Canary) -> bool:
    try:
        return [one.version for one in bench.archive.versions(canary.name)][:1] == [canary.version]
    except S3Refusal:
        return False


def _suspend(bench: Bench, canary: Canary) -> Answered:
    """Suspends versioning; where that is accepted, does what then may replace the version."""
    answered = bench.ask("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"})
    if answered.answer == "refused":
        return answered
    try:
        bench.ask("put_object", Key=bench.key(canary.name), Body=b"another")
        bench.ask("delete_object", Key=bench.key(canary.name))
    finally:
        bench.restore_versioning()
    if answered.answer == "accepted":
        return Answered("accepted", None, "versioning of the bucket could be suspended")
    return answered


def _disable(bench: Bench, canary: Canary) -> Answered:
    """Takes Object Lock away from the bucket, in the two ways in which one could write that."""
    answered = Answered("refused")
    for without in ({}, {"ObjectLockEnabled": "Disabled"}):
        answered = bench.ask("put_object_lock_configuration", ObjectLockConfiguration=without)
        if answered.answer != "refused":
            break
    if answered.answer == "refused":
        return answered
    broken = None
    try:
        if bench.archive.lock_configuration() is None:
            broken = "Object Lock of the bucket could be taken away"
    except S3Refusal:
        answered = Answered("error", answered.code)
    finally:
        bench.restore_lock()
    return Answered(answered.answer, answered.code, broken)


def _change_default(bench: Bench, canary: Canary) -> Answered:
    """Another default retention, which is for new versions only: the one there is taken away, or a short one set."""
    other: dict[str, Any] = {"ObjectLockEnabled": "Enabled"}
    if "Rule" not in bench.lock:
        other["Rule"] = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    answered = bench.ask("put_object_lock_configuration", ObjectLockConfiguration=other)
    if answered.answer != "refused":
        bench.restore_lock()
    return answered


TRIES = (
    Try("delete_version", "delete the version", ("delete",), _delete()),
    Try("delete_version_bypass", "the same, bypassing governance", ("delete_bypass",), _delete(bypass=True)),
    Try("delete_many", "multi-delete", ("many_delete",), _delete(many=True)),
    Try(
        "delete_many_bypass",
        "multi-delete, bypassing governance",
        ("many_delete_bypass",),
        _delete(many=True, bypass=True),
    ),
    Try("shorten", "make the retention shorter", ("retention",), _retain("COMPLIANCE", shorter=True)),
    Try(
        "shorten_bypass",
        "the same, bypassing governance",
        ("retention", "retention_bypass"),
        _retain("COMPLIANCE", shorter=True, bypass=True),
    ),
    Try("governance", "lower the mode to GOVERNANCE", ("retention",), _retain("GOVERNANCE")),
    Try(
        "governance_bypass",
        "the same, bypassing governance",
        ("retention", "retention_bypass"),
        _retain("GOVERNANCE", bypass=True),
    ),
    Try("remove_retention", "remove the retention", ("retention",), _retain(None)),
    Try(
        "remove_retention_bypass",
        "the same, bypassing governance",
        ("retention", "retention_bypass"),
        _retain(None, bypass=True),
    ),
    Try("overwrite", "put other bytes under its name", (), _overwrite, harmless=True),
    Try("delete_marker", "hide it below a delete marker", ("hide",), _hide, harmless=True),
    Try("change_default", "change the bucket's default retention", ("object_lock",), _change_default, harmless=True),
    Try("suspend_versioning", "suspend versioning, then overwrite and delete", ("versioning",), _suspend),
    Try("disable_object_lock", "take Object Lock away from the bucket", ("object_lock",), _disable),
)
