"""Teach the bundled UNet to draw what a vector says: `python -m recipes.starter_unclip.train_unet --minutes 60`.

`TRAINED` says what of the network learns. Captions are dropped from most of the examples, because one that is there
says nearly all that the vector says; vectors from one in ten, for classifier-free guidance; and noise is added to some
vectors as `noise_level` does. The bundled UNet, which reads the caption, is the teacher: what it answers (Hinton et al.
2015, arXiv 1503.02531), and what it has behind each of its attention blocks, the one that only has the vector shall
have too (Romero et al. 2015, arXiv 1412.6550). Needs `examples/` in the work folder; leaves `unet/` with the averaged
weights. Knows one size of pictures, the native one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from recipes.starter import adopt, diffusion, networks, training
from recipes.starter.replicas import Replicas
from recipes.starter.stream import tokenise
from recipes.starter_unclip import examples, parts
from recipes.starter_unclip.examples import CAPTIONS, KINDS, Examples

TRAINED = (
    r"class_embedding|time_emb_proj|time_embedding|norm|bias$"
    r"|^(down_blocks\.2|mid_block|up_blocks)\.(?!.*attn2\.to_[kv])"
)
"""Of the UNet's weights, 7.7 M of 9 M. A vector comes in beside the timestep, the same at every place, and what
cross-attention to a caption would draw, the rest of the network has to draw of it: its coarsest level and its way up
learn, all but what reads the caption. With norms, biases and the middle block alone (2.1 M) colours came through and
outlines did not; without the attention blocks of the way up, their features stayed half of the way behind."""
LEARNING_RATE = 1e-3
WITHOUT_CAPTION = 0.85
WITHOUT_VECTOR = 0.1
NOISED = 0.2
"""Share of the vectors that get noise of any level; the others get none."""
SHARES = (0.62, 0.25, 0.13)
"""Of the examples, by KINDS: what is drawn from a vector alone is learnt slowly, and shapes first."""
FIRST_ROWS = 4096
"""Examples that mean and deviation of the vectors are taken from."""
DISTILLED_STEPS, DISTILLED_ROWS = 1500, 3000


@dataclass(frozen=True)
class Rows:
    """A batch: latents [B, L, h, w], vectors [B, D], tokens [B, P], all on the host."""

    latents: torch.Tensor
    vectors: torch.Tensor
    tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.vectors)


class Model:
    """The UNet in training, beside what stays as it is."""

    def __init__(self, start: Path, normalizer: Any) -> None:
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(start / "tokenizer", local_files_only=True)
        self.text_encoder, unet = adopt.networks_of(start)
        self.text_encoder.eval().requires_grad_(False)
        self.teacher = unet.requires_grad_(False).to(memory_format=torch.channels_last)
        self.unet = parts.widened(unet, normalizer.config.embedding_dim).to(memory_format=torch.channels_last)
        for name, weight in self.unet.named_parameters():
            weight.requires_grad_(re.search(TRAINED, name) is not None)
        for network in (self.text_encoder, self.teacher, self.unet):
            networks.write_out_attention(network, "cpu")
        self.noiser = parts.Noiser(normalizer.requires_grad_(False))
        self.a_bar = diffusion.alphas_cumprod()
        self.empty = tokenise(self.tokenizer, [""])
        with torch.no_grad():
            self.silence = self.text_encoder(self.empty)[0]

    @property
    def modules(self) -> dict[str, Any]:
        return {"unet": self.unet}

    def labels(self, vectors: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        """Class labels [B, 2 D] of vectors, some with noise, some zero as for the row without guidance."""
        count = len(vectors)
        levels = torch.randint(parts.NOISE_LEVELS, (count,), generator=chance)
        levels = levels * (torch.rand(count, generator=chance) < NOISED)
        labels = self.noiser(vectors, levels, torch.randn(vectors.shape, generator=chance))
        return labels * (torch.rand(count, 1, generator=chance) >= WITHOUT_VECTOR)

    def loss(self, rows: Rows, chance: torch.Generator, without: float) -> torch.Tensor:
        """The weighted v-prediction loss of one batch, and what its features are away from the teacher's."""
        t = diffusion.draw_timesteps(len(rows), chance, lean=LEAN)
        noised = diffusion.noise(rows.latents, t, torch.randn(rows.latents.shape, generator=chance), self.a_bar)
        labels = self.labels(rows.vectors, chance)
        dropped = torch.rand(len(rows), 1, generator=chance) < without
        # The teacher has the caption wherever something says what there is to see.
        silent = dropped & (labels == 0).all(1, keepdim=True)
        x_t = noised.x_t.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            told = self.text_encoder(torch.where(silent, self.empty, rows.tokens))[0]
            heard = torch.where(dropped[:, :, None], self.silence, told)
            answer, wanted = with_features(self.teacher, x_t, t, told)
        v, features = with_features(self.unet, x_t, t, heard, class_labels=labels)
        away = [(ours - theirs).square().mean() / theirs.var() for ours, theirs in zip(features, wanted, strict=True)]
        target = torch.lerp(noised.v, answer, TEACHER)
        error = (noised.weight * (v - target).square().mean((1, 2, 3))).mean()
        return error + FEATURES * torch.stack(away).mean()


