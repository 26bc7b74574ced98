"""What the demo stands on: a server to drive, a teller that prints, the audit commands, and a hand that does damage."""
