"""After an erasure nothing of a person is left in any byte of any file or table, and everything still verifies.

A service in whose requests every field is marked, with all that keeps something of its own beside the log: published
tiles, an archive, a spool from an outage, a follower with dead letters, detectors and their blocks, a notifier.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit_middleware.errors import LogUnavailable
from audit_middleware.evidence.erasures import told_of
from audit_middleware.ledger.canonical import decode
from audit_middleware.persons import Person
from audit_middleware.privacy.keys import open_keys
from audit_middleware.privacy.masters import open_master
from audit_middleware.privacy.opening import Opener
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.opening import open_log, place_of
from audit_middleware.stores.postgres import PostgresStore
from tests.blocking.support import EVERYTHING, storm_rules
from tests.followers.serving import Handler, served
from tests.kit import ORIGIN, Log, Run
from tests.middleware.support import eventually
from tests.postgres.conftest import Database
from tests.rights.support import BASIS, BECAUSE, verified
from tests.sealing.support import Sealed
from tests.sealing.test_nothing_in_clear import POLICY, Marked, exercise, identify_as, marked_app

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw"
SOFT = POLICY.replace("record: response", "record: response, on_log_failure: degrade")


def spellings(word: str) -> Iterator[bytes]:
    """In which ways a word of small letters and digits may stand among bytes."""
    data = word.encode()
    yield data
    yield data.upper()
    yield data.hex().encode()
    yield data.hex().upper().encode()
    yield "".join(f"%{byte:02x}" for byte in data).encode()
    yield "".join(f"%{byte:02X}" for byte in data).encode()
    yield "".join(f"\\u{byte:04x}" for byte in data).encode()
    yield word.encode("utf-16-le")
    for at in range(3):
        yield base64.b64encode(b"\0" * at + data)[4 * at and 4 : -4]


def left(sources: Iterable[tuple[str, bytes]], words: dict[str, str]) -> list[tuple[str, str]]:
    """Which words stand where."""
    ways = {name: tuple(spellings(word)) for name, word in words.items()}
    return [
        (where, name) for where, data in sources for name, forms in ways.items() if any(one in data for one in forms)
    ]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(path.relative_to(folder)), path.read_bytes()


def tables(database: Database) -> Iterator[tuple[str, bytes]]:
    """Every table of a database; binary, so that what is in a bytea stands there as it is."""
    with psycopg.connect(database.url) as connection:
        names = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert len(names) > 3
        for schema, table in names:
            with connection.cursor().copy(
                f'COPY (SELECT * FROM "{schema}"."{table}") TO STDOUT (FORMAT binary)'.encode()
            ) as copy:
                yield f"{schema}.{table}", b"".join(map(bytes, copy))


def opened(log: str, place: str, master: str) -> str:
    """All records as whoever has the keys reads them."""
    with (
        contextlib.closing(open_log(place_of(log))) as store,
        contextlib.closing(open_keys(place, ORIGIN, open_master(master, ORIGIN))) as keys,
    ):
        told = told_of(store)
        opener = Opener(keys, ORIGIN, told.erased, told.commitments)
        found = [opener.opened(decode(entry)) for frame in store.frames() for entry in frame.entries]
    return json.dumps(found, ensure_ascii=False)


def refuse(handler: Handler) -> None:
    handler.say(400, b"no")


def rules(folder: Path) -> Path:
    """Each request is a finding, and so is whoever asks twice."""
    made = storm_rules(folder, count=2)
    note = "  selection: {event.action: 'note.*'}"
    refused = made / "refused.yml"
    refused.write_text(re.sub("  selection: .*", note, refused.read_text()))
    everything = EVERYTHING.format(id="3f1f2b1c-7b0e-4a55-9a55-0123456789ab")
    (made / "all.yml").write_text(re.sub("  selection: .*", note, everything))
    return made


def followers(folder: Path, url: str) -> Path:
    """A follower that writes files, one whose records are refused, detectors that block, and a notifier."""
    path = folder / "followers.yaml"
    path.write_text(f"""
version: 1
followers:
  - {{name: files, type: jsonl, directory: {folder / "shipped"}}}
  - {{name: refused, type: webhook, url: "{url}", secret: "${{TEST_SECRET}}", allow_private: true}}
  - {{name: rules, type: detectors, rules: [{rules(folder)}]}}
notifications:
  channels:
    told: {{type: webhook, url: "{url}", secret: "${{TEST_SECRET}}", allow_private: true}}
  rules:
    - {{name: all, when: {{actions: ['note.*']}}, notify: [told]}}
  group: 1s
