"""A snapshot: what a job is made of between two steps, as plain numbers and tensors on the host.

From it the job goes on in this engine or another one, and its pictures are those that it would have had. What can be
made again is not in it: rows, what stays of a picture, solvers and side networks come from the request, as at a first
start. Data only. Knows no lanes, no seats and no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from app.contract.messages.trajectory import Shown
from worker.engine.judging import Verdict
from worker.engine.request import Request

VERSION = 1
"""Raised when an earlier snapshot would be misread. One of another version is refused, and its job starts over."""


class Unfit(Exception):
    """The snapshot is of something else than what it is to go on with. The message is a phrase that says why."""


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Standing:
    """A sample on its seat, before an `evaluation` of its pass: the solver's `registers`, float32 [R, C, h, w]; what a
    `solver` that is a scheduler object knows beside them, plain; the state of the generator before it draws the noise
    of that evaluation, `chance`; and the `deep` features of its rows, where that evaluation asks for them."""

    evaluation: int
    registers: torch.Tensor
    solver: Mapping[str, Any]
    chance: torch.Tensor
    deep: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class KeptRecording:
    """A Recording as far as it goes: of each series the latents that have arrived, float16 [n, C, h, w], and their
    `places`. `moments` are the arguments of a Moment each."""

    moments: Sequence[tuple[Any, ...]]
    asked: int
    makes_picture: bool
    is_decoded: bool
    shape: tuple[int, int, int]
    places: Mapping[Shown, Sequence[int]]
    latents: Mapping[Shown, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class SampleSnapshot:
    """One sample. `step` are the evaluations behind it in all passes, `number` is that of its pass, `ended` what those
    before ended with, `began` the state of its generator before the pass began. One with a `picture`, uint8 [H, W, 3],
    or that was given up, has no `standing`. Its other fields are Sample's."""

    index: int
    seed: int
    mode: str
    step: int
    number: int
    ended: Sequence[torch.Tensor]
    began: torch.Tensor
    standing: Standing | None = None
    picture: np.ndarray | None = None
    nsfw: bool | None = None
    estimated: Verdict | None = None
    verdict: Verdict | None = None
    pruned_at: int | None = None
    is_tiled: bool = False
    recordings: Mapping[str, KeptRecording] | None = None
    not_begun: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Snapshot:
    """A job. `request`, `passes` and `drawn_with` are what it has to fit: the hash of the request; of each pass its
    solver, its evaluations and the type of its network's numbers; the files beside the model's. Other fields are
    Job's."""

    request: str
    passes: Sequence[Mapping[str, Any]]
    drawn_with: Mapping[str, Any]
    samples: Sequence[SampleSnapshot]
    wanted: int
    is_pruned: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    version: int = field(default=VERSION)

    @property
    def step(self) -> int:
        """Evaluations that every sample has behind it."""
        drawn = [each.step for each in self.samples if each.pruned_at is None]
        return min(drawn) if drawn and len(self.samples) == self.wanted else 0

    @property
    def evaluations(self) -> int:
        """All of them that need not be made again."""
        return sum(each.step for each in self.samples)


def hash_of(request: Request) -> str:
    """The same for requests that ask for the same pictures, under whatever name and however soon."""
    return hashlib.sha256(request.model_dump_json(exclude={"id", "pictures", "priority"}).encode()).hexdigest()
