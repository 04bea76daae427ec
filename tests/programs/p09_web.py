"""The bank over HTTP: commands and answers are awaited, a receipt goes out with one and comes back as `since` with the next."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import happened as h
from happened.edge.http import STATUS
from tests.programs.p01_bank import Account, bank


async def transfer(request: Request) -> Response:
    running: h.Running = request.app.state.running
    command = bank.command("Transfer", await request.json())
    receipt = await running.adispatch(command, id=request.path_params["id"])
    return JSONResponse({"receipt": str(receipt), "repeated": receipt.repeated}, headers={"receipt": str(receipt)})


async def account(request: Request) -> Response:
    running: h.Running = request.app.state.running
    row = await running.view(Account).aget(account=request.path_params["account"], since=request.query_params.get("since"))
    return JSONResponse({"account": row.account, "balance": str(row.balance)})


async def accounts(request: Request) -> Response:
    running: h.Running = request.app.state.running
    least = Decimal(request.query_params.get("least", "0"))
    rows = await running.view(Account).where("balance >= ?", least).order_by("-balance").arows(since=request.query_params.get("since"))
    return JSONResponse({"position": rows.position, "age_seconds": rows.age.total_seconds(), "accounts": [row.account for row in rows]})


async def failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, h.Error), "registered for errors of `happened` only"
    body = {"error": type(error).__name__, "text": str(error), "facts": {name: str(fact) for name, fact in error.facts.items()}}
    return JSONResponse(body, STATUS[type(error)])


def web(log: str) -> Starlette:
    return Starlette(
        routes=[
            Route("/transfers/{id}", transfer, methods=["POST"]),
            Route("/accounts/{account}", account),
            Route("/accounts", accounts),
        ],
        exception_handlers={h.Error: failed},
        lifespan=lifespan(log),
    )


def lifespan(log: str) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def opened(app: Starlette) -> AsyncGenerator[None]:
        async with bank.open(log) as app.state.running:
            yield

    return opened
