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
from app.services import Services, TheServices

router = APIRouter(tags=["replicate"])


@router.get(
    "/v1/models/{owner}/{name}",
    response_model=ReplicateModel,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_model(owner: str, name: str, request: Request, services: TheServices) -> ReplicateModel:
    """One model (Replicate's API)."""
    model = await served(services, owner, name)
    return model_of(model, base=services.base(request), is_default=model == await services.models.default())


@router.get(
    "/v1/models/{owner}/{name}/versions",
    response_model=VersionPage,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def list_versions(owner: str, name: str, services: TheServices) -> VersionPage:
    """The version of a model that is served (Replicate's API)."""
    return VersionPage(results=[version_of(await served(services, owner, name))])


@router.get(
    "/v1/models/{owner}/{name}/versions/{version}",
    response_model=Version,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_version(owner: str, name: str, version: str, services: TheServices) -> Version:
    """What a version of a model takes and gives (Replicate's API)."""
    found = version_of(await served(services, owner, name))
    if found.id != version:
        raise errors.ModelNotFound
    return found


async def served(services: Services, owner: str, name: str) -> ServedModel:
    """The model of a path. Raises ModelNotFound."""
    # An alias may be a whole name of Replicate's, such as stability-ai/sdxl.
    model = await services.models.named(name if owner == OWNER else f"{owner}/{name}")
    if model is None or not model.card.draws:
        raise errors.ModelNotFound
    return model


async def named(services: Services, body: VersionedPredictionRequest) -> ServedModel:
    """The model that `version` or `model` says, or that of requests that name none. Raises ParamsRejected."""
    by_model = await _versioned(services, body.model, "/model") if body.model is not None else None
    by_id = await _versioned(services, body.version, "/version") if body.version is not None else None
    if by_model is not None and by_id is not None and by_model.card.name != by_id.card.name:
        raise ParamsRejected([ParamError("/model", "said_twice", "is another model than version names")])
    if found := by_id or by_model:
        return found
    try:
        return await services.models.choose(None)
    except ParamsRejected as error:
        raise ParamsRejected([replace(e, pointer="/version") for e in error.errors]) from error


async def _versioned(services: Services, version: str, pointer: str) -> ServedModel:
    model = await _found(services, version)
    if model is None or not model.card.draws:
        named = ", ".join(await services.models.names("draw"))
        detail = f"names no model or version that is served here{f'; the models are: {named}' if named else ''}"
        raise ParamsRejected([ParamError(pointer, "model_unknown", detail)])
    return model


async def _found(services: Services, version: str) -> ServedModel | None:
    """In memory, and then in Redis: nobody is refused from memory."""
    name = version.removeprefix(f"{OWNER}/")
    for look in (services.registry.models, services.registry.look_again):
        models = await look()
        if await services.models.is_alias(name):
            return await services.models.named(name)
        if model := by_version(models, version):
            return model
    return None
