"""Looks at samples between two steps: previews for whoever watches, recordings for who keeps what was on the way.

What is seen is copied from the registers and leaves the device behind the step, so that the host need not wait for it;
jobs that nobody looks at pay for a question. What goes wrong here costs nobody a picture.
Knows samples, and what their requests want to see. Refuses to know who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import structlog
import torch

from app.contract.messages.trajectory import BOTH
from worker.engine.errors import DeviceLost, at_worst_without, is_lost_device
from worker.engine.events import Preview
from worker.engine.family import Autoencoder
from worker.engine.frames import Frame
from worker.engine.preview import SIDE, fit, to_pixels
from worker.engine.recording import Recording, Recordings
from worker.engine.sample import Sample
from worker.engine.transfer import to_host

log = structlog.get_logger()

MOST_FAILURES = 3
"""In a row, before previews are given up: fitting the map decodes eight small pictures each time."""


def is_due(sample: Sample) -> bool:
    """Has the sample just taken an evaluation after which its request wants a preview? The last one needs none."""
    every = sample.job.request.preview_every
    return every > 0 and sample.step % every == 0 and sample.is_shown and not sample.is_denoised


@dataclass(slots=True, eq=False)
class _Shown:
    """A preview on its way from the device."""

    sample: Sample
    step: int
    pixels: torch.Tensor
    arrived: torch.cuda.Event | None

    def preview(self) -> Preview:
        sample = self.sample
        return Preview(sample.job.request.id, sample.index, self.step, sample.job.evaluations, self.pixels.numpy())


@dataclass(slots=True, eq=False)
class _Copied:
    """Latents on their way from the device, float16 [n, C, h, w], and the frames that each of them becomes."""

    latents: torch.Tensor
    frames: Sequence[Sequence[Frame]]
    arrived: torch.cuda.Event | None

    def has_left_with(self, samples: Collection[Sample]) -> bool:
        return any(frame.sample in samples for frames in self.frames for frame in frames)


class Looks:
    """What `begin` and `look` start, a later `take` returns, or puts into the samples' recordings.

    The map from latents to colours is fitted when the first look is wanted. A look that fails is missing: `failures`
    counts previews, a recording knows its own; after MOST_FAILURES in a row no more previews are tried. Raises
    DeviceLost alone.
    """

    def __init__(
        self, autoencoder: Autoencoder, device: torch.device, *, on_frame: Callable[[Frame], None] = lambda _: None
    ) -> None:
        """`on_frame` hears of latents that the autoencoder is to decode."""
        self._on_frame = on_frame
        self._autoencoder = autoencoder
        self._device = device
        self._shown: list[_Shown] = []
        self._copied: list[_Copied] = []
        self._in_a_row = 0
        self.failures = 0

    def begin(self, samples: Sequence[Sample]) -> None:
        """Before a step of samples of one latent shape: what those begin with that are at their first evaluation."""
        fresh = [each for each in samples if each.recordings is None and each.is_shown]
        kept: list[Recording] = []
        for sample in fresh:
            # Once, also where there is no memory for it.
            sample.recordings = Recordings.none_of(sample.job.request)
            with at_worst_without("a trajectory could not be begun; the picture goes on without it"):
                kept += sample.begin_recording()
        self._give_map(kept)
        self._copy(fresh)

    def resume(self, sample: Sample, recordings: Recordings) -> None:
        """Go on with what had been kept of that sample: its frames are made again."""
        sample.recordings = recordings
        self._give_map(recordings)
        for recording in recordings:
            for series, arrived in recording.arrived.items():
                for place in np.flatnonzero(arrived).tolist():
                    if recording.is_decoded_at(series, place):
                        self._on_frame(Frame(sample, recording, series, place))

    def look(self, samples: Sequence[Sample]) -> None:
        """After a step of samples of one latent shape."""
        self._show([each for each in samples if is_due(each)])
        self._copy([each for each in samples if each.recordings and each.is_shown])

    def take(self, *, of: Collection[Sample] = ()) -> list[Preview]:
        """What has arrived, oldest first: into recordings, and the previews. Those of requests that are over are
        dropped. `of` samples whose pictures have come, all has arrived: it left the device before them."""
        self.keep(of=of)
        shown, self._shown = self._shown, []
        with self._failing_alone():
            arrived = [each for each in shown if _has_arrived(each.arrived)]
            self._shown = [each for each in shown if each not in arrived]
            return [each.preview() for each in arrived if not each.sample.job.is_terminal]
        return []

    def _give_map(self, recordings: Iterable[Recording]) -> None:
        for recording in recordings if self._in_a_row < MOST_FAILURES else ():
            with self._failing_alone():
                recording.linear = self._map

    def keep(self, *, of: Collection[Sample] = ()) -> None:
        """The same of recordings alone."""
        copied, self._copied = self._copied, []
        for each in copied:
            if _has_arrived(each.arrived) or each.has_left_with(of):
                with at_worst_without("latents could not be kept; a trajectory will lack them"):
                    self._put_away(each)
            else:
                self._copied.append(each)

    def _show(self, samples: Sequence[Sample]) -> None:
        if samples and self._in_a_row < MOST_FAILURES:
            with self._failing_alone():
                x0 = torch.stack([sample.estimate for sample in samples])
                pixels, arrived = to_host(to_pixels(self.factors, x0))
                for sample, picture in zip(samples, pixels, strict=True):
                    self._shown.append(_Shown(sample, sample.step, picture, arrived))
                self._in_a_row = 0

    def _copy(self, samples: Sequence[Sample]) -> None:
        wanted = [wish for sample in samples for wish in _wanted(sample)]
        if not wanted:
            return
        with at_worst_without("latents could not be copied; a trajectory will lack them"):
            # Of float16 as they are kept: half the way, and no solver reads them.
            latents, arrived = to_host(torch.stack([tensor for tensor, _ in wanted]).half())
            self._copied.append(_Copied(latents, [frames for _, frames in wanted], arrived))

    def _put_away(self, copied: _Copied) -> None:
        numbers: np.ndarray = copied.latents.numpy()
        for latents, frames in zip(numbers, copied.frames, strict=True):
            for frame in frames:
                frame.recording.keep(frame.series, frame.place, latents)
                if frame.recording.is_decoded_at(frame.series, frame.place):
                    self._on_frame(frame)

    @contextmanager
    def _failing_alone(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_lost_device(error):
                raise DeviceLost(str(error)) from error
            self.failures += 1
            self._in_a_row += 1
            if self.failures == 1:
                log.warning("a preview could not be made; the picture goes on without it", exc_info=error)
            if self._in_a_row == MOST_FAILURES:
                log.warning("no more previews are tried until the next start", failures=self.failures)

    @cached_property
    def _map(self) -> torch.Tensor:
        """From latents to colours, float32 [C + 1, 3 x patch x patch]."""
        return fit(self._autoencoder, side=SIDE * self._autoencoder.pixels_per_latent)

    @cached_property
    def factors(self) -> torch.Tensor:
        """The same on the device."""
        return self._map.to(self._device)


def _wanted(sample: Sample) -> Iterator[tuple[torch.Tensor, list[Frame]]]:
    """The sample's latents that its recordings keep of this moment, and where they belong."""
    kept = [(of, *wanted) for of in sample.recordings or () for wanted in of.wanted(sample.step)]
    for series in BOTH:
        frames = [Frame(sample, of, series, place) for of, each, place in kept if each == series]
        if frames:
            yield (sample.latents if series == "noisy" else sample.estimate), frames


def _has_arrived(event: torch.cuda.Event | None) -> bool:
    return event is None or event.query()
