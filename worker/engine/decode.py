"""From latents to pixels, and from the device to the host: a decode is sent off, and its pictures are read later.

Knows samples, the autoencoder and whoever looks at finished pictures. Knows no seats, and not when it is time to wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.costs import AT_ONCE
from worker.engine.denoise import Finite
from worker.engine.errors import NumericalError
from worker.engine.family import Autoencoder
from worker.engine.judging import Judge, Verdict
from worker.engine.request import Request
from worker.engine.sample import Sample
from worker.engine.tiles import as_memory_allows, in_tiles
from worker.engine.transfer import to_host

Checker = Callable[[torch.Tensor], torch.Tensor]
"""Looks at pictures, uint8 [B, H, W, 3] on the device: how far each is into what is not to be shown, float32 [B] on the
device. Above 0 it is flagged."""

NOBODY: Mapping[int, Request] = {}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPicture:
    """`pixels` are uint8 [H, W, 3]. `nsfw`: the checker has flagged it; None where there is no checker. `verdict`: what
    the judge says, where its request wants to know."""

    pixels: np.ndarray
    nsfw: bool | None = None
    verdict: Verdict | None = None


class Decoded:
    """The pictures of one decode, and what the checker and the judge say of them, on their way to the host. `judged`
    are those that the judge is asked about, by their place."""

    def __init__(
        self,
        images: torch.Tensor,
        checker: Checker | None = None,
        judge: Judge | None = None,
        judged: Mapping[int, Request] = NOBODY,
    ) -> None:
        # Before the conversion to uint8, which would turn NaN into a black picture. Honest black pictures are finite.
        self._finite = Finite(torch.isfinite(images).flatten(1).all(1))
        pixels = to_pixels(images)
        self._scores = None if checker is None else to_host(checker(pixels))[0]
        self._judged = {place: row for row, place in enumerate(judged)}
        self._verdicts: torch.Tensor | None = None
        if judge is not None and judged:
            asked = pixels if len(judged) == len(pixels) else torch.stack([pixels[place] for place in judged])
            self._verdicts = to_host(judge(asked, [*judged.values()]))[0]
        # Behind the scores: when the pictures have come, so have they.
        self._pixels, self._arrived = to_host(pixels)

    def __getitem__(self, k: int) -> DecodedPicture | NumericalError:
        """Picture k, or the error where the autoencoder overflowed. Waits until it has come."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if not self._finite[k]:
            return NumericalError("The decoded picture was not a number; try another seed or scheduler.")
        verdict = self._verdict(k)
        if self._scores is None:
            return DecodedPicture(self._pixels[k].numpy(), verdict=verdict)
        score = float(self._scores[k])
        if math.isnan(score):
            return NumericalError("What the safety checker says of the picture is not a number.")
        return DecodedPicture(self._pixels[k].numpy(), nsfw=score > 0, verdict=verdict)

    def _verdict(self, k: int) -> Verdict | None:
        if self._verdicts is None or k not in self._judged:
            return None
        return Verdict.of(self._verdicts[self._judged[k]].tolist())


def time_to_decode(samples: Sequence[Sample], step_seconds: float) -> float:
    """Seconds that a decode may take after a step of `step_seconds`, among these samples: nobody's next step comes
    later by more than that. As long as it likes where nobody waits for a step."""
    return step_seconds if any(not sample.is_at_end_of_pass for sample in samples) else math.inf


def ready_to_decode(samples: Sequence[Sample], *, within: float = math.inf) -> tuple[list[Sample], int | None]:
    """The samples to decode next: the oldest denoised one, and as many others of its lane as there is memory for and as
    are expected to be done `within` so many seconds; and the side of a tile in latents, where there is no memory even
    for one."""
    denoised = [sample for sample in samples if sample.is_denoised and not sample.is_decoding]
    if not denoised:
        return [], None
    lane = denoised[0].lane
    fit, tile = lane.decodes(within)
    # Kernels differ with the size of the batch, and so would the pixels.
    at_once = 1 if denoised[0].job.request.reproducible else min(AT_ONCE, fit)
    return [sample for sample in denoised if sample.lane is lane][:at_once], tile


def decode(
    autoencoder: Autoencoder,
    samples: Sequence[Sample],
    *,
    tile: int | None = None,
    make_room: Callable[[], bool] = lambda: False,
    checker: Checker | None = None,
    judge: Judge | None = None,
) -> list[tuple[Decoded, int]]:
    """Where the picture of each sample of one lane will be: in which decode, and its place there.

    A picture for which memory is too small is decoded in tiles, of `tile` latents where that is known beforehand, and
    its sample says so. Where it was not, `make_room` comes before anything smaller: it answers whether it made some.
    """
    latents = torch.stack([sample.latents for sample in samples])
    scale = autoencoder.pixels_per_latent
    judged = {place: each.job.request for place, each in enumerate(samples) if each.job.request.is_judged}

    def call(tile: int | None) -> Decoded:
        if tile is None:
            return Decoded(autoencoder.decode(latents), checker, judge, judged)
        return Decoded(in_tiles(autoencoder.decode, latents, tile=tile, leaves=scale), checker, judge, judged)

    decoded, is_tiled = as_memory_allows(
        call,
        side=max(latents.shape[-2:]),
        tile=tile,
        is_alone=len(samples) == 1,
        make_room=make_room,
        stage="decode",
    )
    for sample in samples:
        sample.is_tiled = is_tiled
    return [(decoded, k) for k in range(len(samples))]


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] of -1 to 1, to uint8 [B, H, W, 3] on the same device. In the order of VaeImageProcessor, so that
    pictures are equal."""
    images = (images * 0.5 + 0.5).clamp(0, 1).float()
    return (images * 255).round().nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
