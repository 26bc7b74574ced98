"""The demo: ``python -m example_app.demo [--keep DIR]``, or ``make demo``.

Makes a log, runs the billing service under uvicorn with two workers, drives it over HTTP, stops it, and then does what
an auditor would do: looks at the trail, has a person erased, verifies it all, and sees what happens to a log that
somebody has edited. Ends by itself, with an exit code other than 0 if anything was not as it should be, and leaves the
log to be explored.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Never

from .stage import following
from .stage.commands import Commands
from .stage.damage import change_one_byte, copy_log
from .stage.errors import Surprise
from .stage.following import SECRETS, configure, wait
from .stage.receivers import Receivers, receive
from .stage.server import ROOT, WORKERS, serve
from .stage.teller import Teller
from .stage.tour import CASE, Found, tour
from .stage.visitors import Visitors

POLICY = ROOT / "policies" / "billing.yaml"
ORIGIN = "billing.example/audit"
OPEN = ("--open", "--because", "a look at the demo")
LEAVER, BASIS = "support-2", ("--basis", "Art. 17(1)(a)", "--because", "request DP-7")


def main() -> int:
    """Tells the whole story; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m example_app.demo", description="See what the audit log does.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to leave the log (default: below var/demo)")
    teller = Teller()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # so that `finally` runs, and the server ends with us
    try:
        tell(new_folder(parser.parse_args().keep), teller)
    except Surprise as problem:
        teller.problem(str(problem))
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def tell(folder: Path, teller: Teller) -> None:
    """The chapters, in order."""
    log = folder / "audit"
    commands = Commands(teller)
    make_log(log, teller, commands)
    copy_log(log, folder / "early")
    with receive() as receivers:
        found = use_service(folder, log, receivers, teller)
        show_trail(log, teller, commands)
        show_record(log, found, teller, commands)
        show_followers(folder, log, found, receivers, teller, commands)
    erase_person(log, folder / "refused.tlog-proof", found, teller, commands)
    verify(log, folder / "refused.tlog-proof", teller, commands)
    tamper(log, folder / "damaged", found, teller, commands)
    archive(folder, log, teller, commands)
    leave(log, found, teller)


def make_log(log: Path, teller: Teller, commands: Commands) -> None:
    """Chapter 1."""
    why = "By a command of its own, so that a typo in a path can never start a second, empty log."
    teller.chapter("A log is made", why)
    commands.show("init", str(log), "--origin", ORIGIN)
    teller.blank()
    teller.note("What is personal will be sealed. The keys, one for each person, lie apart from the log:")
    commands.show("subject", "init", str(log))


def use_service(folder: Path, log: Path, receivers: Receivers, teller: Teller) -> Found:
    """Chapter 2."""
    why = f"The billing service under uvicorn, {WORKERS} workers that write one log, behind one trusted proxy."
    teller.chapter("The service is used", why)
    settings = {
        "AUDIT_POLICY": str(POLICY.resolve()),
        "AUDIT_LOG": str(log.resolve()),
        "AUDIT_TRUSTED_PROXIES": "127.0.0.1",  # the demo plays the load balancer
        "AUDIT_FOLLOWERS": str(configure(folder, receivers).resolve()),
        "BILLING_DATA": str((folder / "data").resolve()),
    } | SECRETS
    with serve(folder / "server.log", settings) as server:
        try:
            server.wait_ready()
            found = tour(Visitors(server.url, teller))
            wait(receivers)
            server.stop()
        except Exception as problem:
            raise Surprise(f"{problem}\n\nThe server's output:\n{server.said()}") from problem
    return found


def show_trail(log: Path, teller: Teller, commands: Commands) -> None:
    """Chapter 3."""
    why = "Every request has one record with the same fields: allowed, denied, failed or crashed."
    teller.chapter("The trail", f"{why} Who reads names in it says why, and the log keeps that.")
    commands.show("query", str(log), "--kind", "outcome", "--oldest-first", *OPEN)
    teller.blank()
    teller.note(f"One ID through two services: the correlation ID {CASE} that the client had sent.")
    commands.show("query", str(log), "--trace", CASE, "--oldest-first", *OPEN)
    teller.note("The payout is there twice: announced before it ran (`guarantee: before`), then its outcome.")


def show_record(log: Path, found: Found, teller: Teller, commands: Commands) -> None:
    """Chapter 4."""
    why = "The refund: who, what, from where, by which rule, with what effect; no card number."
    teller.chapter("One record in full", why)
    commands.show("show", str(log), found.refund, *OPEN)


def show_followers(
    folder: Path, log: Path, found: Found, receivers: Receivers, teller: Teller, commands: Commands
) -> None:
    """Chapter 5."""
    why = "One worker read the log with cursors of its own: the refund that was refused, where other systems want it."
    teller.chapter("What followed the log", why)
    following.tell(folder, receivers, found.refused, teller)
    teller.note("Systems get tokens, one for each person; who is on call gets the name, as `personal: open` says.")
    teller.blank()
    teller.note(
        "Who tried to change their own roles was found by a rule. Its finding is a record; the history says the same:"
    )
    commands.show("detect", str(log), "--level", "high", expect=1)


