"""The steps of a picture that were kept: what they are, their latents, a film, a sheet of frames.

Knows which file is meant, by its suffix or by Accept. Refuses to know what is in one.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from app.contract.messages.job import Picture, StoredFile
from app.contract.objects.names import TRAJECTORY_TYPES
from app.edge.errors import PictureNotFound
from app.routes.accept import preferred
from app.routes.images import OF_A_JOB, Conditions, TheConditions, lead_to, picture_of, send_picture
from app.services import OwnRecord, Services, TheServices

router = APIRouter(tags=["images"])

SUMMARY = "json"
"""What is sent to who names no other kind."""

_CONTENT: dict[str, Any] = {media_type: {} for media_type in TRAJECTORY_TYPES.values()}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **OF_A_JOB,
    200: {"description": "What each step is, or another file of the trajectory", "content": _CONTENT},
    206: {"description": "The part that Range asked for", "content": _CONTENT},
}


@router.get(
    "/v1/jobs/{job_id}/images/{index}/trajectory",
    response_class=Response,
    summary="The steps of one picture of a job",
    responses=_RESPONSES,
)
async def job_trajectory(
    record: OwnRecord,
    index: str,
    request: Request,
    services: TheServices,
    conditions: TheConditions,
    accept: Annotated[str, Header(description="application/json, else another file's type")] = "",
) -> Response:
    """For jobs with `trajectory`: of every step its number, timestep, sigma, norms, and where its frames are in the
    sheet. With `Accept: image/webp` the film, with `application/octet-stream` the latents, with `image/jpeg` the
    sheet."""
    kind = preferred(accept, TRAJECTORY_TYPES)
    answer = await _send(services, picture_of(record, index), kind, request, conditions)
    answer.headers.append("Vary", "Accept")
    return answer


@router.get(
    "/v1/jobs/{job_id}/images/{index}/trajectory.{kind}",
    response_class=Response,
    summary="One file of them",
    responses=_RESPONSES,
)
async def job_trajectory_file(
    record: OwnRecord,
    index: str,
    kind: str,
    request: Request,
    services: TheServices,
    conditions: TheConditions,
) -> Response:
    """`.json`: what each step is. `.safetensors`: the latents, float16 `noisy` [steps + 1, C, h, w] and `estimate`
    [steps, C, h, w], with `step`, `timestep` and `sigma`. `.webp`: a film. `.jpg`: a sheet of frames."""
    return await _send(services, picture_of(record, index), kind, request, conditions)


def _file(picture: Picture, kind: str) -> StoredFile:
    if picture.trajectory is None:
        raise PictureNotFound('The job kept no steps of this picture: ask for a trajectory, such as {"every": 1}.')
    if kind not in TRAJECTORY_TYPES:
        raise PictureNotFound(f"A trajectory has files that end in .{', .'.join(TRAJECTORY_TYPES)}.")
    file = picture.trajectory.files.get(kind)
    if file is None:
        raise PictureNotFound(f"This trajectory has no .{kind}: its frames could not be made.")
    return file


async def _send(services: Services, picture: Picture, kind: str, request: Request, conditions: Conditions) -> Response:
    key = _file(picture, kind).key
    if kind == SUMMARY:
        # Never a redirect: a page may not read what another host answers, unless its bucket was told to let it.
        return await send_picture(services, key, conditions)
    return await lead_to(services, key, request, conditions)
