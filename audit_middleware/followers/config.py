"""The followers' configuration: a strict YAML file, read with the policy loader's own reader.

Everything wrong is reported at once, ``file:line: key: text``, with the nearest valid name. A secret is never written
in the file: it is ``${VARIABLE}`` or ``file:PATH``, and no finding shows what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from ..errors import FollowerError, PolicyError
from ..policy.channels import is_reference, url_problem
from ..policy.document import MAX_BYTES, Node, Pair, compose, decode
from ..policy.evaluate import Policy
from ..policy.findings import Findings, join
from ..policy.reader import Reader
from ..protocols import LogStore
from ..stores.opening import Place, folder_of
from .secrets import fetch
from .selection import EFFECTS, OUTCOMES, SEVERITIES, Selecting, Selection
from .showing import OpenPersons, Personal, Showing
from .sink import Destination, Tell

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
NOTIFY = "notify-"
"""What the names of followers that notify begin with."""
_COMMON = ("name", "type", "filter", "start", "batch", "retry")
_STARTS = ("beginning", "now")
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class FollowerSpec:
    """One follower as configured. ``batch`` is in records, the pauses in seconds; for ``personal`` see `showing`."""

    name: str
    type: str
    destination: Destination
    selection: Selecting = field(default_factory=Selection)
    start: str = "beginning"
    batch: int = 500
    first_pause: float = 1.0
    longest_pause: float = 300.0
    personal: Personal = "tokens"
    because: str | None = None

    def showing(self, store: LogStore, tell: Tell, persons: OpenPersons | None) -> Showing:
        """What makes of entries what this follower's destination may see."""
        return Showing(self.name, self.personal, self.because, store, tell, persons)


@dataclass(frozen=True, slots=True)
class FollowersConfig:
    """A whole file. ``state`` is where cursors and dead letters are kept; ``None``: in the log's directory."""

    followers: tuple[FollowerSpec, ...]
    state: Path | None = None

    def state_in(self, log: Place) -> Path:
        """Where the state of the followers of this log is."""
        return self.state or folder_of(log) / ".state" / "followers"


class SecretReader(Reader):
    """A reader that also fetches secrets, or leaves them where they are: then all of them are empty."""

    def __init__(self, findings: Findings, *, fetch: bool) -> None:
        super().__init__(findings)
        self.fetch = fetch


class Options:
    """The settings of one destination; a value that is wrong becomes a finding and a stand-in."""

    def __init__(self, reader: SecretReader, pairs: Mapping[str, Pair], path: str, line: int) -> None:
        self._reader, self._pairs, self._path, self._line = reader, pairs, path, line

    def _find(self, key: str, *, required: bool) -> tuple[Node, str] | None:
        where = join(self._path, key)
        if key in self._pairs:
            return self._pairs[key].value, where
        if required:
            self._reader.findings.add(self._line, where, "missing")
        return None

    def finding(self, key: str, text: str) -> None:
        """Notes that the value of a key is wrong."""
        line = self._pairs[key].line if key in self._pairs else self._line
        self._reader.findings.add(line, join(self._path, key), text)

    def text(self, key: str, otherwise: str | None = None) -> str:
        """One line of text; required unless there is another value for it."""
        found = self._find(key, required=otherwise is None)
        return self._reader.text(*found) if found else otherwise or ""

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty without one."""
        found = self._find(key, required=False)
        return tuple(self._reader.texts(*found)) if found else ()

    def given(self, key: str) -> bool:
        """Does the follower say anything under this key?"""
        return key in self._pairs

    def integer(self, key: str, otherwise: int, least: int, most: int) -> int:
        """A whole number in a range."""
        found = self._find(key, required=False)
        return self._reader.integer(*found, least, most) if found else otherwise

    def flag(self, key: str, otherwise: bool) -> bool:
        """True or false."""
        found = self._find(key, required=False)
        return self._reader.flag(*found) if found else otherwise

    def choice(self, key: str, options: tuple[Choice, ...], otherwise: Choice) -> Choice:
        """One of a closed set of words."""
        found = self._find(key, required=False)
        return self._reader.choice(*found, options, otherwise) if found else otherwise

    def path(self, key: str, *, required: bool = False) -> Path | None:
        """The path of a file or directory."""
        found = self._find(key, required=required)
        return Path(self._reader.text(*found, otherwise="/")) if found else None

    def secret(self, key: str, *, required: bool = False) -> SecretStr | None:
        """A secret, from where the file says that it is."""
        found = self._find(key, required=required)
        return self._reference(*found) if found else None

    def secrets(self, key: str) -> dict[str, SecretStr]:
        """Secrets under names that the file chooses; none where the key is not given."""
        found = self._find(key, required=False)
        if found is None:
            return {}
        node, where = found
        pairs = self._reader.table(node, where)
        return {name: self._reference(pair.value, join(where, name)) for name, pair in pairs.items()}

    def url(self, key: str, otherwise: str | None = None) -> SecretStr:
        """An http or https URL, itself a reference or written out; shown to nobody, for its path may be a secret."""
        found = self._find(key, required=otherwise is None)
        if found is None:
            return SecretStr(otherwise or "")
        text = self._reader.text(*found)
        url = self._reference(*found) if is_reference(text) else SecretStr(text)
        if url.get_secret_value() and (problem := url_problem(url.get_secret_value())):
            self.finding(key, problem)
        return url

    def _reference(self, node: Node, path: str) -> SecretStr:
        text = self._reader.text(node, path)
        if not text or (is_reference(text) and not self._reader.fetch):
            return SecretStr("")
        try:
            return SecretStr(fetch(text))
        except ValueError as problem:
            self._reader.findings.add(node.line, path, str(problem))
            return SecretStr("")


def load_followers(
    path: Path | str, *, secrets: bool = True, policy: Callable[[], Policy] | None = None
) -> FollowersConfig:
    """Reads and checks a configuration, and fetches its secrets, unless only the rest is needed. ``policy`` returns
    the service's policy, whose ``notify`` is carried out, too.

    Raises:
        FollowerError: with every finding, one a line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FollowerError(f"{path}: cannot be read: {error.strerror}") from error
    findings = Findings(str(path))
    try:
        reader = SecretReader(findings, fetch=secrets)
        config = _read(reader, compose(decode(data, findings), findings), Path(path).parent, policy)
        findings.close()
    except PolicyError as problem:  # the reader's own error; its text names the file
        raise FollowerError(str(problem)) from None
    return config


