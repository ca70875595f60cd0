"""Train the two networks that look at pictures: `python -m recipes.starter.train_judges --minutes 4`.

The scorer is a small CLIP (Radford et al. 2021, arXiv 2103.00020): how well does a text fit a picture. The judge knows
the names of things in pictures of one thing, and is used by the evaluation only. Both also see pictures that went
through the autoencoder, with noise in the latents, so that what a decoder does to edges does not surprise them. Needs
`vae/`, `components.safetensors` and `tokenizer/`; leaves `scorer/` and `judge.safetensors`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from recipes.starter import autoencoder, networks, sprites, tokens, training
from recipes.starter.compose import Composer
from recipes.starter.mistakes import said
from recipes.starter.networks import FULL, Sizes
from recipes.starter.plan import Wishes
from recipes.starter.stream import NATIVE, SQUARE, Batch, PlanStream, batches, tokenise

JUDGED = Wishes(modes=("single",), shape_share=0.06, style_share=0.1)
"""Shapes are eight names of many; their share is theirs."""

SCORED = Wishes(shape_share=0.6, tint_share=0.4, position_share=0.5, style_share=0.1)
CLOSE = 0.75
"""Share of the scorer's batches in which only the things differ. Where backgrounds and colours tell all pictures of a
batch apart, nothing has to be learnt about nouns: without such batches a scorer that matched 128 pictures with their
captions knew 70 % of the objects, and none in another colour."""

MISTAKES = 3
"""Captions with a mistake beside each true one. Without them a scorer that 337,000 pictures had taught knew places and
whose colour is whose no better than by chance, and took every other shape for another."""

MAX_LATENT_NOISE = 0.5
WORN_OF = 4
"""One picture in so many goes through the autoencoder, which costs more than a judge's own step."""


class Judge(nn.Module):  # type: ignore[misc]
    """Names things: pictures [B, 3, NATIVE, NATIVE] in 0..1 to one logit per sprite."""

    def __init__(self, names: int, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-3], nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], names)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(pictures * 2 - 1))
        return logits


