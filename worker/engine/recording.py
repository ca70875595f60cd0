"""The latents of one sample after its steps, kept on the host: what becomes a trajectory, or a sheet of previews.

Knows which steps are kept, and how latents are looked at. Refuses to know files, and how latents come from the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, hypot, inf, isfinite, prod

import numpy as np
import torch
from numpy.typing import NDArray

from app.contract.messages.trajectory import MOST_BYTES, MOST_BYTES_OF_ONE, MOST_PREVIEWS, MOST_STEPS, Shown
from worker.engine.preview import to_pixels
from worker.engine.request import Request
from worker.engine.rows import LatentShape
from worker.engine.table import Table

Pixels = NDArray[np.uint8]

FRAME_SIDE = 256
"""Pixels of a frame that the autoencoder decodes, at most: a film of whole pictures would be a hundred times as large
as its picture."""


def spread(first: int, last: int, *, every: int, most: int) -> list[int]:
    """The evaluations between `first` and `last`, ends not included, that are kept: multiples of `every`, or of so many
    times that as leaves `most` of them. Evenly, and known beforehand: nothing has to be thrown away later."""
    if most < 1:
        return []
    each = every * max(1, ceil(((last - 1) // every - first // every) / most))
    return [step for step in range(each, last, each) if step > first]


@dataclass(frozen=True, slots=True)
class Moment:
    """A sample between two evaluations. `step` counts those behind it, in all passes; `timestep` is what the denoiser
    is told next, None at the end. `levels`: a and s where latents are as noisy as a z0 + s n, None where the scheduler
    does not say."""

    step: int
    timestep: float | None
    levels: tuple[float, float] | None
    series: tuple[Shown, ...] = ("noisy", "estimate")
    """What there is of it: before its first evaluation a sample has no estimate."""

    @classmethod
    def of(cls, table: Table, evaluation: int, *, step: int) -> Moment:
        """Before an `evaluation` of a pass; the one after its last is its end."""
        timestep = float(table.timesteps[evaluation]) if evaluation < table.evaluations else None
        series: tuple[Shown, ...] = ("noisy", "estimate") if evaluation else ("noisy",)
        if table.noised is None:
            return cls(step, timestep, None, series)
        a, s = table.noised[evaluation].tolist()
        return cls(step, timestep, (a, s), series)

    @property
    def sigma(self) -> float | None:
        """Noise to signal, s / a, as the sigmas of diffusers' schedulers are (Karras et al. 2022, table 1)."""
        if self.levels is None:
            return None
        a, s = self.levels
        return s / a if a else inf

    @property
    def size(self) -> float:
        """The latents' standard deviation where that of finished ones is 1."""
        return 1.0 if self.levels is None else hypot(*self.levels)


@dataclass(eq=False, repr=False, kw_only=True)
class Recording:
    """Of one sample. `moments` are those that are kept, in order, out of `asked`; `latents` of each series float16
    [moments, C, h, w], of which those count that have `arrived`, bool [moments].

    `makes_picture`: of the last noisy latents the autoencoder makes the picture itself; else there are passes behind.
    `linear` is the map from latents to colours (preview.py), on the host. `decoded` are the frames that the autoencoder
    has made, by series and place, where `is_decoded`.
    """

    moments: Sequence[Moment]
    asked: int
    latents: dict[Shown, NDArray[np.float16]]
    arrived: dict[Shown, NDArray[np.bool_]]
    makes_picture: bool = True
    is_decoded: bool = False
    linear: torch.Tensor | None = None
    decoded: dict[tuple[Shown, int], Pixels] = field(default_factory=dict)

    @classmethod
    def empty(
        cls,
        moments: Sequence[Moment],
        shape: LatentShape,
        series: Sequence[Shown],
        *,
        asked: int,
        is_decoded: bool = False,
        makes_picture: bool = True,
    ) -> Recording:
        """Nothing has arrived yet."""
        latents = {each: np.empty((len(moments), *shape), np.float16) for each in series}
        arrived = {each: np.zeros(len(moments), np.bool_) for each in series}
        return cls(
            moments=moments,
            asked=asked,
            latents=latents,
            arrived=arrived,
            is_decoded=is_decoded,
            makes_picture=makes_picture,
        )

    @cached_property
    def places(self) -> dict[int, int]:
        """Where the moment after so many evaluations is kept."""
        return {moment.step: place for place, moment in enumerate(self.moments)}

    def wanted(self, step: int) -> Iterator[tuple[Shown, int]]:
        """What is kept of the moment after so many evaluations: of which series, and where."""
        if (place := self.places.get(step)) is not None:
            yield from ((series, place) for series in self.latents if series in self.moments[place].series)

    def keep(self, series: Shown, place: int, latents: NDArray[np.float16]) -> None:
        """Latents that have come, [C, h, w]."""
        self.latents[series][place] = latents
        self.arrived[series][place] = True

    @property
    def whole(self) -> list[int]:
        """The places of which all has arrived that there is."""
        kept = enumerate(self.moments)
        return [
            place
            for place, moment in kept
            if all(self.arrived[series][place] for series in self.latents if series in moment.series)
        ]

    @property
    def undecoded(self) -> int:
        """Frames that the autoencoder was to make, and has not."""
        each = [(series, int(place)) for series in self.latents for place in np.flatnonzero(self.arrived[series])]
        return sum(self.is_decoded_at(series, place) for series, place in each) - len(self.decoded)

    def is_picture(self, series: Shown, place: int) -> bool:
        """Are they the finished latents?"""
        return self.makes_picture and (series, place) == ("noisy", len(self.moments) - 1)

    def is_decoded_at(self, series: Shown, place: int) -> bool:
        """Does the autoencoder make that frame? The picture it makes in any case."""
        return self.is_decoded and not self.is_picture(series, place)

    def norm(self, series: Shown, place: int) -> float | None:
        """Euclidean, over all numbers of the latents; None where some were too large for float16."""
        norm = float(np.linalg.norm(self.latents[series][place].astype(np.float32)))
        return norm if isfinite(norm) else None

    def seen(self, series: Shown, place: int) -> NDArray[np.float32]:
        """Latents as they are looked at, float32 [C, h, w]: noisy ones as large as finished ones, so that noise has the
        colours of noise with every scheduler, and at the end they are the picture's."""
        size = self.moments[place].size if series == "noisy" else 1.0
        return self.latents[series][place].astype(np.float32) / np.float32(size)

    def pixels(self, series: Shown, place: int) -> Pixels | None:
        """A frame, uint8 [height, width, 3]. None where there is nothing to make it with."""
        decoded = self.decoded.get((series, place))
        if decoded is not None or self.linear is None:
            return decoded
        pixels: Pixels = to_pixels(self.linear, torch.from_numpy(self.seen(series, place))[None])[0].numpy()
        return pixels


