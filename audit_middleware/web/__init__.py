"""What this package serves over HTTP: published logs and receipts."""
