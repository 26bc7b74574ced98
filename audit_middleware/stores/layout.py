"""The directory of a journal: which files there are, who makes them, and what ``config.json`` says.

::

    config.json                  format, origin, vkeys, created; written once, by `create`; its presence makes the log
    .state/lock                  the writers' flock; never replaced
    .state/torn-<segment>-<offset>-<time>    bytes that a repair cut off, kept for whoever wants to know
    journal/<20 digits>.jsonl    the truth (`frames`, `segments`)
    checkpoint                   the newest published checkpoint; made by the publisher, read here as a lower bound
    index.sqlite                 the search index; can be deleted

Directories are 0700, files 0600.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

from ..errors import ConfigError, LogDamaged, LogExists, LogForked, LogNotFound
from ..model import Head
from .filesystem import make_directory, sync_directory, write_new_file, write_side_file

FORMAT = 1


class Layout(msgspec.Struct, frozen=True):
    """The paths of one journal."""

    root: Path

    @property
    def config(self) -> Path:
        """Format, origin, keys."""
        return self.root / "config.json"

    @property
    def state(self) -> Path:
        """The lock, and what repairs cut off."""
        return self.root / ".state"

    @property
    def lock(self) -> Path:
        """The writers' lock."""
        return self.state / "lock"

    @property
    def journal(self) -> Path:
        """The segments."""
        return self.root / "journal"

    @property
    def checkpoint(self) -> Path:
        """The newest published checkpoint."""
        return self.root / "checkpoint"

    @property
    def index(self) -> Path:
        """The search index."""
        return self.root / "index.sqlite"


class JournalConfig(msgspec.Struct, frozen=True):
    """What was decided when the log was created; ``created`` is RFC 3339 text, ``vkeys`` are C2SP verifier keys."""

    origin: str
    vkeys: tuple[str, ...]
    created: str


def format_config(config: JournalConfig) -> bytes:
    """Returns what stands in ``config.json``."""
    values = {"created": config.created, "format": FORMAT, "origin": config.origin, "vkeys": list(config.vkeys)}
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def create_layout(layout: Layout, config: JournalConfig) -> None:
    """Makes the directories, then ``config.json``. Raises `LogExists`.

    If we die before the last step: there is no ``config.json``, so there is no log, and creating it again completes
    the work. A directory that holds anything else is not ours to turn into a log.
    """
    if not config.origin or any(char.isspace() or char == "+" for char in config.origin):
        raise ConfigError(f"origin {config.origin!r}: must be a URL without scheme, without spaces and without +")
    layout.root.parent.mkdir(parents=True, exist_ok=True)
    make_directory(layout.root)
    _refuse_occupied(layout)
    make_directory(layout.state)
    make_directory(layout.journal)
    try:
        write_new_file(layout.config, format_config(config))
    except FileExistsError as error:
        raise LogExists(f"{layout.root}: there is a log already") from error
    sync_directory(layout.root)


def _refuse_occupied(layout: Layout) -> None:
    if layout.config.exists():
        raise LogExists(f"{layout.root}: there is a log already")
    if layout.journal.is_dir() and any(layout.journal.iterdir()):
        raise LogExists(f"{layout.root}: holds journal segments but no config.json; restore that file instead")
    foreign = [path.name for path in layout.root.iterdir() if not path.name.startswith(".") and path.name != "journal"]
    if foreign:
        raise LogExists(f"{layout.root}: is not empty ({sorted(foreign)[0]}); a log needs a directory of its own")


def read_config(layout: Layout) -> JournalConfig:
    """Returns what ``config.json`` says.

    Raises:
        LogNotFound: There is no log; with the command that creates one.
        LogDamaged: It cannot be used, or the log's folder holds something that is no file.
    """
    _refuse_specials(layout)
    try:
        text = layout.config.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LogNotFound(
            f"{layout.root}: there is no log here. A log is created once, by hand: "
            f"audit-middleware init {layout.root} --origin ORIGIN"
        ) from error
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise LogDamaged(f"{layout.config}: format {values['format']!r}; this version reads format {FORMAT}")
        config = JournalConfig(str(values["origin"]), tuple(map(str, values["vkeys"])), str(values["created"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LogDamaged(f"{layout.config}: unreadable ({type(error).__name__}); restore it from a copy") from error
    if not layout.journal.is_dir():
        raise LogDamaged(f"{layout.journal}: the directory of the segments is gone; restore it from a copy")
    return config


def _refuse_specials(layout: Layout) -> None:
    """Refuses a log with pipes, devices, sockets and links to nowhere in it: reading those could wait for ever.

    No writer makes them; whoever hands over a copy could.
    """
    for directory in (layout.root, layout.state, layout.journal, layout.root / "timestamps"):
        try:
            with os.scandir(directory) as entries:
                strange = [entry.path for entry in entries if _is_special(entry)]
        except OSError:
            continue  # whoever reads what should be there says why not
        if strange:
            raise LogDamaged(f"{min(strange)}: is neither a file nor a folder, nor a link to one; remove it")


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        usual = entry.is_file() or entry.is_dir()
    except OSError:
        usual = False  # links in a circle
    # A temporary file may be gone by now: its writer has removed it, or given it its name.
    return not usual and os.path.lexists(entry.path)


def list_vkey(layout: Layout, vkey: str) -> None:
    """Adds a verifier key to ``config.json``.

    If we die here: the old file or the new one, and perhaps a temporary one that nothing reads.
    """
    values = json.loads(layout.config.read_bytes())
    if vkey in values["vkeys"]:
        return
    values["vkeys"].append(vkey)
    temporary = layout.state / "config.new"
    temporary.unlink(missing_ok=True)
    write_side_file(temporary, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
    os.replace(temporary, layout.config)
    sync_directory(layout.root)


def check_published(layout: Layout, origin: str, head: Head) -> None:
    """Raises unless the log still has everything that the published checkpoint covers.

    Signatures are not looked at: a file that an attacker could also delete only protects against accidents. Whoever
    keeps a checkpoint elsewhere hands it to the verifier.

    Raises:
        LogDamaged: The log is shorter than what was published: it was rolled back or truncated.
        LogForked: Another origin, or another root at the same size.
    """
    published = _checkpoint_lines(layout.checkpoint)
    if published is None:
        return
    if published[0] != origin.encode():
        raise LogForked(f"{layout.checkpoint}: is of another log, {published[0].decode(errors='replace')!r}")
    size = int(published[1])
    if size > head.size:
        raise LogDamaged(
            f"{layout.root}: the journal ends at size {head.size}, but size {size} was published: it was rolled back "
            "or truncated. Restore the newest copy; nothing is written until then"
        )
    if size == head.size and size and published != head.checkpoint.split(b"\n")[:3]:
        raise LogForked(f"{layout.checkpoint}: another root than the journal's at size {size}")


def _checkpoint_lines(path: Path) -> list[bytes] | None:
    try:
        lines = path.read_bytes().split(b"\n")[:3]
    except FileNotFoundError:
        return None
    if len(lines) < 3 or not lines[1].isdigit() or len(lines[1]) > 19:
        raise LogDamaged(f"{path}: is no checkpoint; delete it if the publisher can make it anew")
    return lines
