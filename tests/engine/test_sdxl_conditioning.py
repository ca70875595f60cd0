"""What SDXL reads beside the prompt: the sizes that a request may say, and no negative prompt or an empty one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.engine.driving import distance, final_latents, prepared, stock, wish
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_models import SIDE
from worker.engine.request import Request
from worker.families.latent_diffusion import CONTEXT
from worker.models.bundle import Bundle

SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"original_size": (SIDE // 2, SIDE)},
    {"crops_coords_top_left": (8, 24)},
    {"target_size": (4 * SIDE, 2 * SIDE)},
    {"original_size": (512, 768), "crops_coords_top_left": (0, 7), "target_size": (1024, 1000)},
)


def in_company_as_alone(bundle: Bundle, *requests: Request) -> None:
    """All at once, each is what the stock pipeline makes of it."""
    together = final_latents(bundle, *requests)
    assert len(together) == len(requests)
    for asked in requests:
        expected = stock(bundle, asked, output_type="latent")
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, asked.id


def test_sizes_in_company_are_the_stock_pipelines(xl_bundle: Bundle) -> None:
    requests = [
        wish(str(k), seed=k, num_inference_steps=3 + k % 2, guidance_scale=(5.0, 1.0)[k % 2], **sizes)
        for k, sizes in enumerate(SIZES)
    ]
    in_company_as_alone(xl_bundle, *requests)


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_sizes_reach_the_picture(xl_bundle: Bundle, sizes: dict[str, Any]) -> None:
    told, untold = (final_latents(xl_bundle, wish(**said))[0] for said in (sizes, {}))
    assert distance(told, untold) > 10 * IN_COMPANY


def test_sizes_are_numbers_of_the_row_in_diffusers_order(xl_bundle: Bundle) -> None:
    for request, expected in zip(
        prepared(xl_bundle, *(wish(str(k), **sizes) for k, sizes in enumerate(SIZES))),
        (
            [SIDE, SIDE, 0, 0, SIDE, SIDE],
            [SIDE // 2, SIDE, 0, 0, SIDE, SIDE],
            [SIDE, SIDE, 8, 24, SIDE, SIDE],
            [SIDE, SIDE, 0, 0, 4 * SIDE, 2 * SIDE],
            [512, 768, 0, 7, 1024, 1000],
        ),
        strict=True,
    ):
        rows = request.passes[0].rows
        assert rows.conditional["time_ids"].tolist() == rows.unconditional["time_ids"].tolist() == expected


@pytest.mark.parametrize("zeros", [True, False])
def test_a_missing_negative_prompt_and_an_empty_one_are_the_stock_pipelines(xl_bundle: Bundle, zeros: bool) -> None:
    """Whose None is zeros where the folder says so, and whose "" is read."""
    bundle = dataclasses.replace(xl_bundle, force_zeros_for_empty_prompt=zeros)
    negatives = (None, "", "a dog")
    in_company_as_alone(bundle, *(wish(str(k), negative_prompt=each) for k, each in enumerate(negatives)))
    missing, empty, said = (
        request.passes[0].rows.unconditional
        for request in prepared(bundle, *(wish(str(k), negative_prompt=each) for k, each in enumerate(negatives)))
    )
    assert empty[CONTEXT].any()
    assert torch.equal(missing[CONTEXT], torch.zeros_like(empty[CONTEXT]) if zeros else empty[CONTEXT])
    assert distance(said[CONTEXT], empty[CONTEXT]) > 1e-2
