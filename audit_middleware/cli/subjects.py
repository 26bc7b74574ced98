"""``subject find``, ``export``, ``erase``, ``restrict`` and ``release``: the rights of the persons in a log.

Whom a command is about goes into the log as a token, never as a name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, SubjectRestricted
from ..evidence.disclosing import disclose
from ..evidence.holdings import Chosen, Holdings, choose, days_before, holdings, person_of
from ..evidence.leftovers import leftovers
from ..evidence.rights import Change, Erased, erase, holds_of, reading_keys, refusal, release, restrict
from ..persons import Person, pseudonym_of
from ..stores.opening import Place, Store, key_of, subject_keys_of
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, err, fail, out, print_json, progress, row, shown, table
from .persons import MASTER, PLACE, default_master
from .reading import reading
from .retention import account

USER = Annotated[str | None, typer.Argument(help="The person's user id.", show_default=False)]
RESOURCE = Annotated[list[str] | None, typer.Option("--resource", help="TYPE/ID: a patient, say. Repeatable.")]
TOKEN = Annotated[list[str] | None, typer.Option("--token", help="A token, as records show it. Repeatable.")]
BECAUSE = Annotated[str, typer.Option("--because", help="Why: a case number. Goes into the log; name nobody.")]
KEY = Annotated[Path | None, typer.Option(help="The log's key file. Default: LOG.key")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_ACTIONS = 20  # shown


@dataclass(frozen=True)
class _Asked:
    """Whom a command is about, and where the keys are."""

    log: Place
    place: str
    master: str
    persons: tuple[Person, ...]
    tokens: tuple[str, ...]
    before: str | None = None

    def chosen(self, store: Store, keys: Any) -> Chosen:
        """Looks them up."""
        persons = [*self.persons, *(days_before(store, self.before) if self.before is not None else ())]
        return choose(store, keys, persons, self.tokens)


def find(
    log: LOG,
    subject: USER = None,
    resource: RESOURCE = None,
    token: TOKEN = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Show what the log holds about a person. Exit 1 if there is nothing."""
    asked = _asked(log, subject, resource, token, place, master)
    with reading_keys(log, asked.place, asked.master) as (store, keys):
        chosen = asked.chosen(store, keys)
        told = reading("audit.log_read", log, "subject find", {"tokens": [*map(pseudonym_of, chosen.tokens)]})
        restrictions, _, ranges = holds_of(store)
        with _bar(store) as advance:
            found = holdings(store, chosen, None, ranges, advance)
        told.records = found.records
        limits = {one: restrictions[one].index for one in chosen.tokens if one in restrictions}
    if as_json:
        print_json(_said(chosen, found, limits))
    else:
        _print_found(chosen, found, limits)
    raise SystemExit(0 if found.records or chosen.held or chosen.erased else DOES_NOT_HOLD)


def export(
    log: LOG,
    target: Annotated[Path, typer.Option("--to", help="The folder to write: new or empty.", show_default=False)],
    because: BECAUSE,
    subject: USER = None,
    resource: RESOURCE = None,
    token: TOKEN = None,
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Put the person's keys into it: they prove what was sealed.")
    ] = False,
    place: PLACE = None,
    master: MASTER = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Write all that the log holds about a person into a folder, opened and with proofs, and record that."""
    asked = _asked(log, subject, resource, token, place, master)
    with reading_keys(log, asked.place, asked.master) as (store, keys):
        chosen = asked.chosen(store, keys)
        with _bar(store) as advance:
            found = holdings(store, chosen, None, None, advance)
    if not found.records:
        _nobody(log, chosen, found)
    with _usage():
        done = disclose(
            log, key or key_of(log), asked.place, asked.master, chosen, target, because, account(), with_key=with_key
        )
    if as_json:
        print_json({"to": str(target), "records": done.records, "in_clear": done.in_clear, "entry": done.entry})
        return
    out.print(f"{done.records} records written to {shown(str(target))}; recorded in entry {done.entry}", soft_wrap=True)
    out.print("They may name other persons: see README.txt there before you pass them on.", soft_wrap=True)


def erase_command(
    log: LOG,
    basis: Annotated[str, typer.Option("--basis", help="The legal basis, such as 'Art. 17(1)(b)'. Goes into the log.")],
    because: BECAUSE,
    subject: USER = None,
    resource: RESOURCE = None,
    token: TOKEN = None,
    day: Annotated[
        list[str] | None, typer.Option("--day", help="What nobody in particular sent on this day (UTC). Repeatable.")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", help="The same of all days before this one.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    place: PLACE = None,
    master: MASTER = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Destroy a person's keys, and record that. Exit 1 if the person is not known or must not be erased."""
    asked = _asked(log, subject, resource, token, place, master, day, before)
    if not yes and (as_json or not sys.stdin.isatty()):
        fail("this cannot be undone, and nobody can be asked here: give --yes", USAGE)
    with reading_keys(log, asked.place, asked.master) as (store, keys):
        chosen = asked.chosen(store, keys)
        restrictions, holds, ranges = holds_of(store)
        with _bar(store) as advance:
            found = holdings(store, chosen, None, ranges, advance)
    if not chosen.held and not chosen.erased:
        _nobody(log, chosen, found)
    problem = refusal(log, chosen, found, restrictions, chosen.restricted, holds) if chosen.held else None
    if problem is not None:
        fail(problem, DOES_NOT_HOLD)
    if not as_json and chosen.held:
        _print_loss(chosen, found)
    if chosen.held and not yes and not typer.confirm("Destroy the keys?"):
        raise SystemExit(DOES_NOT_HOLD)
    try:
        with _usage():
            done = erase(log, key or key_of(log), asked.place, asked.master, chosen, basis, because, account())
    except SubjectRestricted as restricted:
        fail(restricted, DOES_NOT_HOLD)
    _print_erased(done, found, leftovers(log, chosen.persons), as_json)