def _read(reader: SecretReader, root: Node, base: Path, policy: Callable[[], Policy] | None) -> FollowersConfig:
    from .notify.config import read_notifications  # here, because it reads with this module

    pairs = reader.table(root, "", ("version", "state", "followers", "notifications"), required=("version",))
    top = Options(reader, pairs, "", root.line)
    if "version" in pairs:
        top.integer("version", 1, 1, 1)
    specs: list[FollowerSpec] = []
    names: set[str] = set()
    if "followers" in pairs:
        for path, node in reader.items(pairs["followers"].value, "followers"):
            spec = _follower(reader, node, path)
            if spec is not None:
                if spec.name in names:
                    reader.findings.add(node.line, join(path, "name"), f"'{spec.name}' is the name of two followers")
                names.add(spec.name)
                specs.append(spec)
        if not specs and not len(reader.findings):
            reader.findings.add(pairs["followers"].line, "followers", "there is none: list at least one")
    elif "notifications" not in pairs:
        reader.findings.add(root.line, "followers", "missing")
    specs += read_notifications(reader, pairs.get("notifications"), base, policy)
    return FollowersConfig(tuple(specs), top.path("state"))


def _follower(reader: SecretReader, node: Node, path: str) -> FollowerSpec | None:
    from .destinations import TYPES  # here, because destinations read their settings with this module

    pairs = reader.table(node, path, required=("name", "type"))
    if "type" not in pairs or "name" not in pairs:
        return None
    kind = reader.choice(pairs["type"].value, join(path, "type"), tuple(TYPES), "")
    if not kind:
        return None
    keys, read, text = TYPES[kind]
    inside = text is None  # nothing leaves for another system
    reader.table(node, path, (*_COMMON, *(() if inside else ("personal", "because")), *keys))
    options = Options(reader, pairs, path, node.line)
    name = options.text("name")
    if not NAME.fullmatch(name):
        options.finding("name", "is no name: small letters, digits, - and _; it becomes a file's name")
    elif name.startswith(NOTIFY):
        options.finding("name", f"begins with {NOTIFY}, as the followers do that notify")
    retry = pairs.get("retry")
    pauses = reader.table(retry.value, join(path, "retry"), ("first", "longest")) if retry else {}
    pause = Options(reader, pauses, join(path, "retry"), node.line)
    return FollowerSpec(
        name=name,
        type=kind,
        destination=read(options),
        selection=read_selection(reader, pairs["filter"].value, join(path, "filter"))
        if "filter" in pairs
        else Selection(),
        start=options.choice("start", _STARTS, "beginning"),
        batch=options.integer("batch", 500, 1, 5_000),
        first_pause=pause.integer("first", 1_000, 10, 600_000) / 1000,
        longest_pause=pause.integer("longest", 300_000, 10, 86_400_000) / 1000,
        personal="sealed" if text is None else _personal(options, own=text.chosen(options)),
        because=None if inside else read_because(options),
    )


def _personal(options: Options, *, own: bool) -> Personal:
    """``own``: the destination gets the log's own text, in which ciphertexts stay what they are."""
    known: tuple[Personal, ...] = ("tokens", "sealed", "open")
    otherwise: Personal = "sealed" if own else "tokens"
    found = options.choice("personal", known, otherwise)
    if found == "sealed" and not own:
        options.finding("personal", "sealed is the log's own text: it goes with jsonl (of a webhook: whole) alone")
    return found


def read_because(options: Options) -> str | None:
    """Why personal data is opened: to be given where it is, and only there."""
    opens = options.given("personal") and options.text("personal") == "open"
    if opens and not options.text("because").strip():
        options.finding("because", "says why personal data is opened; it goes into the log")
    elif options.given("because") and not opens:
        options.finding("because", "says why personal data is opened: it goes with personal: open")
    return options.text("because") if opens else None


def read_selection(
    reader: SecretReader,
    node: Node,
    path: str,
    keys: tuple[str, ...] = ("actions", "severity", "decision", "outcome", "denials"),
    *,
    denials: bool = True,
) -> Selection:
    """Which records are taken; ``denials`` is what holds of denials where nothing is said."""
    pairs = reader.table(node, path, keys)

    def words(key: str, known: tuple[str, ...]) -> frozenset[str]:
        if key not in pairs:
            return frozenset()
        where = join(path, key)
        return frozenset(reader.choice(item, at, known, "") for at, item in reader.items(pairs[key].value, where))

    options = Options(reader, pairs, path, node.line)
    actions = reader.texts(pairs["actions"].value, join(path, "actions")) if "actions" in pairs else {}
    if "actions" in pairs and not actions:
        options.finding("actions", "lists no action: leave it out to take all")
    return Selection(
        actions=tuple(actions),
        severity=options.choice("severity", SEVERITIES, "info") if "severity" in pairs else None,
        decision=words("decision", EFFECTS),
        outcome=words("outcome", OUTCOMES),
        denials=options.flag("denials", denials),
    )
