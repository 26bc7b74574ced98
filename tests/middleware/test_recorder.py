"""The recorder by itself: whatever the facts, the entry is the canonical form of the whole record, and what is kept
from one record for the next changes no byte of it."""

from __future__ import annotations

import hashlib
import http
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from audit_middleware.context import Correlation, Notes
from audit_middleware.errors import RecordError
from audit_middleware.ledger import canonical
from audit_middleware.model import NOBODY, Action, Decision, Found, Resource, Source, Subject
from audit_middleware.pipeline import record as module
from audit_middleware.pipeline.facts import NOT_DECIDED, Capture, Facts, Intent
from audit_middleware.pipeline.inputs import MISSING
from audit_middleware.pipeline.kept import Kept
from audit_middleware.pipeline.record import Recorder, Service
from audit_middleware.pipeline.shape import RequestRecord, raw, unfolded
from audit_middleware.privacy.redact import Redactor
from audit_middleware.schema import Record

AT = 1_767_268_800_123_456_789
TEXTS = (
    "", "a", "invoice", "é", "x" * 300, "é" * 300, "tab\t\n", "4111111111111111", "john@example.com", "😀" * 200,
    "y" * 9000, "1234567890123456", "…", "x" * 255 + "é", "%344111", "q;w=1;token=2", "\x01" * 400,
)  # fmt: skip
NAMES = ("a", "b", "id", "password", "token", "card.number", "header", "naïve", "n" * 70, "4111111111111111")
NUMBERS = (0, -1, 2**53 - 1, 4111111111111111, True, None)
BAD = (1.5, float("nan"), 2**53, -(10**30), {"é": 1}, "\ud800", {1, 2}, b"x", "z" * 70_000, [[[1.0]]])
BODIES = (
    b'{"a":1}',
    b'{"a":1.5,"password":"x"}',
    b'{"a":',
    b"a=1&password=2",
    b"",
    b'{"\xc3\xa9":1}',
    b"[" * 70 + b"]" * 70,
)
KINDS = ("application/json", "application/x-www-form-urlencoded", "image/png", "text/plain; é", None)
REDACTORS = (
    Redactor(), Redactor(["card.*", "item_id"]), Redactor((), ("card-number", "email")),
    Redactor(["owner"], ("card-number", "email", "iban", "jwt", "us-ssn")), Redactor((), ("re:^ab", "re:[0-9]{3}")),
)  # fmt: skip
CALLERS = (
    NOBODY,
    Subject("ann", roles=("clerk",)),
    Subject("ann", roles=("clerk", "é")),
    Subject(
        "é" * 300, "service", ("r" * 300,) * 70, "tenant", "session", source=Source("jwt", "https://a.example", "k")
    ),
    Subject("bob", roles=["clerk"], properties={"team": "x", "password": "y", "other": 1}),  # type: ignore[arg-type]
)
DECISIONS = (
    NOT_DECIDED,
    Decision("allow", "rule", "clerks", policy_digest="sha256:" + "a" * 64),
    Decision("deny", "default", None, ("near",) * 20, "d", "monitor", "é" * 900),
)


