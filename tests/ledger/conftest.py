"""Keys made from fixed seeds, and the published vectors, which are read where they are and never copied."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_middleware.ledger.note import ED25519, Signer, Verifier

ROOT = Path(__file__).resolve().parents[2]


class FixedKey:
    """An Ed25519 key whose seed is one byte repeated."""

    def __init__(self, name: str, byte: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([byte]) * 32)
        self.name = name
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


MakeKey = Callable[[str, int], Signer]


@pytest.fixture(scope="session")
def make_key() -> MakeKey:
    return FixedKey


@pytest.fixture(scope="session")
def verifier_of() -> Callable[..., Verifier]:
    def verifier(signer: Signer, kind: int = ED25519) -> Verifier:
        return Verifier(signer.name, kind, signer.public_key)

    return verifier


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of vectors: AUDIT_TEST_VECTORS, or ../shared/vectors beside the project."""
    folder = Path(os.environ.get("AUDIT_TEST_VECTORS") or ROOT.parent / "shared" / "vectors")
    if not folder.is_dir():
        pytest.skip(f"no published vectors at {folder}; set AUDIT_TEST_VECTORS to their folder")
    return folder


@pytest.fixture(scope="session")
def load(vectors: Path) -> Callable[[str], Any]:
    """Reads one JSON file of vectors."""

    def read(name: str) -> Any:
        return json.loads((vectors / name).read_text(encoding="utf-8"))

    return read
