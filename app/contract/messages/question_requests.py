"""Requests that have nothing drawn: how well texts fit pictures, and where texts and pictures lie.

Knows what a client may write, and how it becomes a question that leaves nothing open. Knows nothing of HTTP; the
pointers in its errors are JSON pointers into the body.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.contract.messages.card import ModelCard
from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.params import DRAWN_SEEDS, Metadata, ParamError, ParamsRejected, Webhook
from app.contract.messages.questions import MOST_NUMBERS, EmbedSpec, Question, ScoreSpec, Space, Task
from app.contract.messages.request_body import RequestBody
from app.contract.messages.spec import MAX_SEED
from app.contract.messages.texts import READABLE, VISIBLE, Name, Text
from app.contract.messages.urgency import UrgentBody

MOST_TEXTS: Final = 32
MOST_IMAGES: Final = 32
MOST_INPUTS: Final = 128
"""Texts and pictures of one request for embeddings."""

MOST_PICTURES: Final = 32
"""Of these: each is fetched, decoded and held in memory."""

PLACE: Final = "{}"

Pictures = Mapping[str, InputPicture]
"""What the references of a request mean, by their JSON pointers."""

Words = Annotated[Text, VISIBLE]


def _has_a_place(given: str) -> str:
    if given.count(PLACE) != 1:
        raise PydanticCustomError(
            "no_place", "must have the place {place} for the text, exactly once", {"place": PLACE}
        )
    return given


Template = Annotated[str, Field(max_length=256), READABLE, AfterValidator(_has_a_place)]


class QuestionRequest(UrgentBody):
    """What all of them have."""

    task: ClassVar[Task]

    model: Name | None = Field(
        default=None, description="One of GET /v1/models that has the task. Missing: the only one"
    )
    webhook: Webhook | None = None
    metadata: Metadata = Field(default_factory=dict, description="Your own notes, given back with the job")

    def references(self) -> Iterator[tuple[str, ImageReference]]:
        """Every picture that is named, with its JSON pointer."""
        raise NotImplementedError

    def question(self, card: ModelCard, pictures: Pictures) -> Question:
        """What is asked of the model. Raises ParamsRejected for what it cannot answer."""
        raise NotImplementedError


class ScoreRequest(QuestionRequest):
    """How well does each text fit each picture?"""

    task = "score"

    images: list[ImageReference] = Field(min_length=1, max_length=MOST_IMAGES)
    texts: list[Words] = Field(min_length=1, max_length=MOST_TEXTS)
    template: Template | None = Field(
        default=None, description="What each text is put into, at the place {}: `a photo of {}`. Missing: as it stands"
    )

    def references(self) -> Iterator[tuple[str, ImageReference]]:
        for at, reference in enumerate(self.images):
            yield f"/images/{at}", reference

    def question(self, card: ModelCard, pictures: Pictures) -> ScoreSpec:
        _refuse_task(card, "score")
        texts = tuple(in_template(self.template, text) for text in self.texts)
        images = tuple(pictures[pointer] for pointer, _ in self.references())
        return ScoreSpec(model=card.name, images=images, texts=texts)


class Item(RequestBody):
    """One input: a text, which may stand by itself, or a picture."""

    text: Words | None = None
    image: ImageReference | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise PydanticCustomError("not_one_input", "must be a text, or an object with image or text, one of them")
        return self


def _items(given: Any) -> Any:
    """Every input as an object. Token ids belong to a tokenizer of OpenAI's: to this model's they mean other words."""
    listed = [given] if isinstance(given, str | int) else given
    if not isinstance(listed, list):
        return given
    if any(isinstance(each, int | list) and not isinstance(each, bool) for each in listed):
        raise PydanticCustomError("tokens", "must be text: token ids of another tokenizer mean nothing to this model")
    return [{"text": each} if isinstance(each, str) else each for each in listed]


class EmbeddingsRequest(QuestionRequest):
    """Where does each text or picture lie?"""

    task = "embed"

    input: Annotated[
        list[Item],
        Field(min_length=1, max_length=MOST_INPUTS),
        BeforeValidator(
            _items,
            # Without maxItems: what tools make of it to go beyond is more than a body may have.
            json_schema_input_type=Words | Annotated[list[Words | Item], Field(min_length=1)],
        ),
    ] = Field(
        description=f'A text, or a list of texts and pictures, `{{"image": {{"job": …}}}}`: at most {MOST_INPUTS}'
    )
    dimensions: int | None = Field(
        default=None, ge=1, le=1_000_000, description="The model's own number; its vectors cannot be cut"
    )
    space: Space = Field(
        default="joint",
        description="image: a text's vector among pictures, as the prior of an unCLIP model has it, from `seed`",
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Of the prior. Missing: one is drawn")

    def references(self) -> Iterator[tuple[str, ImageReference]]:
        for at, item in enumerate(self.input):
            if item.image is not None:
                yield f"/input/{at}/image", item.image

    def question(self, card: ModelCard, pictures: Pictures) -> EmbedSpec:
        if errors := [*self._unfit(card)]:
            raise ParamsRejected(errors)
        given = tuple(item.text or pictures[f"/input/{at}/image"] for at, item in enumerate(self.input))
        return EmbedSpec(model=card.name, input=given, space=self.space, seed=self._drawn_seed())

    def _drawn_seed(self) -> int | None:
        if self.space == "joint":
            return None
        return secrets.randbelow(DRAWN_SEEDS) if self.seed is None else self.seed

    def _unfit(self, card: ModelCard) -> Iterator[ParamError]:
        _refuse_task(card, "embed")
        own, count = card.embedding_dimensions or 0, len(self.input)
        if self.dimensions not in (None, own):
            yield ParamError("/dimensions", "wrong_dimensions", f"must be {own}, as {card.name} has it, or be left out")
        if own * count > MOST_NUMBERS:
            most = MOST_NUMBERS // own
            yield ParamError("/input", "too_long", f"has {count} entries of {own} numbers; at most {most} at a time")
        if len([*self.references()]) > MOST_PICTURES:
            yield ParamError("/input", "too_long", f"has more than {MOST_PICTURES} pictures")
        if self.space == "joint" and self.seed is not None:
            yield ParamError("/seed", "needs_space", "goes with space image: nothing else here is drawn")
        if self.space == "image" and card.prior_num_inference_steps is None:
            yield ParamError(
                "/space", "not_taken", f"does not fit: {card.name} has no prior; leave it out, or name joint"
            )
        for pointer, _ in self.references() if self.space == "image" else ():
            yield ParamError(pointer, "not_taken", "is a picture already: space image is where texts are taken to")


def in_template(template: str | None, text: str) -> str:
    """The text, put into the template's place."""
    return text if template is None else template.replace(PLACE, text, 1)


def _refuse_task(card: ModelCard, task: Task) -> None:
    if not card.does(task):
        raise ParamsRejected([ParamError("/model", "task_unknown", task_unknown(card, task))])


def task_unknown(card: ModelCard, task: Task) -> str:
    """What to say to who asks something of a model that is there for something else."""
    does = ", ".join(card.tasks)
    if task != "draw":
        return f"does not {task}: {card.name} does {does}; GET /v1/models shows the tasks of each model"
    return f"draws nothing: {card.name} does {does}, by POST /v1/score and POST /v1/embeddings"
