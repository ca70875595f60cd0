"""Which points of the space of image embeddings a model can draw from, and which parameters mean nothing without them.

Knows a model's card. Refuses to know where pictures lie and how an embedding is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from app.contract.messages.card import ModelCard
from app.contract.messages.parameter import Fault
from app.contract.messages.spec import JobSpec, PictureSpec
from app.contract.messages.unclip import ImageEmbedding, Point, numbers_of

VARIATION: Final = "image-variation"
"""The task of a model that draws from pictures by their embedding."""

TEXT_TO_IMAGE: Final = "text-to-image"

INVERTIBLE: Final = ("ddim", "DDIMScheduler")
"""Schedulers that draw no noise and keep nothing: a picture can be carried back through them."""


def varies(card: ModelCard) -> bool:
    """A variation of a picture is drawn from its embedding, by a model that can."""
    return VARIATION in card.tasks and "image_embedding" in card.takes


def unfit_points(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    """What the model cannot draw from, or what would have no effect."""
    asked = spec.image_embedding
    if asked is None:
        if TEXT_TO_IMAGE not in card.tasks and VARIATION in card.tasks:
            detail = f"is what {card.name} draws from: name a picture in image_embedding.of"
            yield "/image_embedding", "missing", detail
    else:
        yield from _unfit_asked(asked, card)
        if asked.at is not None and spec.most_drawn > len(asked.at):
            name = "best_of" if spec.drawn > spec.num_images else "min_probability"
            yield f"/{name}", "no_choice", "goes without image_embedding.at: each place is drawn once, and wanted"
        if spec.is_judged and not (spec.expect or spec.prompt):
            name = "min_probability" if spec.best_of is None else "best_of"
            yield f"/{name}", "nothing_expected", "needs expect, or a prompt: the words that the pictures are to fit"
    goes_through_prior = asked is None or any(point.text is not None for point in asked.points)
    yield from _unfit_prior(spec, card, used=goes_through_prior)
    if spec.noise_level > card.max_noise_level:
        yield "/noise_level", "out_of_range", f"must be 0 to {card.max_noise_level} with this model"
    if spec.start == "inverted":
        yield from _unfit_inversion(spec)


def _unfit_asked(asked: ImageEmbedding, card: ModelCard) -> Iterator[Fault]:
    for at, point in enumerate(asked.points):
        yield from _unfit_point(point, "/image_embedding" + ("" if asked.slerp is None else f"/slerp/{at}"), card)
    if asked.diff is not None:
        if card.prior_num_inference_steps is None:
            detail = f"needs a prior, whose text encoder shares the space of pictures, and {card.name} has none"
            yield "/image_embedding/diff", "no_prior", detail
        if asked.diff.before == asked.diff.to:
            yield "/image_embedding/diff/to", "no_difference", "is the same text as from: there is no way between them"


def _unfit_point(point: Point, pointer: str, card: ModelCard) -> Iterator[Fault]:
    if point.of is not None and VARIATION not in card.tasks:
        yield f"{pointer}/of", "no_image_encoder", f"needs a model with an image encoder; {card.name} has none"
    if point.text is not None and card.prior_num_inference_steps is None:
        yield f"{pointer}/text", "no_prior", f"goes through a prior, and {card.name} has none: name a picture with of"
    if point.vector is not None and (numbers := len(numbers_of(point.vector))) != card.embedding_dimensions:
        detail = f"must have {card.embedding_dimensions} numbers with this model, not {numbers}"
        yield f"{pointer}/vector", "wrong_length", detail


def _unfit_prior(spec: PictureSpec, card: ModelCard, *, used: bool) -> Iterator[Fault]:
    if spec.prior is None:
        return
    if not used:
        yield "/prior", "no_effect", "counts only where a text goes through the prior: image_embedding names none"
    fewest, steps = card.prior_min_steps, spec.prior.num_inference_steps
    if steps is not None and not fewest <= steps <= card.max_steps:
        yield "/prior/num_inference_steps", "out_of_range", f"must be {fewest} to {card.max_steps}"


def _unfit_inversion(spec: PictureSpec) -> Iterator[Fault]:
    if spec.image_embedding is None or spec.image_embedding.of is None:
        yield "/start", "needs_picture", "inverted goes with image_embedding.of: the picture that is carried back"
    if spec.scheduler not in INVERTIBLE:
        detail = f"must be {INVERTIBLE[0]} with start inverted: no other way can be walked back"
        yield "/scheduler", "not_invertible", detail
