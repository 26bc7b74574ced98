"""audit_middleware: guard, correlate and record every action of an ASGI service in a log that anyone can verify.

::

    app.add_middleware(AuditMiddleware, policy="policies/billing.yaml", log="var/audit", service="billing")

    @app.delete("/invoices/{invoice_id}")
    @action("invoice.delete", resource="invoice/{invoice_id}")
    async def delete_invoice(invoice_id: str): ...
"""

from .context import annotate, current_action_id, current_subject
from .errors import AuditError
from .frameworks.marks import action
from .identity.correlation import CorrelationFilter, correlate_client
from .middleware import AuditMiddleware
from .model import Resource, Subject
from .version import __version__
from .wiring import record

__all__ = [
    "AuditError",
    "AuditMiddleware",
    "CorrelationFilter",
    "Resource",
    "Subject",
    "__version__",
    "action",
    "annotate",
    "correlate_client",
    "current_action_id",
    "current_subject",
    "record",
]
