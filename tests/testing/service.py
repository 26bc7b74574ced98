"""A small service as its owners write it: one module, settings in the code, a log that is not there."""

SERVICE = """
from fastapi import FastAPI
from starlette.responses import Response

from audit_middleware import AuditMiddleware, Subject, action, annotate


def who(scope):
    name = dict(scope["headers"]).get(b"x-user")
    return Subject(name.decode(), roles=(name.decode().split("-")[0],)) if name else None


app = FastAPI(openapi_url=None)


@app.get("/invoices")
@action("invoice.list")
async def invoices():
    return []


@app.get("/invoices/{invoice_id}")
@action("invoice.read", resource="invoice/{invoice_id}")
async def read(invoice_id: str):
    annotate(reason="asked for", impact={"count": 1})
    return {"id": invoice_id}


@app.delete("/invoices/{invoice_id}")
@action("invoice.delete", resource="invoice/{invoice_id}")
def delete(invoice_id: str):
    return Response(status_code=204)


app.add_middleware(AuditMiddleware, policy="policy.yaml", log="/nowhere/audit", service="billing", identify=who)
"""

POLICY = """version: 1
name: billing
roles: {clerk: {}, admin: {}}
actions:
  invoice.list: {record: none, allow: [clerk]}
  invoice.read:
    allow:
      - {name: clerks, roles: [clerk]}
      - {name: admins, roles: [admin]}
  invoice.delete:
    severity: high
    allow: [admin]
    deny: [{name: not-the-first, roles: [admin], when: {resource.invoice_id: '1'}}]
"""
