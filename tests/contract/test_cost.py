"""What a job is charged, in megapixel steps: what is drawn of it, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.inputs import AskedControl, ImageReference, InputPicture
from app.contract.messages.job import cost_of
from app.contract.messages.params import JobRequest, resolve

PICTURE = InputPicture(sha256="a" * 64, width=256, height=256, content_type="image/png")
IMAGE = ImageReference(sha256=PICTURE.sha256)


@pytest.fixture
def able(card: ModelCard) -> ModelCard:
    return card.model_copy(
        update={
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "takes": ("guidance_end", "cache", "image", "strength", "mask_image", "control"),
            "controls": (Adapter(name="canny"), Adapter(name="depth")),
            "max_controls": 2,
        }
    )


def cost(card: ModelCard, **asked: Any) -> float:
    """Of a guided picture of 256 x 256 pixels in 32 steps, unless it is said: four megapixel steps."""
    plain = {"prompt": "a", "width": 256, "height": 256, "num_inference_steps": 32, "guidance_scale": 4}
    pictures = dict.fromkeys(("/image", "/mask_image", "/control/0/image", "/control/1/image"), PICTURE)
    return cost_of(resolve(JobRequest(**plain | asked), card, pictures), card)


def guided_by(model: str, **more: Any) -> AskedControl:
    return AskedControl(model=model, image=IMAGE, **more)


def test_an_edit_is_charged_for_the_steps_that_it_draws(able: ModelCard) -> None:
    assert cost(able) == 4
    assert cost(able, image=IMAGE, strength=0.5) == 2
    assert cost(able, image=IMAGE, strength=0.3) == 4 * 9 / 32, "rounded down, as it is drawn"
    assert cost(able, image=IMAGE, mask_image=IMAGE) == 4, "with a mask it is all of them by default"


def test_a_model_that_takes_all_steps_is_charged_for_all(able: ModelCard) -> None:
    """Without classifier-free guidance: one row."""
    few = able.model_copy(update={"family": "LatentConsistencyModelPipeline", "classifier_free_guidance": False})
    assert cost(few, image=IMAGE, strength=0.5) == 2
    assert cost(few, image=IMAGE, mask_image=IMAGE, strength=0.5) == 1


def test_a_controlnet_is_charged_while_it_is_asked(able: ModelCard) -> None:
    assert cost(able, control=[guided_by("canny")]) == pytest.approx(4 * 1.35)
    assert cost(able, control=[guided_by("canny", end=0.5)]) == pytest.approx(4 * 1.175)
    assert cost(able, control=[guided_by("canny"), guided_by("depth")]) == pytest.approx(4 * 1.7)
    assert cost(able, control=[guided_by("canny", scale=0)]) == 4, "it is not asked"


def test_guidance_is_charged_while_there_is_some(able: ModelCard) -> None:
    assert cost(able, guidance_end=0.5) == 3
    assert cost(able, guidance_end=0.5, image=IMAGE, strength=0.5) == 1.5, "of what is left of the way"
    assert cost(able, guidance_end=0.5, guidance_scale=1) == 2
    assert cost(able.model_copy(update={"classifier_free_guidance": False}), guidance_end=0.5) == 2


def test_a_cache_is_charged_for_the_outermost_layers_in_between(able: ModelCard) -> None:
    assert cost(able, cache={"interval": 1}) == 4
    assert cost(able, cache={"interval": 2}) == pytest.approx(4 * (17 + 15 * 0.08) / 32)
    assert cost(able, cache={"interval": 4}, guidance_end=0.5) == pytest.approx(3 * (9 + 23 * 0.08) / 32)


@pytest.mark.parametrize("steps", [1, 2, 4, 9, 10, 31])
@pytest.mark.parametrize("interval", [2, 3, 10])
def test_a_cache_is_charged_for_as_many_whole_evaluations_as_a_seed_can_have(
    able: ModelCard, steps: int, interval: int
) -> None:
    """The first is whole, and after it every one of the seed's phase."""
    most = max(1 + sum(i % interval == phase for i in range(1, steps)) for phase in range(interval))
    asked = cost(able, cache={"interval": interval}, num_inference_steps=steps)
    assert asked == pytest.approx(cost(able, num_inference_steps=steps) * (most + (steps - most) * 0.08) / steps)
