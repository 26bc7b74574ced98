"""``notify``: the channels of notifications."""

from __future__ import annotations

import platform
import secrets
import time
from typing import Annotated

import typer

from ..errors import FollowerError
from ..policy.findings import nearest
from .followers import CONFIG, POLICY, load_configured
from .output import DOES_NOT_HOLD, USAGE, fail, out, print_json, shown

app = typer.Typer(help="Notifications.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Notifications."""


@app.command("test")
def try_channel(
    channel: Annotated[str, typer.Option(help="The channel's name.")],
    config: CONFIG = None,
    policy: POLICY = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send one test notification and say what became of it. Exit 1 if it was not taken."""
    from ..followers.channels.seam import Answer  # here: channels bring an HTTP client along
    from ..followers.notify.config import channels_of
    from ..followers.notify.message import trial

    channels = channels_of(load_configured(config, policy))
    if channel not in channels:
        fail(f"there is no channel {channel!r}{nearest(channel, channels)}; there are: {', '.join(channels)}", USAGE)
    found = channels[channel]
    told = trial(f"notify test on {platform.node()}", f"ntf_{secrets.token_hex(16)}", time.time_ns() // 1000)
    line = found.channel.open()
    try:
        answer = line.send(told)
    except (FollowerError, OSError) as problem:
        answer = Answer("later", str(problem) if isinstance(problem, FollowerError) else type(problem).__name__)
    finally:
        line.close()
    if as_json:
        said = {"verdict": answer.verdict, "why": answer.why, "after_s": answer.after}
        print_json({"channel": channel, "type": found.type, "notification": told.id, **said})
    else:
        text = {
            "taken": "taken",
            "later": "not taken now; a notification would be tried again",
            "never": "refused: this message would never be taken",
            "gone": "gone: the channel would be disabled",
        }[answer.verdict]
        out.print(f"{channel} ({found.type}): {text}" + (f": {shown(answer.why)}" if answer.why else ""))
    if answer.verdict != "taken":
        raise SystemExit(DOES_NOT_HOLD)
