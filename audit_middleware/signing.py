"""Log keys: an Ed25519 signer, and the files and variables that hold its key.

What a file or variable holds is text in the format of the C2SP signer key
(``PRIVATE+KEY+<name>+<key id>+<base64>``); this module only moves the text and guards the file, and knows nothing
about its format. The bytes of a signature are those of RFC 8032; deterministic, so a retry signs the same.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .errors import KeyFileError

SEED_SIZE = 32
_LARGEST = 1 << 16  # of a key file, in bytes


class Ed25519Signer:
    """Signs checkpoints with a key held in memory; see `protocols.Signer`."""

    __slots__ = ("_key", "_name", "_public_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """A signer from a 32-byte seed. Raises `KeyFileError` for another length."""
        if len(seed) != SEED_SIZE:
            raise KeyFileError(f"signer key {name}: the seed has {len(seed)} bytes, not {SEED_SIZE}")
        self._name = name
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public_key = self._key.public_key().public_bytes_raw()

    @property
    def name(self) -> str:
        """The key's name; for a log key, the origin."""
        return self._name

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Returns 64 bytes of signature over exactly these bytes. Safe to call from any thread."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        """Shows the name; never the key."""
        return f"Ed25519Signer({self._name!r})"


class MLDSA44Signer:
    """Cosigns checkpoints with a post-quantum key held in memory (FIPS 204, ML-DSA-44); see `protocols.Signer`.

    Signatures are hedged: the same message gets another signature each time.
    """

    __slots__ = ("_key", "_name", "_public_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """A signer from a 32-byte seed. Raises `KeyFileError` for another length, or without ML-DSA here."""
        if len(seed) != SEED_SIZE:
            raise KeyFileError(f"signer key {name}: the seed has {len(seed)} bytes, not {SEED_SIZE}")
        try:
            from cryptography.hazmat.primitives.asymmetric import mldsa

            self._key = mldsa.MLDSA44PrivateKey.from_seed_bytes(seed)
        except (ImportError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"signer key {name}: ML-DSA-44 needs cryptography>=48 and an OpenSSL with it") from error
        self._name = name
        self._public_key = self._key.public_key().public_bytes_raw()

    @property
    def name(self) -> str:
        """The key's name."""
        return self._name

    @property
    def public_key(self) -> bytes:
        """1,312 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Returns 2,420 bytes of signature over exactly these bytes. Safe to call from any thread."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        """Shows the name; never the key."""
        return f"MLDSA44Signer({self._name!r})"


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
