"""Personal data on a screen: sealed, erased and unreadable are told apart, and opened only where that is asked for.

A user or resource is found by the id although records hold a token, wherever the persons' keys can be read; what the
log is told of such a search then names the token, never the person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import typer

from ..errors import ConfigError, SubjectKeysError
from ..evidence.erasures import Told, told_by
from ..persons import Person, acted_on, pseudonym_of
from ..privacy.keys import open_keys
from ..privacy.masters import open_master
from ..privacy.opening import Opener, marked, shown
from ..privacy.redact import REDACTED
from ..privacy.sealed import Mark
from ..protocols import SubjectKeys
from ..stores.columns import Filters
from ..stores.opening import Index, Place, is_url, master_key_of, subject_keys_of
from ..urls import shown_url
from .output import USAGE, err, fail
from .output import shown as printable

__all__ = ["BECAUSE", "MASTER", "OPEN", "PLACE", "Persons", "View", "default_master"]

OPEN = Annotated[
    bool, typer.Option("--open", help="Open what is sealed, with the persons' keys; it is recorded. Needs --because.")
]
BECAUSE = Annotated[str | None, typer.Option("--because", help="Why personal data is opened; goes into the log.")]

PLACE = Annotated[
    str | None,
    typer.Option(
        "--subject-keys",
        envvar="AUDIT_SUBJECT_KEYS",
        show_envvar=False,
        help="The persons' keys: a folder, or postgresql://user@host/database. Default: LOG.subjects",
    ),
]
MASTER = Annotated[
    str | None,
    typer.Option(
        "--master-key",
        envvar="AUDIT_MASTER_KEY",
        show_envvar=False,
        help="The key over them: file:PATH, env:NAME or awskms:KEY. Default: file:LOG.master",
    ),
]


def default_master(log: Place) -> str:
    """The URL of a log's master key, where nobody names another."""
    return f"file:{master_key_of(log)}"


@dataclass
class Persons:
    """What one command may know of the persons in a log."""

    log: Place
    opened: bool = False
    because: str | None = None
    place: str | None = None
    master: str | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        if self.opened and not (self.because or "").strip():
            fail("--open shows personal data: say why with --because TEXT, which goes into the log", USAGE)
        if self.because is not None and not self.opened:
            fail("--because says why personal data is opened: give --open as well", USAGE)

    @property
    def asked(self) -> dict[str, Any]:
        """What the log is told of the opening."""
        return {"open": True, "because": self.because} if self.opened else {}

    def keys(self, origin: str) -> SubjectKeys | None:
        """The persons' keys; ``None`` where there are none, or, unless something is to be opened, none to be read."""
        self.origin = origin
        return self._keys

    @cached_property
    def _keys(self) -> SubjectKeys | None:
        place = self.place or str(subject_keys_of(self.log))
        if self.place is None and not self.opened and not subject_keys_of(self.log).exists():
            return None
        try:
            return open_keys(place, self.origin, open_master(self.master or default_master(self.log), self.origin))
        except (SubjectKeysError, ConfigError) as problem:
            if self.opened:
                raise
            where = shown_url(place) if is_url(place) else place
            err.print(
                f"the persons' keys in {printable(where)} cannot be used, so nobody is looked up by a token: "
                f"{printable(str(problem))}",
                style="yellow",
            )
            return None

    @property
    def _private(self) -> bool:
        """Whether what is asked for must not be told the log in clear."""
        return self.place is not None or self.opened or subject_keys_of(self.log).exists()

    def filters(self, filters: Filters, origin: str) -> Filters:
        """The same question, which finds tokens too."""
        keys = self.keys(origin) if filters.user is not None or "/" in (filters.resource or "") else None
        if keys is None:
            return filters
        user = None if filters.user is None else keys.find(Person("user", filters.user))
        kind, slash, name = (filters.resource or "").partition("/")
        thing = keys.find(acted_on(kind, name)) if slash else None
        return replace(
            filters,
            user_token=None if user is None else user.token,
            resource_token=None if thing is None else thing.token,
        )

    def told(self, filters: Filters) -> dict[str, Any]:
        """What the log is told of a question."""
        said = {name: value for name, value in asdict(filters).items() if not name.endswith("_token")}
        if self._private and filters.user is not None:
            said["user"] = REDACTED if filters.user_token is None else pseudonym_of(filters.user_token)
        kind, slash, _ = (filters.resource or "").partition("/")
        if self._private and slash:
            said["resource"] = (
                f"{kind}/{REDACTED if filters.resource_token is None else pseudonym_of(filters.resource_token)}"
            )
        return said | self.asked

    def view(self, index: Index, origin: str) -> View:
        """How records are shown."""
        told = told_by(index, commitments=self.opened)
        keys = self.keys(origin) if self.opened else None
        opener = Opener(keys, origin, told.erased, told.commitments) if keys is not None else None
        return View(told, opener)


@dataclass
class View:
    """Shows records: for people, and as JSON for programs."""

    told: Told
    opener: Opener | None

    def record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with what is behind each mark, or what can be said of it."""
        if self.opener is not None:
            self.opener.begin()
            return self.opener.opened(record)
        return shown(record, self.told.erased)

    def line(self, index: int, record: Mapping[str, Any]) -> dict[str, Any]:
        """One line of JSON: the record as the log has it, or opened; and by path what is personal in it."""
        states = {path: self._state(mark, str(record.get("action_id")), path) for path, mark in marked(record)}
        body = dict(record) if self.opener is None else self.record(record)
        return {"index": index, "record": body} | ({"personal": states} if states else {})

    def _state(self, mark: Mark, action_id: str, path: str) -> str:
        """``token``, ``sealed`` or ``committed`` for what is not opened; ``opened``, ``erased`` or ``unreadable``."""
        if mark.token in self.told.erased:
            return "erased"
        if self.opener is None or mark.kind == "commit":
            return {"token": "token", "sealed": "sealed", "commit": "committed"}[mark.kind]
        try:
            self.opener.value(mark, action_id, path)
        except LookupError:
            return "unreadable"
        return "opened"