def erase_person(log: Path, proof: Path, found: Found, teller: Teller, commands: Commands) -> None:
    """Chapter 6."""
    why = f"{LEAVER} has left, and asks to be forgotten. No byte of the log can change; but a key can be destroyed."
    teller.chapter("Personal data", why)
    refunds = ("query", str(log), "--action", "refund.create", "--oldest-first")
    teller.note("Two people asked for a refund. As the log holds it: a token for each, and the rest is sealed.")
    commands.show(*refunds)
    teller.blank()
    teller.note("The same, opened for somebody with the keys and a reason:")
    commands.show(*refunds, *OPEN)
    teller.blank()
    teller.note("Before anything is erased, somebody keeps a proof of the refund that was refused.")
    commands.show("prove", str(log), found.refused, "--out", str(proof))
    teller.blank()
    teller.note(f"What does the log hold about {LEAVER}? The refund, and that somebody was told of it.")
    commands.show("subject", "find", str(log), LEAVER)
    teller.blank()
    commands.show("subject", "erase", str(log), LEAVER, *BASIS, "--yes")
    teller.note("The name that was typed to sign in was nobody's yet: it goes with the key of its day, by `--day`.")
    teller.blank()
    teller.note("What was done, when, and that it was denied, stays. Who it was nobody can tell; others still open:")
    commands.show(*refunds, *OPEN)


def verify(log: Path, proof: Path, teller: Teller, commands: Commands) -> None:
    """Chapter 7."""
    why = "Every record is hashed again, also what nobody can read any more, and compared with the signed checkpoints."
    teller.chapter("The log is verified", why)
    commands.show("verify", str(log))
    teller.note("Exit code 0: it holds.", "green")
    teller.blank()
    teller.note("The proof from before the erasure, without the log, with its verifier key alone:")
    vkey = json.loads((log / "config.json").read_text())["vkeys"][0]
    commands.show("verify-proof", str(proof), "--vkey", vkey, lines=2)


def tamper(log: Path, copy: Path, found: Found, teller: Teller, commands: Commands) -> None:
    """Chapter 8."""
    teller.chapter("Somebody edits a copy", "One byte, by somebody who can write to every file of the log.")
    damage = change_one_byte(copy_log(log, copy), found.refund, '"status":', "2", "4")
    teller.note(f"The refund's status in {shown(damage.file)}, byte {damage.offset}:")
    teller.note(f"  {damage.before}  ->  {damage.after}", "bold")
    teller.blank()
    commands.show("verify", str(copy), expect=1)
    named = commands.ask("verify", str(copy), expect=1)["index"]
    real = commands.ask("show", str(log), found.refund)["index"]
    if named != real:
        raise Surprise(f"verification names entry {named}, but entry {real} was damaged")
    teller.note(f"Exit code 1: it does not hold. Entry {named} is the refund that support-1 asked for.", "green")


def archive(folder: Path, log: Path, teller: Teller, commands: Commands) -> None:
    """Chapter 9."""
    why = "Who holds all of a log can replace it as a whole. What lies elsewhere, locked, they cannot."
    teller.chapter("An old copy is put back", why)
    to = folder / "archive"
    to.mkdir(mode=0o700)
    commands.show("archive", "put", str(log), str(to), "--retain", "none", "--no-check", "--partial")
    teller.note("A folder, for the demo; in a bucket with Object Lock nobody can remove it before its time.")
    teller.blank()
    commands.show("verify", str(log), "--archive", str(to))
    teller.blank()
    teller.note("The log as it was before all this, in its place: nothing shows in it. The archive knows more:")
    commands.show("verify", str(folder / "early"), "--archive", str(to), expect=1)


def leave(log: Path, found: Found, teller: Teller) -> None:
    """Chapter 10."""
    teller.chapter("Yours to explore", f"The log stays in {log}.")
    for line in (
        f"query {log} --user support-1 {shlex.join(OPEN)}",
        f"query {log} --decision deny",
        f"show {log} {found.crash}  # the crash",
        f"subject find {log} clerk-1",
        f"verify {log}",
        f"policy test {shown(POLICY)}",
        f"routes example_app.app:app --policy {shown(POLICY)}",
    ):
        teller.note(f"{program()} {line}", "cyan")


def program() -> str:
    """The command as it can be typed here, whether or not its environment is active."""
    script = Path(sys.executable).with_name("audit-middleware")
    return "audit-middleware" if shutil.which("audit-middleware") == str(script) else shown(script)


def new_folder(keep: Path | None) -> Path:
    """An empty folder for this run."""
    folder = keep or Path("var") / "demo" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if folder.exists() and any(folder.iterdir()):
        raise Surprise(f"{folder} is not empty: a log is never written over")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shown(path: Path) -> str:
    """A path as one would type it here."""
    path = Path.cwd() / path  # not resolved: the interpreter of an environment is a link to another one
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _end(number: int, _: FrameType | None) -> Never:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
