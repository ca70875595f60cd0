"""The web UI's routes that list and set: what clients ask before they draw, and some that they cannot start without.

Lists are those of the model that the caller has set, or would get. Refuses to change anything for anybody else.
"""

from __future__ import annotations

from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.a1111 import models
from app.a1111.body import Base64
from app.a1111.documented import READING, WRITING
from app.a1111.info import notes_of, parsed
from app.a1111.progress import open_jobs
from app.a1111.samplers import sampler_items, schedule_items
from app.contract.messages.card import ModelCard
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.picture_record import PictureError
from app.edge.auth import Caller
from app.edge.guard import body_of
from app.jobs.references import decoded
from app.pictures.clean_picture import UnfitPicture
from app.services import Services, TheCaller, TheServices

router = APIRouter(tags=["a1111"])

READ_AT_ONCE = 2
"""Files of which the notes are read, by one process: up to 50 MB each."""

_reading = CapacityLimiter(READ_AT_ONCE)

Items = list[dict[str, Any]]

NOTHING: dict[str, Any] = {
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "latent-upscale-modes": [],
    "extensions": [],
    "script-info": [],
    "sd-vae": [],
    "cmd-flags": {},
    "memory": {"ram": {}, "cuda": {}},
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
}
"""What there is none of here, as the web UI says it."""

REFRESHES = ("refresh-checkpoints", "refresh-vae", "refresh-loras")
"""Theirs looks into its folders; here workers announce what they serve."""


class Note(BaseModel):
    """What a picture's file says of how it was made."""

    info: str = Field(description="The `parameters` text; empty if it has none")
    items: dict[str, str] = Field(description="Its other texts")
    parameters: dict[str, str] = Field(description="The same text, setting by setting")


class Noted(BaseModel):
    """A picture to read."""

    image: Base64 = Field(description="A PNG, JPEG or WebP in base64, or as a data: URL")


@router.get("/sdapi/v1/samplers", responses=READING)
async def samplers(services: TheServices, caller: TheCaller) -> Items:
    """What `sampler_name` may be (AUTOMATIC1111's API)."""
    card = await _card(services, caller)
    return sampler_items(card) if card else []


@router.get("/sdapi/v1/schedulers", responses=READING)
async def schedulers(services: TheServices, caller: TheCaller) -> Items:
    """What `scheduler` may be (AUTOMATIC1111's API)."""
    card = await _card(services, caller)
    return schedule_items(card) if card else []


@router.get("/sdapi/v1/sd-models", responses=READING)
async def sd_models(services: TheServices) -> Items:
    """The models, then the operator's other names for them (AUTOMATIC1111's API)."""
    return await models.listed(services)


@router.get("/sdapi/v1/loras", responses=READING)
async def loras(services: TheServices, caller: TheCaller) -> Items:
    """The LoRAs of the model (AUTOMATIC1111's API)."""
    card = await _card(services, caller)
    found = card.loras if card else ()
    return [{"name": each.name, "alias": each.name, "path": each.name, "metadata": {}} for each in found]


@router.get("/sdapi/v1/embeddings", responses=READING)
async def embeddings(services: TheServices, caller: TheCaller) -> dict[str, dict[str, Any]]:
    """The textual inversions of the model: words that a prompt may have (AUTOMATIC1111's API)."""
    card = await _card(services, caller)
    # What else theirs says of each is not announced. Clients read the names.
    unsaid = dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name", "shape", "vectors"))
    return {"loaded": {name: dict(unsaid) for name in card.embeddings} if card else {}, "skipped": {}}


@router.get("/sdapi/v1/scripts", responses=READING)
async def scripts(services: TheServices, caller: TheCaller) -> dict[str, list[str]]:
    """What `alwayson_scripts` may name: controlnet, if the model has any (AUTOMATIC1111's API)."""
    card = await _card(services, caller)
    # By the second name, the Python client knows that there is the first.
    there = ["controlnet", "controlnet m2m"] if card and card.controls else []
    return {"txt2img": there, "img2img": there}


