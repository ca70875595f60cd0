"""From pixels to latents: pictures that came in with requests, encoded together before their jobs begin.

Knows the autoencoder and what there is memory for. Knows no samples: what they begin with is drawn for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from worker.engine.costs import Costs
from worker.engine.errors import EngineError
from worker.engine.family import Autoencoder
from worker.engine.isolate import isolate
from worker.engine.posterior import Posterior
from worker.engine.stage import Stages
from worker.engine.tiles import as_memory_allows, in_tiles


class PictureEncoder:
    """Of one model. For the engine's thread only."""

    def __init__(
        self, autoencoder: Autoencoder, costs: Costs, stages: Stages, *, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        """`make_room` answers whether it made some, where memory was too small."""
        self._make_room = make_room
        self._autoencoder = autoencoder
        self._costs = costs
        self._stages = stages

    def encode(
        self, requests: Sequence[Sequence[torch.Tensor]], *, alone: Sequence[bool]
    ) -> list[list[Posterior] | EngineError]:
        """For each request those of its pictures, float32 [3, H, W] of -1 to 1 on the host, in their order, or the
        first error. `alone`: whether a request's are encoded by themselves, since the last bits depend on the company.
        Raises DeviceLost."""
        places = [(k, picture) for k, pictures in enumerate(requests) for picture in pictures]
        found: dict[int, list[Posterior | EngineError]] = {k: [] for k in range(len(requests))}
        for batch in self._batches(places, alone):
            results = isolate([picture for _, picture in batch], self._call, name="encode")
            for (k, _), result in zip(batch, results, strict=True):
                found[k].append(result)
        return [_all_or_error(results) for results in found.values()]

    def _batches(
        self, places: Sequence[tuple[int, torch.Tensor]], alone: Sequence[bool]
    ) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """What is encoded in one call: pictures of one size, as many as there is memory for. A request's own keep
        their order: they are of one size."""
        by_size: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
        for k, picture in places:
            if alone[k]:
                yield [(k, picture)]
            else:
                by_size.setdefault(picture.shape, []).append((k, picture))
        for alike in by_size.values():
            at_once, _ = self._costs.fitting(*self._sides(alike[0][1]))
            for first in range(0, len(alike), at_once):
                yield alike[first : first + at_once]

    def _call(self, pictures: Sequence[torch.Tensor]) -> list[Posterior]:
        height, width = self._sides(pictures[0])
        images = torch.stack(list(pictures))
        with self._stages.at("encode", expected=self._costs.encode_seconds(height, width, len(pictures))):
            encoded, is_tiled = as_memory_allows(
                partial(self._encoded, images),
                side=max(height, width),
                tile=self._costs.fitting(height, width)[1],
                is_alone=len(pictures) == 1,
                make_room=self._make_room,
                stage="encode",
            )
        return [replace(encoded[k], is_tiled=is_tiled) for k in range(len(pictures))]

    def _encoded(self, images: torch.Tensor, tile: int | None) -> Posterior:
        if tile is None:
            return self._autoencoder.encode(images)
        scale, channels = self._autoencoder.pixels_per_latent, self._costs.native.latent_shape[0]
        moments = in_tiles(self._moments, images, tile=tile, enters=scale).split(channels, dim=1)
        return Posterior(*moments)

    def _moments(self, images: torch.Tensor) -> torch.Tensor:
        """Mean and, if there is chance, standard deviation, [B, C or 2 C, h, w]."""
        encoded = self._autoencoder.encode(images)
        return encoded.mean if encoded.std is None else torch.cat([encoded.mean, encoded.std], 1)

    def _sides(self, picture: torch.Tensor) -> tuple[int, int]:
        """Of its latents."""
        scale = self._autoencoder.pixels_per_latent
        return picture.shape[-2] // scale, picture.shape[-1] // scale


def _all_or_error(results: Sequence[Posterior | EngineError]) -> list[Posterior] | EngineError:
    error = next((result for result in results if isinstance(result, EngineError)), None)
    return error or [result for result in results if isinstance(result, Posterior)]
