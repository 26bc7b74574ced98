"""The command ``audit-middleware``: one module per group of commands.

Exit codes, the same everywhere: 0 it holds (or it was done), 1 it does not hold, 2 wrong usage, 3 it could not be run.
`policy test` splits the last further; see its help.
"""

from __future__ import annotations

import os
import sys

import typer

from ..errors import AuditError
from ..version import __version__
from .archive import app as archive
from .archiving import put, restore_log
from .archiving import verify as verify_archive
from .blocks import app as blocks
from .copying import copy
from .cosign import cosign
from .demo import demo
from .detect import detect
from .export import export
from .followers import app as followers
from .followers import follow
from .inspect import routes, schema
from .keys import app as keys
from .log import init
from .notify import app as notify
from .output import COULD_NOT_RUN, fail, without_passwords
from .policy import app as policy
from .proofs import checkpoint, consistency, prove, verify_proof_file
from .publish import publish, serve
from .query import query, show, tail
from .reading import READER, configure, recorded
from .retention import hold, prune, retention
from .review import review_command
from .subject_keys import app as subject
from .subjects import erase_command, find, release_command, restrict_command
from .subjects import export as export_subject
from .timestamp import timestamp
from .verify import verify
from .witness import app as witness

app = typer.Typer(
    name="audit-middleware",
    help="Guard, correlate and record every action of a service in a log that anyone can verify.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(init)
app.command()(query)
app.command()(tail)
app.command()(show)
app.command()(export)
app.command()(copy)
app.command()(detect)
app.command()(verify)
app.command()(checkpoint)
app.command()(prove)
app.command("verify-proof")(verify_proof_file)
app.command()(consistency)
app.command()(publish)
app.command()(serve)
app.command()(cosign)
app.command()(follow)
app.command()(timestamp)
app.command()(prune)
archive.command("put")(put)
archive.command("verify")(verify_archive)
archive.command("restore")(restore_log)
app.add_typer(archive, name="archive")
app.add_typer(followers, name="followers")
app.add_typer(notify, name="notify")
app.add_typer(retention, name="retention")
app.add_typer(hold, name="hold")
app.add_typer(blocks, name="blocks")
app.add_typer(keys, name="keys")
subject.command("find")(find)
subject.command("export")(export_subject)
subject.command("erase")(erase_command)
subject.command("restrict")(restrict_command)
subject.command("release")(release_command)
app.add_typer(subject, name="subject")
app.add_typer(witness, name="witness")
app.add_typer(policy, name="policy")
app.command()(routes)
app.command("review")(review_command)
app.command()(schema)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"audit-middleware {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    reader: str | None = typer.Option(None, "--as", envvar=READER, help="Who you are; recorded as what you say."),
    require_record: bool = typer.Option(
        False, "--require-record", help="Show nothing of a log unless the log records it first."
    ),
) -> None:
    """Guard, correlate and record every action of a service in a log that anyone can verify."""
    configure(reader, require_record)


def main() -> None:
    """Runs the command; an error of ours is one message and exit code 3. No message shows a password of a URL."""
    with without_passwords([*sys.argv, *os.environ.values()]):
        _run()


def _run() -> None:
    try:
        with recorded():
            app()
    except AuditError as problem:
        fail(problem, COULD_NOT_RUN)
    except BrokenPipeError:  # `| head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as problem:
        fail(f"{problem.strerror}: {problem.filename}" if problem.filename else problem, COULD_NOT_RUN)