@dataclass(frozen=True, slots=True)
class Recordings:
    """What is kept of one sample beside its picture: the estimates that were its `previews`, its `trajectory`."""

    previews: Recording | None = None
    trajectory: Recording | None = None
    not_begun: Sequence[str] = ()
    """What was asked for, and could not even be begun."""

    def __bool__(self) -> bool:
        return self.previews is not None or self.trajectory is not None

    def __iter__(self) -> Iterator[Recording]:
        return (each for each in (self.previews, self.trajectory) if each is not None)

    @classmethod
    def of(cls, request: Request, table: Table, shape: LatentShape, *, first: int, makes_picture: bool) -> Recordings:
        """Empty ones for a pass of the sample that begins after `first` evaluations, and whose last latents may be
        those of the picture."""
        last = first + table.evaluations

        def moments(steps: Sequence[int]) -> list[Moment]:
            return [Moment.of(table, step - first, step=step) for step in steps]

        previews = trajectory = None
        if request.keep_previews and (every := request.preview_every):
            # A preview of the last evaluation would be the picture.
            end = last if makes_picture else last + 1
            kept, asked = (spread(first, end, every=every, most=most) for most in (MOST_PREVIEWS, end))
            previews = Recording.empty(moments(kept), shape, ["estimate"], asked=len(asked))
        if (wish := request.trajectory) is not None:
            is_decoded = wish.decode == "vae"
            most = frames_of_each(request.most_drawn, shape, len(wish.show), is_decoded=is_decoded)
            kept, asked = (spread(first, last, every=wish.every, most=each) for each in (most - 2, last))
            trajectory = Recording.empty(
                moments([first, *kept, last]),
                shape,
                wish.show,
                asked=len(asked) + 2,
                is_decoded=is_decoded,
                makes_picture=makes_picture,
            )
        return cls(previews, trajectory)

    @classmethod
    def none_of(cls, request: Request) -> Recordings:
        """For a sample of that request for which nothing could be begun."""
        asked = {"previews": request.keep_previews and request.preview_every > 0, "trajectory": request.trajectory}
        return cls(not_begun=[what for what, wish in asked.items() if wish])

    @property
    def warnings(self) -> list[str]:
        """What whoever asked should know: what was asked for, and was not kept."""
        return [*_thinned(self.previews, PREVIEWS_THINNED), *_thinned(self.trajectory, STEPS_THINNED), *self._lost]

    @property
    def _lost(self) -> Iterator[str]:
        yield from (f"No {what} could be kept: there was no room to begin." for what in self.not_begun)
        if self.previews is not None and not self.previews.asked:
            yield NO_PREVIEWS
        made = self.trajectory
        if made is not None and made.linear is None:
            yield "No colours could be made of the trajectory's latents: it has no frames but the autoencoder's."
        if made is not None and (lost := len(made.moments) - len(made.whole)):
            yield f"{lost} of {len(made.moments)} steps of the trajectory are missing: memory was too small for them."
        if made is not None and (left := made.undecoded):
            yield f"{left} frames of the trajectory come from the linear map: memory was too small to decode them."


NOTHING_KEPT = Recordings()

NO_PREVIEWS = "No previews were kept: preview_every comes to none of the evaluations before the last."
PREVIEWS_THINNED = "Of {asked} previews, {kept} were kept: a sheet has at most " + f"{MOST_PREVIEWS}."
STEPS_THINNED = (
    "Of {asked} steps of the trajectory, {kept} were kept: one has at most "
    f"{MOST_STEPS} steps and {MOST_BYTES_OF_ONE // 2**20} MiB, and those of a job {MOST_BYTES // 2**20} MiB."
)


def _thinned(recording: Recording | None, sentence: str) -> Iterator[str]:
    if recording is not None and len(recording.moments) < recording.asked:
        yield sentence.format(asked=recording.asked, kept=len(recording.moments))


def frames_of_each(pictures: int, shape: LatentShape, series: int, *, is_decoded: bool) -> int:
    """The most steps that are kept of each of so many pictures; two, the ends, in any case."""
    step = series * (2 * prod(shape) + is_decoded * 3 * FRAME_SIDE**2)
    return max(2, min(MOST_STEPS, min(MOST_BYTES_OF_ONE, MOST_BYTES // pictures) // step))