""")
    return path


class Service:
    """The service, run once with an outage in the middle of it."""

    def __init__(self, sealed: Sealed, log: str, folder: Path, state: Path) -> None:
        self.sealed, self.log, self.folder, self.state = sealed, log, folder, state
        self.m = Marked()
        self.failing = False

    def run(self, monkeypatch: pytest.MonkeyPatch, url: str, **settings: Any) -> None:
        """Everything is asked twice: once while the log works, once for the spool."""
        for kind in (JournalStore, PostgresStore):
            monkeypatch.setattr(kind, "append", self._append(kind.append))
        monkeypatch.setenv("TEST_SECRET", WHSEC)
        app = self.sealed.guard(
            marked_app(self.m), SOFT, identify=identify_as(self.m), subject_properties=["email"],
            trusted_proxies=["127.0.0.1"], followers=followers(self.folder, url), log=self.log, **settings,
        )  # fmt: skip

        async def drive() -> None:
            await exercise(app, self.m)
            await eventually(lambda: list((self.folder / "shipped").rglob("*.jsonl")))
            for action in (b"audit.finding", b"audit.delivery_failed", b"audit.notification_failed"):
                await eventually(partial(self.told, action))
            self.failing = True
            await exercise(app, self.m)

        self.sealed.run(app, drive)
        self.failing = False

    def told(self, action: bytes) -> bool:
        """Whether the log has a record of this action."""
        with contextlib.closing(open_log(place_of(self.log, self.state))) as store:
            return any(b'"action":"%b"' % action in entry for frame in store.frames() for entry in frame.entries)

    def _append(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def append(*arguments: Any) -> Any:
            if self.failing:
                raise LogUnavailable("no")
            return genuine(*arguments)

        return append


def test_with_a_journal(run: Run, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = Sealed(tmp_path, log).make_keys()
    service = Service(sealed, str(log.path), tmp_path, log.path / ".state")
    m = service.m
    with served(refuse) as url:
        service.run(monkeypatch, url)
    spool = Path(f"{log.path}.spool")
    assert list(spool.rglob("*.jsonl")), "it waits for the next start"
    with sealed.keys() as keys:
        key = keys.find(Person("user", m.used["user"]))
    assert key is not None
    assert any(key.token.encode() in data for _, data in files(spool))
    assert run("query", log.path, "--limit", "1")[0] == 0, "there is a search index"
    assert run("publish", log.path, tmp_path / "tiles", "--check")[0] == 0
    (tmp_path / "archive").mkdir(mode=0o700)
    code, _, err = run("archive", "put", log.path, tmp_path / "archive", "--no-check", "--retain", "400d")
    assert code == 0, err
    code, out, _ = run("subject", "find", log.path, m.used["user"], "--json")
    assert code == 0
    last = json.loads(out)["last_index"]
    proof = tmp_path / "old.tlog-proof"
    assert run("prove", log.path, last, "--out", proof)[0] == 0
    with sqlite3.connect(f"{sealed.place}/keys.sqlite") as database:
        pieces = list(
            database.execute("SELECT name, secrets, lookup FROM persons WHERE token = ?", (key.token,)).fetchone()
        )
    database.close()
    assert m.used["body"] in opened(str(log.path), sealed.place, sealed.master)
    assert any(piece in data for _, data in files(tmp_path) for piece in pieces)

    code, out, err = run("subject", "erase", log.path, m.used["user"], *BASIS, "--yes", "--json")
    assert code == 0, err
    assert json.loads(out)["left"] == []
    assert json.loads(out)["in_clear"] == 0
    assert left(files(tmp_path), m.used) == []
    assert [where for where, data in files(tmp_path) if any(piece in data for piece in pieces)] == []
    said = opened(str(log.path), sealed.place, sealed.master)
    assert [name for name in ("user", "body", "agent", "email", "session") if m.used[name] in said] == []
    assert m.used["job user"] in said, "somebody else"
    assert verified(log).persons.erased == 1
    assert run("verify-proof", proof, "--vkey", log.vkey)[0] == 0
    assert run("verify", log.path, "--vkey", log.vkey, "--archive", tmp_path / "tiles")[0] == 0
    assert run("archive", "verify", tmp_path / "archive", "--vkey", log.vkey)[0] == 0
    assert run("publish", log.path, tmp_path / "tiles", "--check")[0] == 0


def test_with_databases(run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, state = database.url, tmp_path / "state"
    monkeypatch.setenv("AUDIT_STATE", str(state))
    monkeypatch.setenv("AUDIT_SUBJECT_KEYS", url)
    assert run("init", url, "--origin", ORIGIN)[0] == 0
    assert run("subject", "init", url)[0] == 0
    service = Service(Sealed(tmp_path, Log(Path("none"), "")), url, tmp_path, state)
    m, master = service.m, f"file:{state / 'master'}"
    with served(refuse) as at:
        service.run(monkeypatch, at, state=state, subject_keys=url)
    assert m.used["body"] in opened(url, url, master)
    with contextlib.closing(open_keys(url, ORIGIN, open_master(master, ORIGIN))) as keys:
        key = keys.find(Person("user", m.used["user"]))
    assert key is not None
    pieces = list(
        database.run("SELECT name, secrets, lookup FROM audit_subjects.persons WHERE token = %s", key.token)[0]
    )
    assert any(bytes(piece) in data for _, data in tables(database) for piece in pieces)  # type: ignore[call-overload]  # bytea
    code, _, err = run("subject", "erase", url, m.used["user"], *BASIS, "--yes")
    assert code == 0, err
    assert left(tables(database), m.used) == []
    assert left(files(tmp_path), m.used) == []
    assert [where for where, data in tables(database) for piece in pieces if bytes(piece) in data] == []  # type: ignore[call-overload]  # bytea
    said = opened(url, url, master)
    assert [name for name in ("user", "body", "agent", "email", "session") if m.used[name] in said] == []
    assert m.used["job user"] in said
    assert verified(url).persons.erased == 1


def test_the_search_finds_every_spelling(tmp_path: Path) -> None:
    word = "zqmark001x"
    for number, form in enumerate(spellings(word)):
        (tmp_path / f"{number:02}").write_bytes(b"before" + form + b"after")
    assert len(left(files(tmp_path), {"word": word})) == number + 1
    assert BECAUSE
