"""Who may use the operator's routes: keys of the scope `admin`, and on a service without keys who has its token.

Every route of them is made by `operators_router`, so that none can forget to ask. Refuses to know what the routes do.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.edge.auth import Caller
from app.services import caller_of

TAG = "admin"
PREFIX = "/v1/admin"


# A coroutine, although it waits for nothing: FastAPI sends each plain dependency through the thread pool.
async def _operator(request: Request) -> Caller:
    caller = caller_of(request)
    caller.require_admin()
    return caller


TheOperator = Annotated[Caller, Depends(_operator)]


def operators_router() -> APIRouter:
    """A router whose routes refuse everybody else with 403, before they look at what was asked."""
    return APIRouter(prefix=PREFIX, tags=[TAG], dependencies=[Depends(_operator)])
