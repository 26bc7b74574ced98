"""``python -m audit_middleware`` is the command ``audit-middleware``."""

from .cli import main

main()
