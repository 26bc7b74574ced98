"""What tests of an audited service need; also what tests of a store driver need.

With pytest, the fixture ``audit_log`` is there by itself (`audit_middleware.testing.plugin`); see ``docs/testing.md``.
This package loads without pytest, except `audit_middleware.testing.stores`.
"""

from .audit_log import AuditLog, assert_audited, assert_denied
from .faulty import Faults, FaultyStore

__all__ = ["AuditLog", "Faults", "FaultyStore", "assert_audited", "assert_denied"]
