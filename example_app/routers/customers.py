"""Customers."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from audit_middleware import Resource, action, annotate

from ..billing import Parts, found
from ..storage import Row

router = APIRouter(prefix="/customers", tags=["customers"])

_BY_ID = "SELECT * FROM customers WHERE id = ?"


class Customer(BaseModel):
    """What is asked of a new customer."""

    name: str = Field(min_length=1, max_length=80)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=120)


@router.get("")
@action("customer.list")
def list_customers(parts: Parts) -> list[Row]:
    """All customers."""
    with parts.storage.transaction() as db:
        customers = db.all("SELECT * FROM customers ORDER BY id")
    annotate(impact={"count": len(customers)})
    return customers


@router.get("/{customer_id}")
@action("customer.read", resource="customer/{customer_id}")
def read_customer(customer_id: int, parts: Parts) -> Row:
    """One customer."""
    with parts.storage.transaction() as db:
        return found(db.one(_BY_ID, customer_id), "customer")


@router.post("", status_code=201)
@action("customer.create")
def create_customer(given: Customer, parts: Parts) -> Row:
    """Makes a customer."""
    with parts.storage.transaction() as db:
        number = db.insert("INSERT INTO customers (name, email) VALUES (?, ?)", given.name, given.email)
        customer = found(db.one(_BY_ID, number), "customer")
    annotate(resource=Resource("customer", str(number)), impact={"before": None, "after": customer})
    return customer


@router.put("/{customer_id}")
@action("customer.update", resource="customer/{customer_id}")
def update_customer(customer_id: int, given: Customer, parts: Parts) -> Row:
    """Changes a customer. The record says what it was and what it became."""
    with parts.storage.transaction() as db:
        before = found(db.one(_BY_ID, customer_id), "customer")
        db.change("UPDATE customers SET name = ?, email = ? WHERE id = ?", given.name, given.email, customer_id)
        after = found(db.one(_BY_ID, customer_id), "customer")
    annotate(impact={"before": before, "after": after})
    return after
