"""An archive in S3: locks, what hides objects, and everything that goes wrong between us and a server."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.opening import open_archive
from audit_middleware.archives.s3 import S3Archive
from audit_middleware.archives.s3_bucket import parse_place
from audit_middleware.errors import ArchiveConflict, ArchiveError, ConfigError
from tests.archives.serving import (
    KEY_ID,
    NO_SERVER,
    SECRET,
    Asked,
    Proxy,
    Server,
    make_bucket,
    moto_server,
    s3_python,
    s3_server,
)


def soon(seconds: int = 120) -> float:
    return time.time() + seconds


def asked_for(proxy: Proxy, method: str) -> list[str]:
    return [one for one in proxy.seen if one.startswith(method)]


# --- locks ------------------------------------------------------------------------------------------------------------


def test_what_is_put_is_locked_and_read_back(s3: S3Archive) -> None:
    until = soon() + 0.25
    stored = s3.put("tile/0/000", b"one", until)
    assert stored.locked
    assert stored.until is not None
    assert until <= stored.until < until + 1, "rounded up to a second"
    assert stored.version
    free = s3.put("free", b"one", None)
    assert (free.locked, free.until) == (False, None)


def test_a_lock_is_made_longer_and_never_shorter(s3: S3Archive) -> None:
    first = s3.put("x", b"one", None)
    locked = s3.put("x", b"one", soon(60))
    longer = s3.put("x", b"one", soon(120))
    again = s3.put("x", b"one", soon(30))
    assert first.version == locked.version == longer.version == again.version
    assert locked.until
    assert longer.until
    assert longer.until - locked.until >= 50
    assert again == longer


def test_a_governance_lock_is_not_called_locked(s3: S3Archive) -> None:
    stored = s3.put("x", b"one", None)
    s3.client.put_object_retention(
        **s3.at("x"),
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.fromtimestamp(soon(), UTC)},
        VersionId=stored.version or "",
    )
    (found,) = s3.versions("x")
    assert not found.locked
    assert found.until


def test_a_server_that_takes_the_lock_and_does_not_keep_it(behind: S3Archive, proxy: Proxy) -> None:
    """The headers are accepted with 200, and lost."""

    def forget(asked: Asked) -> None:
        for name in ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"):
            del asked.headers[name]

    proxy.rule = forget
    with pytest.raises(ArchiveError, match=r"not show it locked until .* archive check"):
        behind.put("x", b"one", soon())


# --- what is on top of an object --------------------------------------------------------------------------------------


def test_newer_versions_and_markers_hide_nothing(s3: S3Archive) -> None:
    stored = s3.put("tile/0/000", b"one", soon())
    s3.client.put_object(**s3.at("tile/0/000"), Body=b"foreign")
    assert s3.get("tile/0/000") == b"foreign", "the current version is what anybody put last"
    assert [s3.get("tile/0/000", one.version) for one in s3.versions("tile/0/000")] == [b"one", b"foreign"]
    marker = s3.client.delete_object(**s3.at("tile/0/000"))["VersionId"]
    assert s3.get("tile/0/000") is None
    assert s3.get("tile/0/000", marker) is None
    first, second = s3.versions("tile/0/000")
    assert first == stored
    assert not second.locked
    assert list(s3.names("")) == ["tile/0/000"]
    assert s3.put("tile/0/000", b"one", soon(30)) == stored, "it is there already, below"
    assert len(s3.versions("tile/0/000")) == 2
    with pytest.raises(ArchiveConflict, match="tile/0/000"):
        s3.put("tile/0/000", b"foreign", None)


def test_a_marker_that_the_server_does_not_tell_of_hides_nothing_either(behind: S3Archive, proxy: Proxy) -> None:
    """Some servers answer a HEAD below a delete marker as if nothing had ever been there."""
    stored = behind.put("x", b"one", soon())
    behind.client.delete_object(**behind.at("x"))

    def nothing(asked: Asked) -> None:
        if asked.method == "HEAD" and not asked.has("versionId"):
            asked.answer = (404, "NotFound")

    proxy.rule = nothing
    assert behind.put("x", b"one", soon(30)) == stored
    assert len(behind.versions("x")) == 1


def test_lists_of_many_pages(behind: S3Archive, proxy: Proxy) -> None:
    """The server is asked for two entries a page; one object has more versions than that."""
    names = ["a", "b", "b/1", "b/2", "b/3", "c"]
    for name in names:
        behind.put(name, name.encode(), None)
    for number in range(4):
        behind.client.put_object(**behind.at("b"), Body=b"%d" % number)
    behind.client.delete_object(**behind.at("c"))

    def short(asked: Asked) -> None:
        if asked.has("versions"):
            asked.path += "&max-keys=2"

    proxy.rule = short
    proxy.seen.clear()
    assert list(behind.names("")) == names
    assert list(behind.names("b")) == ["b/1", "b/2", "b/3"]
    assert len(asked_for(proxy, "GET")) >= 6, "pages"
    assert [behind.get("b", one.version) for one in behind.versions("b")] == [b"b", b"0", b"1", b"2", b"3"]


def test_somebody_elses_keys_are_left_out(s3: S3Archive) -> None:
    s3.put("a", b"a", None)
    for key in ("log/with blank", "log/ä", "log/.hidden", "log/x//y", "logs", "other/a"):
        s3.client.put_object(Bucket=s3.bucket.bucket, Key=key, Body=b"x")
    assert list(s3.names("")) == ["a"]


def test_an_archive_may_be_a_whole_bucket(s3: S3Archive, bucket: str) -> None:
    whole = S3Archive.open(bucket.replace("/log?", "?"))
    assert whole.place == f"s3://{s3.bucket.bucket}"
    whole.put("a/b", b"x", None)
    s3.put("c", b"y", None)
    assert list(whole.names("")) == ["a/b", "log/c"]


# --- answers that do not come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("honours", [True, False], ids=["if-none-match", "without"])
def test_a_lost_answer_makes_no_second_version(behind: S3Archive, proxy: Proxy, honours: bool) -> None:
    """The server has stored the object and the connection is cut: we look, and find it."""
    cuts = iter([True])

    def cut(asked: Asked) -> None:
        if asked.method == "PUT":
            if not honours:
                del asked.headers["If-None-Match"]
            asked.cut = next(cuts, False)

    proxy.rule = cut
    stored = behind.put("x", b"one", soon())
    assert stored.locked
    assert len(behind.versions("x")) == 1
    assert len(asked_for(proxy, "PUT")) == 1, "it was not sent again"


@pytest.mark.parametrize("said", [b"", b"<ListVersionsResult/>", b"<html><body>Welcome</body></html>"])
def test_an_answer_that_says_nothing_is_no_empty_archive(behind: S3Archive, proxy: Proxy, said: bytes) -> None:
    """Else a log that was rolled back would start, because its archive shows no checkpoint."""
    behind.put("checkpoints/00000000000000000001", b"one", None)

    def nothing(asked: Asked) -> None:
        asked.change_body = lambda _: said

    proxy.rule = nothing
    for use in (lambda: list(behind.names("")), lambda: behind.versions("x"), lambda: behind.put("x", b"one", None)):
        with pytest.raises(ArchiveError, match=r"ListObjectVersions: "):
            use()


def test_a_clock_that_is_years_behind_locks_nothing_in_silence(s3: S3Archive) -> None:
    """Servers that take an end in the past show it as a lock."""
    with pytest.raises(ArchiveError, match=r"clock is wrong|PutObject x: \w+"):
        s3.put("x", b"one", time.time() - 86_400)


def test_a_request_that_was_not_done_is_sent_again(behind: S3Archive, proxy: Proxy) -> None:
    answers = iter([(503, "SlowDown"), None])

    def refuse(asked: Asked) -> None:
        if asked.method == "PUT":
            asked.answer = next(answers)

    proxy.rule = refuse
    assert behind.put("x", b"one", soon()).locked
    assert len(asked_for(proxy, "PUT")) == 2
    assert len(behind.versions("x")) == 1


def test_a_server_that_is_down_for_good_is_an_error(behind: S3Archive, proxy: Proxy) -> None:
    def refuse(asked: Asked) -> None:
        asked.answer = (503, "SlowDown")

    proxy.rule = refuse
    for use in (
        lambda: behind.put("x", b"one", None),
        lambda: behind.get("x"),
        lambda: behind.versions("x"),
        lambda: list(behind.names("")),
        behind.check,
    ):
        proxy.seen.clear()
        with pytest.raises(ArchiveError, match=f"{behind.place}: .*(SlowDown|503)"):
            use()
        assert len(proxy.seen) == 2, "tried twice, as was set"


def test_a_server_that_does_not_know_if_none_match(behind: S3Archive, proxy: Proxy) -> None:
    def unknown(asked: Asked) -> None:
        if asked.method == "PUT" and "If-None-Match" in asked.headers:
            asked.answer = (501, "NotImplemented")

    proxy.rule = unknown
    assert behind.put("x", b"one", soon()).locked
    with pytest.raises(ArchiveConflict):
        behind.put("x", b"two", None)
    proxy.seen.clear()
    behind.put("y", b"one", None)
    assert len(asked_for(proxy, "PUT")) == 1, "it is not asked again"


def test_two_at_once_on_a_server_without_if_none_match(behind: S3Archive, proxy: Proxy, s3: S3Archive) -> None:
    """Both make a version; the first one counts for both."""
    theirs = {"same": b"one", "other": b"two"}

    def race(asked: Asked) -> None:
        name = asked.path.rpartition("/")[2]
        if asked.method == "PUT" and name in theirs:
            del asked.headers["If-None-Match"]
            s3.put(name, theirs.pop(name), None)

    proxy.rule = race
    stored = behind.put("same", b"one", soon())
    first, _ = s3.versions("same")
    assert stored == first
    assert stored.locked, "its lock is made as long as the second one asked"
    with pytest.raises(ArchiveConflict, match="other"):
        behind.put("other", b"one", soon())
    assert s3.get("other", s3.versions("other")[0].version) == b"two"


def test_somebody_who_was_faster(behind: S3Archive, proxy: Proxy, s3: S3Archive) -> None:
    """Between our look and our put, others put the same name: one with our bytes, one with others."""
    theirs = {"same": b"one", "other": b"two"}

    def race(asked: Asked) -> None:
        name = asked.path.rpartition("/")[2]
        if asked.method == "PUT" and name in theirs:
            s3.put(name, theirs.pop(name), None)

    proxy.rule = race
    assert behind.put("same", b"one", soon()).locked
    assert len(s3.versions("same")) == 1
    with pytest.raises(ArchiveConflict, match="other"):
        behind.put("other", b"one", soon())
    assert len(s3.versions("other")) == 1


def test_a_body_that_is_cut_or_altered(behind: S3Archive, proxy: Proxy) -> None:
    behind.put("x", b"one" * 1000, None)
    cuts = iter([True, False, True, True])

    def cut(asked: Asked) -> None:
        asked.cut_body = next(cuts)

    proxy.rule = cut
    assert behind.get("x") == b"one" * 1000, "read again"
    with pytest.raises(ArchiveError, match="no whole answer"):
        behind.get("x")

    def alter(asked: Asked) -> None:
        asked.change_body = lambda body: b"two" + body[3:]

    proxy.rule = alter
    with pytest.raises(ArchiveError, match="no whole answer"):
        behind.get("x")


def test_an_answer_that_is_none(behind: S3Archive, proxy: Proxy) -> None:
    def rubbish(asked: Asked) -> None:
        asked.change_body = lambda body: b"<html>log in here" if asked.method == "GET" else body

    proxy.rule = rubbish
    with pytest.raises(ArchiveError, match=r"bucket-\d+/log: ListObjectVersions"):
        list(behind.names(""))


def test_more_than_an_object_has(s3: S3Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("x", b"x" * 2000, None)
    monkeypatch.setattr("audit_middleware.archives.s3.LARGEST", 1000)
    with pytest.raises(ArchiveError, match="more than 1000"):
        s3.get("x")
    with pytest.raises(ArchiveError, match="more than 1000"):
        s3.put("y", b"x" * 2000, None)
    assert s3.get("y") is None


# --- a server of one's own, killed, paused, started again -------------------------------------------------------------


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[Server]:
    if s3_python() is None:
        pytest.skip(NO_SERVER)
    server = s3_server(tmp_path / "s3").start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(own_s3: Server) -> None:
    """With all that it held gone: the archive says so, and goes on once there is a bucket again."""
    archive = S3Archive.open(make_bucket(own_s3.url, "bucket"), tries=2, timeout=2)
    archive.put("x", b"one", soon())
    own_s3.pause()
    started = time.monotonic()
    with pytest.raises(ArchiveError, match="no whole answer from the server at http://127"):
        archive.put("y", b"one", soon())
    assert time.monotonic() - started < 60, "two tries of two seconds, and patience for a busy machine"
    own_s3.resume()
    assert archive.put("y", b"one", soon()).locked
    assert len(archive.versions("y")) == 1
    own_s3.kill()
    for use in (lambda: archive.put("z", b"one", soon()), lambda: archive.get("x")):
        with pytest.raises(ArchiveError, match="no whole answer"):
            use()
    own_s3.start()
    with pytest.raises(ArchiveError, match=r"no such bucket.*create-bucket --bucket bucket"):
        archive.check()
    with pytest.raises(ArchiveError):
        archive.put("z", b"one", soon())
    make_bucket(own_s3.url, "bucket")
    archive.check()
    assert archive.put("z", b"one", soon()).locked


# --- buckets and credentials that are not as they must be -------------------------------------------------------------


def test_a_bucket_without_lock_is_no_archive(shared_s3: Server) -> None:
    url = make_bucket(shared_s3.url, "no-lock", lock=False)
    with pytest.raises(ArchiveError, match=r"no Object Lock.*aws s3api create-bucket --bucket no-lock --object-lock"):
        S3Archive.open(url)
    reader = S3Archive.open(url, writable=False)
    reader.client.put_object(**reader.at("x"), Body=b"one")
    assert reader.get("x") == b"one", "a copy in an ordinary bucket can be read"
    assert [(one.size, one.locked) for one in reader.versions("x")] == [(3, False)]
    with pytest.raises(ArchiveError, match="made no version"):
        reader.put("y", b"one", None)


def test_versioning_without_lock_is_not_enough(shared_s3: Server) -> None:
    url = make_bucket(shared_s3.url, "versions-only", lock=False)
    client = S3Archive.open(url, writable=False).client
    client.put_bucket_versioning(Bucket="versions-only", VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(ArchiveError, match="no Object Lock"):
        S3Archive.open(url)


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    url = bucket.replace("s3://bucket-", "s3://missing-")
    with pytest.raises(ArchiveError, match=r"no such bucket.*aws s3api create-bucket.*LocationConstraint=eu-central-1"):
        open_archive(url)


def test_credentials_that_are_wrong_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = moto_server(tmp_path / "moto", INITIAL_NO_AUTH_ACTION_COUNT="2").start()
    try:
        url = make_bucket(server.url, "guarded")
        with pytest.raises(ArchiveError, match=r"s3://guarded/log: GetBucketVersioning: .*not accepted") as raised:
            S3Archive.open(url)
        assert KEY_ID not in str(raised.value)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ArchiveError, match="there are no credentials"):
            S3Archive.open(url)
        with pytest.raises(ArchiveError, match="ProfileNotFound"):
            S3Archive.open(url, profile="nobody")
    finally:
        server.kill()


@pytest.mark.parametrize(
    "answer",
    [
        "<Error><Code>{sent}</Code><Message>{sent}</Message></Error>",
        "<Error><Code>AccessDenied</Code><Message>{sent}</Message><StringToSign>{sent}</StringToSign></Error>",
        "<Error><Code><a>{sent}</a></Code><Code>{sent}</Code></Error>",
        "<Error><Code>{sent}",
        "{sent}",
        "<ListVersionsResult><Version><Size>{sent}</Size><LastModified>{sent}</LastModified></Version></ListVersionsResult>",
    ],
)
def test_no_message_holds_a_secret(
    behind: S3Archive, proxy: Proxy, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the server writes back: here all that it was sent, where S3 has its codes, texts and values."""

    told: list[str] = []

    def echo(status: int) -> Callable[[Asked], None]:
        def rule(asked: Asked) -> None:
            sent = "".join(f"{name}={value} " for name, value in asked.headers.items() if name != "User-Agent")
            asked.answer = (status, "")
            asked.change_body = lambda body: b"" if asked.method == "HEAD" else answer.format(sent=sent).encode()

        return rule

    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses and ours
    for status in (200, 400, 403, 404, 409, 412, 500, 501):
        proxy.rule = echo(status)
        for use in (lambda: behind.get("x"), lambda: behind.put("y", b"1", soon()), lambda: list(behind.names(""))):
            try:
                use()
            except ArchiveError as error:
                told.append("".join(traceback.format_exception(error)))
    assert len(told) > 10
    for word in (KEY_ID, SECRET, "AWS4-HMAC", "Signature="):
        assert not [one for one in told if word in one], word


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ArchiveError, match=r"pip install 'audit-middleware\[s3\]'"):
        open_archive("s3://bucket/x")


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_settings_stand_in_the_url_or_apart() -> None:
    place = parse_place("s3://my-bucket/a/b/?region=eu-west-1&timeout=2.5&tries=5&path_style=false&profile=p", {})
    assert (place.bucket, place.prefix, place.region, place.timeout) == ("my-bucket", "a/b", "eu-west-1", 2.5)
    assert (place.tries, place.path_style, place.profile, place.endpoint_url) == (5, False, "p", None)
    assert str(place) == "s3://my-bucket/a/b"
    place = parse_place("s3://my-bucket?region=eu-west-1", {"region": "eu-west-2", "endpoint_url": "https://h:1/"})
    assert (place.prefix, place.region, place.endpoint_url) == ("", "eu-west-2", "https://h:1/")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "https://bucket/x",
        "s3://Bucket/x",
        f"s3://{KEY_ID}:{SECRET}@bucket/x",
        "s3://bucket/a//b",
        "s3://bucket/.a",
        "s3://bucket/a%20b",
        "s3://bucket/x#y",
        f"s3://bucket/x?secret_key={SECRET}",
        f"s3://bucket/x?endpoint_url=https://user:{SECRET}@host",
        f"s3://bucket/x?endpoint_url=https://host/?X-Amz-Signature={SECRET}",
        "s3://bucket/x?endpoint_url=host:9000",
        "s3://bucket/x?path_style=perhaps",
        "s3://bucket/x?tries=0",
        "s3://bucket/x?tries=2.5",
        "s3://bucket/x?timeout=-1",
        "s3://bucket/x?timeout=nan",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="archive") as raised:
        parse_place(url, {})
    assert SECRET not in str(raised.value)


def test_a_wrong_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError, match="s3://bucket/x: the settings of AWS cannot be used"):
        S3Archive.open("s3://bucket/x", region="not a region")


def test_a_digest_goes_with_whatever_is_sent(behind: S3Archive, proxy: Proxy) -> None:
    """Older servers refuse a locked put, a retention or a multi-delete without Content-MD5."""
    missing: list[Any] = []

    def look(asked: Asked) -> None:
        if asked.body and "Content-MD5" not in asked.headers:
            missing.append(asked.path)

    proxy.rule = look
    behind.put("x", b"one", soon(60))
    behind.put("x", b"one", soon(120))
    behind.client.delete_objects(Bucket=behind.bucket.bucket, Delete={"Objects": [{"Key": "log/x"}]})
    assert missing == []
    assert asked_for(proxy, "POST")
