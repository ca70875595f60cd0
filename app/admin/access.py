"""Who may use the operator's routes: keys of the scope `admin`, and on a service without keys its own machine.

Every route of them is made by `operators_router`, so that none can forget to ask. Refuses to know what the routes do.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.edge.auth import Caller
from app.edge.errors import Forbidden
from app.services import caller_of

TAG = "admin"
PREFIX = "/v1/admin"

_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers by which a proxy says that it is one (RFC 7239, RFC 9110 7.6.3, and what was usual before)."""


# A coroutine, although it waits for nothing: FastAPI sends each plain dependency through the thread pool.
async def _operator(request: Request) -> Caller:
    caller = caller_of(request)
    caller.require_admin()
    # From loopback, and yet not from this machine: the settings did not say that a proxy stands there.
    if not caller.key_id and any(name in request.headers for name in _OF_PROXIES):
        raise Forbidden(
            "A proxy passed this on, so it needs a key: `darkroom keys create NAME --scope admin` makes one."
        )
    return caller


TheOperator = Annotated[Caller, Depends(_operator)]


def operators_router() -> APIRouter:
    """A router whose routes refuse everybody else with 403, before they look at what was asked."""
    return APIRouter(prefix=PREFIX, tags=[TAG], dependencies=[Depends(_operator)])
