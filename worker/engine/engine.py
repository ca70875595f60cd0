"""The engine: requests join and leave the batch between any two steps.

`step` is the whole story. A request becomes a job, a job's samples take seats one by one, oldest job first; in each
step the samples of one lane take one model evaluation together, and those that are denoised are decoded.
Knows no Redis, HTTP or files. Knows no listener either: events are returned to whoever drives it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import structlog
import torch

from worker.engine.batcher import Batcher
from worker.engine.decode import decode, ready_to_decode
from worker.engine.denoise import advance, predict
from worker.engine.encode import Conditioning, PromptEncoder
from worker.engine.errors import DeadlineExceeded, EngineError, GenerationFailed, device_watch, engine_error
from worker.engine.events import Event, Failed, Finished, Progress, Started, Stopped
from worker.engine.isolate import isolate
from worker.engine.noise import generator_for, initial_noise
from worker.engine.sample import Job, Request, Sample
from worker.engine.solver import Solvers
from worker.models.bundle import Bundle

log = structlog.get_logger()


class Engine:
    """Denoises many requests at once on one device.

    `submit`, `cancel`, `wait_for_work` and the properties are for any thread; `step` is for one thread only.
    `clock` gives seconds and decides about deadlines and timings.
    """

    def __init__(self, bundle: Bundle, *, seats: int = 16, clock: Callable[[], float] = time.monotonic) -> None:
        if seats < 1:
            raise ValueError(f"seats must be at least 1, not {seats}")
        self.seats = seats
        self.clock = clock
        self._bundle = bundle
        self._encoder = PromptEncoder(bundle)
        self._solvers = Solvers(bundle.scheduler, bundle.device)
        self._batcher = Batcher()
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._seated: list[Sample] = []
        self._events: list[Event] = []
        self._last_step_at = clock()

    def submit(self, request: Request) -> None:
        """Take in a request. It will get exactly one of Finished, Failed and Stopped, whatever is wrong with it."""
        with self._changed:
            self._jobs.append(Job(request, submitted_at=self.clock()))
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step. An id that is not here changes nothing."""
        with self._changed:
            for job in self._jobs:
                if job.request.id == request_id:
                    job.is_canceled = True

    def wait_for_work(self, timeout: float) -> None:
        """Sleep until a step has something to do, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._jobs), timeout)

    @property
    def idle(self) -> bool:
        """Nothing is open: all that was submitted has had its last event."""
        with self._changed:
            return not self._jobs

    @property
    def free_seats(self) -> int:
        """Seats that no open sample, seated or waiting, has a claim to."""
        with self._changed:
            return max(0, self.seats - sum(job.open_samples for job in self._jobs))

    @property
    def last_step_at(self) -> float:
        """When the last step ended, by the engine's clock: for a watchdog."""
        return self._last_step_at

    def step(self) -> list[Event]:
        """One iteration: let go, let in, denoise once, decode what is ready. Returns what happened.

        Raises DeviceLost if the device will not compute again; the process must end then.
        """
        with torch.inference_mode(), device_watch():
            self._stop_unwanted()
            self._admit()
            self._denoise(self._batcher.choose([sample for sample in self._seated if not sample.is_denoised]))
            self._decode(ready_to_decode(self._seated))
        events, self._events = self._events, []
        self._last_step_at = self.clock()
        return events

    def _stop_unwanted(self) -> None:
        now = self.clock()
        for job in self._open_jobs():
            if job.is_canceled:
                self._close(job, Stopped(job.request.id))
            elif job.is_overdue(now):
                self._fail(job, DeadlineExceeded("The deadline of the request passed before its pictures were done."))

    def _admit(self) -> None:
        """Give free seats to the samples that have waited longest."""
        waiting = (job for job in self._open_jobs() for _ in range(job.waiting))
        newcomers = list(islice(waiting, self.seats - len(self._seated)))
        self._condition([job for job in dict.fromkeys(newcomers) if job.conditioning is None])
        for job in newcomers:
            self._seat(job)

    def _condition(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        started = self.clock()
        results = self._encoder.condition([job.request for job in jobs])
        for job, result in zip(jobs, results, strict=True):
            job.seconds_encoding = self.clock() - started
            if isinstance(result, EngineError):
                self._fail(job, result)
            else:
                job.conditioning = result

    def _seat(self, job: Job) -> None:
        """Seat the job's next sample. A request that does not fit the model ends here."""
        if job.is_over or job.conditioning is None:
            return
        try:
            sample = self._prepare(job, job.conditioning)
        except Exception as error:
            self._fail(job, engine_error(error, stage="prepare"))
            return
        if not job.samples:
            self._events.append(Started(job.request.id))
        job.samples.append(sample)
        self._seated.append(sample)

    def _prepare(self, job: Job, conditioning: Conditioning) -> Sample:
        request, bundle, index = job.request, self._bundle, len(job.samples)
        if request.width % bundle.side_multiple or request.height % bundle.side_multiple:
            raise GenerationFailed(f"Width and height must be multiples of {bundle.side_multiple} for this model.")
        solver = self._solvers.make(request.scheduler, request.num_inference_steps)
        generator = generator_for(request.seed + index)
        h, w = request.height // bundle.vae_scale_factor, request.width // bundle.vae_scale_factor
        noise = initial_noise((1, bundle.latent_channels, h, w), generator, bundle.device)
        return Sample(
            job=job,
            index=index,
            solver=solver,
            conditioning=conditioning,
            generator=generator,
            latents=noise * solver.init_noise_sigma,
        )

    def _denoise(self, batch: list[Sample]) -> None:
        if not batch:
            return
        started = self.clock()
        outputs = isolate(
            batch,
            partial(predict, self._bundle),
            name="denoise",
            on_out_of_memory=partial(self._batcher.lower_cap, batch[0].lane),
        )
        for sample, error in zip(batch, advance(batch, outputs), strict=True):
            if error is not None:
                self._fail(sample.job, error)
        seconds = self.clock() - started
        for job in _jobs_of(batch):
            job.seconds_denoising += seconds
            self._report_progress(job)

    def _report_progress(self, job: Job) -> None:
        if not job.is_over and job.step > job.reported_step:
            job.reported_step = job.step
            self._events.append(Progress(job.request.id, job.step, job.evaluations))

    def _decode(self, batch: list[Sample]) -> None:
        if not batch:
            return
        started = self.clock()
        for sample, result in zip(batch, isolate(batch, partial(decode, self._bundle), name="decode"), strict=True):
            if isinstance(result, EngineError):
                self._fail(sample.job, result)
            else:
                sample.picture = result
        self._seated = [sample for sample in self._seated if not sample.is_finished]
        seconds = self.clock() - started
        for job in _jobs_of(batch):
            job.seconds_decoding += seconds
            if job.open_samples == 0:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        self._close(
            job,
            Finished(
                job.request.id,
                pictures=[sample.picture for sample in job.samples if sample.picture is not None],
                seeds=[sample.seed for sample in job.samples],
                steps=job.evaluations,
                timings=job.timings(self.clock()),
                warnings=list(job.conditioning.warnings) if job.conditioning else [],
            ),
        )

    def _fail(self, job: Job, error: EngineError) -> None:
        """End one job. Its other samples leave their seats with it."""
        if not job.is_over:
            log.warning("request failed", request_id=job.request.id, slug=error.slug, step=job.step)
            self._close(job, Failed(job.request.id, error))

    def _close(self, job: Job, last: Event) -> None:
        job.is_over = True
        self._seated = [sample for sample in self._seated if sample.job is not job]
        self._events.append(last)
        with self._changed:
            self._jobs.remove(job)

    def _open_jobs(self) -> list[Job]:
        with self._changed:
            return list(self._jobs)


def _jobs_of(samples: Sequence[Sample]) -> list[Job]:
    return list(dict.fromkeys(sample.job for sample in samples))
