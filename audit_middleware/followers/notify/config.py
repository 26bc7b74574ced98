"""The section ``notifications:`` of a configuration, and what a service's own policy asks for: a follower a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import FollowerError, PolicyError
from ...policy.actions import SECONDS
from ...policy.channels import Channel, read_channels
from ...policy.document import Node, Pair
from ...policy.evaluate import Policy
from ...policy.findings import Findings, join, nearest
from ...policy.load import load
from ...policy.schema import DURATION
from ..channels import CHANNELS
from ..channels.given import Given
from ..config import NAME, NOTIFY, FollowersConfig, FollowerSpec, Options, SecretReader, read_because, read_selection
from ..showing import Personal
from .grouping import Limits
from .notifier import Notifying
from .rules import POLICY_RULE, Heard, Rule

KEYS = ("policy", "channels", "rules", "group", "cool_down", "per_hour", "give_up", "personal", "because")
WHEN_KEYS = ("actions", "severity", "decision", "outcome")
_DEFAULTS = Limits()
_POLICY_HINT = ": if it is a policy's, name that in notifications.policy (outside of a service no policy is known)"

InForce = Callable[[], Policy]


class _Unasked(Mapping[str, Any]):
    """Stands for every predicate: who only reads a policy's channels decides nothing."""

    def __getitem__(self, name: str) -> Any:
        def unasked(request: Mapping[str, Any]) -> bool:
            raise FollowerError(f"the predicate {name} is not to be asked here")

        return unasked

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1


def load_channels(path: Path | str) -> Policy:
    """A policy for the sake of its channels; its predicates need not be there. Raises `PolicyError`."""
    return load(path, predicates=_Unasked())


def policy_followers(policy: InForce, name: str, *, secrets: bool = True) -> FollowersConfig:
    """The followers that a policy alone asks for. ``name`` is the file that findings name.

    Raises:
        FollowerError: with every finding, one a line.
    """
    findings = Findings(name)
    try:
        made = _Section(SecretReader(findings, fetch=secrets), "channels", policy, 1).followers((), _DEFAULTS)
        findings.close()
    except PolicyError as problem:
        raise FollowerError(str(problem)) from None
    return FollowersConfig(made)


def read_notifications(
    reader: SecretReader, pair: Pair | None, base: Path, policy: InForce | None
) -> tuple[FollowerSpec, ...]:
    """The followers that a configuration asks for. ``policy`` is the service's, which the section may replace; paths
    in the section are relative to ``base``."""
    path = "notifications"
    if pair is None:
        return _Section(reader, "policy: channels", policy, 1).followers((), _DEFAULTS) if policy is not None else ()
    pairs = reader.table(pair.value, path, KEYS)
    options = Options(reader, pairs, path, pair.line)
    if "policy" in pairs:
        policy = _policy_of(reader, pairs["policy"], options, base)
    section = _Section(reader, f"{path}.policy: channels", policy, pairs.get("policy", pair).line)
    own = read_channels(reader, pairs["channels"].value, f"{path}.channels") if "channels" in pairs else {}
    section.add(own, pairs.get("channels"), f"{path}.channels")
    rules = _rules(reader, pairs["rules"].value, f"{path}.rules", section) if "rules" in pairs else ()
    used = {name for rule in rules for name in rule.channels}
    for name in own:
        if name not in used:
            reader.findings.add(pairs["channels"].line, f"{path}.channels.{name}", "no rule notifies it")
    if not rules and policy is None and "policy" not in pairs:
        reader.findings.add(pair.line, path, "nothing causes a notification: give a policy, rules, or both")
    known: tuple[Personal, ...] = ("tokens", "open")
    section.naming = options.choice("personal", known, "tokens") == "open"
    section.because = read_because(options)
    limits = Limits(
        group=_seconds(options, pairs, "group", _DEFAULTS.group, 3_600),
        cool_down=_seconds(options, pairs, "cool_down", _DEFAULTS.cool_down, 86_400),
        per_hour=options.integer("per_hour", _DEFAULTS.per_hour, 1, 1_000),
        give_up=_seconds(options, pairs, "give_up", _DEFAULTS.give_up, 604_800),
    )
    return section.followers(rules, limits)


def channels_of(config: FollowersConfig) -> dict[str, Notifying]:
    """The channels of a configuration, by name."""
    found = [spec.destination for spec in config.followers]
    return {one.name: one for one in found if isinstance(one, Notifying)}


