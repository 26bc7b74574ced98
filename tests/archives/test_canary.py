"""The examination of an archive: a lock that holds, one that does not, and credentials that show nothing."""

from __future__ import annotations

import json
from pathlib import Path

from audit_middleware.archives.canary import CanaryReport, examine
from audit_middleware.archives.s3 import S3Archive
from tests.archives.serving import Asked, Proxy, Server, make_bucket
from tests.kit import Run

ALL = {
    "delete_version",
    "delete_version_bypass",
    "delete_many",
    "delete_many_bypass",
    "shorten",
    "shorten_bypass",
    "governance",
    "governance_bypass",
    "remove_retention",
    "remove_retention_bypass",
    "overwrite",
    "delete_marker",
    "change_default",
    "suspend_versioning",
    "disable_object_lock",
}
HARMLESS = {"overwrite", "delete_marker", "change_default"}


def showing(report: CanaryReport, shows: str) -> set[str]:
    return {one.name for one in report.attempts if one.shows == shows}


def test_a_lock_that_holds(s3: S3Archive) -> None:
    report = examine(s3)
    assert report.immutable == "yes"
    assert showing(report, "yes") == ALL
    assert all(one.kept for one in report.attempts)
    assert {one.name for one in report.attempts if one.answer == "accepted"} == HARMLESS
    assert report.conditional is True
    assert report.left == ()
    s3.check()
    again = examine(s3)
    assert again.immutable == "yes", "canaries of before do not stand in its way"


def test_the_buckets_own_settings_are_put_back(s3: S3Archive) -> None:
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    s3.client.put_object_lock_configuration(
        Bucket=s3.bucket.bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},  # type: ignore[typeddict-item]  # a plain dict
    )
    report = examine(s3)
    assert report.immutable == "yes", "also where all that is put is locked by itself"
    assert s3.lock_configuration() == {"ObjectLockEnabled": "Enabled", "Rule": rule}


def test_a_lock_that_does_not_hold_is_found(shared_moto: Server) -> None:
    """moto refuses to delete, and lets the retention be shortened, lowered and removed, and versioning be suspended."""
    archive = S3Archive.open(make_bucket(shared_moto.url, "moto-examined"))
    report = examine(archive)
    assert report.immutable == "no"
    assert showing(report, "no") == {
        "shorten",
        "shorten_bypass",
        "governance",
        "governance_bypass",
        "remove_retention",
        "remove_retention_bypass",
        "suspend_versioning",
    }
    by_name = {one.name: one for one in report.attempts}
    for name in showing(report, "no"):
        assert by_name[name].answer == "accepted", name
        assert by_name[name].kept is False, name
    for name in ("delete_version", "delete_many", "overwrite", "delete_marker"):
        assert by_name[name].shows == "yes", name
    assert report.left == ()
    archive.check()
    assert archive.put("x", b"one", None).version, "versioning is on again"


def test_credentials_without_rights_show_nothing(behind: S3Archive, proxy: Proxy) -> None:
    """A service's own: it may put and read. Everything is refused, and by whom cannot be said."""

    def guard(asked: Asked) -> None:
        settings = asked.method == "PUT" and (asked.has("versioning") or asked.has("object-lock"))
        delete = asked.method == "DELETE" or (asked.method == "POST" and asked.has("delete"))
        bypass = "x-amz-bypass-governance-retention" in asked.headers
        if settings or delete or bypass:
            asked.answer = (403, "AccessDenied")

    proxy.rule = guard
    report = examine(behind)
    assert report.immutable == "unclear"
    by_name = {one.name: one for one in report.attempts}
    assert showing(report, "no") == set()
    # Retentions are what it may set: that it may make them longer shows that shorter ones are refused by the lock.
    assert showing(report, "yes") == {"shorten", "governance", "remove_retention", "overwrite"}
    for name in showing(report, "not shown"):
        assert not by_name[name].able, name
        assert by_name[name].why, name
    assert all(one.kept for one in report.attempts)


def test_a_server_that_forgets_the_lock(behind: S3Archive, proxy: Proxy) -> None:
    def forget(asked: Asked) -> None:
        for name in ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"):
            del asked.headers[name]

    proxy.rule = forget
    report = examine(behind)
    assert report.immutable == "no"
    assert [(one.name, one.shows) for one in report.attempts] == [("lock", "no")]


def test_a_server_that_says_yes_and_does_nothing(behind: S3Archive, proxy: Proxy) -> None:
    """Nor does it show anything: perhaps it does it later."""

    def pretend(asked: Asked) -> None:
        if asked.method == "PUT" and asked.has("retention") and b"GOVERNANCE" in asked.body and canary(asked):
            asked.answer = (200, "")

    def canary(asked: Asked) -> bool:
        return asked.path.partition("?")[0].rpartition("/")[2].startswith("governance")

    proxy.rule = pretend
    report = examine(behind)
    assert report.immutable == "unclear"
    assert showing(report, "not shown") == {"governance", "governance_bypass"}


def test_a_server_that_deletes_later_than_it_says(behind: S3Archive, proxy: Proxy, s3: S3Archive) -> None:
    """Every refusal is right; at the end one version is gone all the same."""
    gone = False

    def lose(asked: Asked) -> None:
        nonlocal gone
        gone = gone or (asked.has("object-lock") and b"Disabled" in asked.body)
        if gone and asked.path.partition("?")[0].endswith("/delete_many") and asked.method in ("GET", "HEAD"):
            asked.answer = (404, "NoSuchVersion")

    proxy.rule = lose
    report = examine(behind)
    assert report.immutable == "no"
    assert showing(report, "no") == {"delete_many"}
    assert gone


def test_what_cannot_be_read_back_shows_nothing(behind: S3Archive, proxy: Proxy) -> None:
    def hide(asked: Asked) -> None:
        if asked.path.partition("?")[0].endswith("/shorten") and asked.method == "GET":
            asked.answer = (403, "AccessDenied")

    proxy.rule = hide
    report = examine(behind)
    assert report.immutable == "unclear"
    assert [(one.name, one.kept) for one in report.attempts if one.shows != "yes"] == [("shorten", None)]


def test_settings_that_cannot_be_put_back_are_told(shared_moto: Server) -> None:
    archive = S3Archive.open(make_bucket(shared_moto.url, "moto-left"))
    with Proxy(shared_moto.port).running() as proxy:
        suspended = False

        def stay(asked: Asked) -> None:
            nonlocal suspended
            if asked.has("versioning") and asked.method == "PUT":
                if suspended:
                    asked.answer = (403, "AccessDenied")
                suspended = b"Suspended" in asked.body

        proxy.rule = stay
        url = f"{archive.place}?endpoint_url={proxy.url}&region=eu-central-1"
        report = examine(S3Archive.open(url))
    assert report.immutable == "no"
    assert len(report.left) >= 1
    assert "versioning may be suspended" in report.left[0]


def test_the_command_prints_what_was_tried(run: Run, bucket: str, shared_moto: Server, folder: Path) -> None:
    code, out, _ = run("archive", "check", bucket)
    assert code == 0
    assert "every attempt shows that the lock holds" in out
    assert set(out.split()) >= ALL
    code, out, _ = run("archive", "check", make_bucket(shared_moto.url, "moto-command"), "--json")
    assert code == 1
    said = json.loads(out)
    assert said["immutable"] == "no"
    assert {one["name"] for one in said["attempts"]} == ALL
    code, _, err = run("archive", "check", str(folder))
    assert code == 1
    assert "administrator" in err
    code, _, err = run("archive", "check", bucket.replace("s3://bucket", "s3://missing"))
    assert code == 3
    assert "no such bucket" in err
