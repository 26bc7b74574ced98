"""Elasticsearch and OpenSearch: the bulk API, into a data stream.

Each record is a ``create`` with its ``action_id`` as ``_id``: what is there already is answered with 409 and counts as
delivered, so that a repetition leaves no second document (within one backing index: a repetition across a rollover
does). The answer is read item by item: 429 and 5xx, and what is about permissions or the stream, must be tried again;
any other error says that this document will never be taken.

One POST is all there is to it, so it is made with httpx: the official clients refuse each other's servers, and bring
more code than this whole package.

The document is the record in a format of JSON, by default ``ecs``; what has no ``@timestamp`` gets one. The index
template in ``elasticsearch-template.json`` beside this module maps every field of that format, and ``kibana.ndjson``
has a data view and two searches for it.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ...errors import FollowerError
from ...formats import FORMATS
from ..config import Options
from ..post import Poster, Reply
from ..shape import Shapes, checked
from ..sink import Item, Sent, Way

KEYS = ("url", "data_stream", "format", "api_key", "username", "password", "ca", "compress", "timeout")
_FORMATS = ("ecs", "ocsf", "jsonl")
_ACCEPTED = (200, 201, 409)
_NOT_THE_RECORD = (401, 403, 404, 408, 429)
_Why = Mapping[int, str]
_LARGEST_ANSWER = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Elasticsearch:
    """A data stream as configured."""

    url: SecretStr
    data_stream: str
    format: str = "ecs"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: Path | None = None
    compress: bool = True
    timeout: float = 30.0

    def open(self, way: Way) -> ElasticsearchSink:
        """See `Destination`."""
        url = f"{self.url.get_secret_value().rstrip('/')}/{self.data_stream}/_bulk"
        return ElasticsearchSink(
            self, Poster(url, patience=self.timeout, ca=self.ca, largest=_LARGEST_ANSWER), way.origin
        )


def read_elasticsearch(options: Options) -> Elasticsearch:
    """The settings of a data stream."""
    stream = options.text("data_stream")
    if stream:
        checked(options, "data_stream", FORMATS["ecs"], "stream", stream)
    key, password, user = options.secret("api_key"), options.secret("password"), options.text("username", "")
    headers: dict[str, str] = {}
    if key is not None and (password is not None or user):
        options.finding("api_key", "stands beside username or password: give one or the other")
    elif key is not None:
        headers["Authorization"] = f"ApiKey {key.get_secret_value()}"
    elif (password is not None) != bool(user):
        options.finding("username", "and password go together")
    elif password is not None:
        pair = f"{user}:{password.get_secret_value()}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    return Elasticsearch(
        url=options.url("url"),
        data_stream=stream,
        format=options.choice("format", _FORMATS, "ecs"),
        headers=headers,
        ca=options.path("ca"),
        compress=options.flag("compress", True),
        timeout=options.integer("timeout", 30, 1, 120),
    )


def template() -> str:
    """The index template for data streams ``logs-audit*``, JSON."""
    return resources.files(__package__).joinpath("elasticsearch-template.json").read_text("utf-8")


def saved_objects() -> str:
    """A data view and two searches for Kibana, as its import takes them: JSON Lines."""
    return resources.files(__package__).joinpath("kibana.ndjson").read_text("utf-8")


class ElasticsearchSink:
    """Sends bulk requests."""

    def __init__(self, settings: Elasticsearch, poster: Poster, origin: str) -> None:
        self._settings, self._poster = settings, poster
        stream = settings.data_stream if settings.format == "ecs" else None
        self._shapes = Shapes(settings.format, origin, stream=stream)
        self._most = sys.maxsize  # documents that the server takes at once, as far as it is known

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`. A batch that is too large for the server is halved, and so are later ones."""
        items = items[: self._most]
        made, unshown = self._shapes.shapes(items)
        if not made:
            return Sent(len(items), unshown)
        body = b"".join(self._lines(item, text) for item, text in made)
        headers = {"Content-Type": "application/x-ndjson", **self._settings.headers}
        if self._settings.compress:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        reply = self._poster.post(body, headers)
        if reply.status == 413:
            if len(items) > 1:
                self._most = len(items) // 2
                return self.send(items)
            return Sent(1, {items[0].index: "answered 413: too large"})
        if reply.status != 200:
            return Sent(0, retry=f"{self._poster.place}: answered {reply.status}", after=reply.after)
        results = iter(_results(reply, len(made), self._poster.place))
        return self._by_item(items, [None if item.index in unshown else next(results) for item in items], unshown)

    def _by_item(self, items: Sequence[Item], results: Sequence[tuple[int, str] | None], unshown: _Why) -> Sent:
        rejected = dict(unshown)
        for settled, (item, result) in enumerate(zip(items, results, strict=True)):
            if result is None:
                continue
            status, kind = result
            if status in _NOT_THE_RECORD or status >= 500:
                return Sent(settled, rejected, f"{self._poster.place}: answered {status} {kind} for a record".strip())
            if status not in _ACCEPTED:
                rejected[item.index] = f"answered {status} {kind}".strip()
        return Sent(len(items), rejected)

    def _lines(self, item: Item, text: bytes) -> bytes:
        action = json.dumps({"create": {"_id": item.id}}).encode()
        if self._settings.format != "ecs":  # a data stream wants one
            text = b'{"@timestamp":%b,%b' % (json.dumps(item.record.get("timestamp")).encode(), text[1:])
        return b"%b\n%b\n" % (action, text)

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        self._poster.close()


def _results(reply: Reply, count: int, place: str) -> list[tuple[int, str]]:
    """Status and error type of each item. The error's reason is left out: it quotes the record."""
    try:
        found = [one["create"] for one in json.loads(reply.body)["items"]]
        results = [(int(one["status"]), _kind(one.get("error"))) for one in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        results = []
    if len(results) != count:
        raise FollowerError(f"{place}: the answer is not one of the bulk API")
    return results


def _kind(error: Any) -> str:
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) and re.fullmatch(r"[a-z_]{1,64}", kind) else ""
