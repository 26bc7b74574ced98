"""Hostile text through each destination's framing: the receiver finds one message a record, with the values it had.

Parsers are the receivers' own: rsyslog, a JSON parser a line, and those of the formats' specifications.
"""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from audit_middleware.followers.destinations.datadog import Datadog
from audit_middleware.followers.destinations.elasticsearch import Elasticsearch
from audit_middleware.followers.destinations.jsonl import JsonLines
from audit_middleware.followers.destinations.syslog import Syslog
from audit_middleware.followers.destinations.webhook import PAYLOADS, Webhook, read_key
from audit_middleware.followers.shape import lines
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.formats import FORMATS
from audit_middleware.formats.text import visible
from tests.control.support import until
from tests.followers.receivers import Receiver
from tests.followers.support import WHSEC, ago, way
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.test_injection import with_text
from tests.stores.samples import entry as sample

TEXTS = [
    "\n", "\r\n", "a\nb\rc", "|", "||", "=", "a=b c=d", "\\", "\\\\", "\\n", "]", '"', "'", "\t", "\x00", "\x1b[31m",
    "\x7f", "\x85", "\x0b\x0c\x1c", "\u2028", "\u2029", "\u202e", "\ufeff", "\ufeff\ufeffx", "é", "\U0001d518", "…",
    "%s %n",
    "\n<110>1 2026-01-01T00:00:00Z h a - - - forged", "\n42 <110>1 - - - - - - forged",
    '"] [audit@32473 user_id="root"]',
    "CEF:0|a|b|c|d|e|10|", "\nCEF:0|a|b|c|d|e|10|suser=root", "LEEF:2.0|a|b|c|d|x09|", "\tusrName=root",
    ' log="evil" index="9"] ', "\tlog=evil\tindex=9", '\n{"create":{"_id":"x"}}\n{"@timestamp":0}\n',
    '"},"user":{"id":"root"}', "</script><script>", "\n\n", " ", "x" * 8_000, "\u2028" * 3_000, "é" * 20_000,
]  # fmt: skip
_DICE = random.Random(20260101)
TEXTS += ["".join(_DICE.choices(TEXTS[:-3], k=_DICE.randint(2, 6)))[:900] for _ in range(60)]
TEXTS.append("x" * 60_000)
PLACES = ("user_id", "reason", "user_agent", "resource_id", "action", "event", "query")
PLACES_OF_LONG = ("reason",)
HERE = "example.com/log"


@cache
def records() -> list[Item]:
    made = []
    for index, text in enumerate(TEXTS):
        record = with_text(text, *(PLACES if len(text) < 1_000 else PLACES_OF_LONG))
        record |= {"timestamp": ago(1), "action_id": f"019b76da-a800-7000-8000-{index:012x}"}
        made.append(Item(index, json.dumps(record, ensure_ascii=False).encode()))
    return made


def compare(form: str, texts: Sequence[str]) -> None:
    """What arrived against what was sent: so many, in order, each with its own values."""
    locate = FORMATS[form].locate
    assert locate is not None
    assert [locate(text.encode()).index for text in texts] == list(range(len(TEXTS)))
    for item, text in zip(records(), texts, strict=True):
        record = item.record
        assert record["action_id"] in text
        got = values(form, text)
        for ours, theirs in got.items():
            value = record[ours]
            if FORMATS[form].is_json:
                assert theirs == value, (form, ours)
            elif theirs.endswith("…") and len(value) > 300:
                assert shown(form, value).startswith(theirs[:-1]), (form, ours)
            else:
                assert theirs == shown(form, value), (form, ours)


def shown(form: str, value: str) -> str:
    return re.sub(r"[^\r\n]+", lambda found: visible(found[0]), value) if form == "cef" else visible(value)