def restrict_command(
    log: LOG,
    because: BECAUSE,
    subject: USER = None,
    resource: RESOURCE = None,
    token: TOKEN = None,
    place: PLACE = None,
    master: MASTER = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Forbid to erase a person, and record that. Exit 1 if the person is not known."""
    asked = _asked(log, subject, resource, token, place, master)
    _change(restrict, "restricted", asked, because, key, as_json)


def release_command(
    log: LOG,
    because: BECAUSE,
    subject: USER = None,
    resource: RESOURCE = None,
    token: TOKEN = None,
    place: PLACE = None,
    master: MASTER = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Allow again to erase a person, and record that. Exit 1 if the person is not known."""
    asked = _asked(log, subject, resource, token, place, master)
    _change(release, "released", asked, because, key, as_json)


# --- whom ------------------------------------------------------------------------------------------------------------


def _asked(
    log: Place,
    subject: str | None,
    resource: list[str] | None,
    token: list[str] | None,
    place: str | None,
    master: str | None,
    day: list[str] | None = None,
    before: str | None = None,
) -> _Asked:
    if subject is None and not resource and not token and not day and before is None:
        fail("about whom? Give a user id, --resource TYPE/ID or --token TOKEN", USAGE)
    with _usage():
        persons = [person_of(subject)] if subject is not None else []
        persons += [person_of(resource=one) for one in resource or ()]
        persons += [person_of(day=one) for one in day or ()]
        if before is not None:
            person_of(day=before)
    place, master = place or str(subject_keys_of(log)), master or default_master(log)
    return _Asked(log, place, master, tuple(persons), tuple(token or ()), before)


def _nobody(log: Place, chosen: Chosen, found: Holdings) -> None:
    """Ends the command: there is no key, and perhaps nothing at all."""
    if chosen.erased:
        told = ", ".join(str(index) for index in sorted(set(chosen.erased.values())))
        fail(f"erased already, says entry {told} of {log}", DOES_NOT_HOLD)
    words = f"{log} has no key of anybody of this name, and so nothing that is sealed: nothing to erase or to hold"
    if found.in_clear:
        words += f"; {found.in_clear} records name the person in clear, and no record of a log can be taken out"
    fail(words, DOES_NOT_HOLD)


@contextmanager
def _usage() -> Iterator[None]:
    """An argument that is wrong is the caller's mistake."""
    try:
        yield
    except ConfigError as problem:
        fail(problem, USAGE)


@contextmanager
def _bar(store: Store) -> Iterator[Callable[[int], object]]:
    base = store.base.size
    with progress("reading", store.head().size - base) as advance:
        yield lambda size: advance(size - base)


def _change(how: Any, done: str, asked: _Asked, because: str, key: Path | None, as_json: bool) -> None:
    with reading_keys(asked.log, asked.place, asked.master) as (store, keys):
        chosen = asked.chosen(store, keys)
    if not chosen.held:
        _nobody(asked.log, chosen, Holdings())
    with _usage():
        change: Change = how(asked.log, key or key_of(asked.log), asked.place, asked.master, chosen, because, account())
    if as_json:
        print_json({"tokens": [*change.tokens], "restricted": done == "restricted", "entry": change.entry})
        return
    for token in change.tokens:
        out.print(f"{done}  {pseudonym_of(token)}")
    out.print("it was so already" if change.entry is None else f"recorded in entry {change.entry}")


# --- printing --------------------------------------------------------------------------------------------------------


def _said(chosen: Chosen, found: Holdings, restrictions: dict[str, int]) -> dict[str, Any]:
    keys = [
        {
            "token": token, "since": chosen.since.get(token), "erased_in": chosen.erased.get(token),
            "restricted": token in chosen.restricted or token in restrictions,
            "restricted_in": restrictions.get(token),
        }
        for token in chosen.tokens
    ]  # fmt: skip
    return {
        "keys": keys, "records": found.records, "as_user": found.as_user, "as_resource": found.as_resource,
        "others": found.others, "sealed": found.sealed, "in_clear": found.in_clear, "first": found.first,
        "last": found.last, "first_index": found.first_index, "last_index": found.last_index,
        "holds": {name: count for name, count in found.held.items() if count},
        "actions": dict(found.actions.most_common()),
    }  # fmt: skip


def _print_found(chosen: Chosen, found: Holdings, restrictions: dict[str, int]) -> None:
    if not chosen.tokens:
        out.print("no key: nothing is sealed for anybody of this name")
    for token in chosen.tokens:
        out.print(f"{pseudonym_of(token)}  {_state(chosen, token, restrictions)}", soft_wrap=True)
    out.print(
        f"{found.records} records: {found.as_user} as user, {found.as_resource} as resource, {found.others} others"
    )
    out.print(f"{found.sealed} hold sealed data; {found.in_clear} name the person in clear")
    if found.first is not None:
        out.print(f"from {found.first} (entry {found.first_index}) to {found.last} (entry {found.last_index})")
    for name, count in found.held.items():
        if count:
            out.print(f"{count} are under the legal hold {name}", style="yellow")
    if found.actions:
        listing = table(None, "action", "records")
        for action, count in found.actions.most_common(_ACTIONS):
            row(listing, action, count)
        out.print(listing)
        rest = found.actions.most_common()[_ACTIONS:]
        if rest:
            out.print(f"and {len(rest)} more actions with {sum(count for _, count in rest)} records")


def _state(chosen: Chosen, token: str, restrictions: dict[str, int]) -> str:
    if token in chosen.erased:
        return f"erased, says entry {chosen.erased[token]}"
    if token not in chosen.since:
        return "no key"
    words = f"key since {chosen.since[token]}"
    if token in restrictions:
        return f"{words}; restricted, says entry {restrictions[token]}"
    return f"{words}; restricted" if token in chosen.restricted else f"{words}; not restricted"


def _print_loss(chosen: Chosen, found: Holdings) -> None:
    for token in chosen.held[:_ACTIONS]:
        out.print(f"{pseudonym_of(token)}  key since {chosen.since[token]}")
    if len(chosen.held) > _ACTIONS:
        out.print(f"and {len(chosen.held) - _ACTIONS} more")
    span = f", from {found.first} to {found.last}" if found.first is not None else ""
    out.print(f"what is sealed in {found.sealed} records will be unreadable for ever{span}", soft_wrap=True)
    if found.in_clear:
        out.print(
            f"{found.in_clear} records name the person in clear, and stay as they are: they were written before the "
            "policy declared it, or the policy leaves it clear",
            style="yellow", soft_wrap=True,
        )  # fmt: skip


def _print_erased(done: Erased, found: Holdings, left: list[Path], as_json: bool) -> None:
    found = done.found or found
    if as_json:
        print_json(
            {
                "tokens": [*done.tokens], "entries": [*done.entries], "completed": done.completed,
                "records": found.sealed, "in_clear": found.in_clear, "left": [str(path) for path in left],
            }
        )  # fmt: skip
        return
    entries = ", ".join(map(str, done.entries))
    persons = "1 key is" if len(done.tokens) == 1 else f"{len(done.tokens)} keys are"
    if done.completed:
        out.print(f"{persons} destroyed; that had been recorded in entry {entries} before", soft_wrap=True)
    else:
        out.print(f"{persons} destroyed; recorded in entry {entries}", soft_wrap=True)
    out.print("Backups of the store of keys still hold them: let these expire within 30 days.", soft_wrap=True)
    for path in left:
        err.print(f"still names the person in clear: {shown(str(path))}", style="yellow")