class Draw:
    """Facts by chance, with whatever a client, an identity or a handler may have put into them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def maybe(self, made: Callable[[], Any], otherwise: Any = None, chance: float = 0.4) -> Any:
        return made() if self.random.random() < chance else otherwise

    def text(self) -> str:
        return self.random.choice(TEXTS)

    def value(self, depth: int = 0) -> Any:
        choice = self.random.random()
        if depth > 2 or choice < 0.5:
            return self.random.choice((*TEXTS, *NUMBERS))
        if choice < 0.51:
            return self.random.choice(BAD)
        if choice < 0.7:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return self.mapping(depth + 1)

    def mapping(self, depth: int = 0) -> dict[str, Any]:
        return {self.random.choice(NAMES): self.value(depth) for _ in range(self.random.randrange(4))}

    def params(self) -> Mapping[str, Any]:
        chosen = {
            self.random.choice(NAMES): self.random.choice((*TEXTS, 7, 2.5)) for _ in range(self.random.randrange(3))
        }
        return self.random.choice((chosen, {"item_id": self.text()}, {"id": "7"}, MappingProxyType(chosen)))

    def body(self) -> Capture:
        body = Capture(self.random.choice((0, 10, 16_384)), self.random.choice(KINDS), digest=hashlib.sha256())
        body.feed(self.random.choice(BODIES))
        body.complete = self.random.random() < 0.8
        return body

    def headers(self) -> list[tuple[bytes, bytes]]:
        names = (b"user-agent", b"accept", b"referer", b"x-request-reason", b"cookie", b"user-agent")
        values = (b"curl/8", b"\xff\xfe", b"x" * 600, b"https://u:p@h/a;b=1?q=1", "é".encode(), b"john@example.com")
        return [(self.random.choice(names), self.random.choice(values)) for _ in range(self.random.randrange(5))]

    def notes(self) -> Notes:
        client = self.maybe(lambda: self.text()[:256])
        notes = Notes("01890000-0000-7000-8000-000000000000", Correlation("c", "a" * 32, client_request_id=client))
        notes.reason = self.maybe(lambda: self.text()[:2000])
        notes.impact = self.maybe(lambda: {"before": self.value(), "count": self.random.choice((None, 3))})
        notes.resource = self.maybe(lambda: {"type": self.text(), "properties": self.mapping()}, {})
        notes.extra = self.maybe(self.mapping, {})
        return notes

    def facts(self) -> Facts:
        choose, params = self.random.choice, self.params()
        path = choose(("/", "/a/12", "/a/é", "/x;y=1", "/" + "z" * 3000, "/4111111111111111", "/a/abc"))
        query, headers = choose((b"", b"a=1;token=2", b"q=%34", b"\xff")), tuple(self.headers())
        facts = Facts(
            self.notes(), "http", choose(("GET", "é" * 40)), path, query, headers,
            AT + self.random.randrange(10**10), 5, 9000,
        )  # fmt: skip
        facts.found = self.maybe(lambda: Found("route", choose(("/a/{id}", "/é")), path_params=params), chance=0.8)
        facts.action, facts.event = choose((None, Action("invoice.read"))), choose((None, "INVOICE_READ"))
        facts.resource, facts.subject = Resource("invoice", self.maybe(self.text), params), choose(CALLERS)
        facts.decision = choose((*DECISIONS, replace(DECISIONS[1], rule=self.text()[:200])))
        read = {"resource.owner": self.value(), "subject.naïve": 1, "subject.id": self.text(), "context.x": MISSING}
        facts.inputs = self.maybe(lambda: {name: read[name] for name in self.random.sample(sorted(read), 2)})
        facts.forwarded = choose((None, {"untrusted": [], "header": None}, {"untrusted": ["é"], "header": "forwarded"}))
        statuses: tuple[Any, ...] = (None, 200, 404, 500, http.HTTPStatus.OK, 2.5, 10**20)
        facts.status = choose(statuses)
        facts.error, facts.flags = self.maybe(self.text), choose(((), ("one", "é")))
        facts.request_body, facts.response_body = self.maybe(self.body), self.maybe(self.body)
        return facts

    def item(self) -> Facts | Intent:
        facts = self.facts()
        return self.random.choice((facts, facts, Intent("01890000-0000-7000-8000-00000000000a", facts)))


def bare_facts() -> Facts:
    notes = Notes("01890000-0000-7000-8000-000000000000", Correlation("c"))
    return Facts(notes, "http", "GET", "/", b"", (), AT, 0)


def recorder(redactor: Redactor = REDACTORS[0]) -> Recorder:
    return Recorder(Service("billing", "1", "host:1:0", None), redactor, frozenset(("team", "password")))


def told(made: Callable[..., bytes], *arguments: Any) -> bytes | str:
    """The entry, or what was raised."""
    try:
        return made(*arguments)
    except (RecordError, UnicodeEncodeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("redactor", REDACTORS)
def test_an_entry_is_the_canonical_form_of_its_record(redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every value in it were checked."""
    items = [Draw(seed).item() for seed in range(400)]
    quick = [told(recorder(redactor).encode, item, at, AT) for at, item in enumerate(items)]
    monkeypatch.setattr(module, "_encode_request", lambda record: canonical.encode(unfolded(record)))
    assert quick == [told(recorder(redactor).encode, item, at, AT) for at, item in enumerate(items)]
    entries = [canonical.decode(entry) for entry in quick if isinstance(entry, bytes)]
    assert len(entries) > 300
    dropped = ["content_dropped" in entry["flags"] for entry in entries]
    assert 10 < sum(dropped) < len(entries) - 100, "of both kinds"
    for entry in entries:
        Record.model_validate(entry)


@pytest.mark.parametrize("redactor", REDACTORS)
def test_what_is_kept_of_one_record_changes_no_other(redactor: Redactor) -> None:
    items = [Draw(seed).item() for seed in range(300)]
    random.Random(7).shuffle(items := items + items[:100])
    before = [repr(item) for item in items]
    old = recorder(redactor)
    for at, item in enumerate(items):
        moment = AT + at // 10 * 1_000_000
        assert told(old.encode, item, at, moment) == told(recorder(redactor).encode, item, at, moment), at
    assert [repr(item) for item in items] == before, "and nothing that was given"


def structs(kind: type) -> set[type[msgspec.Struct]]:
    """A struct and those among its members."""
    found = {kind} if issubclass(kind, msgspec.Struct) else set()
    for hint in get_type_hints(kind).values() if found else ():
        for one in (hint, *get_args(hint)):
            found |= structs(one) if isinstance(one, type) else set()
    return found