class _Section:
    """The channels that are there, from a policy and of a section's own."""

    def __init__(self, reader: SecretReader, where: str, policy: InForce | None, line: int) -> None:
        """``where`` and ``line`` are of what findings about the policy's channels are reported under."""
        self._reader, self._policy = reader, policy
        self._from_policy: Mapping[str, Channel] = policy().channels if policy is not None else {}
        self._own: Mapping[str, Channel] = {}
        self._where, self._line = where, line
        self._own_where, self._own_line = "", 1
        self.naming = False
        """Do messages name persons?"""
        self.because: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._from_policy, *self._own)

    @property
    def has_policy(self) -> bool:
        return self._policy is not None

    def add(self, own: Mapping[str, Channel], pair: Pair | None, path: str) -> None:
        """The section's own channels."""
        self._own, self._own_where, self._own_line = own, path, pair.line if pair is not None else 1
        for name in own:
            if name in self._from_policy:
                self._reader.findings.add(
                    self._own_line, join(path, name), "the policy has a channel of this name, too"
                )

    def followers(self, rules: tuple[Rule, ...], limits: Limits) -> tuple[FollowerSpec, ...]:
        """One for each channel; those of the policy also where nothing names them yet, because it may be replaced."""
        made = []
        for channels, where, line in (
            (self._from_policy, self._where, self._line),
            (self._own, self._own_where, self._own_line),
        ):
            for name, channel in channels.items():
                if channel.type:
                    made.append(self._follower(name, channel, join(where, name), line, rules, limits))
        return tuple(made)

    def _follower(
        self, name: str, channel: Channel, where: str, line: int, rules: tuple[Rule, ...], limits: Limits
    ) -> FollowerSpec:
        def finding(key: str, text: str) -> None:
            self._reader.findings.add(line, join(where, key), text)

        opened = CHANNELS[channel.type](Given(channel, finding, secrets=self._reader.fetch))
        heard = Heard(name, rules, self._policy)
        full = channel.options.get("detail") == "full"
        destination = Notifying(name, channel.type, opened, heard, limits, full)
        personal: Personal = "names" if self.naming else "tokens"
        return FollowerSpec(
            NOTIFY + name, channel.type, destination, heard, start="now", personal=personal, because=self.because
        )


def _policy_of(reader: SecretReader, pair: Pair, options: Options, base: Path) -> InForce | None:
    path = base / options.text("policy")
    try:
        found = load_channels(path)
    except PolicyError as problem:
        for line in str(problem).splitlines():
            reader.findings.add(pair.line, "notifications.policy", line)
        return None
    return partial(_same, found)


def _same(policy: Policy) -> Policy:
    return policy


def _rules(reader: SecretReader, node: Node, path: str, section: _Section) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for where, item in reader.items(node, path):
        pairs = reader.table(item, where, ("name", "when", "notify"), required=("name", "when", "notify"))
        if len(pairs) < 3:
            continue
        options = Options(reader, pairs, where, item.line)
        name = options.text("name")
        if not NAME.fullmatch(name):
            options.finding("name", "is no name: small letters, digits, - and _")
        elif name == POLICY_RULE:
            options.finding("name", f"'{name}' is the name of what the policy itself asks for")
        elif name in {rule.name for rule in found}:
            options.finding("name", f"'{name}' is the name of two rules")
        when = pairs["when"].value
        selection = read_selection(reader, when, join(where, "when"), WHEN_KEYS, denials=False)
        if not reader.table(when, join(where, "when")):
            options.finding("when", "matches every record: say which")
        channels = reader.texts(pairs["notify"].value, join(where, "notify"))
        for channel, (line, at) in channels.items():
            if channel not in section.names:
                hint = nearest(channel, section.names)
                said = f"unknown channel '{channel}'" + ("" if hint or section.has_policy else _POLICY_HINT)
                reader.findings.add(line, at, said, hint)
        if not channels:
            options.finding("notify", "lists no channel")
        found.append(Rule(name, selection, frozenset(channels)))
    return tuple(found)


def _seconds(options: Options, pairs: Mapping[str, Pair], key: str, otherwise: int, most: int) -> int:
    if key not in pairs:
        return otherwise
    text = options.text(key)
    match = DURATION.fullmatch(text)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 1 <= seconds <= most:
        options.finding(key, f"'{text}' is not a duration such as 15m (s, m, h, d), at most {most} seconds")
    return seconds
