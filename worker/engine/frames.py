"""Frames of trajectories that the autoencoder decodes, a few at a time, between the steps and pictures of everybody.

A frame costs as much as a picture's decode and nobody waits for it as for a picture: one batch is sent off at a time,
and where pictures wait as well they take turns. A step comes later by no more than one batch.
Knows recordings and the autoencoder. Knows no seats, and not when a step is taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from app.contract.messages.trajectory import Shown
from worker.engine.costs import AT_ONCE
from worker.engine.decode import to_pixels
from worker.engine.errors import at_worst_without
from worker.engine.lane import Lane
from worker.engine.recording import FRAME_SIDE, Recording
from worker.engine.sample import Job, Sample
from worker.engine.stage import Stages
from worker.engine.transfer import to_device, to_host


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One that is to be decoded: of which sample, and where it belongs."""

    sample: Sample
    recording: Recording
    series: Shown
    place: int

    @property
    def is_wanted(self) -> bool:
        """Its job goes on, and its sample has not started over."""
        return not self.sample.job.is_terminal and self.sample.recordings is not None

    @property
    def kind(self) -> tuple[Lane, tuple[int, ...]]:
        """The same for frames that may be decoded together: a later pass may have larger latents than is shown."""
        return self.sample.lane, self.recording.latents[self.series].shape[1:]

    def at_once(self, within: float = math.inf) -> int:
        """How many are decoded together with it, itself included, that are expected to be done `within` so many
        seconds; 0 where there is no memory for a whole one."""
        fit, tile = self.sample.lane.decodes(within)
        if tile is not None:
            return 0
        return 1 if self.sample.job.request.reproducible else min(AT_ONCE, fit)


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    """A batch on its way through the autoencoder: uint8 [B, height, width, 3], and when it has come."""

    frames: Sequence[Frame]
    pixels: torch.Tensor
    arrived: torch.cuda.Event | None


class FrameDecoder:
    """The frames that wait, oldest first. For the engine's thread only."""

    def __init__(self, stages: Stages, *, make_room: Callable[[], bool] = lambda: False) -> None:
        """`make_room` is called where memory was too small."""
        self._stages = stages
        self._make_room = make_room
        self._waiting: deque[Frame] = deque()
        self._sent: _Sent | None = None
        self._had_last_turn = False

    def add(self, frame: Frame) -> None:
        self._waiting.append(frame)

    def is_busy_for(self, job: Job) -> bool:
        """Frames of it are still to come."""
        sent = self._sent.frames if self._sent else ()
        # Those that nobody wants any more are dropped without a word.
        waiting = (frame for frame in self._waiting if frame.is_wanted)
        return any(frame.sample.job is job for frame in (*sent, *waiting))

    def turn(self, *, pictures_wait: bool, wait: bool, within: float = math.inf) -> tuple[list[Sample], bool]:
        """Put away what has been decoded, and send off a batch if it is their turn, expected to be done `within` so
        many seconds: whose frames these are, and whether it was. `wait` for what was sent off, where there is nothing
        else to do."""
        done = self._taken(wait=wait)
        batch = self._next_batch(pictures_wait=pictures_wait, within=within)
        if batch:
            with self._stages.at("decode", expected=batch[0].sample.lane.decode_seconds(len(batch))):
                self._decode(batch)
        self._had_last_turn = bool(batch)
        return [frame.sample for frame in (*done, *batch)], bool(batch)

    def _taken(self, *, wait: bool) -> Sequence[Frame]:
        sent = self._sent
        if sent is None:
            return ()
        if sent.arrived is not None and not sent.arrived.query():
            if not wait:
                return ()
            sent.arrived.synchronize()
        for frame, pixels in zip(sent.frames, sent.pixels, strict=True):
            # A copy: the tensor is pinned, and holds a whole batch.
            frame.recording.decoded[frame.series, frame.place] = pixels.numpy().copy()
        self._sent = None
        return sent.frames

    def _next_batch(self, *, pictures_wait: bool, within: float) -> list[Frame]:
        """What is decoded now: nothing while a batch is under way, or where it is the turn of pictures."""
        self._waiting = deque(frame for frame in self._waiting if frame.is_wanted)
        if not self._waiting or self._sent or (pictures_wait and self._had_last_turn):
            return []
        first = self._waiting[0]
        alike = [frame for frame in self._waiting if frame.kind == first.kind]
        batch = alike[: max(1, first.at_once(within))]
        self._waiting = deque(frame for frame in self._waiting if frame not in batch)
        return batch

    def _decode(self, batch: Sequence[Frame]) -> None:
        """Send them off. Those for which that fails stay what the linear map makes of them."""
        if not batch[0].at_once():
            return
        with at_worst_without("frames of a trajectory could not be decoded", frames=len(batch)):
            self._sent = _sent_off(batch)
        if self._sent is None:
            self._make_room()


def _sent_off(batch: Sequence[Frame]) -> _Sent:
    lane = batch[0].sample.lane
    seen = torch.stack([torch.from_numpy(frame.recording.seen(frame.series, frame.place)) for frame in batch])
    images = lane.autoencoder.decode(to_device(seen, lane.device)).float()
    scale = min(1.0, FRAME_SIDE / max(images.shape[-2:]))
    if scale < 1:
        sides = [max(1, round(scale * side)) for side in images.shape[-2:]]
        images = functional.interpolate(images, size=sides, mode="area")
    return _Sent(batch, *to_host(to_pixels(images)))
