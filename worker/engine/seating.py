"""Who sits where: jobs are admitted; their samples are seated, moved on, started over after NaN, and let go.

Knows the family and the lanes as far as a sample needs them to begin. Knows no steps and no batches: what happens to a
sample on its seat is engine.py's. For the engine's thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import structlog

from worker.engine.device_time import DeviceTime
from worker.engine.encode import PictureEncoder
from worker.engine.errors import EngineError, engine_error
from worker.engine.events import EngineEvent, Failed, Finished, Parked, Started, Stopped
from worker.engine.family import Asked, Family, Inputs
from worker.engine.lanes import Lanes
from worker.engine.noise import generator_for
from worker.engine.open_jobs import OpenJobs
from worker.engine.passes import Before
from worker.engine.recording import Recordings
from worker.engine.resuming import drop_unfit, resumed
from worker.engine.rows import Mode
from worker.engine.run import Run
from worker.engine.sample import Job, Sample
from worker.engine.solver import SolverFactory

log = structlog.get_logger()


class Seating:
    """The samples that sit, at most `seats`, oldest first; `report`, which hears how jobs begin and end; and `resume`,
    which goes on with the recordings of a sample."""

    def __init__(
        self,
        family: Family,
        jobs: OpenJobs,
        lanes: Lanes,
        encoder: PictureEncoder,
        *,
        seats: int,
        clock: Callable[[], float],
        report: Callable[[EngineEvent], None],
        time: DeviceTime,
        resume: Callable[[Sample, Recordings], None],
    ) -> None:
        self.seated: list[Sample] = []
        self._family = family
        self._jobs = jobs
        self._lanes = lanes
        self._encoder = encoder
        self._seats = seats
        self._clock = clock
        self._report = report
        self._time = time
        self._resume = resume

    def let_go(self, parked: Callable[[Job], Parked]) -> None:
        """Of those that are to leave: called off, or `parked`."""
        for job in self._jobs.all():
            if job.is_to_leave:
                self.close(job, Stopped(job.request.id, job.work) if job.is_canceled else parked(job))

    def admit(self) -> None:
        """Give free seats to the samples that have waited longest, of batch jobs last: a seat that one of those left is
        the interactive job's for which it left. While a solver is compiled, others pass."""
        by_hurry = sorted(self._jobs.all(), key=lambda job: job.request.priority == "batch")
        waiting = (job for job in by_hurry if job.is_ready for _ in range(job.waiting))
        newcomers = list(islice(waiting, self._seats - len(self.seated)))
        self._prepare([job for job in dict.fromkeys(newcomers) if job.prepared is None])
        for job in newcomers:
            self._seat(job)

    def move_on(self) -> None:
        """Let the samples at the end of a pass that is not their last begin the next one."""
        for sample in self.seated:
            if sample.is_seated and sample.is_at_end_of_pass and not sample.is_in_last_pass:
                try:
                    sample.next_pass(self._lanes)
                except Exception as error:
                    self.fail(sample.job, engine_error(error, stage="next pass"))

    def rescue(self, sample: Sample, error: EngineError) -> None:
        """Start the sample over, alone and in float32. It has one chance: the second time, `error` ends its job."""
        job = sample.job
        sample.leave()
        sample.recordings = None
        self.seated.remove(sample)
        if sample.is_rescue:
            self.fail(job, error)
            return
        log.warning("a sample starts over, alone and in float32", request_id=job.request.id, index=sample.index)
        try:
            again = self._begin(job, sample.index, sample.seed, Mode.RESCUE)
        except Exception as reason:
            self.fail(job, engine_error(reason, stage="rescue"))
            return
        job.samples[job.samples.index(sample)] = again
        self.seated.append(again)

    def fail(self, job: Job, error: EngineError) -> None:
        """End one job. Its other samples leave their seats with it."""
        if not job.is_terminal:
            log.warning("request failed", request_id=job.request.id, slug=error.slug, step=job.step)
            self.close(job, Failed(job.request.id, error, work=job.work))

    def close(self, job: Job, last: Finished | Failed | Stopped | Parked) -> None:
        """Report its last event, and let its samples go."""
        job.is_terminal = True
        for sample in job.samples:
            sample.leave()
        self.drop_those_who_left()
        self._report(last)
        self._jobs.close(job)

    def drop_those_who_left(self) -> None:
        self.seated = [sample for sample in self.seated if sample.is_seated]

    def _prepare(self, jobs: list[Job]) -> None:
        """Ask the family for their passes. A request that does not fit the model ends here."""
        started = self._clock()
        asked = self._encoded([(job, solvers) for job in jobs if (solvers := self._compiled(job)) is not None])
        if not asked:
            return
        results = self._family.prepare([each for _, each in asked])
        self._time.spent("encode", [(job, 1) for job, _ in asked], since=started)
        for (job, _), result in zip(asked, results, strict=True):
            if isinstance(result, EngineError):
                self.fail(job, result)
            else:
                job.prepared = result
                job.request = job.request.without_pictures()
                drop_unfit(job)

    def _compiled(self, job: Job) -> list[SolverFactory] | None:
        """Its solvers. None if they could not be made, or what it needs not be brought, which ends it."""
        try:
            for each in job.brought:
                each.result(timeout=0)
            return [solver.result(timeout=0) for solver in job.solvers]
        except Exception as error:
            self.fail(job, engine_error(error, stage="prepare"))
            return None

    def _encoded(self, jobs: list[tuple[Job, list[SolverFactory]]]) -> list[tuple[Job, Asked]]:
        """With what the autoencoder makes of their pictures. Those of which it cannot end here."""
        results = self._encoder.encode(
            [job.inputs.pictures for job, _ in jobs], alone=[job.request.reproducible for job, _ in jobs]
        )
        asked: list[tuple[Job, Asked]] = []
        for (job, solvers), encoded in zip(jobs, results, strict=True):
            if isinstance(encoded, EngineError):
                self.fail(job, encoded)
            else:
                job.is_tiled = any(each.is_tiled for each in encoded)
                asked.append((job, Asked(job.request, solvers, job.inputs, encoded)))
            job.inputs = Inputs()
        return asked

    def _seat(self, job: Job) -> None:
        """Seat the job's next sample."""
        if job.is_terminal or job.prepared is None:
            return
        try:
            sample = resumed(job, self._lanes, self._resume) or self._first(job)
        except Exception as error:
            self.fail(job, engine_error(error, stage="prepare"))
            return
        if not job.samples:
            kept = job.snapshot if sample.step else None
            behind = (kept.step, kept.evaluations) if kept else (0, 0)
            self._report(Started(job.request.id, *behind))
        job.samples.append(sample)
        if sample.is_seated:
            self.seated.append(sample)

    def _first(self, job: Job) -> Sample:
        """The job's next sample, before all of its evaluations."""
        index = len(job.samples)
        mode = Mode.REPRODUCIBLE if job.request.reproducible else Mode.SHARED
        return self._begin(job, index, job.request.seed_of(index), mode)

    def _begin(self, job: Job, index: int, seed: int, mode: Mode) -> Sample:
        """A sample on the seat of its first pass, before its first evaluation."""
        generator = generator_for(seed)
        run = Run.begin(job.passes[0], Before(index, (), generator), mode, self._lanes)
        return Sample(job=job, index=index, seed=seed, mode=mode, generator=generator, run=run)
