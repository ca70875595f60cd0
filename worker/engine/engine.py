"""The engine: requests join and leave the batch between any two steps.

`step` is the whole story. A request becomes a job, a job's samples take seats one by one, oldest job first; in each
step the samples of one lane take one model evaluation together, and those that are denoised are decoded.

On a GPU the host runs ahead: it learns one step late whether a sample is still made of numbers, and prepares the next
step while the device computes this one.
Knows no Redis, HTTP or files. Knows no listener either: events are returned to whoever drives it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice

import numpy as np
import structlog
import torch

from worker.engine.batcher import Batcher
from worker.engine.costs import Profile
from worker.engine.decode import decode, ready_to_decode
from worker.engine.denoise import Finite
from worker.engine.encode import PromptEncoder
from worker.engine.errors import (
    EngineError,
    GenerationFailed,
    NumericalError,
    device_watch,
    engine_error,
)
from worker.engine.events import Event, Failed, Progress, Started, Stopped
from worker.engine.isolate import isolate
from worker.engine.lane import Graphs, Lane, Lanes
from worker.engine.memory import measure_memory
from worker.engine.noise import generator_for, normal_noise
from worker.engine.preview import Previewer, is_due
from worker.engine.profile import profile_of
from worker.engine.request import Request
from worker.engine.rows import LaneKey, Mode, key_of
from worker.engine.sample import Job, Sample
from worker.engine.solver import Solvers
from worker.engine.stage import Stage, Stages
from worker.engine.transfer import current_device, to_device
from worker.families.autoencoder import ScaledAutoencoder
from worker.families.unet import UNet
from worker.models.bundle import Bundle

log = structlog.get_logger()

NOT_A_NUMBER = "The latents stopped being numbers; try another seed, scheduler or a lower guidance_scale."


class Engine:
    """Denoises many requests at once on one device.

    `submit`, `cancel`, `wait_for_work` and the properties are for any thread; `step` and `warm_up` are for one thread
    only. `clock` gives seconds and decides about timings. `compiler` compiles solvers, so that a request
    with a new one keeps nobody waiting; without it, `submit` compiles before it returns. `graphs`: whether whole steps
    are captured as CUDA graphs; on means that one that cannot be is an error. Raises ValueError.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        seats: int = 16,
        clock: Callable[[], float] = time.monotonic,
        compiler: Executor | None = None,
        graphs: Graphs = "auto",
    ) -> None:
        if seats < 1:
            raise ValueError(f"seats must be at least 1, not {seats}")
        self.seats = seats
        self.clock = clock
        self._bundle = bundle
        self._encoder = PromptEncoder(bundle)
        self._denoiser = UNet(bundle.unet, dtype=bundle.dtype, device=bundle.device)
        autoencoder = ScaledAutoencoder(bundle.vae, pixels_per_latent=bundle.vae_scale_factor, device=bundle.device)
        self._previewer = Previewer(autoencoder, bundle.device)
        self._solvers = Solvers(bundle.scheduler, compiler, channels=bundle.latent_channels)
        self._lanes = Lanes(native_key(bundle, self._denoiser), autoencoder, seats=seats, graphs=graphs)
        self.costs = self._lanes.costs
        self._batcher = Batcher()
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._seated: list[Sample] = []
        self._unread: list[tuple[Sample, Finite, int]] = []
        self._events: list[Event] = []
        self._stages = Stages()
        self.last_batch = 0
        """Samples that took a model evaluation together in the last step."""

    def warm_up(
        self, known: Profile | None = None, *, seconds: float = 3.0, on_measured: Callable[[int], None] = lambda _: None
    ) -> Profile:
        """Find out how large a step should be at the native size, in some `seconds`, unless it is `known`.

        On a GPU, measures its memory and captures the steps up to that size. `on_measured` hears of each size, in rows.
        Raises DeviceLost.
        """
        with current_device(self._bundle.device), torch.inference_mode(), device_watch():
            lane = self._lanes.open(self._lanes.native)
            self.costs.memory = measure_memory(lane, weights=self._bundle.weights_bytes)
            profile = profile_of(lane, known, most_rows=2 * self.seats, seconds=seconds, on_measured=on_measured)
        self.costs.profile = profile
        return profile

    def submit(self, request: Request) -> None:
        """Take in a request. It will get exactly one of Finished, Failed and Stopped, whatever is wrong with it."""
        recipe = self._solvers.recipe(request.scheduler, request.num_inference_steps)
        with self._changed:
            self._jobs.append(Job(request, submitted_at=self.clock(), recipe=recipe))
        recipe.add_done_callback(lambda _: self._wake())

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step. An id that is not here changes nothing."""
        with self._changed:
            for job in self._jobs:
                if job.request.id == request_id:
                    job.is_canceled = True
            self._changed.notify_all()

    def wait_for_work(self, timeout: float) -> None:
        """Sleep until a step has something to do, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: any(job.is_ready or job.is_canceled for job in self._jobs), timeout)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

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
    def stage(self) -> Stage | None:
        """What `step` is at; None while it is not. For a watchdog."""
        return self._stages.current

    @property
    def preview_failures(self) -> int:
        """Previews that could not be made; their pictures could."""
        return self._previewer.failures

    def step(self) -> list[Event]:
        """One iteration: let go, let in, denoise once, decode what is ready. Returns what happened.

        Raises DeviceLost if the device will not compute again; the process must end then.
        """
        at_step = self._stages.at("step", expected=self._lanes.picture_seconds)
        with current_device(self._bundle.device), torch.inference_mode(), device_watch(), at_step:
            self._read_flags(but_newest=True)
            self._stop_unwanted()
            self._admit()
            self._denoise(self._batcher.choose([sample for sample in self._seated if not sample.is_denoised]))
            self._decode(*ready_to_decode(self._seated))
            self._lanes.sweep(self.clock())
        events, self._events = [*self._events, *self._previewer.take()], []
        return events

    def _stop_unwanted(self) -> None:
        for job in self._open_jobs():
            if job.is_canceled:
                self._close(job, Stopped(job.request.id))

    def _admit(self) -> None:
        """Give free seats to the samples that have waited longest. While a solver is compiled, others pass."""
        waiting = (job for job in self._open_jobs() if job.is_ready for _ in range(job.waiting))
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
            sample = self._prepare(job, len(job.samples))
        except Exception as error:
            self._fail(job, engine_error(error, stage="prepare"))
            return
        if not job.samples:
            self._events.append(Started(job.request.id))
        job.samples.append(sample)
        self._seated.append(sample)

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

    def _denoise(self, batch: list[Sample]) -> None:
        self.last_batch = len(batch)
        if not batch:
            return
        started = self.clock()
        lane = batch[0].lane
        flags = isolate(
            batch, partial(self._take_step, lane), name="denoise", on_out_of_memory=partial(self._make_room, lane)
        )
        for sample, flag in zip(batch, flags, strict=True):
            self._advance(sample, flag)
        with self._stages.at("preview", expected=self._lanes.picture_seconds):
            self._previewer.show([sample for sample in batch if sample.is_seated and is_due(sample)])
        # Decoding waits for the device in any case.
        if self._bundle.device.type != "cuda" or any(sample.is_denoised for sample in batch):
            self._read_flags()
        seconds = self.clock() - started
        for job in _jobs_of(batch):
            job.seconds_denoising += seconds
            self._report_progress(job)

    def _take_step(self, lane: Lane, samples: Sequence[Sample]) -> list[tuple[Finite, int]]:
        with self._stages.at("denoise", expected=lane.step_seconds(sum(sample.rows for sample in samples))):
            finite = lane.take_step([sample.turn() for sample in samples])
        return [(finite, k) for k in range(len(samples))]

    def _take_decode(
        self, lane: Lane, samples: Sequence[Sample], *, tile: int | None
    ) -> list[np.ndarray | EngineError]:
        with self._stages.at("decode", expected=lane.decode_seconds(len(samples))):
            return decode(lane.autoencoder, samples, tile=tile)

    def _advance(self, sample: Sample, flag: tuple[Finite, int] | EngineError) -> None:
        if isinstance(flag, EngineError):
            self._fail(sample.job, flag)
            return
        try:
            sample.advance()
        except Exception as error:
            self._fail(sample.job, engine_error(error, stage="solver"))
            return
        self._unread.append((sample, *flag))

    def _make_room(self, lane: Lane, batch: Sequence[Sample]) -> None:
        self._batcher.lower_cap(lane, sum(sample.rows for sample in batch))
        self._lanes.sweep(self.clock(), patience=0)

    def _read_flags(self, *, but_newest: bool = False) -> None:
        """Look after samples whose last step was not made of numbers. Reading the newest step's flags waits for it."""
        newest = self._unread[-1][1] if self._unread and but_newest else None
        unread = [each for each in self._unread if each[1] is not newest]
        self._unread = [each for each in self._unread if each[1] is newest]
        for sample, finite, k in unread:
            if sample.is_seated and not finite[k]:
                self._rescue(sample, NumericalError(NOT_A_NUMBER))

    def _rescue(self, sample: Sample, error: EngineError) -> None:
        """Start the sample over, alone and in float32. It has one chance."""
        job = sample.job
        sample.leave()
        self._seated.remove(sample)
        if sample.is_rescue:
            self._fail(job, error)
            return
        log.warning("a sample starts over, alone and in float32", request_id=job.request.id, index=sample.index)
        try:
            again = self._prepare(job, sample.index, rescue=True)
        except Exception as reason:
            self._fail(job, engine_error(reason, stage="rescue"))
            return
        job.samples[sample.index] = again
        self._seated.append(again)

    def _report_progress(self, job: Job) -> None:
        if not job.is_over and job.step > job.reported_step:
            job.reported_step = job.step
            self._events.append(Progress(job.request.id, job.step, job.evaluations))

    def _decode(self, batch: list[Sample], tile: int | None) -> None:
        if not batch:
            return
        started = self.clock()
        results = isolate(batch, partial(self._take_decode, batch[0].lane, tile=tile), name="decode")
        for sample, result in zip(batch, results, strict=True):
            if isinstance(result, NumericalError) and not sample.job.is_over:
                self._rescue(sample, result)
            elif isinstance(result, EngineError):
                self._fail(sample.job, result)
            else:
                sample.picture = result
                sample.leave()
        self._seated = [sample for sample in self._seated if sample.is_seated]
        seconds = self.clock() - started
        for job in _jobs_of(batch):
            job.seconds_decoding += seconds
            if job.open_samples == 0:
                self._close(job, job.finished(self.clock()))

    def _fail(self, job: Job, error: EngineError) -> None:
        """End one job. Its other samples leave their seats with it."""
        if not job.is_over:
            log.warning("request failed", request_id=job.request.id, slug=error.slug, step=job.step)
            self._close(job, Failed(job.request.id, error))

    def _close(self, job: Job, last: Event) -> None:
        job.is_over = True
        for sample in job.samples:
            sample.leave()
        self._seated = [sample for sample in self._seated if sample.is_seated]
        self._events.append(last)
        with self._changed:
            self._jobs.remove(job)

    def _open_jobs(self) -> list[Job]:
        with self._changed:
            return list(self._jobs)


def native_key(bundle: Bundle, denoiser: UNet) -> LaneKey:
    """The lane of the model's own size and one window of text."""
    shape = bundle.latent_shape(bundle.defaults.height, bundle.defaults.width)
    return LaneKey(denoiser, shape, tuple((name, torch.Size(size)) for name, size in bundle.conditioning.items()))


def _jobs_of(samples: Sequence[Sample]) -> list[Job]:
    return list(dict.fromkeys(sample.job for sample in samples))
