"""Teach a prior which vectors fit a caption: `python -m recipes.starter_unclip.train_prior --minutes 10`.

A diffusion over image vectors that sees the scorer's text vector, its hidden states and their mask, just what
StableUnCLIPPipeline gives it (Ramesh et al. 2022, arXiv 2204.06125, section 2.2). It predicts the vector itself; one
caption in ten is the empty one, for guidance. Needs `examples/` in the work folder; leaves `prior/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from recipes.starter import training
from recipes.starter_unclip import examples, parts
from recipes.starter_unclip.examples import CAPTIONS, Examples
from recipes.starter_unclip.towers import towers

LEARNING_RATE = 1e-3
WITHOUT_CAPTION = 0.1


class Texts:
    """The scorer's text tower as the prior hears it."""

    def __init__(self, scorer: Path) -> None:
        self.tower = towers(scorer)[0]
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(scorer, local_files_only=True)
        self.empty = self.ids([""])
        self.dimensions = self.tower.config.projection_dim

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        ids: torch.Tensor = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids

    def __call__(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a PriorTransformer takes beside vector and timestep, of token ids [B, P]. The end of a text counts, the
        padding behind it, which has the same token, does not."""
        with torch.no_grad():
            said = self.tower(ids)
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        mask = torch.arange(ids.shape[1]) <= ends[:, None]
        return {
            "proj_embedding": said.text_embeds,
            "encoder_hidden_states": said.last_hidden_state,
            "attention_mask": mask,
        }


def loss(prior: Any, a_bar: torch.Tensor, texts: Texts, vectors: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the predicted vectors, in units of their variance."""
    wanted = (vectors - prior.clip_mean) / prior.clip_std
    dropped = torch.rand(len(ids), 1) < WITHOUT_CAPTION
    t = torch.randint(len(a_bar), (len(ids),))
    a = a_bar[t][:, None]
    noised = a.sqrt() * wanted + (1 - a).sqrt() * torch.randn_like(wanted)
    predicted = prior(noised, t, **texts(torch.where(dropped, texts.empty, ids))).predicted_image_embedding
    return (predicted - wanted).square().mean()


def fresh(data: Examples, texts: Texts) -> Any:
    prior = parts.prior(texts.dimensions, texts.tokenizer.model_max_length)
    vectors = torch.from_numpy(np.array(data.vectors[:4096]))
    for weight, value in ((prior.clip_mean, vectors.mean(0)), (prior.clip_std, vectors.std(0))):
        weight.requires_grad_(False).copy_(value[None])
    return prior


def train(options: argparse.Namespace, scorer: Path) -> training.Progress:
    """Train within the budget of `options`. Examples that are appended meanwhile are taken too."""
    torch.manual_seed(options.seed)
    data, texts = examples.load(options.work / "examples"), Texts(scorer)
    prior, a_bar = fresh(data, texts), parts.prior_scheduler().alphas_cumprod
    trainer = training.Trainer(
        options.work / "train_prior", {"prior": prior}, learning_rate=LEARNING_RATE, decay=0.998, options=options
    )
    chance = np.random.default_rng(options.seed + trainer.progress.samples)
    while trainer.going_on:
        if trainer.progress.steps % 200 == 0:
            data = examples.load(options.work / "examples")
        rows = chance.integers(len(data), size=options.rows)
        ids = data.tokens_of(rows, int(chance.integers(CAPTIONS)))
        trainer.step(loss(prior, a_bar, texts, data.vectors_of(rows), ids), len(rows))
    trainer.finish()
    prior.save_pretrained(options.work / "prior")
    return trainer.progress


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_arguments(parser, minutes=10, rows=512)
    parser.set_defaults(work=Path("build/starter-unclip"))
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    options = parser.parse_args(arguments)
    train(options, options.scorer)


if __name__ == "__main__":
    main()
