"""Train text encoder and UNet together: `python -m recipes.starter.train_unet --minutes 15`.

Pictures are composed and encoded on the device, batch by batch; one in ten has lost its caption, for classifier-free
guidance (Ho and Salimans 2022, arXiv 2207.12598). Needs `components.safetensors`, `tokenizer/` and `vae/` in the work
folder; leaves `unet/` and `text_encoder/` with the averaged weights, sheets of samples and the loss curve.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from recipes.starter import adopt, autoencoder, diffusion, networks, sprites, tokens, training
from recipes.starter.autoencoder import PATCH, Components
from recipes.starter.compose import Composer
from recipes.starter.networks import FULL, Sizes
from recipes.starter.plan import Wishes
from recipes.starter.replicas import Replicas
from recipes.starter.sheet import SHEET_PROMPTS, draw_curve, draw_sheet
from recipes.starter.stream import BUCKETS, NATIVE, Batch, Bucket, PlanStream, batches, tokenise, with_square
from recipes.starter.words import OBJECTS

LEARNING_RATE = 1e-3
DROPPED = 0.1
AVERAGE = 0.998


class Model:
    """Text encoder and UNet in training, with everything that turns a batch into a loss."""

    def __init__(
        self,
        tokenizer: Any,
        parts: Components,
        *,
        device: torch.device,
        sizes: Sizes = FULL,
        start: Path | None = None,
    ) -> None:
        self.device, self.parts, self.tokenizer = device, parts.to(device), tokenizer
        made = adopt.networks_of(start) if start else (networks.text_encoder(tokenizer, sizes), networks.unet(sizes))
        self.text_encoder = made[0].to(device)
        self.unet = made[1].to(device, memory_format=torch.channels_last)
        for network in (self.text_encoder, self.unet):
            networks.write_out_attention(network, self.device)
        self.denoise: Any = self.unet
        self.a_bar = diffusion.alphas_cumprod().to(device)
        self.empty = tokenise(tokenizer, [""]).to(device)

    @property
    def modules(self) -> dict[str, Any]:
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents [B, L, H / 8, W / 8] of pictures in 0..1."""
        return autoencoder.encode(pictures, self.parts).contiguous(memory_format=torch.channels_last)

    def loss(self, latents: torch.Tensor, token_ids: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        """The weighted v-prediction loss of one batch. `chance` is a generator of the host."""
        rows = len(latents)
        dropped = torch.rand(rows, 1, generator=chance) < DROPPED
        ids = torch.where(self._send(dropped), self.empty, self._send(token_ids))
        t = self._send(diffusion.draw_timesteps(rows, chance))
        noised = diffusion.noise(latents, t, torch.randn_like(latents), self.a_bar)
        context = self.text_encoder(ids)[0]
        square = latents.shape[-2:] == (NATIVE // PATCH, NATIVE // PATCH)
        # Each size would be compiled anew, and most batches are squares of the native size.
        denoise = self.denoise if square else self.unet
        v = denoise(noised.x_t, t, context, return_dict=False)[0]
        error = (v.float() - noised.v).square().mean((1, 2, 3))
        return (noised.weight * error).mean()

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)


def train(
    options: argparse.Namespace,
    composer: Composer,
    *,
    sizes: Sizes = FULL,
    buckets: Sequence[Bucket] = BUCKETS,
    wishes: Wishes | None = None,
    sheet_minutes: float = 3.0,
    start: Path | None = None,
    learning_rate: float = LEARNING_RATE,
    parts: int = 1,
    average: float = AVERAGE,
) -> training.Progress:
    """Train within the budget of `options`. The log in `train_unet/log.jsonl` has the losses.

    `parts` batches make a step, side by side (see `replicas`). `start` is a model folder whose vocabulary, autoencoder,
    layout and weights are gone on with, instead of `sizes`; a checkpoint, if `options` resume one, has the last word on
    the weights.
    """
    model = _model(options, sizes, start)
    folder = options.work / "train_unet"
    trainer = training.Trainer(folder, model.modules, learning_rate=learning_rate, decay=average, options=options)
    # A resumed training goes on with other pictures than it began with.
    seed = options.seed + trainer.progress.samples
    chance = torch.Generator().manual_seed(seed)
    stream = PlanStream(
        composer.sprites.names,
        rows=options.rows,
        seed=seed,
        tokenizer=model.tokenizer,
        buckets=buckets,
        wishes=wishes,
        alike=parts,
    )
    shown = time.monotonic()
    prepared = batches(stream, processes=options.processes)
    replicas = Replicas(model, parts)
    if options.compile:
        for copied in replicas.models:
            copied.denoise = torch.compile(copied.unet, dynamic=False)
    while trainer.going_on:
        _step(trainer, replicas, composer, list(islice(prepared, parts)), chance)
        if time.monotonic() - shown > sheet_minutes * 60:
            trainer.average.swap()
            _show(options.work, model, trainer)
            trainer.average.swap()
            shown = time.monotonic()
    replicas.close()
    trainer.finish()
    for name, module in model.modules.items():
        module.save_pretrained(options.work / name)
    _show(options.work, model, trainer)
    return trainer.progress


def _model(options: argparse.Namespace, sizes: Sizes, start: Path | None) -> Model:
    training.prepare_device(options.device)
    if start:
        adopt.adopt(start, options.work)
    tokenizer = tokens.load(options.work / "tokenizer")
    components = autoencoder.load_components(options.work / "components.safetensors")
    torch.manual_seed(options.seed)
    return Model(tokenizer, components, device=torch.device(options.device), sizes=sizes, start=start)


def _step(
    trainer: training.Trainer, replicas: Replicas, composer: Composer, parts: Sequence[Batch], chance: torch.Generator
) -> None:
    def loss_of(model: Model, part: Batch) -> torch.Tensor:
        assert part.tokens is not None, "the stream was made without a tokenizer; this is a bug."
        # Both in float32: a grid of bfloat16 coordinates would put the corners of things on wrong pixels.
        latents = model.encode(composer.draw(part.packed))
        with trainer.autocast():
            return model.loss(latents, part.tokens, chance)

    loss = replicas.backward(loss_of, parts)
    trainer.update(loss, sum(len(part.plans) for part in parts))
    replicas.spread()


def _show(work: Path, model: Model, trainer: training.Trainer) -> None:
    """What the model draws now, and the losses so far, beside the checkpoint."""
    import diffusers

    from recipes.starter.assemble import pipeline

    vae = diffusers.AutoencoderTiny.from_pretrained(work / "vae", local_files_only=True).to(model.device)
    pipe = pipeline(tokenizer=model.tokenizer, text_encoder=model.text_encoder, unet=model.unet, vae=vae)
    draw_sheet(pipe, SHEET_PROMPTS, trainer.folder / f"sheet-{trainer.progress.samples:09d}.png")
    draw_curve(trainer.folder / "log.jsonl", trainer.folder / "loss.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_arguments(parser, minutes=15, rows=1024)
    parser.add_argument("--sheet-minutes", type=float, default=3.0, help="between two sheets of samples")
    parser.add_argument("--start", type=Path, help="model folder to go on from, with a fresh optimiser")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="at its highest")
    parser.add_argument("--square", type=float, default=BUCKETS[0].share, help="share of batches of 128 x 128")
    parser.add_argument("--average", type=float, default=AVERAGE, help="decay of the averaged weights, per step")
    parser.add_argument("--often", help="objects to draw twice as often, with commas: those that --start does not know")
    cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    parser.add_argument("--parts", type=int, default=cores, help="batches per step, each on a core of its own")
    options = training.parse(parser)
    composer = Composer(sprites.load(options.work / "sprites.npz"), device=options.device)
    often = tuple(filter(None, (options.often or "").split(",")))
    if unknown := sorted(set(often) - set(composer.sprites.names)):
        parser.error(f"--often names objects that have no sprite: {', '.join(unknown)}")
    train(
        options,
        composer,
        buckets=with_square(options.square),
        wishes=Wishes(objects=(*OBJECTS, *often)),
        sheet_minutes=options.sheet_minutes,
        start=options.start,
        learning_rate=options.learning_rate,
        parts=options.parts,
        average=options.average,
    )


if __name__ == "__main__":
    main()
