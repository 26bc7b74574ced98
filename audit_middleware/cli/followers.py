"""``follow`` and ``followers``: the committed log, taken to other places."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import AuditError
from ..evidence.control import ControlWriter, as_owner, statement, write_control
from ..evidence.delivering import either, make_team, prepare_state, reset, status, team_lock
from ..evidence.persons import persons_of
from ..evidence.replaying import dead_letters, replay_dead_letters
from ..followers.config import FollowersConfig, load_followers
from ..stores.opening import open_log, origin_of, subject_keys_of
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, err, fail, out, print_json, row, shown, table
from .persons import MASTER, PLACE, default_master
from .reading import log_signers, reading
from .signals import stop_on_signals

app = typer.Typer(help="What follows a log.", no_args_is_help=True, rich_markup_mode=None)
CONFIG = Annotated[Path | None, typer.Option("--config", "-c", help="The followers' configuration (YAML).")]
POLICY = Annotated[Path | None, typer.Option(help="The service's policy, whose `notify:` is carried out, too.")]
WRITTEN = Annotated[Path, typer.Option("--config", "-c", help="The followers' configuration (YAML).")]
FOLLOWER = Annotated[str, typer.Argument(help="The follower's name.", show_default=False)]


@app.callback()
def _group() -> None:
    """What follows a log."""


def load_configured(config: Path | None, policy: Path | None, *, secrets: bool = True) -> FollowersConfig:
    """What the options say: a configuration, a policy, or both."""
    if config is None and policy is None:
        fail("give --config, --policy or both", USAGE)
    if policy is None:
        return load_followers(config or Path(), secrets=secrets)
    from ..followers.notify.config import load_channels, policy_followers  # here: it brings an HTTP client along

    found = load_channels(policy)
    if config is None:
        return policy_followers(lambda: found, str(policy), secrets=secrets)
    return load_followers(config, secrets=secrets, policy=lambda: found)


def follow(
    log: LOG,
    config: CONFIG = None,
    policy: POLICY = None,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at a quiet log.")] = 0.5,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration and the cursors.")] = False,
    place: PLACE = None,
    master: MASTER = None,
) -> None:
    """Take the log's records to the destinations of a configuration, until SIGTERM or Ctrl-C."""
    found = load_configured(config, policy)
    if check:
        refused = [str(one["problem"]) for one in status(log, found) if one["state"] == "refused"]
        if refused:
            fail("\n".join(refused))
        out.print(f"{config or policy}: {len(found.followers)} followers; their cursors fit the log")
        return
    origin_of(log)  # where there is no log, that is what is wrong
    stop = stop_on_signals()
    reading("audit.log_exported", log, "follow", {"config": config, "policy": policy}, follow=True)
    with as_owner(log):
        state = prepare_state(log, found)
        with team_lock(log, found, state) as lost, either(stop, lost) as end:
            persons = persons_of(place or str(subject_keys_of(log)), master or default_master(log))
            team = make_team(log, found, state, lambda: log_signers(log), interval, persons=persons)
            team.check()
            out.print(f"following {log} with {len(found.followers)} followers")
            team.run(end)
            if lost.is_set():
                fail(f"{log}: the connection that held the lock broke; start this again")
    for name, told in team.state().items():
        out.print(f"{name}: came to entry {told['next']}" + (f"; {shown(told['problem'])}" if told["problem"] else ""))


@app.command("template")
def template_command(
    kind: Annotated[
        Literal["elasticsearch", "kibana"], typer.Argument(help="The index template, or the saved objects.")
    ],
) -> None:
    """Print what Elasticsearch or Kibana is given once, before the first record."""
    from ..followers.destinations.elasticsearch import saved_objects, template  # here: it brings an HTTP client along

    sys.stdout.write(template() if kind == "elasticsearch" else saved_objects())


@app.command("status")
def status_command(
    log: LOG,
    config: CONFIG = None,
    policy: POLICY = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Where each follower stands. Exit 1 when one fails, was refused, or has dead letters."""
    found = status(log, load_configured(config, policy, secrets=False))
    if as_json:
        print_json(found)
    else:
        listing = table(None, "follower", "type", "state", "next", "lag", "waiting", "dead letters", "problem")
        for one in found:
            waiting = None if one["lag_s"] is None else f"{one['lag_s']} s"
            cells = [one[name] for name in ("follower", "type", "state", "next", "lag")]
            style = {"failing": "red", "refused": "red"}.get(one["state"])
            row(listing, *cells, waiting, one["dead_letters"], one["problem"], style=style)
        out.print(listing)
    if any(one["state"] in ("failing", "refused") or one["dead_letters"] for one in found):
        raise SystemExit(DOES_NOT_HOLD)


@app.command("reset")
def reset_command(
    log: LOG,
    follower: FOLLOWER,
    to: Annotated[str, typer.Option(help="An index in the log, `beginning` or `now`.")],
    config: CONFIG = None,
    policy: POLICY = None,
) -> None:
    """Put a follower's cursor somewhere else: to deliver again, or to leave out. Recorded in the log."""
    found = load_configured(config, policy, secrets=False)
    with closing(open_log(log)) as store, as_owner(log):
        index = {"beginning": store.base.size, "now": store.head().size}.get(to, int(to) if to.isdecimal() else -1)
        if index < 0:
            fail(f"{to!r} is neither an index nor beginning nor now", USAGE)
        state = prepare_state(log, found)
        with team_lock(log, found, state):
            before = reset(store, found, state, follower, index)
    told = {"follower": follower, "from": before, "to": index}
    try:
        write_control(log, ControlWriter(log_signers(log)), [statement("audit.follower_reset", "high", told)])
    except AuditError as problem:
        err.print(f"this is not recorded in the log: {shown(str(problem))}", style="yellow")
    out.print(f"{follower}: goes on at entry {index}, stood at {before}")


@app.command("dead")
def dead_command(
    log: LOG,
    follower: FOLLOWER,
    config: WRITTEN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A follower's dead letters: what its destination will never take. Exit 1 when there are any."""
    found = dead_letters(log, load_followers(config, secrets=False), follower)
    told = [{"index": one.index, "action_id": one.item.id, "why": one.why, "at": one.at} for one in found]
    if as_json:
        print_json(told)
    else:
        listing = table(None, "index", "audit id", "why", "at")
        for one in told:
            row(listing, *one.values())
        out.print(listing if told else f"{follower}: no dead letters")
    if told:
        raise SystemExit(DOES_NOT_HOLD)


@app.command("replay")
def replay_command(
    log: LOG,
    follower: FOLLOWER,
    config: WRITTEN,
    index: Annotated[list[int] | None, typer.Option(help="Only the letter of this entry; may be repeated.")] = None,
    place: PLACE = None,
    master: MASTER = None,
) -> None:
    """Send a follower's dead letters again; what arrives leaves the file. Recorded in the log. Exit 1 if some stay."""
    found = load_followers(config)
    origin_of(log)
    with as_owner(log):
        state = prepare_state(log, found)
        with team_lock(log, found, state):
            persons = persons_of(place or str(subject_keys_of(log)), master or default_master(log))
            done = replay_dead_letters(log, found, state, follower, lambda: log_signers(log), index or (), persons)
    for number, why in done.rejected.items():
        err.print(f"{follower}: entry {number} was rejected again: {shown(why)}", style="yellow")
    out.print(f"{follower}: {len(done.delivered)} delivered, {len(done.rejected)} rejected again, {done.left} not sent")
    if done.problem is not None:
        fail(done.problem)
    if done.rejected:
        raise SystemExit(DOES_NOT_HOLD)
