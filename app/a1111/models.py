"""Models as the web UI's checkpoints: which one a request means, and how they are listed.

Knows names, and the one that a caller has set. Refuses to know what is drawn.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from app.a1111.scripts import without_hash
from app.contract.messages.params import ParamsRejected
from app.contract.messages.served import ServedModel
from app.edge.auth import Caller
from app.services import Services

SHORT_HASH: Final = 10
"""Digits, as model sites have it."""

_HASH = re.compile(r"[0-9a-f]{10,64}")


async def chosen(services: Services, caller: Caller, asked: Any) -> ServedModel:
    """The model that `override_settings` names, or the one that the caller has set, or that of requests that name none.

    Raises ParamsRejected in our words (/model), and NoModelYet.
    """
    if asked:
        return await named(services, str(asked))
    return await current(services, caller) or await services.models.choose(None)


async def current(services: Services, caller: Caller) -> ServedModel | None:
    """What the caller has set, as long as it is there; else the model of requests that name none, if one can tell."""
    kept = await services.webui.checkpoint(caller.tenant, caller.key_id)
    found = await services.models.named(kept) if kept else None
    return found if found is not None and found.card.draws else await services.models.default()


async def named(services: Services, checkpoint: str) -> ServedModel:
    """The model of a checkpoint's title, name, file name or hash. Raises ParamsRejected (/model), and NoModelYet."""
    for name in (checkpoint, without_hash(checkpoint)):
        if name and (found := await services.models.named(name)) and found.card.draws:
            return found
    if _HASH.fullmatch(checkpoint):
        for model in (await services.registry.models()).values():
            if model.card.sha256.startswith(checkpoint) and model.card.draws:
                return model
    return await services.models.choose(without_hash(checkpoint) or checkpoint)


def in_their_words(error: ParamsRejected, word: str = "override_settings/sd_model_checkpoint") -> ParamsRejected:
    """What is wrong with a choice of a model, at the setting that made it."""
    return ParamsRejected([replace(each, pointer=f"/{word}") for each in error.errors])


async def listed(services: Services) -> list[dict[str, Any]]:
    """Everything a request may name, as GET /sdapi/v1/sd-models lists it."""
    found = [(name, await services.models.named(name)) for name in await services.models.names("draw")]
    return [
        {
            "title": title(model, name),
            "model_name": name,
            "hash": model.card.sha256[:SHORT_HASH],
            "sha256": model.card.sha256,
            "filename": name,
            "config": None,
        }
        for name, model in found
        if model is not None
    ]


def title(model: ServedModel, name: str | None = None) -> str:
    """As the web UI writes it."""
    return f"{name or model.card.name} [{model.card.sha256[:SHORT_HASH]}]"


async def set_current(services: Services, caller: Caller, checkpoint: str) -> None:
    """The model of the caller's later requests; "" for that of requests that name none. Raises as `named` does."""
    model = (await named(services, checkpoint)).card.name if checkpoint else None
    await services.webui.set_checkpoint(caller.tenant, caller.key_id, model)
