"""Train the decoder: `python -m recipes.starter.train_decoder --minutes 5`.

The encoder is fitted, not trained (see `autoencoder`). The decoder sees latents with a little noise, because those that
the UNet will hand it are never quite right. Leaves `vae/` and `components.safetensors` in the work folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from recipes.starter import adopt, autoencoder, sprites, training
from recipes.starter.autoencoder import Components
from recipes.starter.compose import Composer
from recipes.starter.networks import FULL, Sizes
from recipes.starter.stream import BUCKETS, NATIVE, Bucket, PlanStream, batches

LATENT_NOISE = 0.15
LEARNING_RATE = 1.5e-3
FIT_ROWS = 384
VALIDATION_SEED, VALIDATION_ROWS = 987_654, 96


def components(path: Path, composer: Composer, sizes: Sizes, buckets: Sequence[Bucket]) -> Components:
    """Those of an earlier call, else fitted on one batch of each size of picture and kept."""
    if path.is_file():
        return autoencoder.load_components(path)
    fitted = autoencoder.fit_patches(sample_patches(composer, buckets), sizes.latent_channels)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"mean": fitted.mean.cpu(), "basis": fitted.basis.cpu().contiguous()}, path)
    return Components(fitted.mean.cpu(), fitted.basis.cpu())


def sample_patches(composer: Composer, buckets: Sequence[Bucket]) -> torch.Tensor:
    """Patches [n, 192] of FIT_ROWS at 128 x 128 of each size of picture, always the same."""
    pictures = (
        sample_pictures(composer, FIT_ROWS, seed=number, buckets=(bucket,)) for number, bucket in enumerate(buckets)
    )
    return torch.cat([autoencoder.patches(batch) for batch in pictures])


def sample_pictures(composer: Composer, rows: int, *, seed: int, buckets: Sequence[Bucket]) -> torch.Tensor:
    stream = PlanStream(composer.sprites.names, rows=rows, seed=seed, buckets=buckets)
    return composer.draw(next(iter(stream)).packed)


def loss_of(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """L1 and MSE for colours, L1 of the gradients for edges; pictures are 0..1, the terms are weighed for -1..1."""
    error = 2 * (decoded - pictures)
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * (across.abs().mean() + down.abs().mean())


def measure(vae: Any, parts: Components, pictures: torch.Tensor) -> dict[str, float]:
    """Mean PSNR in dB of the decoder, and of the components alone."""
    with torch.no_grad():
        latents = autoencoder.encode(pictures, parts)
        decoded = autoencoder.decode(vae, latents)
        inverse = torch.linalg.pinv(parts.basis)
        linear = F.fold(
            (latents.flatten(2).transpose(1, 2) @ inverse + parts.mean).transpose(1, 2)[:, _channels_first()],
            pictures.shape[-2:],
            autoencoder.PATCH,
            stride=autoencoder.PATCH,
        )
        scores = (autoencoder.psnr(pictures, picture).mean().item() for picture in (decoded, linear))
        return dict(zip(("psnr", "psnr_linear"), (round(score, 2) for score in scores), strict=True))


def _channels_first() -> torch.Tensor:
    """From row, column, channel to the order that fold has."""
    return torch.arange(autoencoder.VALUES).view(-1, 3).T.reshape(-1)


def train(
    options: argparse.Namespace,
    composer: Composer,
    *,
    sizes: Sizes = FULL,
    buckets: Sequence[Bucket] = BUCKETS,
    start: Path | None = None,
    learning_rate: float = LEARNING_RATE,
) -> dict[str, float]:
    """Train within the budget of `options`; the measured PSNR.

    `start` is a model folder whose autoencoder is gone on with, instead of `sizes`; its encoder stays as it is.
    """
    training.prepare_device(options.device)
    device = torch.device(options.device)
    if start:
        adopt.adopt(start, options.work)
    parts = components(options.work / "components.safetensors", composer, sizes, buckets)
    vae = adopt.autoencoder_of(start) if start else autoencoder.build(parts, sizes)
    vae.to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    parts = parts.to(device)
    trainer = training.Trainer(
        options.work / "train_decoder",
        {"decoder": vae.decoder},
        learning_rate=learning_rate,
        decay=0.998,
        options=options,
    )
    decoder = torch.compile(vae.decoder) if options.compile else vae.decoder
    seed = options.seed + trainer.progress.samples
    chance = torch.Generator(device).manual_seed(seed)
    stream = PlanStream(composer.sprites.names, rows=options.rows, seed=seed, buckets=buckets)
    for batch in batches(stream, processes=options.processes):
        if not trainer.going_on:
            break
        pictures = composer.draw(batch.packed)
        latents = autoencoder.encode(pictures, parts)
        noise = torch.randn(latents.shape, generator=chance, device=device)
        level = torch.rand(len(latents), 1, 1, 1, generator=chance, device=device) * LATENT_NOISE
        with trainer.autocast():
            seen = ((latents + level * noise) / autoencoder.LATENT_SCALE).contiguous(memory_format=torch.channels_last)
            decoded = decoder(seen)
        trainer.step(loss_of(decoded.float().add(1).div(2), pictures), len(pictures))
    trainer.finish()
    vae.save_pretrained(options.work / "vae")
    native = (Bucket(NATIVE, NATIVE, 1.0),)
    validation = sample_pictures(composer, VALIDATION_ROWS, seed=VALIDATION_SEED, buckets=native)
    measured = measure(vae, parts, validation)
    (options.work / "vae.json").write_text(json.dumps(measured) + "\n")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_arguments(parser, minutes=5, rows=96)
    parser.add_argument("--start", type=Path, help="model folder to go on from, with a fresh optimiser")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="at its highest")
    options = training.parse(parser)
    composer = Composer(sprites.load(options.work / "sprites.npz"), device=options.device)
    print(train(options, composer, start=options.start, learning_rate=options.learning_rate))


if __name__ == "__main__":
    main()
