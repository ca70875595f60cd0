"""The encoder is exactly what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipes.starter import autoencoder
from recipes.starter.autoencoder import LATENT_SCALE, Components
from recipes.starter.compose import Composer
from recipes.starter.networks import TINY
from recipes.starter.stream import BUCKETS
from recipes.starter.train_decoder import measure, sample_pictures


@pytest.fixture(scope="session")
def pictures(composer: Composer) -> torch.Tensor:
    return sample_pictures(composer, 12, seed=0, buckets=(BUCKETS[1],))


@pytest.fixture(scope="session")
def components(pictures: torch.Tensor) -> Components:
    return autoencoder.fit(pictures, TINY.latent_channels)


def numpy_patches(pictures: torch.Tensor) -> np.ndarray:
    """[n, 192] by slicing, row by row."""
    images = pictures.permute(0, 2, 3, 1).double().numpy()
    height, width = images.shape[1:3]
    corners = [(y, x) for y in range(0, height, 8) for x in range(0, width, 8)]
    return np.stack([image[y : y + 8, x : x + 8].reshape(-1) for image in images for y, x in corners])


def test_the_components_are_numpys(pictures: torch.Tensor, components: Components) -> None:
    rows = numpy_patches(pictures)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    order = values.argsort()[::-1][: TINY.latent_channels]
    expected = (rows - rows.mean(0)) @ (vectors[:, order] / np.sqrt(values[order]))
    found = autoencoder.encode(pictures, components).permute(0, 2, 3, 1).reshape(len(rows), -1).numpy()
    signs = np.sign((expected * found).sum(0))
    assert np.abs(expected * signs - found).max() < 2e-3
    assert found.std(0) == pytest.approx(1.0, abs=1e-3)


def test_the_convolutions_compute_the_components(pictures: torch.Tensor, components: Components) -> None:
    """Through diffusers' own encode, which takes pictures in -1..1."""
    vae = autoencoder.build(components, TINY)
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latents * vae.config.scaling_factor
    assert vae.config.scaling_factor == LATENT_SCALE
    assert (latents - autoencoder.encode(pictures, components)).abs().max() < 1e-4


def test_the_decoder_is_used_as_the_pipeline_uses_it(pictures: torch.Tensor, components: Components) -> None:
    vae = autoencoder.build(components, TINY)
    latents = autoencoder.encode(pictures, components)
    with torch.no_grad():
        stock = vae.decode(latents / vae.config.scaling_factor).sample
        assert torch.equal(autoencoder.decode(vae, latents), stock.add(1).div(2))


def test_the_linear_psnr_is_that_of_a_projection(pictures: torch.Tensor, components: Components) -> None:
    rows = numpy_patches(pictures)
    basis, mean = components.basis.double().numpy(), components.mean.double().numpy()
    rebuilt = (rows - mean) @ basis @ np.linalg.pinv(basis) + mean
    error = np.square(rebuilt.clip(0, 1) - rows).reshape(len(pictures), -1).mean(1)
    measured = measure(autoencoder.build(components, TINY), components, pictures)
    assert measured["psnr_linear"] == pytest.approx((-10 * np.log10(error)).mean(), abs=0.02)
    assert measured["psnr"] < measured["psnr_linear"], "a decoder of random weights cannot be better"


def test_psnr_knows_a_known_error() -> None:
    pictures = torch.full((2, 3, 8, 8), 0.5)
    assert autoencoder.psnr(pictures, pictures + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
