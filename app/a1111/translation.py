"""A request of the web UI's clients in our words, for a model that was chosen.

Knows what means the same. Refuses to know Redis and HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from app.a1111.body import Generation, ImageToImage
from app.a1111.samplers import scheduler_of
from app.a1111.scripts import controls
from app.a1111.unused import unused
from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest, ParamError, ParamsRejected
from app.edge.auth import Caller
from app.jobs.translation import Wording, cut_to_length, length_warning, linked

PREVIEWS: Final = 5
"""So many previews of a picture while it is drawn, for those who poll its progress."""

FORMATS: Final = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}


@dataclass(frozen=True, slots=True)
class Meant:
    """The job that is meant, and what is to be said of the request beside what the job says."""

    wording: Wording
    unused: list[str]
    warnings: list[str]
    controls: list[str]
    """Where in the request each ControlNet of the job stands."""

    def parameters(self, caller: Caller) -> JobRequest:
        """The job's parameters. Raises ParamsRejected, in our words."""
        return self.wording.parameters(metadata=marks(caller))

    def in_their_words(self, error: ParamsRejected) -> ParamsRejected:
        """The same errors, at the fields that the caller wrote: there, a picture is a text."""
        placed = [replace(each, pointer=self._placed(each.pointer)) for each in error.errors]
        return self.wording.in_their_words(ParamsRejected(placed))

    def _placed(self, ours: str) -> str:
        pointer = re.sub("/(b64|url)$", "", ours)
        return re.sub("^/control/([0-9]+)", lambda at: f"/{self.controls[int(at[1])]}", pointer)


def marks(caller: Caller) -> dict[str, str]:
    """The notes of jobs that came in by this API with this key: `interrupt` and `progress` are about those."""
    return {"dialect": "a1111", "key": caller.key_id or "none"}


def translate(body: Generation, card: ModelCard, *, mask: str | None = None) -> Meant:
    """`mask` is the hash of the mask as it is read here. Raises ParamsRejected, in the caller's words, for what no job
    can say."""
    prompts = {"prompt": body.prompt, "negative_prompt": body.negative_prompt}
    # A negative prompt that was left empty is none.
    fields = {name: cut_to_length(text) for name, text in prompts.items() if text or name == "prompt"}
    wording, warnings = Wording({"model": card.name, **fields}), []
    for name, text in prompts.items():
        warnings += length_warning(text, field=name.replace("_", " "))
    if "prompt_syntax" in card.takes:
        wording.put("prompt", prompt_syntax="a1111")
    _put_numbers(wording, body, card)
    warnings += _put_sides(wording, body, card)
    _put_settings(wording, body, card)
    found = controls(body.alwayson_scripts, card)
    if found:
        wording.put("alwayson_scripts", control=[*found.values()])
    if isinstance(body, ImageToImage):
        _put_picture(wording, body, mask)
    return Meant(wording, unused(body), warnings, [*found])


def _put_numbers(wording: Wording, body: Generation, card: ModelCard) -> None:
    steps = card.num_inference_steps if body.steps is None else body.steps
    said = {"steps": ("num_inference_steps", body.steps), "cfg_scale": ("guidance_scale", body.cfg_scale)}
    said |= {"seed": ("seed", None if body.seed == -1 else body.seed)}
    for word, (ours, value) in said.items():
        if value is not None:
            wording.put(word, **{ours: value})
    wording.put("n_iter" if body.n_iter > 1 else "batch_size", num_images=body.count)
    wording.put("steps", preview_every=max(1, steps // PREVIEWS))
    scheduler = scheduler_of(body.sampler_name or body.sampler_index, body.scheduler, body.eta, card)
    if scheduler is not None:
        wording.put("sampler_name", scheduler=scheduler)


def _put_sides(wording: Wording, body: Generation, card: ModelCard) -> list[str]:
    """As there, a side that is no multiple is made smaller: drawing programs send whatever was selected."""
    warnings = []
    for word, given in (("width", body.width), ("height", body.height)):
        if given is not None:
            side = max(card.side_multiple, given // card.side_multiple * card.side_multiple)
            wording.put(word, **{word: side})
            if side != given:
                warnings.append(f"The {word} is {side}: sides are multiples of {card.side_multiple}.")
    return warnings


def _put_settings(wording: Wording, body: Generation, card: ModelCard) -> None:
    settings = body.override_settings
    skipped = _whole(settings, "CLIP_stop_at_last_layers", least=1, most=32)
    # Theirs counts from 1, the last layer; for SDXL it reads the last but one, whatever is said.
    if skipped is not None and skipped > 1 and "XL" not in card.family:
        wording.put("override_settings/CLIP_stop_at_last_layers", clip_skip=skipped - 1)
    form = str(settings.get("samples_format") or "png").casefold()
    if form not in FORMATS:
        raise _refused("samples_format", "unknown", f"is one of {', '.join(FORMATS)}")
    wording.put("override_settings/samples_format", output_format=FORMATS[form])
    quality = _whole(settings, "jpeg_quality", least=0, most=100)
    if quality is not None and FORMATS[form] != "png":
        wording.put("override_settings/jpeg_quality", output_quality=quality)


def _put_picture(wording: Wording, body: ImageToImage, mask: str | None) -> None:
    wording.put("init_images/0", image=linked(body.init_images[0]))
    wording.put("denoising_strength", strength=body.denoising_strength)
    if body.mask is not None:
        # Without a hash there is nobody who would read it: the model is asked for inpainting, and does not do it.
        wording.put("mask", mask_image={"sha256": mask} if mask else linked(body.mask))
        wording.put("mask_blur", mask_blur=body.mask_blur)


def _whole(settings: dict[str, Any], name: str, *, least: int, most: int) -> int | None:
    value = settings.get(name)
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise _refused(name, "int_parsing", "must be a whole number") from None
    if not least <= number <= most:
        raise _refused(name, "out_of_range", f"must be {least} to {most}")
    return number


def _refused(setting: str, code: str, detail: str) -> ParamsRejected:
    return ParamsRejected([ParamError(f"/override_settings/{setting}", code, detail)])
