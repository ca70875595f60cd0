"""UNets trained for inpainting: the mask and the picture without what is repainted are channels of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.driving import distance, final_latents, run, stock, wish
from tests.engine.driving import engine_of as Engine
from tests.engine.pictures import box_mask, edit, half_mask, picture
from tests.engine.test_edits import together
from tests.engine.test_equation import ALONE, IN_COMPANY
from tests.engine.tiny_models import SD2, save_tiny_inpainting, save_tiny_xl
from worker.engine.events import Failed
from worker.families.choose import family_of
from worker.models.announced import describe
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

REQUESTS = [
    edit("a", picture(), half_mask(), strength=1.0, scheduler="euler_a", num_inference_steps=5, seed=1),
    edit("b", picture(seed=1), box_mask(), strength=0.6, scheduler="dpmpp_2m", guidance_scale=1.0, seed=2),
    edit("c", picture(seed=2), box_mask(), strength=0.9, scheduler="ddim", num_inference_steps=4, mask_blur=5, seed=3),
    edit("d", picture(seed=3), half_mask(), strength=1.0, scheduler="unipc", guidance_scale=8.0, seed=4),
]


MODELS: dict[str, Callable[[Path], Path]] = {
    "1.x": save_tiny_inpainting,
    "2.x": lambda folder: save_tiny_inpainting(folder, unet=SD2),
    "xl": lambda folder: save_tiny_xl(folder, in_channels=9),
}


@pytest.fixture(scope="module", params=MODELS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny-inpainting"
    with quiet_libraries():
        return load(MODELS[request.param](folder))


def test_they_repaint_in_one_batch_as_their_stock_pipeline_does(bundle: Bundle) -> None:
    drawn = together(bundle, REQUESTS)
    assert len(drawn) == len(REQUESTS)
    for each in REQUESTS:
        expected = stock(bundle, each, output_type="latent")
        assert min(distance(latents, expected) for latents in drawn) <= IN_COMPANY, each.id
        [alone] = final_latents(bundle, each)
        assert distance(alone, expected) <= ALONE


def test_the_mask_and_the_picture_reach_the_network(bundle: Bundle) -> None:
    """Were they dropped, the stock pipeline might drop them as well."""
    asked = REQUESTS[0]
    changed = [
        edit("mask", picture(), box_mask(), strength=1.0, scheduler="euler_a", num_inference_steps=5, seed=1),
        edit("picture", picture(seed=9), half_mask(), strength=1.0, scheduler="euler_a", num_inference_steps=5, seed=1),
    ]
    [latents] = final_latents(bundle, asked)
    for each in changed:
        [others] = final_latents(bundle, each)
        assert distance(latents, others) > 10 * ALONE, each.id


def test_what_is_no_inpainting_is_refused_with_what_is_missing(bundle: Bundle) -> None:
    last = run(Engine(bundle), wish("text"), edit("no mask", picture(), strength=0.5))
    for event in last.values():
        assert isinstance(event, Failed)
        assert event.error.detail == "This model only repaints: it needs an image and a mask_image."


def test_they_are_announced_with_what_they_do(bundle: Bundle) -> None:
    card = describe(bundle, seats=1, limits={})
    assert card.tasks == ("inpainting",)
    assert {"image", "strength", "mask_image", "mask_blur"} <= set(card.takes)


def test_warm_up_knows_their_rows(bundle: Bundle) -> None:
    native = family_of(bundle).native
    channels, height, width = native.latent_shape
    assert channels == 4
    shapes = {name: shape for name, shape in native.conditioning if "mask" in name}
    assert shapes == {
        "mask": torch.Size((1, height, width)),
        "masked_image_latents": torch.Size((channels, height, width)),
    }
    assert Engine(bundle).warm_up(seconds=0.1).row_cost > 0


def test_a_model_that_only_might_repaint_does_everything(epsilon_bundle: Bundle) -> None:
    """A plain UNet under the inpainting pipeline's name."""
    named = dataclasses.replace(epsilon_bundle, family="StableDiffusionInpaintPipeline")
    assert named.tasks == epsilon_bundle.tasks == ("text-to-image", "image-to-image", "inpainting")
    [latents] = final_latents(named, wish())
    assert distance(latents, stock(epsilon_bundle, wish(), output_type="latent")) <= ALONE
