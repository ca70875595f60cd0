"""Who sits where: jobs are admitted, their samples seated, started over where their numbers went wrong, and let go.

Knows prompts' encoder, solvers and lanes as far as a sample needs them to begin. Knows no steps and no batches: what
happens to a sample on its seat is engine.py's. For the engine's thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import structlog

from worker.engine.errors import EngineError, GenerationFailed, engine_error
from worker.engine.events import Event, Failed, Finished, Started, Stopped
from worker.engine.lane import Lanes
from worker.engine.noise import generator_for, normal_noise
from worker.engine.open_jobs import OpenJobs
from worker.engine.rows import Denoiser, Mode, key_of
from worker.engine.sample import Job, Sample
from worker.engine.transfer import to_device
from worker.families.text import PromptEncoder
from worker.models.bundle import Bundle

log = structlog.get_logger()


class Seating:
    """The samples that sit, at most `seats`, oldest first; and `report`, which hears how jobs begin and end."""

    def __init__(
        self,
        jobs: OpenJobs,
        lanes: Lanes,
        bundle: Bundle,
        denoiser: Denoiser,
        encoder: PromptEncoder,
        *,
        seats: int,
        clock: Callable[[], float],
        report: Callable[[Event], None],
    ) -> None:
        self.seated: list[Sample] = []
        self._jobs = jobs
        self._lanes = lanes
        self._bundle = bundle
        self._denoiser = denoiser
        self._encoder = encoder
        self._seats = seats
        self._clock = clock
        self._report = report

    def admit(self) -> None:
        """Give free seats to the samples that have waited longest. While a solver is compiled, others pass."""
        waiting = (job for job in self._jobs.all() if job.is_ready for _ in range(job.waiting))
        newcomers = list(islice(waiting, self._seats - len(self.seated)))
        self._condition([job for job in dict.fromkeys(newcomers) if job.conditioning is None])
        for job in newcomers:
            self._seat(job)

    def rescue(self, sample: Sample, error: EngineError) -> None:
        """Start the sample over, alone and in float32. It has one chance: the second time, `error` ends its job."""
        job = sample.job
        sample.leave()
        self.seated.remove(sample)
        if sample.is_rescue:
            self.fail(job, error)
            return
        log.warning("a sample starts over, alone and in float32", request_id=job.request.id, index=sample.index)
        try:
            again = self._prepare(job, sample.index, rescue=True)
        except Exception as reason:
            self.fail(job, engine_error(reason, stage="rescue"))
            return
        job.samples[sample.index] = again
        self.seated.append(again)

    def fail(self, job: Job, error: EngineError) -> None:
        """End one job. Its other samples leave their seats with it."""
        if not job.is_over:
            log.warning("request failed", request_id=job.request.id, slug=error.slug, step=job.step)
            self.close(job, Failed(job.request.id, error))

    def close(self, job: Job, last: Finished | Failed | Stopped) -> None:
        """Report its last event, and let its samples go."""
        job.is_over = True
        for sample in job.samples:
            sample.leave()
        self.drop_those_who_left()
        self._report(last)
        self._jobs.close(job)

    def drop_those_who_left(self) -> None:
        self.seated = [sample for sample in self.seated if sample.is_seated]

    def _condition(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        started = self._clock()
        results = self._encoder.condition([job.request for job in jobs])
        for job, result in zip(jobs, results, strict=True):
            job.seconds_encoding = self._clock() - started
            if isinstance(result, EngineError):
                self.fail(job, result)
            else:
                job.conditioning = result

    def _seat(self, job: Job) -> None:
        """Seat the job's next sample. A request that does not fit the model ends here."""
        if job.is_over or job.conditioning is None:
            return
        try:
            sample = self._prepare(job, len(job.samples))
        except Exception as error:
            self.fail(job, engine_error(error, stage="prepare"))
            return
        if not job.samples:
            self._report(Started(job.request.id))
        job.samples.append(sample)
        self.seated.append(sample)

    def _prepare(self, job: Job, index: int, *, rescue: bool = False) -> Sample:
        """A sample with its seat taken, before its first evaluation."""
        request, bundle, conditioning = job.request, self._bundle, job.conditioning
        assert conditioning is not None, "This is a bug: a job without conditioning was seated."
        if request.width % bundle.side_multiple or request.height % bundle.side_multiple:
            raise GenerationFailed(f"Width and height must be multiples of {bundle.side_multiple} for this model.")
        solver = job.recipe.result(timeout=0).solver(bundle.device)
        generator = generator_for(request.seed + index)
        shape = bundle.latent_shape(request.height, request.width)
        noise = to_device(normal_noise(shape, generator), bundle.device)
        mode = Mode.RESCUE if rescue else Mode.REPRODUCIBLE if request.reproducible else Mode.SHARED
        lane = self._lanes.open(key_of(self._denoiser, shape, conditioning.conditional, mode))
        seat = lane.take_seat(conditioning.conditional, conditioning.unconditional)
        sample = Sample(job=job, index=index, lane=lane, seat=seat, solver=solver, generator=generator)
        try:
            solver.begin(lane.registers(seat), noise)
        except Exception:
            sample.leave()
            raise
        return sample
