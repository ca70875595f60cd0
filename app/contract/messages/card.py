"""What a worker announces about the model it serves: its limits, its defaults and the words it understands."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.model_name import NAME_PATTERN

NOT_DRAWING = ("score", "embed")
"""Tasks that give no picture."""

Safety = Literal["off", "flag", "block"]
"""Flagged pictures are not looked for, are marked, or are not shown."""


class Adapter(BaseModel):
    """A file beside the model, by the name that requests have for it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(max_length=64)
    words: tuple[str, ...] = Field(default=(), description="What to write in a prompt for it, if it says so")
    sha256: str | None = Field(default=None, description="Of its file, once a worker has read all of it")
    thumbnail: str | None = Field(
        default=None, description="Of a small picture of what it does, if there is one: GET /v1/thumbnails/{thumbnail}"
    )


class ModelCard(BaseModel):
    """One served model. The gateway measures every request against this and nothing else."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    name: str = Field(pattern=NAME_PATTERN, description="How requests call it")
    family: str = Field(description="Pipeline class in diffusers' words, e.g. StableDiffusionPipeline")
    sha256: str = Field(description="Hash over the hashes of all its files: which weights made a picture")
    width: int = Field(gt=0, description="Native width in pixels, and the default")
    height: int = Field(gt=0, description="Native height in pixels, and the default")
    side_multiple: int = Field(gt=0, description="Both sides must be a multiple of this")
    min_side: int = Field(gt=0)
    max_side: int = Field(gt=0)
    max_steps: int = Field(gt=0)
    max_guidance_scale: float = Field(gt=0)
    max_clip_skip: int | None = Field(
        default=None, ge=0, description="Layers of its text encoder that `clip_skip` can leave out at most"
    )
    classifier_free_guidance: bool = Field(
        default=True,
        description="With a guidance above 1 it takes two rows of each step, and reads a negative prompt. Without, its"
        " guidance is part of the one row",
    )
    max_images: int = Field(gt=0, description="num_images at most")
    max_work: int = Field(gt=0, description="width x height x num_images x num_inference_steps at most")
    num_inference_steps: int = Field(gt=0, description="Default")
    guidance_scale: float = Field(ge=0, description="Default")
    scheduler: str = Field(description="Default, one of `schedulers`")
    schedulers: tuple[str, ...] = Field(description="Short names and diffusers class names it accepts")
    scheduler_min_steps: dict[str, int] = Field(
        default_factory=dict, description="Where a scheduler needs more than one step: so many"
    )
    scheduler_max_steps: dict[str, int] = Field(
        default_factory=dict, description="Where a scheduler takes fewer steps than `max_steps`: so many at most"
    )
    scheduler_refused_steps: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="Numbers of steps between those that a scheduler cannot take with this model"
    )
    max_prompt_tokens: int = Field(gt=0, description="Tokens of a prompt that are read; a warning names the rest")
    seats: int = Field(gt=0, description="Pictures one worker denoises at the same time")
    vocabulary: tuple[str, ...] = Field(
        default=(),
        description="Words and phrases it has learned, the most telling first; a warning names a prompt's other words."
        " Empty: nobody has listed them",
    )
    examples: tuple[str, ...] = Field(default=(), description="Prompts that it draws well")
    tasks: tuple[str, ...] = Field(
        default=("text-to-image",),
        description="What it draws from: text-to-image, image-to-image, inpainting, image-variation; and what it does"
        " with pictures and texts beside: score, embed",
    )
    takes: tuple[str, ...] = Field(default=(), description="Parameters that not every model takes, and this one does")
    scorer: str | None = Field(
        default=None, description="Whose scores best_of, expect and min_probability go by, if anybody's"
    )
    controls: tuple[Adapter, ...] = Field(default=(), description="ControlNets that `control` may name")
    max_controls: int = Field(default=0, ge=0, description="Different ControlNets that one request may name")
    loras: tuple[Adapter, ...] = Field(default=(), description="What `loras` may name")
    embeddings: tuple[str, ...] = Field(default=(), description="Textual inversions: words that a prompt may have")
    embedding_files: dict[str, str] = Field(default_factory=dict, description="The sha256 of the file of each of those")
    vae: str | None = Field(default=None, description="The VAE in the place of the model's own, by its folder's name")
    prior_num_inference_steps: int | None = Field(default=None, gt=0, description="Default of its prior, if it has one")
    prior_guidance_scale: float | None = Field(default=None, ge=0, description="Default of its prior")
    prior_min_steps: int = Field(default=1, gt=0, description="Steps of its prior at least")
    max_noise_level: int = Field(default=0, ge=0, description="`noise_level` at most")
    embedding_dimensions: int | None = Field(
        default=None, gt=0, description="Numbers of an embedding that it makes, or draws from"
    )
    left_out: tuple[str, ...] = Field(
        default=(), description="Parts of the model's folder that are not used, such as its safety checker"
    )
    # No Literal: a word of a newer worker must not make its card unreadable.
    safety: str = Field(
        default="off",
        description="What its safety checker does: off (nothing), flag (`nsfw` of a picture says what it finds), block "
        "(what it flags is not shown)",
    )

    @property
    def draws(self) -> bool:
        """Whether it can be asked for pictures."""
        return any(task not in NOT_DRAWING for task in self.tasks)

    def does(self, task: str) -> bool:
        """Whether jobs of this task may be asked of it: draw, score or embed."""
        return self.draws if task == "draw" else task in self.tasks
