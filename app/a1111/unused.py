"""What a request said without effect, so that the answer can name it.

Knows the web UI's fields by name. Refuses to repeat a caller's values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.a1111.body import Generation, ImageToImage
from app.a1111.scripts import is_controlnet, says_nothing
from app.contract.messages.spec import JobSpec

MOST_NAMED: Final = 40

TAKEN_SETTINGS: Final = frozenset(
    {"sd_model_checkpoint", "CLIP_stop_at_last_layers", "samples_format", "jpeg_quality", "sd_vae"}
)

CHANGES_NOTHING: Final = frozenset(
    # About files on their server, their queue, and their settings.
    {"do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards", "include_init_images"}
    | {"force_task_id", "disable_extra_networks", "comments", "task_id"}
    # Of models that are drawn with in another way: InstructPix2Pix.
    | {"image_cfg_scale"}
    # Parts of something that is named itself if it is asked for.
    | {"script_args", "subseed", "refiner_switch_at", "mask_blur_x", "mask_blur_y", "inpaint_full_res_padding"}
    | {"denoising_strength", "firstphase_width", "firstphase_height"}
    # SillyTavern's own server passes on what it was told: where we are, and the key.
    | {"url", "auth"}
)
"""Said again and again by clients, and no reason to tell anybody."""

PARTS: Final = ("hr_",)
"""Beginnings of names that are parts of `enable_hr`."""

AS_HERE: Final[Mapping[str, Any]] = {"s_noise": 1, "initial_noise_multiplier": 1, "inpainting_fill": 1}
"""Values that say what is done in any case."""

LATENT: Final = 3
"""The `resize_mode` that makes latents larger, not the picture."""

OF_A_MASK: Final = frozenset({"inpainting_fill", "inpaint_full_res"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .+-]{0,39}", re.ASCII)


def unused(body: Generation) -> list[str]:
    """Names of fields that asked for something and had no effect; settings and scripts with their place."""
    names = [*_fields(body), *_settings(body.override_settings), *_scripts(body.alwayson_scripts)]
    shown = [name for name in names if all(_NAME.fullmatch(part) for part in name.split("/"))][:MOST_NAMED]
    more = len(names) - len(shown)
    return [*shown, f"{more} more"] if more else shown


def stretched(body: Generation, spec: JobSpec) -> list[str]:
    """`resize_mode`, if it would have made a difference to what was done: the picture is stretched to the size."""
    if not isinstance(body, ImageToImage) or not body.resize_mode or spec.image is None:
        return []
    fits = spec.image.width * spec.height == spec.image.height * spec.width
    return [] if fits and body.resize_mode != LATENT else ["resize_mode"]


def _fields(body: Generation) -> Iterator[str]:
    has_mask = isinstance(body, ImageToImage) and body.mask is not None
    for name, value in body.extras().items():
        if name in CHANGES_NOTHING or name.startswith(PARTS) or says_nothing(value):
            continue
        if AS_HERE.get(name) == value or (name in OF_A_MASK and not has_mask):
            continue
        yield name
    if has_mask and body.extras().get("inpainting_fill") == 0:
        # 0 is a wish as well: to begin with the colours around the mask.
        yield "inpainting_fill"
    if body.eta not in (None, 0, 1):
        yield "eta"


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if name not in TAKEN_SETTINGS and not says_nothing(value):
            yield f"override_settings/{name}"
    if str(settings.get("sd_vae") or "none").casefold() not in ("none", "automatic"):
        yield "override_settings/sd_vae"


def _scripts(scripts: Mapping[str, Any]) -> Iterator[str]:
    for name, script in scripts.items():
        arguments = script.get("args") if isinstance(script, dict) else script
        if not is_controlnet(name) and not says_nothing(arguments):
            yield f"alwayson_scripts/{name}"