def with_features(
    unet: Any, *arguments: torch.Tensor, **named: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the network answers, and what is behind each of its attention blocks, [B, C, h, w] each."""
    found: list[torch.Tensor] = []
    blocks = [block for name, block in unet.named_modules() if re.search(r"attentions\.\d+$", name)]
    hooks = [block.register_forward_hook(lambda _, __, output: found.append(output[0])) for block in blocks]
    try:
        return unet(*arguments, **named, return_dict=False)[0], found
    finally:
        for hook in hooks:
            hook.remove()


TEACHER = 0.6
"""The answer that is wanted lies between the example's own and the teacher's, so far from the former: the teacher's has
none of the chance that no network can know, the example's has what captions do not say."""
FEATURES = 1.0
"""What features count beside the error of the prediction. An outline is a few pixels of that; of the features, it is as
much as a colour."""
LEAN = 0.4
"""What the picture shows is decided at high noise; at low noise the network has nothing new to learn."""


def distil(model: Model, data: Examples, *, steps: int, chance: np.random.Generator) -> float:
    """Teach the projection of vectors what the network adds to the time embedding for pooled text; the last loss,
    over the variance.

    The UNet itself is not asked, so this takes seconds, and colours and backgrounds need not be learnt by drawing.
    """
    embedding, pooled = model.unet.class_embedding, model.unet.add_embedding
    rows = chance.permutation(len(data))[:DISTILLED_ROWS]
    vectors = data.vectors_of(rows)
    with torch.no_grad():
        wanted = pooled(model.text_encoder(data.tokens_of(rows, 0))[0]) - pooled(model.text_encoder(model.empty)[0])
        labels = model.noiser(vectors, torch.zeros(len(rows), dtype=torch.int64), torch.randn(vectors.shape))
    # A vector that is left out says nothing.
    labels[: len(rows) // 10], wanted[: len(rows) // 10] = 0, 0
    torch.nn.init.normal_(embedding.linear_2.weight, std=0.02)
    optimizer = torch.optim.AdamW(embedding.parameters(), lr=2e-3, weight_decay=0.05)
    loss = torch.zeros(())
    for _ in range(steps):
        some = torch.randint(len(rows), (64,))
        loss = (embedding(labels[some]) - wanted[some]).square().mean() / wanted.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def begin(model: Model, data: Examples, options: argparse.Namespace, chance: np.random.Generator) -> None:
    """Give the UNet the weights of an earlier training, or let its projection learn what costs seconds."""
    if options.unet:
        earlier = diffusers.UNet2DConditionModel.from_pretrained(options.unet, local_files_only=True)
        model.unet.load_state_dict(earlier.state_dict())
    elif options.distil:
        print(f"distilled, relative loss {distil(model, data, steps=options.distil, chance=chance):.3f}", flush=True)


def normalizer_of(data: Examples, folder: Path) -> Any:
    """The one of an earlier call, or one made of the first examples and kept."""
    if (folder / "config.json").is_file():
        return parts.load_normalizer(folder)
    vectors = torch.from_numpy(np.array(data.vectors[:FIRST_ROWS]))
    normalizer = parts.image_normalizer(vectors.mean(0, keepdim=True), vectors.std(0, keepdim=True))
    normalizer.save_pretrained(folder)
    return normalizer


def train(
    options: argparse.Namespace, start: Path, *, copies: int = 1, without: float = WITHOUT_CAPTION
) -> training.Progress:
    """Train within the budget of `options` on `copies` batches a step, side by side. Examples that are appended
    meanwhile are taken too."""
    torch.manual_seed(options.seed)
    data = examples.load(options.work / "examples")
    model = Model(start, normalizer_of(data, options.work / "image_normalizer"))
    trainer = training.Trainer(
        options.work / "train_unet", model.modules, learning_rate=options.learning_rate, decay=0.995, options=options
    )
    numbers = np.random.default_rng(options.seed + trainer.progress.samples)
    if not options.resume:
        begin(model, data, options, numbers)
        trainer.average.values = [weight.detach().clone() for weight in trainer.average.parameters]
    chance = torch.Generator().manual_seed(options.seed + trainer.progress.samples)
    replicas = Replicas(model, copies)
    replicas.spread()
    while trainer.going_on:
        if trainer.progress.steps % 100 == 0:
            data = examples.load(options.work / "examples")
        batches = [_rows(data, numbers, options.rows) for _ in range(copies)]
        loss = replicas.backward(lambda twin, rows: twin.loss(rows, chance, without), batches)
        trainer.update(loss, options.rows * copies)
        replicas.spread()
    replicas.close()
    trainer.finish()
    model.unet.save_pretrained(options.work / "unet")
    return trainer.progress


def _rows(data: Examples, numbers: np.random.Generator, count: int) -> Rows:
    groups = [np.flatnonzero(data.kinds == kind) for kind in range(len(KINDS))]
    shares = [share * (len(group) > 0) for share, group in zip(SHARES, groups, strict=True)]
    wanted = numbers.choice(len(KINDS), size=count, p=np.array(shares) / sum(shares))
    rows: NDArray[np.int64] = np.array([numbers.choice(groups[kind]) for kind in wanted])
    return Rows(data.latents_of(rows), data.vectors_of(rows), data.tokens_of(rows, int(numbers.integers(CAPTIONS))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_arguments(parser, minutes=15, rows=256)
    parser.set_defaults(work=Path("build/starter-unclip"))
    parser.add_argument("--start", type=Path, default=Path("models/starter"), help="model folder to go on from")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="at its highest")
    parser.add_argument("--copies", type=int, default=2, help="batches a step, each on a core of its own")
    parser.add_argument("--without-caption", type=float, default=WITHOUT_CAPTION, help="share of the examples")
    parser.add_argument("--unet", type=Path, help="folder of a UNet that takes vectors already, to begin with")
    parser.add_argument("--distil", type=int, default=DISTILLED_STEPS, help="steps on pooled text before the first")
    options = parser.parse_args(arguments)
    train(options, options.start, copies=options.copies, without=options.without_caption)


if __name__ == "__main__":
    main()
