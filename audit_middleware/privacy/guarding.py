"""What can go wrong with the store of persons' keys; apart from `sealing`, which brings the ciphers along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import MasterKeyError, SubjectKeysError

__all__ = ["KEY_ERRORS", "guarded"]

KEY_ERRORS = (SubjectKeysError, MasterKeyError)
"""What the keys' store raises; nothing is written in clear then."""

T = TypeVar("T")


def guarded(call: Callable[..., T], *args: Any) -> T:
    """A call to the keys' store. Whatever a driver raises is one of `KEY_ERRORS` here."""
    try:
        return call(*args)
    except KEY_ERRORS:
        raise
    # Broad on purpose: a driver of any kind may fail in any way, and its message may name a person.
    except Exception as error:
        raise SubjectKeysError(f"the store of persons' keys failed: {type(error).__name__}") from error
