"""Models in Replicate's words: which one is meant by a name or a version, and the routes that describe them."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request

from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.served import ServedModel
from app.edge import errors
from app.replicate.input import VersionedPredictionRequest
from app.replicate.schemas import OWNER, ReplicateModel, Version, VersionPage, by_version, model_of, version_of
from app.routes.answers import ACCESS, QUEUE, problems
from app.services import Gateway, TheGateway

router = APIRouter(tags=["replicate"])


@router.get(
    "/v1/models/{owner}/{name}",
    response_model=ReplicateModel,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_model(owner: str, name: str, request: Request, gateway: TheGateway) -> ReplicateModel:
    """One model (Replicate's API)."""
    model = await served(gateway, owner, name)
    return model_of(model, base=gateway.base(request), is_default=model == await gateway.models.default())


@router.get(
    "/v1/models/{owner}/{name}/versions",
    response_model=VersionPage,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def list_versions(owner: str, name: str, gateway: TheGateway) -> VersionPage:
    """The version of a model that is served (Replicate's API)."""
    return VersionPage(results=[version_of(await served(gateway, owner, name))])


@router.get(
    "/v1/models/{owner}/{name}/versions/{version}",
    response_model=Version,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_version(owner: str, name: str, version: str, gateway: TheGateway) -> Version:
    """What a version of a model takes and gives (Replicate's API)."""
    found = version_of(await served(gateway, owner, name))
    if found.id != version:
        raise errors.ModelNotFound
    return found


async def served(gateway: Gateway, owner: str, name: str) -> ServedModel:
    """The model of a path. Raises ModelNotFound."""
    # An alias may be a whole name of Replicate's, such as stability-ai/sdxl.
    model = await gateway.models.named(name if owner == OWNER else f"{owner}/{name}")
    if model is None:
        raise errors.ModelNotFound
    return model


async def named(gateway: Gateway, body: VersionedPredictionRequest) -> ServedModel:
    """The model that `version` or `model` says, or that of requests that name none. Raises ParamsRejected."""
    by_model = await _versioned(gateway, body.model, "/model") if body.model is not None else None
    by_id = await _versioned(gateway, body.version, "/version") if body.version is not None else None
    if by_model is not None and by_id is not None and by_model.card.name != by_id.card.name:
        raise ParamsRejected([ParamError("/model", "said_twice", "is another model than version names")])
    if found := by_id or by_model:
        return found
    try:
        return await gateway.models.choose(None)
    except ParamsRejected as error:
        raise ParamsRejected([replace(e, pointer="/version") for e in error.errors]) from error


async def _versioned(gateway: Gateway, version: str, pointer: str) -> ServedModel:
    name = version.removeprefix(f"{OWNER}/")
    if name in gateway.models.aliases:
        model = await gateway.models.named(name)
    else:
        board = gateway.board
        model = by_version(await board.models(), version) or by_version(await board.look_again(), version)
    if model is None:
        raise ParamsRejected([ParamError(pointer, "model_unknown", "names no model or version that is served here")])
    return model
