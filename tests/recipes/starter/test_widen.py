"""A finished model gets more latent channels: what it knew must not move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.starter import adopt, autoencoder, networks, tokens, train_decoder, train_unet, widen
from recipes.starter.assemble import pipeline
from recipes.starter.autoencoder import Components
from recipes.starter.compose import Composer
from recipes.starter.networks import TINY
from recipes.starter.stream import SQUARE
from tests.recipes.starter.conftest import options


@pytest.fixture(scope="module")
def rows(composer: Composer) -> torch.Tensor:
    return autoencoder.patches(train_decoder.sample_pictures(composer, 12, seed=1, buckets=SQUARE))


@pytest.fixture(scope="module")
def parts(rows: torch.Tensor) -> Components:
    """Of the first rows only, as an older world has other statistics."""
    return autoencoder.fit_patches(rows[: len(rows) // 3], 4)


def test_the_old_components_stay_and_the_new_ones_see_the_rest(parts: Components, rows: torch.Tensor) -> None:
    wide = widen.extended(parts, rows, 6)
    before, after = ((rows - some.mean) @ some.basis for some in (parts, wide))
    torch.testing.assert_close(after[:, :4], before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after[:, 4:].mean(0), torch.zeros(2), atol=1e-2, rtol=0)
    torch.testing.assert_close(after[:, 4:].std(0), torch.ones(2), atol=1e-2, rtol=0)
    lost = [
        (rows - some.mean - values @ torch.linalg.pinv(some.basis)).square().mean()
        for some, values in ((parts, before), (wide, after))
    ]
    assert lost[1] < lost[0]


def test_fewer_channels_are_refused(parts: Components, rows: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="4 latent channels already"):
        widen.extended(parts, rows, 4)


def test_the_wide_unet_predicts_what_the_narrow_one_did() -> None:
    torch.manual_seed(0)
    narrow = networks.unet(TINY).eval()
    wide = widen.widened(narrow, 6).eval()
    x, context = torch.randn(2, 6, 8, 8), torch.randn(2, 5, TINY.text_width)
    t = torch.tensor([3, 900])
    with torch.no_grad():
        known, seen = narrow(x[:, :4], t, context).sample, wide(x, t, context).sample
    torch.testing.assert_close(seen[:, :4], known)
    assert not seen[:, 4:].any()


BIGGER = replace(TINY, decoder_width=12, decoder_blocks=(2, 1, 0, 0))


def test_the_grown_decoder_shows_what_the_small_one_did(parts: Components, rows: torch.Tensor) -> None:
    torch.manual_seed(0)
    small = autoencoder.build(parts, TINY)
    big = autoencoder.build(widen.extended(parts, rows, 6), BIGGER)
    widen.grown(small.decoder, big.decoder)
    latents = torch.randn(2, 6, 8, 8)
    latents[:, 4:] = 0
    with torch.no_grad():
        torch.testing.assert_close(big.decoder(latents), small.decoder(latents[:, :4]))
        latents[:, 4:] = 1
        torch.testing.assert_close(
            big.decoder(latents), small.decoder(latents[:, :4]), msg="new channels are not heard"
        )


@pytest.mark.parametrize(
    "shape", [{"decoder_width": 6}, {"decoder_blocks": (1, 0, 0, 0)}, {"decoder_blocks": (1, 1, 1, 0)}]
)
def test_a_decoder_that_cannot_hold_the_old_one_is_refused(parts: Components, shape: dict[str, Any]) -> None:
    old, new = autoencoder.build(parts, TINY), autoencoder.build(parts, replace(TINY, **shape))
    with pytest.raises(ValueError, match="new decoder"):
        widen.grown(old.decoder, new.decoder)


@pytest.fixture
def model(tmp_path: Path, parts: Components, tokenizer: Any) -> Path:
    """A pipeline's folder, as `assemble` writes one, of random weights."""
    made = pipeline(
        tokenizer=tokenizer,
        text_encoder=networks.text_encoder(tokenizer, TINY),
        unet=networks.unet(TINY),
        vae=autoencoder.build(parts, TINY),
    )
    made.save_pretrained(tmp_path / "model", safe_serialization=True)
    tokens.save(tokenizer, tmp_path / "model" / "tokenizer")
    return tmp_path / "model"


@pytest.mark.usefixtures("short_sheet")
def test_training_goes_on_from_a_wide_model_in_bfloat16(model: Path, tmp_path: Path, composer: Composer) -> None:
    work = tmp_path / "work"
    widen.widen(model, work, 6, composer, sizes=BIGGER, buckets=SQUARE)
    chosen = options(work, steps=2, bfloat16=True)
    train_decoder.train(chosen, composer, buckets=SQUARE, start=work / "start")
    stored = autoencoder.load_components(work / "components.safetensors")
    assert stored.basis.shape == (autoencoder.VALUES, 6)
    progress = train_unet.train(chosen, composer, buckets=SQUARE, start=work / "start")
    assert progress.samples == 8
    assert adopt.networks_of(work / "start")[1].config.in_channels == 6


@pytest.mark.usefixtures("short_sheet")
def test_pictures_are_drawn_and_encoded_in_float32(
    model: Path, tmp_path: Path, composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coordinates in bfloat16 would put the corners of things on wrong pixels."""
    seen: dict[bool, torch.Tensor] = {}
    for half in (False, True):

        def loss(self: Any, latents: torch.Tensor, *_: Any, half: bool = half) -> torch.Tensor:
            seen[half] = latents
            return self.unet.conv_in.weight.square().sum()

        monkeypatch.setattr(train_unet.Model, "loss", loss)
        chosen = options(tmp_path / str(half), steps=1, bfloat16=half)
        train_unet.train(chosen, composer, buckets=SQUARE, start=model)
    assert torch.equal(seen[False], seen[True])
