"""Whose key a request carries, and what it may do: for pages and programs that show what there is for it.

Knows the caller that the guard has found. Refuses to say anything of the key itself, and to look anything up.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.edge.auth import Caller
from app.routes.answers import ACCESS, QUEUE, problems
from app.services import TheCaller

router = APIRouter(tags=["operations"])


class KeyView(BaseModel):
    """What the key of the request is good for. A limit that is null is not set."""

    object: Literal["key"] = "key"
    tenant: str = Field(description="Whose jobs it sees and makes")
    scopes: list[str] = Field(description="`read`, `write`, and `admin` of an operator's")
    requests_per_minute: int | None
    jobs: int | None = Field(description="Unfinished ones at the same time")
    cost_per_minute: int | None = Field(description="Megapixel steps")

    @classmethod
    def of(cls, caller: Caller) -> KeyView:
        return cls(
            tenant=caller.tenant,
            scopes=sorted(caller.scopes),
            requests_per_minute=caller.requests_per_minute,
            jobs=caller.jobs,
            cost_per_minute=caller.cost_per_minute,
        )


@router.get("/v1/key", response_model=KeyView, summary="What your key may do", responses=problems(*ACCESS, *QUEUE))
async def own_key(caller: TheCaller) -> KeyView:
    """Of a service without keys: what everybody may, or with the operator's token what the operator may."""
    return KeyView.of(caller)