@router.get("/controlnet/model_list", responses=READING)
async def control_models(services: TheServices, caller: TheCaller) -> dict[str, list[str]]:
    """The ControlNets of the model (the API of the web UI's extension)."""
    card = await _card(services, caller)
    return {"model_list": [each.name for each in card.controls] if card else []}


@router.get("/controlnet/module_list", responses=READING)
async def control_modules() -> dict[str, list[str]]:
    """None makes a control picture of a photo here (the API of the web UI's extension)."""
    return {"module_list": ["none"]}


@router.get("/controlnet/version", responses=READING)
async def control_version() -> dict[str, int]:
    """Whose arguments are understood (the API of the web UI's extension)."""
    return {"version": 2}


@router.get("/sdapi/v1/options", responses=READING)
async def options(services: TheServices, caller: TheCaller) -> dict[str, Any]:
    """The settings that clients look at; of this key (AUTOMATIC1111's API)."""
    model = await models.current(services, caller)
    return {
        "sd_model_checkpoint": models.title(model) if model else "",
        "sd_checkpoint_hash": model.card.sha256 if model else "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "live_previews_enable": True,
        "img2img_color_correction": False,
    }


@router.post("/sdapi/v1/options", responses=WRITING)
async def set_options(given: dict[str, Any], services: TheServices, caller: TheCaller) -> None:
    """Set the model of later requests of this key with `sd_model_checkpoint`; nothing else has an effect
    (AUTOMATIC1111's API)."""
    checkpoint = given.get("sd_model_checkpoint")
    if "sd_model_checkpoint" not in given:
        return
    try:
        await models.set_current(services, caller, str(checkpoint or ""))
    except ParamsRejected as error:
        raise models.in_their_words(error, "sd_model_checkpoint") from error


@router.post("/sdapi/v1/png-info", responses=WRITING)
async def png_info(given: Noted, request: Request, services: TheServices) -> Note:
    """What a picture's file says of how it was made (AUTOMATIC1111's API)."""
    come, most = body_of(request.scope), services.inputs.most_bytes
    try:
        return await to_thread.run_sync(lambda: _noted(decoded(given.image, come, most_bytes=most)), limiter=_reading)
    except (UnfitPicture, PictureError) as error:
        code = error.code if isinstance(error, UnfitPicture) else "not_a_picture"
        raise ParamsRejected([ParamError("/image", code, error.detail)]) from None


@router.get("/queue/status", responses=READING)
async def queue_status(services: TheServices, caller: TheCaller) -> dict[str, Any]:
    """The queue as Gradio has it: by this, Krita plug-ins see that somebody answers."""
    return {"msg": "estimation", "rank": None, "queue_size": len(await open_jobs(services, caller)), "rank_eta": None}


async def _card(services: Services, caller: Caller) -> ModelCard | None:
    model = await models.current(services, caller)
    return model.card if model else None


def _noted(data: bytes) -> Note:
    text, items = notes_of(data)
    return Note(info=text, items=items, parameters=parsed(text) if text else {})


def _constant(path: str, value: Any) -> None:
    async def answer() -> Any:
        return value

    answer.__name__ = path.replace("-", "_")
    answer.__doc__ = f"There are none here: {path} (AUTOMATIC1111's API)."
    router.add_api_route(f"/sdapi/v1/{path}", answer, response_model=type(value), responses=READING)


def _refresh(path: str) -> None:
    async def answer() -> None:
        return None

    answer.__name__ = path.replace("-", "_")
    answer.__doc__ = f"Nothing to do here: {path} (AUTOMATIC1111's API)."
    router.add_api_route(f"/sdapi/v1/{path}", answer, methods=["POST"], responses=WRITING)


for _path, _value in NOTHING.items():
    _constant(_path, _value)
for _path in REFRESHES:
    _refresh(_path)
