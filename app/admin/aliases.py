"""Further names of models, as an operator gives them and takes them back while the service runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.admin.access import TheOperator, operators_router
from app.admin.changes import CHANGING, operator_of, tell
from app.admin.routes import READING
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.request_body import RequestBody
from app.contract.messages.texts import Name
from app.jobs.aliases import Alias, Aliases, AliasRefused, AliasState
from app.routes.answers import problems
from app.services import Services, TheServices

router = operators_router()


class AliasView(BaseModel):
    """A further name of a model."""

    id: str
    alias_of: str
    state: AliasState = Field(
        description="leads-nowhere: its model was forgotten. hidden: a model of this name came later and goes before it"
    )

    @classmethod
    def of(cls, alias: Alias) -> AliasView:
        return cls(id=alias.name, alias_of=alias.model, state=alias.state)


class AliasList(BaseModel):
    """Those that were given while the service ran. GET /v1/models has those of the settings as well."""

    object: Literal["list"] = "list"
    data: list[AliasView]


_AliasName = Annotated[Name, Field(description="1 to 64 of letters, digits, '.', '_', ':', '/' and '-'")]


class AliasRequest(RequestBody):
    """A name and what it shall mean."""

    alias: _AliasName
    model: Name = Field(description="A model of GET /v1/models, by its own name")


class FormerAlias(RequestBody):
    """A name that shall mean nothing any more."""

    alias: _AliasName


@router.get("/aliases", response_model=AliasList, summary="Further names of models", responses=READING)
async def aliases(services: TheServices) -> AliasList:
    """By name."""
    return AliasList(data=[AliasView.of(each) for each in await _aliases(services).all()])


@router.post(
    "/aliases",
    response_model=AliasList,
    summary="Give a model a further name",
    responses=problems(*CHANGING),
)
async def give(body: AliasRequest, services: TheServices, caller: TheOperator) -> AliasList:
    """Requests may use it within a second. Answers with all of them. 422 for a name that a model has, and for a model
    that is not known or is an alias itself."""
    with _refusals():
        await _aliases(services).give(body.alias, body.model, operator_of(caller))
    tell(caller, "alias", body.alias, f"means {body.model}")
    return await aliases(services)


@router.post(
    "/aliases/remove",
    response_model=AliasList,
    summary="Take a further name back",
    responses=problems(*CHANGING),
)
async def take_back(body: FormerAlias, services: TheServices, caller: TheOperator) -> AliasList:
    """Answers with those that are left. 422 for a name that is none of them."""
    with _refusals():
        await _aliases(services).take_back(body.alias, operator_of(caller))
    tell(caller, "alias", body.alias, "means nothing any more")
    return await aliases(services)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except AliasRefused as refused:
        raise ParamsRejected([ParamError(f"/{refused.about}", refused.code, str(refused))]) from refused


def _aliases(services: Services) -> Aliases:
    return Aliases(services.jobs.models)
