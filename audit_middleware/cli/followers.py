"""``follow`` and ``followers``: the committed log, taken to other places."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from ..errors import AuditError
from ..evidence.control import ControlWriter, as_owner, statement, write_control
from ..evidence.delivering import make_team, prepare_state, reset, state_lock, status
from ..followers.config import load_followers
from ..stores.journal import JournalStore
from ..stores.layout import Layout, read_config
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, err, fail, out, print_json, row, shown, table
from .reading import log_signers, reading
from .signals import stop_on_signals

app = typer.Typer(help="What follows a log.", no_args_is_help=True, rich_markup_mode=None)
CONFIG = Annotated[Path, typer.Option("--config", "-c", help="The followers' configuration (YAML).")]


@app.callback()
def _group() -> None:
    """What follows a log."""


def follow(
    log: LOG,
    config: CONFIG,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at a quiet log.")] = 0.5,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration and the cursors.")] = False,
) -> None:
    """Take the log's records to the destinations of a configuration, until SIGTERM or Ctrl-C."""
    found = load_followers(config)
    if check:
        refused = [str(one["problem"]) for one in status(log, found) if one["state"] == "refused"]
        if refused:
            fail("\n".join(refused))
        out.print(f"{config}: {len(found.followers)} followers; their cursors fit the log")
        return
    read_config(Layout(log))  # where there is no log, that is what is wrong
    stop = stop_on_signals()
    reading("audit.log_exported", log, "follow", {"config": config}, follow=True)
    with as_owner(log):
        state = prepare_state(log, found)
        with state_lock(state).held(0):
            team = make_team(log, found, state, lambda: log_signers(log), interval)
            team.check()
            out.print(f"following {log} with {len(found.followers)} followers")
            team.run(stop)
    for name, told in team.state().items():
        out.print(f"{name}: came to entry {told['next']}" + (f"; {shown(told['problem'])}" if told["problem"] else ""))


@app.command("status")
def status_command(
    log: LOG, config: CONFIG, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Where each follower stands. Exit 1 when one fails, was refused, or has dead letters."""
    found = status(log, load_followers(config, secrets=False))
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
    follower: Annotated[str, typer.Argument(help="The follower's name.", show_default=False)],
    config: CONFIG,
    to: Annotated[str, typer.Option(help="An index in the log, `beginning` or `now`.")],
) -> None:
    """Put a follower's cursor somewhere else: to deliver again, or to leave out. Recorded in the log."""
    found = load_followers(config, secrets=False)
    with closing(JournalStore.open(log, writable=False)) as store, as_owner(log):
        index = {"beginning": store.base.size, "now": store.head().size}.get(to, int(to) if to.isdecimal() else -1)
        if index < 0:
            fail(f"{to!r} is neither an index nor beginning nor now", USAGE)
        state = prepare_state(log, found)
        with state_lock(state).held(0):
            before = reset(store, found, state, follower, index)
    told = {"follower": follower, "from": before, "to": index}
    try:
        write_control(log, ControlWriter(log_signers(log)), [statement("audit.follower_reset", "high", told)])
    except AuditError as problem:
        err.print(f"this is not recorded in the log: {shown(str(problem))}", style="yellow")
    out.print(f"{follower}: goes on at entry {index}, stood at {before}")
