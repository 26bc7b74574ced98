"""Measurements of this project beside others: ``make bench``; see docs/performance.md."""

OURS = "audit_middleware"
"""How names of sides begin that are this project."""
