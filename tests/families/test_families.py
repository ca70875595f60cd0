"""The seams between engine and networks: how rows enter a UNet; and no model is loaded that nobody can draw with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny_models import (
    EMBEDDING,
    save_tiny_lcm,
    save_tiny_model,
    save_tiny_unclip,
    save_tiny_variation,
    save_tiny_xl,
    sdxl_unet,
)
from worker.engine.flops import row_flops
from worker.engine.rows import Mode
from worker.families.choose import FAMILIES, family_of
from worker.families.unet import UNet
from worker.models.bundle import load
from worker.models.pipelines import PIPELINES
from worker.models.quiet import quiet_libraries

CPU = torch.device("cpu")


def test_every_pipeline_that_is_loaded_has_a_family() -> None:
    assert FAMILIES.keys() == PIPELINES.keys()


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        ("sd", {"encoder_hidden_states": (32, 32)}),
        ("lcm", {"encoder_hidden_states": (32, 32), "timestep_cond": (24,)}),
        ("xl", {"encoder_hidden_states": (32, 64), "text_embeds": (16,), "time_ids": (6,)}),
        ("unclip", {"encoder_hidden_states": (32, 32), "class_labels": (2 * EMBEDDING,)}),
        ("variation", {"encoder_hidden_states": (1, EMBEDDING)}),
    ],
)
def test_the_rows_of_a_family(tmp_path: Path, kind: str, signature: dict[str, tuple[int, ...]]) -> None:
    """Names and shapes, as the UNets of tiny models want them. Another release of diffusers may want others."""
    plain = partial(save_tiny_model, prediction_type="epsilon")
    others = {"xl": save_tiny_xl, "unclip": save_tiny_unclip, "variation": save_tiny_variation}
    save = {"sd": plain, "lcm": save_tiny_lcm, **others}[kind]
    with quiet_libraries():
        bundle = load(save(tmp_path / kind))
    native = family_of(bundle).native
    assert dict(native.conditioning) == signature
    assert native.latent_shape == bundle.latent_shape(bundle.defaults.height, bundle.defaults.width)
    assert (native.denoiser.dtype, native.mode) == (torch.float32, Mode.SHARED)


class Listening:
    """Answers with twice as many channels as it is given, and keeps what it was called with."""

    def __init__(self) -> None:
        self.heard: dict[str, Any] = {}

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        self.heard = options | {"x": x, "t": t}
        return (torch.cat([x + 1, x - 1], 1),)


@pytest.fixture
def network() -> Listening:
    return Listening()


def test_rows_enter_as_the_networks_own_arguments(network: Listening) -> None:
    """Those that diffusers wants in a mapping of their own are put there, and no such mapping is sent without need."""
    x, t = torch.zeros(1, 4, 2, 2), torch.tensor([3.0])
    denoiser = UNet(network, dtype=torch.float16, device=CPU)
    denoiser(x, t, {"encoder_hidden_states": t, "timestep_cond": t})
    assert network.heard.keys() == {"x", "t", "encoder_hidden_states", "timestep_cond", "return_dict"}
    assert network.heard["x"].dtype == torch.float16
    denoiser(x, t, {"encoder_hidden_states": t, "text_embeds": t, "time_ids": t})
    assert network.heard["added_cond_kwargs"].keys() == {"text_embeds", "time_ids"}


def test_a_variance_that_is_predicted_as_well_comes_behind(network: Listening) -> None:
    x = torch.zeros(2, 4, 2, 2)
    output = UNet(network, dtype=torch.float32, device=CPU)(x, torch.zeros(2), {})
    assert torch.equal(output, torch.cat([x + 1, x - 1], 1))


def test_operations_are_counted_through_the_denoiser_and_no_weight_is_copied() -> None:
    """Four times the latents cost about four times as much; the weights stay where and what they are."""
    denoiser = UNet(sdxl_unet(), dtype=torch.float32, device=CPU)
    rows = {
        "encoder_hidden_states": torch.Size((7, 32)),
        "text_embeds": torch.Size((16,)),
        "time_ids": torch.Size((6,)),
    }
    small, large = (
        row_flops(denoiser, (4, side, side), {name: torch.Size(size) for name, size in rows.items()})
        for side in (8, 16)
    )
    assert 3 < large / small < 6
    assert all(weight.device == CPU for weight in denoiser.parameters())
