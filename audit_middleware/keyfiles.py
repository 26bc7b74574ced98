"""Files and environment variables that hold a key as text: read only where nobody else may read, never overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import KeyFileError

_LARGEST = 1 << 16  # of a key file, in bytes


def read_key_file(path: Path | str) -> str:
    """Returns the text of a key file, without white space around it.

    Raises:
        KeyFileError: It is missing, empty, no regular file, or others may read or replace it; says what to run.
    """
    path = Path(path)
    try:
        # The checks are made on what was opened, so that nothing can be swapped in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"key file {path}: is not a regular file")
        if found.st_mode & 0o077:
            raise KeyFileError(
                f"key file {path}: others have access (mode {stat.S_IMODE(found.st_mode):04o}). Run: chmod 600 {path}"
            )
        content = os.read(descriptor, _LARGEST)
    finally:
        os.close(descriptor)
    return _text(content, f"key file {path}")


def write_key_file(path: Path | str, text: str) -> None:
    """Writes a new key file, mode 0600, durably. Never replaces one: that would destroy a key.

    If we die here: a file without a whole key, which `read_key_file` or the parser refuses; delete it and repeat.

    Raises:
        KeyFileError: There is a file already, or it cannot be written.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # a umask may have taken rights away from us, too
            file.write(text.rstrip("\n") + "\n")
            file.flush()
            os.fsync(file.fileno())
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except FileExistsError as error:
        raise KeyFileError(f"key file {path}: exists already; a key is never overwritten") from error
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error


def key_from_environment(name: str) -> str:
    """Returns the text of the key in an environment variable. Raises `KeyFileError` if it is not set or empty."""
    return _text(os.environb.get(name.encode(), b""), f"environment variable {name}")


def _text(content: bytes, what: str) -> str:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{what}: is not text") from error
    if not text:
        raise KeyFileError(f"{what}: holds no key")
    return text


def replace_key_file(path: Path | str, text: str) -> None:
    """Puts another text into an existing key file, mode 0600, durably and whole.

    If we die here: the old text or the new one, and perhaps a file ``<name>.new`` that the next attempt replaces. It
    holds the keys, so it is 0600 from its first byte on.

    Raises:
        KeyFileError: There is no safe key file to replace, or it cannot be written.
    """
    path = Path(path)
    read_key_file(path)  # what is replaced must be a key file
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    write_key_file(temporary, text)
    try:
        os.replace(temporary, path)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
