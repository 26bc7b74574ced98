"""Fetches what a reference names: ``${VARIABLE}`` of the environment, or the one line of ``file:PATH``."""

from __future__ import annotations

import os
from pathlib import Path

from ..policy.channels import VARIABLE


def fetch(reference: str) -> str:
    """The secret. Raises `ValueError` that says what is wrong, never with what was found there."""
    if variable := VARIABLE.fullmatch(reference):
        value = os.environ.get(variable[1], "")
        if not value:
            raise ValueError(f"the environment variable {variable[1]} is not set")
        return value
    if not reference.startswith("file:"):
        raise ValueError("a secret does not stand in this file: write ${VARIABLE} or file:PATH")
    try:
        value = Path(reference.removeprefix("file:")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"the file cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}") from None
    if not value or "\n" in value:
        raise ValueError("the file must hold one line, the secret")
    return value
