"""``publish`` and ``serve``: the log as immutable files for others to read."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from ..archives.local import Folder
from ..errors import LogNotFound
from ..evidence.publish import Publisher
from ..evidence.published import Published, verify_published
from ..ledger.checkpoint import CHECKPOINT
from ..ledger.lines import to_base64
from ..ledger.note import parse_vkey
from ..stores.opening import Database, folder_of, open_log
from .log import LOG
from .output import USAGE, fail, out, print_json, progress
from .reading import reading
from .signals import stop_on_signals


def publish(
    log: LOG,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to. Default: the log's own directory.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until SIGTERM or Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks with --follow.")] = 1.0,
    check: Annotated[bool, typer.Option("--check", help="Then read everything back and verify it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each checkpoint.")] = False,
) -> None:
    """Publish a log as static files (C2SP tlog-tiles), or bring what is published up to date."""
    asked = {"directory": directory, "follow": follow, "check": check}
    told = reading("audit.log_exported", log, "publish", asked, follow=follow)
    store = open_log(log)
    if directory is None and isinstance(log, Database):
        fail("publish needs a directory: a log in a database cannot be published in place", USAGE)
    folder = Folder(directory or folder_of(log))
    verifiers = [parse_vkey(text) for text in store.vkeys]
    # From here on, so that a signal while the first files are written ends the work between two looks as well.
    stop = stop_on_signals() if follow else threading.Event()
    with folder.exclusive():
        publisher = Publisher(store, folder, verifiers, log=log)

        def tell(published: Published) -> None:
            told.records = published.checkpoint.size
            _print(published, folder, publisher.written, as_json)

        if follow:
            publisher.follow(stop, interval, tell)
            return
        with progress("publishing", store.head().size) as advance:
            published = publisher.catch_up(advance)
        if check:
            with progress("verifying", published.checkpoint.size) as advance:
                verify_published(folder, store.origin, verifiers, advance)
        tell(published)


def _print(published: Published, folder: Folder, written: int, as_json: bool) -> None:
    found = published.checkpoint
    if as_json:
        said = {"origin": found.origin, "size": found.size, "root": to_base64(found.root), "files": written}
        print_json(said, lines=True)
        sys.stdout.flush()  # whoever follows through a pipe reads line by line
    else:
        out.print(f"{folder.root}: {found.size} entries of {found.origin} published; {written} files written")


def serve(
    place: Annotated[
        Path, typer.Argument(metavar="LOG|DIR", help="A log published in place, or where one was published.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any.")] = 8080,
) -> None:
    """Serve a published log over HTTP, read-only. Whoever can reach it can read every record."""
    try:
        import uvicorn
    except ImportError:
        fail("serving needs uvicorn: pip install 'uvicorn>=0.30'")
    from ..web.tiles import serve_tiles

    folder = Folder(place)
    if not folder.has(CHECKPOINT):
        raise LogNotFound(f"{place}: nothing is published here. Publish first: audit-middleware publish LOG {place}")
    uvicorn.run(serve_tiles(folder), host=host, port=port, server_header=False, log_level="info")
