"""Every parameter of a job, each declared once: name, type, limits, defaults, description, and what it is part of.

A request (`JobRequest`), the engine's `Request`, the record inside a picture, `darkroom reproduce`, the OpenAPI, the
dialects and the page's form are made from these classes. Which class a parameter stands in says who needs it:
`PictureSpec` is what decides the pixels, `Delivery` what happens with them. Knows no model's limits: see `fit_limits`.

A new field, or one with another meaning, is a new RECORD_VERSION (keys.py): workers of the version before would leave
it out and draw something else. tests/contract/test_spec.py has the fields of every version.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema

from app.contract.messages.deep_cache import AskedCache, Cache
from app.contract.messages.inputs import Control, Controls, ImageReference, InputPicture, Lora, Loras
from app.contract.messages.parameter import Parameter, Spec, is_plain, parameters_of
from app.contract.messages.series import SeriesSpec
from app.contract.messages.texts import VISIBLE, Name, Text
from app.contract.messages.trajectory import AskedTrajectory, Trajectory
from app.contract.messages.unclip import AskedImageEmbedding, AskedPrior, ImageEmbedding, Prior

MAX_SEED = 2**63 - 1
DRAW_A_SEED = -1
"""What other programs send for a seed that is to be drawn."""

MOST_SKIPPED = 32
"""Layers: more than a text encoder here has."""

LEAST_GUIDED = 0.01
"""Forms and command lines have no lower limit that is left out: without any guidance, guidance_scale is 1."""

OutputFormat = Literal["png", "jpeg", "webp"]
PromptSyntax = Literal["plain", "a1111"]
Start = Literal["noise", "inverted"]
_AskedFormat = Annotated[
    OutputFormat,
    BeforeValidator(lambda given: "jpeg" if given == "jpg" else given),
    WithJsonSchema({"type": "string", "enum": ["png", "jpeg", "jpg", "webp"]}),
]
_AskedSeed = Annotated[
    int | None,
    Field(ge=DRAW_A_SEED, le=MAX_SEED),
    AfterValidator(lambda seed: None if seed == DRAW_A_SEED else seed),
]
_AskedSkip = Annotated[int | None, Field(ge=0, le=MOST_SKIPPED), AfterValidator(lambda layers: layers or None)]
_AskedSides = Annotated[list[Annotated[int, Field(ge=1, le=16_384)]], Field(min_length=2, max_length=2)]
_AskedCorner = Annotated[list[Annotated[int, Field(ge=0, le=16_384)]], Field(min_length=2, max_length=2)]


class ServedSpec(Spec):
    """Which model: its queue is where the job waits. What is drawn depends on its weights, not on its name."""

    model: Annotated[
        str,
        Parameter(about="One of GET /v1/models. Without it: the one marked `default` there", asked=Name | None),
    ]


class PictureSpec(Spec):
    """What decides the pixels: the same values, weights and versions draw the same picture.

    The engine's requests have these fields, every picture's record repeats them, and `darkroom reproduce` sends them.
    """

    prompt: Annotated[str, Parameter(about="What the picture shows", default=..., asked=Annotated[Text, VISIBLE])]
    negative_prompt: Annotated[
        str | None,
        Parameter(
            about="What it should not show; needs guidance_scale > 1. SDXL reads an empty one, but not a missing one",
            asked=Text | None,
        ),
    ] = None
    width: Annotated[int, Parameter(about="Pixels", least=1, most=16_384)]
    height: Annotated[int, Parameter(about="Pixels", least=1, most=16_384)]
    num_inference_steps: Annotated[int, Parameter(least=1, most=10_000)]
    guidance_scale: Annotated[float, Parameter(about="1 or less: without guidance", least=0, most=1_000)]
    guidance_rescale: Annotated[
        float,
        Parameter(
            about="How far guidance is kept from raising contrast, for models with zero terminal SNR; 0: not at all",
            default=0,
            least=0,
            most=1,
        ),
    ] = 0.0
    guidance_end: Annotated[
        float,
        Parameter(
            about="Guidance ends after this part of the evaluations, and with it half of what each costs; 1: it stays."
            " Rounded down",
            default=1,
            least=LEAST_GUIDED,
            most=1,
            announced=True,
        ),
    ] = 1.0
    clip_skip: Annotated[
        int | None,
        Parameter(
            about="So many last layers of the text encoder are left out when the prompt is read; 0: none",
            least=0,
            most=MOST_SKIPPED,
            asked=_AskedSkip,
        ),
    ] = None
    prompt_syntax: Annotated[
        PromptSyntax,
        Parameter(
            about="How the prompts are read: as they stand, or with the weights, BREAK and LoRA tags of AUTOMATIC1111",
            default="plain",
            announced=True,
        ),
    ] = "plain"
    scheduler: Annotated[
        str,
        Parameter(about="One of the model's, also by the names that other programs have for it", asked=Name | None),
    ]
    seed: Annotated[
        int,
        Parameter(
            about="Picture k is drawn from seed + k; with image_embedding.at all from seed. -1 or missing: drawn",
            least=0,
            most=MAX_SEED,
            asked=_AskedSeed,
        ),
    ]
    reproducible: Annotated[
        bool,
        Parameter(about="The same bits in any company on one machine, at the price of some speed", default=False),
    ] = False
    image: Annotated[
        InputPicture | None,
        Parameter(about="The picture to begin with: image to image", asked=ImageReference | None, announced=True),
    ] = None
    strength: Annotated[
        float | None,
        Parameter(
            about="How much of `image` is drawn anew; 1: its colours count for nothing. Missing: 0.8, 1 with a mask",
            least=0,
            most=1,
            announced=True,
        ),
    ] = None
    mask_image: Annotated[
        InputPicture | None,
        Parameter(
            about="Where `image` is repainted: white. What is black stays: inpainting",
            asked=ImageReference | None,
            announced=True,
        ),
    ] = None
    mask_blur: Annotated[
        float,
        Parameter(about="Radius in pixels by which the mask is softened", default=0, least=0, most=64, announced=True),
    ] = 0.0
    control: Annotated[
        tuple[Control, ...],
        Parameter(
            about="ControlNets, each with a picture that the model follows", asked=Controls | None, announced=True
        ),
    ] = ()
    loras: Annotated[
        tuple[Lora, ...],
        Parameter(about="Adapters of the model's `loras`, each with its weight", asked=Loras | None, announced=True),
    ] = ()
    original_size: Annotated[
        tuple[int, int] | None,
        Parameter(
            about="[height, width] of the picture that SDXL is told this one was made from. Missing: its own",
            asked=_AskedSides | None,
            announced=True,
        ),
    ] = None
    crops_coords_top_left: Annotated[
        tuple[int, int] | None,
        Parameter(
            about="[top, left] of the cut that SDXL is told was made. Missing: [0, 0], nothing is cut off",
            asked=_AskedCorner | None,
            announced=True,
        ),
    ] = None
    target_size: Annotated[
        tuple[int, int] | None,
        Parameter(
            about="[height, width] that SDXL is told this picture has. Missing: its own",
            asked=_AskedSides | None,
            announced=True,
        ),
    ] = None
    prior: Annotated[
        Prior | None,
        Parameter(
            about="How an unCLIP model's prior gets from the text to an image embedding",
            asked=AskedPrior | None,
            announced=True,
        ),
    ] = None
    image_embedding: Annotated[
        ImageEmbedding | None,
        Parameter(
            about="What an unCLIP model draws from in the place of a text: variations of a picture, and what lies"
            " between two",
            asked=AskedImageEmbedding | None,
            announced=True,
        ),
    ] = None
    noise_level: Annotated[
        int,
        Parameter(
            about="Noise on the image embedding, in steps of its own schedule: more of it, more freedom",
            default=0,
            least=0,
            most=10_000,
            announced=True,
        ),
    ] = 0
    start: Annotated[
        Start,
        Parameter(
            about="Begin from noise, or from the picture of image_embedding carried back to noise (DDIM inversion):"
            " what is not changed stays",
            default="noise",
            announced=True,
        ),
    ] = "noise"
    cache: Annotated[
        Cache | None,
        Parameter(
            about="Keep deep features of the model between evaluations: faster, and another picture",
            asked=AskedCache | None,
            announced=True,
        ),
    ] = None


class FileSpec(Spec):
    """How a picture is written into its file."""

    output_format: Annotated[OutputFormat, Parameter(default="png", asked=_AskedFormat)]
    output_quality: Annotated[
        int | None,
        Parameter(about="Of jpeg (else 95) and webp (else 90); png loses nothing", least=0, most=100),
    ] = None


class PreviewSpec(Spec):
    """What is shown of a picture before it is finished."""

    preview_every: Annotated[
        int,
        Parameter(about="A preview after every so many model evaluations; 0: none", least=0, most=10_000),
    ] = 0
    keep_previews: Annotated[
        bool,
        Parameter(about="Keep the previews beside each picture, as one sheet of small frames", default=False),
    ] = False
    trajectory: Annotated[
        Trajectory | None,
        Parameter(about="Keep the latents of the steps, to look at each", asked=AskedTrajectory | None, announced=True),
    ] = None


class Delivery(PreviewSpec, FileSpec, SeriesSpec):
    """What happens with the pixels: how many pictures, in which files, with what to see on the way."""


class JobSpec(Delivery, PictureSpec, ServedSpec):
    """A request with nothing left open: what a worker draws from, and what a picture can be drawn from again."""


class RecordedSpec(FileSpec, PictureSpec, ServedSpec):
    """What one picture is asked for by."""


PARAMETERS: Final[dict[str, Parameter]] = parameters_of(JobSpec)
JUDGED: Final = tuple(name for name in SeriesSpec.model_fields if PARAMETERS[name].announced)
"""The parameters for which pictures are judged: models take them that are served beside a scorer."""
PLAIN: Final = frozenset(name for name, field in JobSpec.model_fields.items() if is_plain(field.annotation))
"""The parameters whose value is one number, text or choice. The others are pictures, and lists with parts of their
own."""


def pictures_of(spec: PictureSpec) -> list[InputPicture]:
    """Every picture that came in and that is drawn from."""
    alone = [picture for picture in (spec.image, spec.mask_image) if picture is not None]
    points = spec.image_embedding.points if spec.image_embedding is not None else ()
    return [*alone, *(control.image for control in spec.control), *(point.of for point in points if point.of)]


def seed_of(spec: PictureSpec, index: int) -> int:
    """The seed of one of the job's pictures. Those on a way between two embeddings differ in their place alone."""
    is_way = spec.image_embedding is not None and spec.image_embedding.at is not None
    return spec.seed if is_way else spec.seed + index


def place_of(spec: PictureSpec, index: int) -> float | None:
    """Where one of the job's pictures is on a way between two embeddings; None where there is no way."""
    places = spec.image_embedding.at if spec.image_embedding is not None else None
    return places[index] if places is not None else None


def values_of(spec: BaseModel, part: type[BaseModel]) -> dict[str, Any]:
    """The fields of `part`, from a spec that has them among others."""
    return {name: getattr(spec, name) for name in part.model_fields}
