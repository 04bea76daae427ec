"""Invoices: who may pay is known only by another state, which the invoice leads to."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

import happened as h

InvoiceNo = Annotated[str, h.Tag("invoice")]
CustomerNo = Annotated[str, h.Tag("customer")]


class InvoiceIssued(h.Event):
    invoice: InvoiceNo
    customer: CustomerNo
    amount: Decimal


class CustomerBlocked(h.Event):
    customer: CustomerNo


class InvoicePaid(h.Event):
    invoice: InvoiceNo


class IssueInvoice(h.Command):
    invoice: InvoiceNo
    customer: CustomerNo
    amount: Decimal


class PayInvoice(h.Command):
    invoice: InvoiceNo


class Invoice(h.State):
    invoice: InvoiceNo
    customer: CustomerNo = ""  # tagged, with a default: not a key, but it leads on
    due: Decimal = Decimal(0)

    def evolve(self, event: InvoiceIssued | InvoicePaid) -> "Invoice":
        match event:
            case InvoiceIssued():
                return self.but(customer=event.customer, due=event.amount)
            case InvoicePaid():
                return self.but(due=Decimal(0))


class Customer(h.State):
    customer: CustomerNo
    blocked: bool = False

    def evolve(self, event: CustomerBlocked) -> "Customer":
        return self.but(blocked=True)


def issue(command: IssueInvoice) -> Iterator[InvoiceIssued]:
    yield InvoiceIssued(command.invoice, command.customer, command.amount)


def pay(command: PayInvoice, invoice: Invoice | None, customer: Customer | None) -> Iterator[InvoicePaid]:
    if invoice is None:
        raise h.Refused("no such invoice")
    if customer is not None and customer.blocked:
        raise h.Refused("customer is blocked")
    yield InvoicePaid(command.invoice)


invoices = h.App("invoices", records=[CustomerBlocked], deciders=[issue, pay])
