"""The configuration: strict, with every finding at once, and no secret in it or in what is said about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audit_middleware.errors import FollowerError
from audit_middleware.followers.config import load_followers
from audit_middleware.followers.destinations import TYPES
from audit_middleware.followers.destinations.elasticsearch import Elasticsearch
from audit_middleware.followers.destinations.webhook import Webhook, read_key
from audit_middleware.followers.selection import Selection
from tests.followers.support import WHSEC, configured

GOOD = """
version: 1
state: /var/lib/audit/followers
followers:
  - name: siem
    type: elasticsearch
    url: https://es.example.com:9200
    data_stream: logs-audit-billing
    api_key: ${ES_KEY}
    filter: {actions: ['invoice.*', user.delete], severity: high, decision: [allow], outcome: [error], denials: false}
    start: now
    batch: 100
    retry: {first: 250, longest: 60000}
  - name: security
    type: webhook
    url: ${HOOK}
    secret: file:%s
"""


def test_a_whole_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(WHSEC + "\n")
    monkeypatch.setenv("ES_KEY", "c2VjcmV0")
    monkeypatch.setenv("HOOK", "https://hooks.example.com/T000/B000")
    found = configured(tmp_path, GOOD % (tmp_path / "secret"))
    siem, security = found.followers
    assert found.state_in(Path("log")) == Path("/var/lib/audit/followers")
    assert (siem.name, siem.start, siem.batch, siem.first_pause, siem.longest_pause) == ("siem", "now", 100, 0.25, 60)
    assert isinstance(siem.selection, Selection)
    assert siem.selection.actions == ("invoice.*", "user.delete")
    assert not siem.selection.denials
    assert isinstance(siem.destination, Elasticsearch)
    assert siem.destination.headers == {"Authorization": "ApiKey c2VjcmV0"}
    assert isinstance(security.destination, Webhook)
    assert security.destination.keys == (read_key(WHSEC),)
    assert not security.destination.allow_private
    shown = repr(found)
    for secret in ("c2VjcmV0", "T000", "MfKQ9r8G"):
        assert secret not in shown


def one(body: str) -> str:
    return "version: 1\nfollowers:\n  - " + body.replace("\n", "\n    ")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("version: 2\nfollowers: []\n", ":1: version: expected 1 to 1, found 2"),
        ("version: 1\nfollowers: []\n", ":2: followers: there is none"),
        ("version: 1\nfolowers: []\n", ":2: folowers: unknown key; did you mean 'followers'?"),
        (one("type: jsonl\ndirectory: out"), ":3: followers[0].name: missing"),
        (one("name: a\ntype: jsonl"), "followers[0].directory: missing"),
        (
            one("name: a\ntype: elastic\n"),
            f"'elastic' is not one of {', '.join(TYPES)}; did you mean",
        ),
        (one("name: a\ntype: jsonl\ndirectory: o\ndirectori: o"), "directori: unknown key; did you mean 'directory'?"),
        (one("name: a\ntype: jsonl\ndirectory: o\nurl: http://x"), ":6: followers[0].url: unknown key"),
        (one("name: ../a\ntype: jsonl\ndirectory: o"), "name: is no name"),
        (one("name: a\ntype: jsonl\ndirectory: o\nfilter: {severity: hgh}"), "'hgh' is not one of info, low"),
        (
            one("name: a\ntype: jsonl\ndirectory: o\nfilter: {action: [x]}"),
            "action: unknown key; did you mean 'actions'",
        ),
        (one("name: a\ntype: jsonl\ndirectory: o\nfilter: {actions: []}"), "lists no action"),
        (one("name: a\ntype: jsonl\ndirectory: o\nfilter: {denials: no}"), "write true or false"),
        (one("name: a\ntype: jsonl\ndirectory: o\nstart: yesterday"), "'yesterday' is not one of beginning, now"),
        (one("name: a\ntype: jsonl\ndirectory: o\nbatch: 0"), "batch: expected 1 to 5000, found 0"),
        (one("name: a\ntype: webhook\nurl: https://x.example\nsecret: ${UNSET_ONE}"), "variable UNSET_ONE is not set"),
        (one("name: a\ntype: webhook\nurl: ftp://x\nsecret: ${GIVEN}"), "url: is no http or https URL"),
        (one("name: a\ntype: webhook\nurl: https://u:p@x\nsecret: ${GIVEN}"), "url: holds a user or password"),
        (one("name: a\ntype: webhook\nurl: https://x.example\nsecret: file:/nowhere"), "the file cannot be read"),
        (
            one("name: a\ntype: webhook\nurl: https://x.example\nsecret: ${GIVEN}\npayload: all"),
            "not one of thin, whole",
        ),
        (one("name: a\ntype: elasticsearch\nurl: https://x\ndata_stream: A B"), "no data stream's name"),
        (one("name: a\ntype: elasticsearch\nurl: https://x\ndata_stream: a\nusername: u"), "go together"),
        (one("name: a\ntype: syslog\nhost: x\ntransport: udp"), "'udp' is not one of tls, tcp"),
        (one("name: a\ntype: syslog\nhost: x\nformat: CEF"), "'CEF' is not one of rfc5424, jsonl, ocsf"),
        (one("name: a\ntype: syslog\nhost: x\nformat: datadog"), "'datadog' is not one of"),
        (one("name: a\ntype: syslog\nhost: x\nmax_message: 1024"), "max_message: expected 4096 to 262144"),
        (one("name: a\ntype: syslog\nhost: x\nenterprise_number: 0"), "enterprise_number: a private enterprise number"),
        (one("name: a\ntype: jsonl\ndirectory: o\nformat: cloudtrail"), "'cloudtrail' is not one of jsonl, ocsf"),
        (one("name: a\ntype: datadog\napi_key: ${GIVEN}\ntags: a b"), "tags: 'a b' are no tags"),
        (
            one("name: a\ntype: elasticsearch\nurl: https://x\ndata_stream: a\nformat: cef"),
            "not one of ecs, ocsf, jsonl",
        ),
        (
            one("{name: a, type: jsonl, directory: o}") + "\n  - {name: a, type: jsonl, directory: p}\n",
            ":4: followers[1].name: 'a' is the name of two followers",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, finding: str
) -> None:
    monkeypatch.setenv("GIVEN", WHSEC)
    with pytest.raises(FollowerError) as caught:
        configured(tmp_path, text)
    assert finding in str(caught.value)
    assert all(line.startswith(f"{tmp_path}/followers.yaml:") for line in str(caught.value).splitlines())


def test_a_literal_secret_is_refused_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "whsec_Zm9vYmFyYmF6cXV1eA==")
    for secret in (WHSEC, "${SHORT}", "prefix-${SHORT}"):
        with pytest.raises(FollowerError) as caught:
            configured(tmp_path, one(f"name: a\ntype: webhook\nurl: https://x.example\nsecret: '{secret}'"))
        assert "secret" in str(caught.value)
        assert "MfKQ9r8GKYqr" not in str(caught.value)
        assert "Zm9vYmFyYmF6" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FollowerError, match="cannot be read: No such file"):
        load_followers(tmp_path / "none.yaml")


DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "followers.md", *sorted((DOCS / "followers").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_configurations_of_the_pages_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path) -> None:
    for name, value in {"SECRET": WHSEC, "URL": "https://hooks.example.com/x"}.items():
        monkeypatch.setenv(f"SECURITY_WEBHOOK_{name}", value)
    monkeypatch.setenv("ES_API_KEY", "c2VjcmV0")
    monkeypatch.setenv("DD_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("OTLP_AUTHORIZATION", "Bearer abc")
    monkeypatch.setenv("LAKE_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("LAKE_SECRET_ACCESS_KEY", "abc")
    found = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M)
    assert found
    for text in found:
        assert configured(tmp_path, text).followers


def test_every_destination_has_a_page_with_all_its_keys() -> None:
    for name, (keys, *_) in TYPES.items():
        page = (DOCS / "followers" / f"{name}.md").read_text()
        for key in keys:
            assert f"`{key}`" in page, f"{name}: {key}"
