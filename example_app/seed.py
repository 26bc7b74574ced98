"""What a fresh demo service holds: users with passwords, customers, three months of invoices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .passwords import hashed

if TYPE_CHECKING:
    from .storage import Database

DEMO_USERS = {
    # name: (tenant, roles, password)
    "viewer-1": ("north", "viewer", "viewer-1-demo"),
    "clerk-1": ("north", "clerk", "clerk-1-demo"),
    "support-1": ("north", "support", "support-1-demo"),
    "support-2": ("south", "support", "support-2-demo"),
    "admin-1": ("head-office", "admin", "admin-1-demo"),
    "auditor": ("head-office", "auditor", "auditor-demo"),
}
CUSTOMERS = ("Harbour Books", "Mill Lane Bakery", "Old Bridge Cycles", "Quayside Prints")
MONTHS = ("2026-01", "2026-02", "2026-03")
FIRST_INVOICE = 1001


def seed(db: Database) -> None:
    """Fills empty tables."""
    for name, (tenant, roles, password) in DEMO_USERS.items():
        db.insert("INSERT INTO users VALUES (?, ?, ?, ?)", name, tenant, roles, hashed(password))
    for number, customer in enumerate(CUSTOMERS, 1):
        email = f"accounts@{customer.lower().replace(' ', '-')}.example"
        db.insert("INSERT INTO customers VALUES (?, ?, ?)", number, customer, email)
    for number in range(24):
        db.insert(
            "INSERT INTO invoices VALUES (?, ?, ?, ?, ?, 'issued', 'clerk-1')",
            FIRST_INVOICE + number,
            ("north", "south")[number % 2],
            number % len(CUSTOMERS) + 1,
            4_200 + 1_150 * number,
            MONTHS[number // 8],
        )
    db.insert("INSERT INTO settings VALUES ('payment_terms_days', '30')")
