"""Snapshots of jobs: asked for by anybody, taken behind the step, and told when they have come from the device.

No step waits for one. A job that is to be parked is let go with its own: for that the step that is still computed is
waited for. What cannot be kept costs nobody a picture. Knows jobs and samples; refuses to know who keeps snapshots, and
why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
import torch

from worker.engine.deep import Depth
from worker.engine.errors import DeviceLost, is_lost_device
from worker.engine.events import EngineEvent, Parked, SnapshotTaken
from worker.engine.looks import Looks
from worker.engine.plain import on_host
from worker.engine.recording import Recording, Recordings
from worker.engine.resuming import drawn_with, passes_of
from worker.engine.sample import Job, Sample
from worker.engine.selection import Selection
from worker.engine.snapshot import KeptRecording, SampleSnapshot, Snapshot, Standing, hash_of

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A snapshot on its way from the device: of each sample that sits, where it stands."""

    job: Job
    standing: dict[Sample, SampleSnapshot]
    arrived: torch.cuda.Event | None

    @property
    def has_arrived(self) -> bool:
        return self.arrived is None or self.arrived.query()

    @property
    def is_of_use(self) -> bool:
        """Its job goes on, none of its samples has started over meanwhile, and all are made of numbers."""
        return (
            not self.job.is_terminal
            and all(sample in self.job.samples for sample in self.standing)
            and all(_is_finite(each.standing) for each in self.standing.values())
        )

    def snapshot(self) -> Snapshot | None:
        """What has come, with what is known by now of samples that need no seat any more."""
        if not self.is_of_use:
            return None
        job, samples = self.job, []
        for sample in job.samples:
            if sample.is_finished:
                samples.append(_finished(sample))
            elif sample in self.standing:
                kept = replace(self.standing[sample], estimated=sample.estimated)
                samples.append(_with_recordings(kept, sample.recordings))
            else:
                break
        if job.snapshot is not None and len(samples) == len(job.samples):
            # Those that have not had a seat again.
            samples += job.snapshot.samples[len(samples) :]
        return Snapshot(
            request=hash_of(job.request),
            passes=passes_of(job),
            drawn_with=drawn_with(job),
            samples=samples,
            wanted=job.wanted,
            is_pruned=job.is_pruned,
            seconds={str(stage): seconds for stage, seconds in job.seconds.items()},
        )


class Saving:
    """For the engine's thread only. What has been looked at is part of a snapshot. Raises DeviceLost alone."""

    def __init__(self, looks: Looks, selection: Selection) -> None:
        self._looks = looks
        self._selection = selection
        self._taken: list[_Taken] = []
        self._said_impossible = False

    def turn(self, jobs: list[Job]) -> list[EngineEvent]:
        """Behind a step: begin those that somebody wants of one of the jobs, and tell those that have come."""
        for job in jobs:
            if job.is_to_snapshot and job.samples and not job.is_terminal:
                job.is_to_snapshot = False
                if (taken := self._begun(job)) is not None:
                    self._taken.append(taken)
        return self._arrived() if self._taken else []

    def _arrived(self) -> list[EngineEvent]:
        arrived = [each for each in self._taken if each.has_arrived]
        self._taken = [each for each in self._taken if each not in arrived]
        # What was copied before them has arrived as well, and belongs to them.
        self._looks.keep()
        found = [(each.job, self._at_worst_none(each.snapshot)) for each in arrived]
        return [SnapshotTaken(job.request.id, kept) for job, kept in found if kept is not None]

    def parked(self, job: Job) -> Parked:
        """The last word about a job that is to leave its seats now."""
        if not job.samples:
            return Parked(job.request.id, job.snapshot, job.work)
        taken = self._begun(job)
        if taken is not None and taken.arrived is not None:
            taken.arrived.synchronize()
        # Previews of it are too late, and those of others come with the next look.
        self._looks.keep()
        self._selection.wait_for_estimates_of(job)
        return Parked(job.request.id, None if taken is None else self._at_worst_none(taken.snapshot), job.work)

    def _begun(self, job: Job) -> _Taken | None:
        seated = [each for each in job.samples if each.is_seated and not each.is_finished]
        copied = self._at_worst_none(lambda: on_host({sample.index: _standing(sample) for sample in seated}))
        if copied is None:
            return None
        standing, arrived = copied
        return _Taken(job, {sample: standing[sample.index] for sample in seated}, arrived)

    def _at_worst_none(self, make: Callable[[], T | None]) -> T | None:
        """What it makes; None if it raises, which is said once. Raises DeviceLost alone."""
        try:
            return make()
        except Exception as error:
            if is_lost_device(error):
                raise DeviceLost(str(error)) from error
            if not self._said_impossible:
                self._said_impossible = True
                log.warning("no snapshot can be taken of a job; it would start over", exc_info=error)
            return None


def _standing(sample: Sample) -> SampleSnapshot:
    """Of one that sits. Tensors are the device's own."""
    return replace(
        _known(sample),
        standing=sample.run.standing(
            sample.evaluation,
            sample.generator,
            needs_deep=not sample.is_at_end_of_pass and sample.depth is Depth.OUTER,
        ),
    )


def _finished(sample: Sample) -> SampleSnapshot:
    """Of one that has its picture, or was given up. Nothing of it is in the registers any more."""
    kept, arrived = on_host(_known(sample))
    if arrived is not None:
        # What its passes before ended with: copied behind the step that was launched meanwhile.
        arrived.synchronize()
    return _with_recordings(replace(kept, picture=sample.picture, nsfw=sample.nsfw), sample.recordings)


def _known(sample: Sample) -> SampleSnapshot:
    return SampleSnapshot(
        index=sample.index,
        seed=sample.seed,
        mode=sample.mode.value,
        step=sample.step if sample.pruned_at is None else sample.pruned_at,
        number=sample.number,
        ended=sample.ended,
        began=sample.run.began,
        estimated=sample.estimated,
        verdict=sample.verdict,
        pruned_at=sample.pruned_at,
        is_tiled=sample.is_tiled,
    )


def _with_recordings(kept: SampleSnapshot, recordings: Recordings | None) -> SampleSnapshot:
    """And with what has come of its moments so far."""
    if recordings is None:
        return kept
    own = {"previews": recordings.previews, "trajectory": recordings.trajectory}
    said = {name: _kept(each, until=kept.step) for name, each in own.items() if each is not None}
    return replace(kept, recordings=said, not_begun=recordings.not_begun)


def _kept(recording: Recording, *, until: int) -> KeptRecording:
    places = {
        series: [place for place, moment in enumerate(recording.moments) if arrived[place] and moment.step <= until]
        for series, arrived in recording.arrived.items()
    }
    return KeptRecording(
        moments=[(each.step, each.timestep, each.levels, each.series) for each in recording.moments],
        asked=recording.asked,
        makes_picture=recording.makes_picture,
        is_decoded=recording.is_decoded,
        shape=next(iter(recording.latents.values())).shape[1:],
        places=places,
        latents={series: latents[places[series]] for series, latents in recording.latents.items()},
    )


def _is_finite(standing: Standing | None) -> bool:
    return standing is None or bool(standing.registers.isfinite().all())
