"""What the worker has to know of a pipeline of diffusers to serve its models: one row of the table in pipelines.py.

Knows names only. Knows no files and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

EDITS = ("image", "strength", "mask_image", "mask_blur")
"""Parameters of requests that start from a picture."""

FEWER = ("guidance_end", "cache")
"""Parameters that save evaluations."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Another pipeline's folder with parts of a model: `name` is diffusers' class, `named` are the folder's names for
    the parts that are taken from it."""

    name: str
    named: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`name` is diffusers' class. `components` are the parts that are loaded, each with the classes it may be of.
    A scheduler's are those that the pipeline can step; with none named, all of schedulers.py.

    `rewritten`: what the pipeline's constructor writes into its scheduler's configuration, whatever
    scheduler_config.json says. Without it the latents are off by up to 3.9 standard deviations from the stock
    pipeline's.

    `native_side`, in pixels, is what the first models of the kind were trained at: for a UNet that does not say.

    `layers_left_out`: of each text encoder's last layers, so many are never read. `classifier_free_guidance`: a guided
    picture takes a second row, for the negative prompt. `takes`: parameters that not every model takes, and these do.

    `checker`: the parts that look at finished pictures, with their classes, for models that come with them. They decide
    no pixel, and are loaded where they are asked for.

    `unet_inputs`: what the UNet has to be configured with, for inputs that others do not have. `repaints`: its UNet may
    have been trained for inpainting, with channels for a mask and a picture. `few_steps`: usual steps and
    guidance_scale, where all models of the kind are distilled.

    `optional`: parts that are loaded where the folder names them, though diffusers' pipeline knows nothing of them.
    `reads_text`: its UNet reads a prompt. `reads_embeddings`: it reads a CLIP embedding of a picture, as a class label.
    `prior`: usual steps and guidance_scale of the prior that makes such embeddings, if it has one.

    `named`: what the folder calls a part, where that is another name than ours. `behind`: the pipeline whose folder has
    the parts before its own, by their names there, for models that come in two folders. `usual`: the pipeline's own
    default of steps and guidance_scale, where our usual ones would not do. `sides`: of a picture, what the pipeline
    makes of them: multiples of a latent, of the square of that, or always the native ones. `seldom`: parts that are in
    memory only while a request needs them.
    """

    name: str
    components: Mapping[str, tuple[str, ...]]
    rewritten: Mapping[str, Any]
    native_side: int
    layers_left_out: int = 0
    classifier_free_guidance: bool = True
    takes: tuple[str, ...] = ("prompt_syntax", *FEWER, *EDITS)
    unet_inputs: tuple[str, ...] = ()
    repaints: bool = False
    few_steps: tuple[int, float] | None = None
    checker: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_text: bool = True
    reads_embeddings: bool = False
    prior: tuple[int, float] | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    behind: Behind | None = None
    usual: tuple[int, float] | None = None
    sides: Literal["latents", "squares", "fixed"] = "latents"
    seldom: tuple[str, ...] = ()

    def side_multiple(self, *, scale: int, native: int) -> int:
        """Pixels that both sides of a picture are multiples of: with so many to a latent, and to the native side."""
        return {"latents": scale, "squares": scale**2, "fixed": native}[self.sides]

    @property
    def is_xl(self) -> bool:
        return "text_encoder_2" in self.components

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Classes that it can step; empty for all."""
        return self.components["scheduler"]