def test_members_are_declared_in_the_order_in_which_they_are_written() -> None:
    found = structs(RequestRecord)
    assert len(found) == 6
    for kind in found:
        assert list(kind.__struct_fields__) == sorted(kind.__struct_fields__), kind
    assert set(RequestRecord.__struct_fields__) == set(Record.model_fields)


def test_an_encoded_part_is_unfolded_again() -> None:
    part = {"b": [1, {"a": None}], "a": "é"}
    assert (unfolded(raw(part)), bytes(raw(part))) == (part, '{"a":"é","b":[1,{"a":null}]}'.encode())
    with pytest.raises(RecordError):
        raw({"a": object()})


@pytest.mark.parametrize(
    ("headers", "agent", "reason"),
    [
        ((), None, None),
        ([(b"user-agent", b"one"), (b"accept", b"*/*"), (b"user-agent", b"two")], "one", None),
        ([(b"accept", b"a"), (b"x-request-reason", b"T-1"), (b"accept", b"b"), (b"user-agent", b"")], "", "T-1"),
        ([(b"x-request-reason", b"T-1"), (b"x-request-reason", b"T-1")], None, None),
        ([(b"x-request-reason", b" "), (b"user-agent", b"x" * 600)], "x" * 509 + "…", None),
    ],
)
def test_of_user_agents_the_first_counts_and_of_reasons_the_only_one(
    headers: Any, agent: str | None, reason: str | None
) -> None:
    facts = bare_facts()
    facts.headers = headers
    entry = canonical.decode(recorder().encode(facts, 0, AT))
    assert (entry["user_agent"], entry["reason"]) == (agent, reason)


def test_a_secret_parameter_is_secret_wherever_its_value_stands() -> None:
    """Its name was seen as that of a harmless one before, under other rules."""
    for redactor, shown in ((Redactor(), "abc"), (Redactor(["item_id"]), "[redacted]"), (Redactor(), "abc")):
        facts = bare_facts()
        facts.path, facts.action = "/items/abc", Action("item.read", "item/{item_id}")
        facts.found = Found("route", "/items/{item_id}", path_params={"item_id": "abc"})
        made = recorder(redactor)
        for at in range(2):
            entry = canonical.decode(made.encode(facts, at, AT))
            assert entry["request"]["path"] == f"/items/{shown}"
            assert (entry["request"]["path_params"], entry["resource"]["id"]) == ({"item_id": shown}, shown)


def test_a_caller_that_changes_is_read_again() -> None:
    """An identity may keep lists of roles, and mappings, that it changes."""
    facts, old = bare_facts(), recorder()
    facts.subject = Subject("ann", roles=["clerk"], properties={"team": "x"})  # type: ignore[arg-type]
    first = canonical.decode(old.encode(facts, 0, AT))["subject"]
    facts.subject.roles.append("admin")  # type: ignore[attr-defined]
    facts.subject.properties["team"] = "y"  # type: ignore[index]
    second = canonical.decode(old.encode(facts, 1, AT))["subject"]
    assert (first["roles"], first["properties"]) == (["clerk"], {"team": "x"})
    assert (second["roles"], second["properties"]) == (["clerk", "admin"], {"team": "y"})


def test_the_policy_may_redact_what_every_record_says() -> None:
    facts = bare_facts()
    nothing: tuple[Mapping[str, Any] | None, ...] = (None, {}, {"untrusted": [], "header": None})
    for forwarded in nothing:
        facts.forwarded = forwarded
        entry = canonical.decode(recorder(Redactor(["header"])).encode(facts, 0, AT))
        assert entry["forwarded"] == {"untrusted": [], "header": "[redacted]"}


def test_another_redactor_counts_for_what_was_seen_before() -> None:
    """As after a policy was loaded anew."""
    facts, made = bare_facts(), recorder()
    facts.headers = [(b"user-agent", b"john@example.com")]
    facts.subject = Subject("ann", roles=("clerk",), properties={"team": "john@example.com"})
    assert made.encode(facts, 0, AT).count(b"john@example.com") == 2
    made.redact_by(Redactor(["header"], ("email",)))
    entry = canonical.decode(made.encode(facts, 1, AT))
    assert (entry["user_agent"], entry["forwarded"]["header"]) == ("[redacted]", "[redacted]")
    assert entry["subject"]["properties"] == {"team": "[redacted]"}


def test_what_is_kept_is_bounded_and_found_by_identity() -> None:
    made = itertools.count(1)
    kept: Kept[str, int] = Kept(lambda one: next(made), most=3)
    values = [f"value {number}" for number in range(4)]
    alike = "".join(["value", " 0"])
    assert [kept.of(one) for one in (*values[:3], values[0], values[2])] == [1, 2, 3, 1, 3]
    assert (kept.of(alike), alike == values[0]) == (4, True)
    assert kept.of(values[0]) == 5, "forgotten, for there is room for three"
