"""The published vectors, which are read where they are."""

from tests.ledger.conftest import vectors

__all__ = ["vectors"]
