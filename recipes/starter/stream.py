"""Endless training batches: plans drawn, put into words and numbers, in as many processes as the machine can spare.

Knows sampling and tokenising; what a batch looks like in pixels is decided on the device, by `compose`. No picture is
ever stored, so no picture is ever seen twice.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from recipes.starter.captions import caption
from recipes.starter.compose import Packed, pack
from recipes.starter.plan import MODES, Plan, Wishes, draw_plan
from recipes.starter.words import COLOURS, SCENES


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size. `share` is of batches; a batch of a bigger size has fewer rows, for equal pixels."""

    width: int
    height: int
    share: float


SQUARE = (Bucket(128, 128, 1.0),)
BUCKETS = (Bucket(128, 128, 0.58), Bucket(192, 128, 0.13), Bucket(128, 192, 0.13), Bucket(256, 256, 0.16))
NATIVE = 128


def with_square(share: float) -> tuple[Bucket, ...]:
    """BUCKETS with another share of squares of the native size; the others divide the rest as before."""
    rest = (1 - share) / (1 - BUCKETS[0].share)
    return (replace(BUCKETS[0], share=share), *(replace(bucket, share=bucket.share * rest) for bucket in BUCKETS[1:]))


@dataclass(frozen=True)
class Batch:
    """`tokens` is int64 [B, positions] and missing where no tokenizer was given."""

    packed: Packed
    plans: tuple[Plan, ...]
    captions: tuple[str, ...]
    tokens: torch.Tensor | None


class PlanStream(IterableDataset):  # type: ignore[misc]
    """Yields Batch for ever. Two streams of equal seed and process count are equal.

    Only objects among `names`, which are the sprites', are drawn. `alike` batches in a row have one size, for those who
    take so many at once and would wait for the slowest. `close` is the share of batches whose pictures all have one
    background and one mode, and perhaps one colour, so that only the things themselves tell them apart.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rows: int,
        seed: int,
        tokenizer: Any = None,
        buckets: Sequence[Bucket] = BUCKETS,
        wishes: Wishes | None = None,
        alike: int = 1,
        close: float = 0.0,
    ) -> None:
        self.alike, self.close = alike, close
        self.names, self.rows, self.seed, self.tokenizer = tuple(names), rows, seed, tokenizer
        self.buckets = tuple(buckets)
        wishes = wishes or Wishes()
        self.wishes = replace(wishes, objects=tuple(name for name in wishes.objects if name in names))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        chance = random.Random(f"{self.seed}/{first}")
        # The loader takes from its processes in turn, so a batch's place in the whole stream is known here.
        for place in itertools.count(first, step):
            yield self._batch(chance, self._bucket(place // self.alike))

    def _bucket(self, group: int) -> Bucket:
        chance = random.Random(f"{self.seed}/size/{group}")
        return chance.choices(self.buckets, [bucket.share for bucket in self.buckets])[0]

    def _batch(self, chance: random.Random, bucket: Bucket) -> Batch:
        rows = max(1, round(self.rows * NATIVE * NATIVE / (bucket.width * bucket.height)))
        wishes = self._narrowed(chance) if chance.random() < self.close else self.wishes
        plans = [draw_plan(chance, bucket.width, bucket.height, wishes) for _ in range(rows)]
        captions = [caption(chance, plan) for plan in plans]
        uniform = np.random.default_rng(chance.getrandbits(64)).random((rows, 2), dtype=np.float32)
        tokens = None if self.tokenizer is None else tokenise(self.tokenizer, captions)
        return Batch(pack(plans, self.names, uniform), tuple(plans), tuple(captions), tokens)

    def _narrowed(self, chance: random.Random) -> Wishes:
        """One background and one mode; in half of the batches also one colour of everything."""
        scene = chance.random() < self.wishes.scene_share
        background = chance.choice(tuple(SCENES) if scene else tuple(COLOURS))
        [mode] = chance.choices(self.wishes.modes, [MODES[mode] for mode in self.wishes.modes])
        narrowed = replace(self.wishes, modes=(mode,), background=background)
        if chance.random() < 0.5:
            return narrowed
        colour = chance.choice([colour for colour in COLOURS if colour != background])
        return replace(narrowed, colour=colour, tint_share=1.0)


def tokenise(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """int64 [B, positions], padded and cut as StableDiffusionPipeline does it."""
    ids = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    assert isinstance(ids, torch.Tensor)
    return ids


def batches(stream: PlanStream, *, processes: int) -> Iterator[Batch]:
    """The stream's batches, prepared ahead in so many processes; 0 prepares each when it is asked for."""
    ahead = {"prefetch_factor": 4, "persistent_workers": True} if processes else {}
    return iter(DataLoader(stream, batch_size=None, num_workers=processes, **ahead))