class Wear:
    """Sends some of the pictures through the autoencoder, with noise on the way."""

    def __init__(self, work: Path, device: torch.device, *, half: bool = False) -> None:
        """`half`: decode in bfloat16."""
        self.device, self.half = device, half
        self.parts = autoencoder.load_components(work / "components.safetensors").to(device)
        vae = diffusers.AutoencoderTiny.from_pretrained(work / "vae", local_files_only=True)
        self.vae = vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        count = len(pictures) // WORN_OF
        latents = autoencoder.encode(pictures[:count], self.parts)
        level = torch.rand(count, 1, 1, 1, device=pictures.device) * MAX_LATENT_NOISE
        latents = (latents + level * torch.randn_like(latents)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            worn = autoencoder.decode(self.vae, latents).clamp(0, 1)
        return torch.cat([worn.float(), pictures[count:]])


Loss = Callable[[torch.Tensor, Batch], torch.Tensor]


def _train(name: str, model: Any, loss_of: Loss, stream: PlanStream, composer: Composer, options: Any) -> None:
    """One network from its stream; the model is left with its averaged weights."""
    trainer = training.Trainer(options.work / name, {name: model}, learning_rate=1e-3, decay=0.998, options=options)
    model.to(memory_format=torch.channels_last)
    wear = Wear(options.work, torch.device(options.device), half=options.bfloat16)
    stream.seed += trainer.progress.samples
    for batch in batches(stream, processes=options.processes):
        if not trainer.going_on:
            break
        pictures = wear(composer.draw(batch.packed)).contiguous(memory_format=torch.channels_last)
        with trainer.autocast():
            loss = loss_of(pictures, batch)
        trainer.step(loss, len(pictures))
    trainer.finish()


def train_judge(options: argparse.Namespace, composer: Composer, *, sizes: Sizes = FULL) -> None:
    training.prepare_device(options.device)
    torch.manual_seed(options.seed)
    names = composer.sprites.names
    index = {name: number for number, name in enumerate(names)}
    judge = Judge(len(names), sizes.judge_width).to(options.device)

    def loss_of(pictures: torch.Tensor, batch: Batch) -> torch.Tensor:
        wanted = torch.tensor([index[plan.things[0].name] for plan in batch.plans], device=pictures.device)
        return F.cross_entropy(judge(pictures).float(), wanted, label_smoothing=0.05)

    stream = PlanStream(names, rows=options.rows, seed=options.seed, buckets=SQUARE, wishes=JUDGED)
    _train("judge", judge, loss_of, stream, composer, options)
    save_file(
        {key: value.contiguous() for key, value in judge.state_dict().items()},
        options.work / "judge.safetensors",
        metadata={"names": json.dumps(names), "width": str(sizes.judge_width)},
    )


def load_judge(path: Path) -> tuple[Judge, tuple[str, ...]]:
    """The judge and the names of its logits."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        told = file.metadata()
    names = tuple(json.loads(told["names"]))
    judge = Judge(len(names), int(told["width"]))
    judge.load_state_dict(load_file(path))
    return judge.eval().requires_grad_(False), names


def train_scorer(
    options: argparse.Namespace, composer: Composer, *, sizes: Sizes = FULL, wishes: Wishes | None = None
) -> None:
    training.prepare_device(options.device)
    torch.manual_seed(options.seed)
    tokenizer = tokens.load(options.work / "tokenizer")
    scorer = networks.scorer(tokenizer, sizes, image_size=NATIVE).to(options.device)
    networks.write_out_attention(scorer, options.device)
    names = composer.sprites.names
    chance = random.Random(options.seed)

    def loss_of(pictures: torch.Tensor, batch: Batch) -> torch.Tensor:
        captions, mistaken = zip(*(said(chance, plan, names, MISTAKES) for plan in batch.plans), strict=True)
        ids = tokenise(tokenizer, [*captions, *itertools.chain.from_iterable(mistaken)])
        found = scorer(input_ids=_trimmed(ids, tokenizer).to(pictures.device), pixel_values=pictures * 2 - 1)
        return contrast(found.logits_per_image.float(), _same(captions, pictures.device))

    stream = PlanStream(
        names, rows=options.rows, seed=options.seed, buckets=SQUARE, wishes=wishes or SCORED, close=CLOSE
    )
    _train("train_scorer", scorer, loss_of, stream, composer, options)
    save_scorer(scorer, tokenizer, options.work / "scorer")


def contrast(logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """CLIP's loss both ways, where each picture also has to be told from the mistakes made about it.

    `logits` are [B, B + B * mistakes] of pictures and texts, first the captions, then each picture's mistakes in a row.
    `own` [B, B] says which captions are true of a picture, rows of sum 1. The mistakes made about other pictures are
    left out: they may happen to be true of this one.
    """
    rows = len(logits)
    mistaken = logits[:, rows:].reshape(rows, rows, -1).diagonal().T
    of_pictures = F.cross_entropy(torch.cat([logits[:, :rows], mistaken], 1), F.pad(own, (0, mistaken.shape[1])))
    return (of_pictures + F.cross_entropy(logits[:, :rows].T, own.T)) / 2


def _trimmed(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Without the padding that all have: attention is causal, so nothing before the end depends on it."""
    longest = int((ids == tokenizer.eos_token_id).int().argmax(1).max()) + 1
    return ids[:, :longest]


def _same(captions: Sequence[str], device: torch.device) -> torch.Tensor:
    """Which pictures each caption is true of, [B, B], rows that add up to 1: equal captions share theirs."""
    index = {caption: number for number, caption in enumerate(captions)}
    said = torch.tensor([index[caption] for caption in captions], device=device)
    equal = (said[:, None] == said).float()
    return equal / equal.sum(1, keepdim=True)


def save_scorer(scorer: Any, tokenizer: Any, folder: Path) -> None:
    """As CLIPModel.from_pretrained reads it, in float16, with its tokenizer and how pictures are to be prepared."""
    half = networks.half_copy(scorer)
    half.save_pretrained(folder)
    tokens.save(tokenizer, folder)
    preparation = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": NATIVE, "width": NATIVE},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_arguments(parser, minutes=4, rows=512)
    parser.add_argument("--only", choices=("judge", "scorer"), help="one of the two, with all the minutes")
    options = training.parse(parser)
    composer = Composer(sprites.load(options.work / "sprites.npz"), device=options.device)
    if not options.only:
        options.minutes /= 2
        options.total = options.total / 2 if options.total else None
    if options.only != "scorer":
        train_judge(options, composer)
    if options.only != "judge":
        train_scorer(options, composer)


if __name__ == "__main__":
    main()
