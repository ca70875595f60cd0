"""Decodes under way: sent off to the device, and due a step later where the host runs ahead of it.

Knows lanes, the memory that they have for decodes, and whose the time is. Refuses to know which samples are ready, and
what becomes of a job whose decode failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from worker.engine.decode import Checker, Decoded, decode
from worker.engine.device_time import DeviceTime
from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.judging import Judge
from worker.engine.lane import Lane
from worker.engine.lanes import Lanes
from worker.engine.sample import Job, Sample
from worker.engine.stage import Stages

Launched = tuple[Sample, Decoded, int]
"""A sample, the decode that has its picture, and the picture's place in it."""


class Decodes:
    """For the engine's thread. `fail` ends a job whose picture cannot be decoded. Raises DeviceLost."""

    def __init__(
        self,
        lanes: Lanes,
        stages: Stages,
        time: DeviceTime,
        *,
        clock: Callable[[], float],
        checker: Checker | None,
        judge: Judge | None,
        fail: Callable[[Job, EngineError], None],
    ) -> None:
        self._lanes = lanes
        self._stages = stages
        self._time = time
        self._clock = clock
        self._sees = partial(decode, checker=checker, judge=judge, make_room=lanes.drop_idle)
        self._fail = fail
        self._under_way: list[Launched] = []

    def turn(self, batch: list[Sample], tile: int | None, *, runs_ahead: bool) -> list[Launched]:
        """Send these samples of one lane off, in tiles of so many latents; and what is to be taken now. Where the host
        runs ahead that are the ones of the step before, behind whatever this one has launched."""
        launched = self._send_off(batch, tile) if batch else []
        due, self._under_way = (self._under_way, launched) if runs_ahead else (launched, [])
        return due

    def _send_off(self, batch: list[Sample], tile: int | None) -> list[Launched]:
        started, lane = self._clock(), batch[0].lane
        results = isolate(
            batch,
            partial(self._on_device, lane, tile=tile),
            name="decode",
            on_out_of_memory=partial(self._too_many, lane),
        )
        self._time.decoded(batch, since=started)
        launched = []
        for sample, result in zip(batch, results, strict=True):
            if isinstance(result, EngineError):
                self._fail(sample.job, result)
            else:
                sample.is_decoding = True
                launched.append((sample, *result))
        return launched

    def _on_device(self, lane: Lane, samples: Sequence[Sample], *, tile: int | None) -> list[tuple[Decoded, int]]:
        with self._stages.at("decode", expected=lane.decode_seconds(len(samples))):
            return self._sees(lane.autoencoder, samples, tile=tile)

    def _too_many(self, lane: Lane, batch: Sequence[Sample]) -> None:
        lane.lower_decodes(len(batch))
        self._lanes.drop_idle()
