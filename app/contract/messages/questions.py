"""Jobs that draw nothing: what they ask of a model about pictures and texts, and what is answered.

A question is stored beside the job's spec, its answer as the record's `result`: both bounded, for they lie in Redis.
Knows shapes and sizes. Refuses to know what a model makes of a picture or a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.inputs import InputPicture
from app.contract.messages.spec import JobSpec
from app.contract.messages.texts import MAX_PROMPT

Task = Literal["draw", "score", "embed"]
"""What a job is for. Records of before say nothing, and are drawings."""

Space = Literal["joint", "image"]
"""Where an embedding lies: in the space that texts and pictures share, or, for a text, where an unCLIP model's prior
takes it to be among pictures."""

MOST_NUMBERS: Final = 32_768
"""Of the embeddings in one answer, which has 4/3 x 4 bytes for each: 171 KiB at most in a record."""

COST_OF_ONE: Final = 0.01
"""Of one picture or text, in the megapixel steps that drawings are counted in. A CLIP-L looks at a picture in 162
GFLOP, a fifth of one row of a drawing's step at 512 x 512; whole units are counted, so that a question costs one."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ScoreSpec(_Stored):
    """How well does each text fit each picture?"""

    task: ClassVar[Task] = "score"

    model: str
    images: tuple[InputPicture, ...]
    texts: tuple[str, ...] = Field(description="As they are compared: in their template")

    @property
    def pictures(self) -> tuple[InputPicture, ...]:
        return self.images

    @property
    def words(self) -> tuple[str, ...]:
        return self.texts


class EmbedSpec(_Stored):
    """Where does each text or picture lie?"""

    task: ClassVar[Task] = "embed"

    model: str
    input: tuple[str | InputPicture, ...]
    space: Space = "joint"
    seed: int | None = Field(default=None, description="What the prior's noise is drawn from; null: there is no noise")

    @property
    def pictures(self) -> tuple[InputPicture, ...]:
        return tuple(each for each in self.input if isinstance(each, InputPicture))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(each for each in self.input if isinstance(each, str))


Question = ScoreSpec | EmbedSpec

KINDS: Final[Mapping[str, type[ScoreSpec | EmbedSpec]]] = {kind.task: kind for kind in (ScoreSpec, EmbedSpec)}


class ScoreResult(_Stored):
    """A row for each picture, a column for each text."""

    model_sha256: str = Field(description="Which weights compared them")
    cosine: tuple[tuple[float, ...], ...] = Field(description="-1 to 1")
    probability: tuple[tuple[float, ...], ...] = Field(
        description="Softmax of logit_scale x cosine over a picture's texts (Radford et al. 2021, figure 3); with a"
        " logit_bias, the sigmoid of logit_scale x cosine + logit_bias, of each text alone (Zhai et al. 2023)"
    )
    logit_scale: float
    logit_bias: float | None = None


class EmbedResult(_Stored):
    """Unit vectors in the order of the input: base64 of float32 numbers, little endian."""

    model_sha256: str = Field(description="Which weights made them")
    dimensions: int
    vectors: tuple[str, ...]
    tokens: int = Field(description="Of all texts")
    cosine_to_text: tuple[float, ...] | None = Field(
        default=None, description="In the space of pictures: how near the prior's vector is to its text's own"
    )


Result = ScoreResult | EmbedResult

RESULTS: Final[Mapping[str, type[ScoreResult | EmbedResult]]] = {"score": ScoreResult, "embed": EmbedResult}


def read_question(task: str, stored: Mapping[str, Any]) -> Question:
    """What a record's `question` says. Raises KeyError for a task of a later version."""
    return KINDS[task].model_validate(stored)


def read_result(task: str, stored: Mapping[str, Any]) -> Result:
    """What a record's `result` says. Raises KeyError for a task of a later version."""
    return RESULTS[task].model_validate(stored)


def cost_of_question(question: Question) -> float:
    """What it takes from other jobs, in megapixel steps. Little, but not nothing."""
    return COST_OF_ONE * (len(question.pictures) + len(question.words))


def no_picture(question: Question) -> JobSpec:
    """The spec of a job that draws nothing, for gateways of before version 6, which know no other jobs and list all.

    Their lists show the texts as its prompt, and no picture.
    """
    return JobSpec(
        model=question.model,
        prompt="\n".join(question.words)[:MAX_PROMPT],
        width=1,
        height=1,
        num_inference_steps=0,
        guidance_scale=0.0,
        scheduler="",
        seed=0,
        num_images=0,
        output_format="png",
    )
