"""An archive by what a setting or a command line calls it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from ..errors import ConfigError
from ..protocols import Archive
from .folder import FolderArchive


def open_archive(place: str, *, writable: bool = True) -> Archive:
    """Opens ``s3://bucket/prefix?setting=value``, ``file:///path`` or a path.

    Args:
        place: what and where; see `s3.S3Archive.open` for the settings.
        writable: to write, an S3 bucket must have versioning and Object Lock, which is looked at here. To read, not.

    Raises:
        ConfigError: this is not the name of an archive.
        ArchiveError: it cannot be reached, or is not as it must be.
    """
    if not place.strip():  # an unset variable; as a path it would be the working directory
        raise ConfigError("archive: its name is empty; expected s3://bucket/prefix, file:///path or a path")
    scheme, mark, rest = place.partition("://")
    if not mark:
        return FolderArchive.open(place)
    if scheme == "s3":
        from .s3 import S3Archive

        return S3Archive.open(place, writable=writable)
    if scheme == "file":
        parts = urlsplit(place)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise ConfigError(f"archive file://{rest[:80]}: expected file:///path")
        return FolderArchive.open(unquote(parts.path))
    raise ConfigError(f"archive {scheme[:20]}://: expected s3://bucket/prefix, file:///path or a path")
