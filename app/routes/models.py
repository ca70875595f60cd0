"""Models: what workers serve, with the limits and words of each, and small pictures of what their LoRAs do."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.contract.messages.served import ServedModel
from app.edge.errors import ModelNotFound, PictureNotFound, PicturesUnavailable, RangeNotSatisfiable
from app.jobs.schemas import ModelList, ModelView
from app.routes.answers import ACCESS, QUEUE, problems
from app.routes.images import TheConditions, send_bytes
from app.services import TheServices

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models", response_model=ModelList, summary="What can be asked for", responses=problems(*ACCESS, *QUEUE)
)
async def list_models(services: TheServices) -> ModelList:
    """Every model that workers have announced. Jobs for a model that is away wait until a worker serves it again."""
    default = await services.models.default()
    named = [(name, await services.models.named(name)) for name in await services.models.names()]
    return ModelList(data=[_view(name, model, default) for name, model in named if model is not None])


@router.get(
    "/v1/models/{model_id}",
    response_model=ModelView,
    summary="One of them",
    responses=problems(*ACCESS, ModelNotFound, *QUEUE),
)
async def get_model(model_id: str, services: TheServices) -> ModelView:
    """A model by its name or by an alias."""
    model = await services.models.named(model_id)
    if model is None:
        raise ModelNotFound
    return _view(model_id, model, await services.models.default())


@router.get(
    "/v1/thumbnails/{sha256}",
    response_class=Response,
    summary="A small picture of what a LoRA does",
    responses={
        200: {"description": "A JPEG, at most 256 pixels wide and high", "content": {"image/jpeg": {}}},
        **problems(*ACCESS, PictureNotFound, RangeNotSatisfiable, PicturesUnavailable),
    },
)
async def get_thumbnail(sha256: str, services: TheServices, conditions: TheConditions) -> Response:
    """`sha256` is what `loras` of a model has as `thumbnail`."""
    return await send_bytes(lambda part: services.pictures.open_thumbnail(sha256, byte_range=part), conditions)


def _view(name: str, model: ServedModel, default: ServedModel | None) -> ModelView:
    return ModelView.of(model, is_default=model == default, alias=None if name == model.card.name else name)
