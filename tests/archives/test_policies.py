"""The permissions that the documentation gives are enough, and no more: with moto's IAM, which refuses the rest.

moto does not read conditions, so the statement that has one is left out here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from audit_middleware.archives.canary import examine
from audit_middleware.archives.s3 import S3Archive
from audit_middleware.errors import ArchiveError
from tests.archives.serving import ROOT, make_bucket, moto_server

USERS = ("archiver", "reader", "examiner")
MAKING = 2 + 3 * len(USERS) + 1  # requests before the server begins to refuse: look, bucket, users and their policies


def documented() -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "archive.md").read_text()
    return [json.loads(one) for one in re.findall(r"^```json\n(.*?)^```", text, re.S | re.M)]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """The URL of an archive, and the credentials of who may do what the documentation says."""
    archiver, reader, examiner = documented()
    server = moto_server(tmp_path / "moto", INITIAL_NO_AUTH_ACTION_COUNT=str(MAKING)).start()
    try:
        url = make_bucket(server.url, "acme-audit").replace("/log?", "/billing?")
        iam = boto3.client("iam", endpoint_url=server.url, region_name="us-east-1")
        credentials = {}
        for user, policies in zip(USERS, ([archiver], [reader], [archiver, examiner]), strict=True):
            iam.create_user(UserName=user)
            for number, policy in enumerate(policies):
                allowed = [one for one in policy["Statement"] if "Condition" not in one]
                text = json.dumps(policy | {"Statement": allowed})
                iam.put_user_policy(UserName=user, PolicyName=f"p{number}", PolicyDocument=text)
            key = iam.create_access_key(UserName=user)["AccessKey"]
            credentials[user] = {
                "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            }
        yield url, credentials
    finally:
        server.kill()


def become(monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]) -> None:
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)


def test_each_may_do_its_own_and_nothing_else(
    guarded: tuple[str, dict[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, credentials = guarded
    become(monkeypatch, credentials["archiver"])
    archive = S3Archive.open(url)
    stored = archive.put("x", b"one", time.time() + 60)
    stored = archive.put("x", b"one", time.time() + 90)
    assert stored.locked
    assert archive.get("x") == b"one"
    report = examine(archive)
    unable = {one.name for one in report.attempts if not one.able}
    assert {"delete_version", "delete_many", "change_default", "suspend_versioning", "disable_object_lock"} <= unable
    by_name = {one.name: one for one in report.attempts}
    for name in ("delete_version", "delete_many", "delete_marker", "suspend_versioning"):
        assert (by_name[name].answer, by_name[name].shows) == ("refused", "not shown"), name

    become(monkeypatch, credentials["reader"])
    reader = S3Archive.open(url, writable=False)
    assert reader.get("x", stored.version) == b"one"
    assert list(reader.versions("x")) == [stored]
    assert "x" in reader.names("")
    with pytest.raises(ArchiveError, match=r"PutObject y: AccessDenied: these credentials may not"):
        reader.put("y", b"one", None)

    become(monkeypatch, credentials["examiner"])
    report = examine(S3Archive.open(url))
    by_name = {one.name: one for one in report.attempts}
    assert by_name["delete_version"].shows == "yes", "it may delete, and the lock refuses"
    assert by_name["suspend_versioning"].shows == "no", "it may, and moto does it"


def test_nobody_who_archives_or_reads_may_delete_or_change_the_bucket() -> None:
    archiver, reader, examiner = documented()
    for policy in (archiver, reader):
        actions = {action for one in policy["Statement"] if one["Effect"] == "Allow" for action in one["Action"]}
        assert not [one for one in actions if re.search(r"Delete|Bypass|PutBucket|\*", one)]
    deleting = [one for one in examiner["Statement"] if "s3:DeleteObjectVersion" in one["Action"]]
    assert [Path(one["Resource"]).parts[-2:] for one in deleting] == [("canary", "*")]
