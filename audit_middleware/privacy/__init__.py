"""What is personal or secret, and how it is kept out of the log."""

from __future__ import annotations

from .redact import DEFAULT_HEADERS, REDACTED, Redactor

__all__ = ["DEFAULT_HEADERS", "REDACTED", "Redactor"]