def values(form: str, text: str) -> dict[str, Any]:
    """User and reason, as the format has them."""
    if form == "cef":
        fields = parse_cef(text).fields
        return {"user_id": fields["suser"], "reason": fields["reason"]}
    if form == "leef":
        fields = parse_leef(text).fields
        return {"user_id": fields["usrName"], "reason": fields["reason"]}
    if form == "rfc5424":
        fields = parse_rfc5424(text).fields
        return {"user_id": fields["user_id"], "reason": fields["reason"]}
    found = json.loads(text)
    if form == "otlp":
        line = found["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
        known = {one["key"]: one["value"].get("stringValue") for one in line["attributes"]}
        return {"user_id": known["user.id"], "reason": known["audit.reason"]}
    if form in ("jsonl", "cloudevents"):
        return {name: found[RECORD_IN[form]][name] for name in ("user_id", "reason", "user_agent")}
    user, reason = USER_AND_REASON[form]
    return {"user_id": at(found, user), "reason": at(found, reason)}


RECORD_IN = {"jsonl": "record", "cloudevents": "data"}
USER_AND_REASON = {
    "ecs": ("user id", "event reason"),
    "datadog": ("usr id", "audit reason"),
    "ocsf": ("actor user uid", "unmapped reason"),
    "ocsf-1.9": ("actor user uid", "unmapped reason"),
    "k8s": ("user username", "annotations audit-middleware/reason"),
}


def at(value: Any, path: str) -> Any:
    for name in path.split():
        value = value[name]
    return value


@pytest.mark.parametrize("form", lines())
def test_files(tmp_path: Path, form: str) -> None:
    sink = JsonLines(tmp_path / "out", format=form).open(way(tmp_path))
    assert sink.send(records()) == Sent(len(TEXTS))
    sink.close()
    (file,) = (tmp_path / "out").iterdir()
    compare(form, file.read_bytes().decode().split("\n")[:-1])
    again = JsonLines(tmp_path / "out", format=form).open(way(tmp_path))
    assert again.send(records()) == Sent(len(TEXTS)), "the file itself says that it has them"
    again.close()
    assert file.read_bytes().count(b"\n") == len(TEXTS)


@pytest.mark.parametrize("form", ["rfc5424", "cef", "leef", "jsonl", "ecs"])
def test_syslog(tmp_path: Path, receiver: Callable[[str], Receiver], form: str) -> None:
    server = receiver("rsyslog")
    sink = Syslog("127.0.0.1", server.port, tls=False, format=form, max_message=131_072).open(way(tmp_path))
    assert sink.send(records()) == Sent(len(TEXTS))
    until(lambda: server.count() >= len(TEXTS), "rsyslog wrote them")
    sink.close()
    taken = server.taken()
    if form == "rfc5424":
        compare(form, [f"<1>1 - - - - - {one['data']} {one['text']}" for one in taken])
    else:
        compare(form, [one["text"] for one in taken])


@pytest.mark.parametrize("form", ["ecs", "ocsf", "jsonl"])
def test_elasticsearch(tmp_path: Path, receiver: Callable[[str], Receiver], form: str) -> None:
    server = receiver("elasticsearch")
    headers = {"Authorization": "ApiKey c2VjcmV0LWVzLWtleQ=="}
    sink = Elasticsearch(SecretStr(server.url), "logs-audit-test", format=form, headers=headers).open(way(tmp_path))
    left = records()
    while left:  # a bulk request that is too large is halved
        sent = sink.send(left)
        assert (sent.settled > 0, sent.rejected, sent.retry) == (True, {}, None)
        left = left[sent.settled :]
    sink.close()
    compare(form, [one["text"] for one in server.taken()])


def test_datadog(tmp_path: Path, receiver: Callable[[str], Receiver]) -> None:
    server = receiver("datadog")
    sink = Datadog(SecretStr(server.url), SecretStr("secret-dd-key")).open(way(tmp_path))
    assert sink.send(records()) == Sent(len(TEXTS))
    sink.close()
    compare("datadog", [one["text"] for one in server.taken()])


@pytest.mark.parametrize("payload", ["whole", *PAYLOADS[2:]])
def test_webhook(tmp_path: Path, receiver: Callable[[str], Receiver], payload: str) -> None:
    server = receiver("webhook")
    settings = Webhook(SecretStr(server.url), (read_key(WHSEC),), payload=payload, allow_private=True)
    sink = settings.open(way(tmp_path))
    assert sink.send(records()) == Sent(len(TEXTS))
    sink.close()
    texts = [one["text"] for one in server.taken()]
    if payload == "whole":
        compare("jsonl", [json.dumps(json.loads(text)["data"]) for text in texts])
    else:
        compare(payload, texts)


@pytest.mark.parametrize("entry", [b'{"user_id":"\\ud800"}', b'{"user_id":"\xed\xa0\x80"}', b"{", b"[]", b"null"])
def test_what_is_no_record_is_refused_and_what_follows_goes_on(tmp_path: Path, entry: bytes) -> None:
    """A lone surrogate cannot be in a canonical entry; if it is, it is not sent as something else."""
    sink = JsonLines(tmp_path / "out", format="ecs").open(way(tmp_path))
    sent = sink.send([Item(0, entry), *records()[1:3]])
    assert sent.settled == 3
    assert list(sent.rejected) == [0]
    sink.close()


@pytest.mark.parametrize("form", lines())
def test_a_time_that_is_none_is_a_dead_letter_of_syslog(tmp_path: Path, form: str) -> None:
    """No service writes one; a log's entries are whatever its key signed."""
    time = "2026-01-01T00:00:00.000000Z\n<13>1 - - - - - - forged"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = Syslog("127.0.0.1", listener.getsockname()[1], tls=False, format=form, max_message=65_536).open(
            way(tmp_path)
        )
        sent = sink.send([Item(0, sample(0, timestamp=time)), Item(1, sample(1))])
        assert (sent.settled, list(sent.rejected)) == (2, [0])
        sink.close()
        with listener.accept()[0] as connected, connected.makefile("rb") as stream:
            assert b"forged" not in stream.read()
