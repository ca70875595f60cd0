"""Requests with random combinations of all that a model takes, written as clients write them and let in as the gateway
lets them in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from app.contract.messages.card import ModelCard
from app.contract.messages.from_pictures import references_of
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import PARAMETERS, JobSpec, pictures_of
from app.contract.messages.urgency import Priority
from tests.engine.pictures import half_mask, named, picture
from worker.engine.request import Request

SIDES = ((64, 64), (96, 64), (64, 96), (40, 52))
"""Width and height of the pictures that come in."""

PROMPTS = (
    "a red circle",
    "a (red:1.3) circle BREAK a [green] star",
    "a cat-toy in the snow, bad_hands.v2",
    "((very)) long: " + "a red circle and a blue star, " * 10,
    "a red circle <lora:ink:0.5>",
)
NEGATIVE = ("blurry", "", "a (dog:1.4), bad_hands.v2", "red " * 40)


def _of_sides(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.ascontiguousarray(pixels[:height, :width])


def _see_through(pixels: np.ndarray) -> np.ndarray:
    return np.dstack(
        [pixels, np.linspace(60, 255, pixels.shape[0]).astype(np.uint8)[:, None].repeat(pixels.shape[1], 1)]
    )


_PICTURES = [_of_sides(picture(side=96, seed=k), *sides) for k, sides in enumerate(SIDES)]
_PICTURES[2] = _see_through(_PICTURES[2])
_MASKS = [_of_sides(half_mask(side=96), *sides) for sides in SIDES]
PIXELS = {named(each).sha256: each for each in (*_PICTURES, *_MASKS)}


def reference(pixels: np.ndarray) -> dict[str, Any]:
    return {"sha256": named(pixels).sha256}


ANNOUNCED = {name for name, parameter in PARAMETERS.items() if parameter.announced}
"""Parameters that not every model takes."""


class Refused(Exception):
    """The service would answer with 422."""


def accepted(body: dict[str, Any], card: ModelCard) -> JobSpec:
    """The job that the service makes of it. Raises Refused."""
    try:
        request = JobRequest.model_validate(body)
        return resolve(request, card, {at: named(PIXELS[each.sha256]) for at, each in references_of(request)})
    except (ValidationError, ParamsRejected) as reason:
        raise Refused(str(reason)) from reason


def request_of(id: str, spec: JobSpec, *, priority: Priority = "interactive") -> Request:
    pixels = {each.sha256: PIXELS[each.sha256] for each in pictures_of(spec)}
    return Request.of(id, spec, pixels, priority=priority)


@dataclass(frozen=True)
class Bodies:
    """Of requests of one model. Most of them are accepted."""

    card: ModelCard
    chance: random.Random

    def __call__(self) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": self._one(PROMPTS), "seed": self._one((0, 7, 2**40 + 3, 2**63 - 70))}
        parts = (self._plain, self._sides, self._edit, self._control, self._loras, self._sizes, self._points)
        for part in (*parts, self._fewer, self._series, self._looks):
            body |= part(body)
        return {name: value for name, value in body.items() if name not in ANNOUNCED or name in self.card.takes}

    def _one(self, of: Sequence[Any]) -> Any:
        return self.chance.choice(of)

    def _maybe(self, likely: float, name: str, of: Sequence[Any]) -> dict[str, Any]:
        """That field, if chance will have it."""
        return {name: self._one(of)} if self.chance.random() < likely else {}

    def _plain(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "num_inference_steps": self._one((1, 2, 3, 4, 4, 5, 6, 7)),
            "scheduler": self._one(self.card.schedulers),
            **self._maybe(0.8, "guidance_scale", (0, 1, 1.5, 3, 5)),
            **self._maybe(0.5, "negative_prompt", NEGATIVE),
            **self._maybe(0.2, "guidance_rescale", (0.3, 1)),
            **self._maybe(0.4, "prompt_syntax", ("a1111",)),
            **self._maybe(0.3 * bool(self.card.max_clip_skip), "clip_skip", (1, self.card.max_clip_skip)),
            **self._maybe(0.6, "reproducible", (True,)),
            **self._maybe(0.2, "output_format", ("jpeg", "webp")),
        }

    def _sides(self, body: dict[str, Any]) -> dict[str, Any]:
        unit = self.card.side_multiple
        sides = [side // unit * unit for side in (32, 48, 52, 64, 84) if side >= max(unit, self.card.min_side)]
        if self.chance.random() < 0.3:
            return {"width": self._one(sides), "height": self._one(sides)}
        return self._maybe(0.1, "aspect_ratio", ("16:9", "1:1"))

    def _edit(self, body: dict[str, Any]) -> dict[str, Any]:
        only = self.card.tasks == ("inpainting",)
        which = self.chance.randrange(len(_PICTURES))
        edit = self._maybe(1 if only else 0.4, "image", [reference(_PICTURES[which])])
        if not edit:
            return {}
        edit |= self._maybe(0.7, "strength", (0.2, 0.35, 0.5, 0.8, 1))
        edit |= self._maybe(1 if only else 0.5, "mask_image", [reference(_MASKS[which])])
        return edit | (self._maybe(0.3, "mask_blur", (1, 4.5)) if "mask_image" in edit else {})

    def _control(self, body: dict[str, Any]) -> dict[str, Any]:
        def one() -> dict[str, Any]:
            return {
                "model": self._one(self.card.controls).name,
                "image": reference(self._one(_PICTURES)),
                **self._maybe(0.6, "scale", (0, 0.5, 1.3)),
                **self._maybe(0.5, "start", (0, 0.2, 0.5)),
                **self._maybe(0.5, "end", (0.6, 0.8, 1)),
            }

        return self._several(0.35, "control", one)

    def _loras(self, body: dict[str, Any]) -> dict[str, Any]:
        def one() -> dict[str, Any]:
            return {"name": self._one(self.card.loras).name, "weight": self._one((-0.5, 0, 0.4, 1))}

        return self._several(0.4, "loras", one)

    def _several(self, likely: float, name: str, one: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        wanted = name in self.card.takes and self.chance.random() < likely
        return {name: [one() for _ in range(self._one((1, 1, 2, 3)))]} if wanted else {}

    def _sizes(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._maybe(0.2, "original_size", ([64, 128], [512, 128])),
            **self._maybe(0.2, "crops_coords_top_left", ([0, 7], [5, 7])),
            **self._maybe(0.2, "target_size", ([96, 64], [96, 1024])),
        }

    def _points(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.card.embedding_dimensions is None:
            return {}
        prior = {"num_inference_steps": self._one((1, 2, 3)), **self._maybe(0.5, "guidance_scale", (0, 1, 3))}
        points = {
            **self._maybe(0.8, "prior", [prior]),
            **self._maybe(0.4, "noise_level", (1, 50, self.card.max_noise_level)),
            **self._maybe(0.6 if "text-to-image" in self.card.tasks else 1, "image_embedding", [self._embedding()]),
            **self._maybe(0.25, "start", ("inverted",)),
        }
        if "start" in points and "start" in self.card.takes:
            of = {"of": reference(self._one(_PICTURES))}
            points |= {"scheduler": "ddim", "image_embedding": self._one([of, of | self._difference()])}
        return points | (self._maybe(0.4, "prompt", [""]) if "image_embedding" in points else {})

    def _embedding(self) -> dict[str, Any]:
        way = self._one(("point", "point", "slerp", "diff"))
        if way == "slerp":
            return {"slerp": [self._point(), self._point()], **self._places()}
        return self._point() | (self._difference() if way == "diff" else {})

    def _point(self) -> dict[str, Any]:
        ways = [{"of": reference(self._one(_PICTURES))}, {"text": self._one(PROMPTS[:2])}]
        numbers = [self.chance.gauss(0, 1) for _ in range(self.card.embedding_dimensions or 0)]
        return self._one([*ways, {"vector": numbers}])  # type: ignore[no-any-return]

    def _difference(self) -> dict[str, Any]:
        if self.card.prior_num_inference_steps is None:
            return {}
        return {"diff": {"from": "a red circle", "to": "a blue star"}, **self._places()}

    def _places(self) -> dict[str, Any]:
        return {"at": [self._one((0, 0.3, 0.5, 1)) for _ in range(self._one((1, 2, 3)))]}

    def _fewer(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("start") == "inverted":
            return {}
        cache = {} if body.get("control") else self._maybe(0.35, "cache", [{"interval": n} for n in (1, 2, 3, 10)])
        return cache | self._maybe(0.35, "guidance_end", (0.01, 0.25, 0.5, 0.8, 0.99))

    def _series(self, body: dict[str, Any]) -> dict[str, Any]:
        if "at" in body.get("image_embedding", {}):
            return {}
        several = self._maybe(0.4, "num_images", (2, 3))
        return {
            **several,
            **self._maybe(0.25, "best_of", [several.get("num_images", 1) + more for more in (0, 1, 3)]),
            **self._maybe(0.12, "min_probability", (0.3, 0.5, 0.9)),
            **self._maybe(0.1, "expect", [["a star"]]),
        }

    def _looks(self, body: dict[str, Any]) -> dict[str, Any]:
        previews = self._maybe(0.3, "preview_every", (1, 2, 3, 20))
        kept = self._maybe(0.5, "keep_previews", (True,)) if previews else {}
        steps = self._maybe(
            0.3, "trajectory", ({}, {"every": 2}, {"show": ["estimate"]}, {"decode": "vae", "every": 3})
        )
        return previews | kept | steps
