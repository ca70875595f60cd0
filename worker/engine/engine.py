"""The engine: requests join and leave the batch between any two steps.

`step` is the whole story. A request becomes a job, a job's samples take seats one by one, oldest job first; in each
step the samples of one lane take one model evaluation together; who is at the end of a pass begins the next one, and
who is at the end of the last is decoded.

On a GPU the host runs ahead: it learns one step late whether a sample is still made of numbers, takes a picture in the
step after the one that decodes it, and prepares the next step while the device computes this one.
Knows no Redis, HTTP or files, no kind of model (a family is handed in), and no listener (events are returned).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from functools import partial

import structlog
import torch

from app.contract.messages.usage import Work
from worker.engine.batcher import Batcher, in_parts
from worker.engine.compiled import Compile
from worker.engine.costs import Profile
from worker.engine.decode import Checker, DecodedPicture, ready_to_decode, time_to_decode
from worker.engine.decodes import Decodes, Launched
from worker.engine.denoise import Finite
from worker.engine.device_time import DeviceTime
from worker.engine.encode import PictureEncoder
from worker.engine.errors import EngineError, NumericalError, device_watch, engine_error
from worker.engine.events import EngineEvent
from worker.engine.family import Family
from worker.engine.frames import FrameDecoder
from worker.engine.isolate import isolate
from worker.engine.judging import Judge
from worker.engine.lane import Lane
from worker.engine.lanes import Graphs, Lanes
from worker.engine.looks import Looks
from worker.engine.open_jobs import OpenJobs, opened
from worker.engine.profile import NOBODY, Told
from worker.engine.request import Request
from worker.engine.sample import Job, Sample, jobs_of, step_seconds
from worker.engine.saving import Saving
from worker.engine.seating import Seating
from worker.engine.selection import Selection
from worker.engine.snapshot import Snapshot
from worker.engine.solvers import Solvers
from worker.engine.stage import Stage, Stages
from worker.engine.transfer import current_device
from worker.engine.unread import Unread, UnreadFlags
from worker.engine.warm_up import warm_up

log = structlog.get_logger()

NOT_A_NUMBER = "The latents stopped being numbers; try another seed, scheduler or a lower guidance_scale."


class Engine:
    """Denoises many requests at once on one device.

    `submit`, `cancel`, `wait_for_work` and the properties are for any thread; `step` and `warm_up` are for one thread
    only. `clock` gives seconds and decides about timings. `compiler` compiles solvers, so that a new one keeps nobody
    waiting; without it, `submit` compiles before it returns. `graphs`: whether whole steps are captured as CUDA graphs;
    on means that one that cannot be is an error. `compile`: whether warm-up compiles the denoiser; auto means on a GPU,
    on that it is an error if it cannot be. `checker` looks at finished pictures. `judge` says how well they fit, for
    requests that want to know. Raises ValueError.
    """

    def __init__(
        self,
        family: Family,
        *,
        seats: int = 16,
        clock: Callable[[], float] = time.monotonic,
        compiler: Executor | None = None,
        graphs: Graphs = "auto",
        compile: Compile = "off",
        checker: Checker | None = None,
        judge: Judge | None = None,
    ) -> None:
        if seats < 1:
            raise ValueError(f"seats must be at least 1, not {seats}")
        self.seats = seats
        self.clock = clock
        self._family = family
        self._checker = checker
        self._judge = judge
        self._solvers = Solvers(compiler)
        self._jobs = OpenJobs(seats, open=partial(opened, family, self._solvers, clock), close=family.close)
        self._lanes = Lanes(family.native, family.autoencoder, seats=seats, graphs=graphs, compile=compile)
        self.costs = self._lanes.costs
        self._batcher = Batcher()
        self._events: list[EngineEvent] = []
        self._stages = Stages()
        self.work = Work()
        """All that was done for requests since the start."""
        self._time = DeviceTime(self.work, clock)
        self._frames = FrameDecoder(self._stages, make_room=self._lanes.drop_idle)
        self._looks = Looks(family.autoencoder, family.device, on_frame=self._frames.add)
        self._seating = Seating(
            family,
            self._jobs,
            self._lanes,
            PictureEncoder(family.autoencoder, self.costs, self._stages, make_room=self._lanes.drop_idle),
            seats=seats,
            clock=clock,
            report=lambda event: self._events.append(event),
            time=self._time,
            resume=self._looks.resume,
        )
        self._selection = Selection(judge, lambda: self._looks.factors)
        self._saving = Saving(self._looks, self._selection)
        self._runs_ahead = family.device.type == "cuda"
        self._flags = UnreadFlags()
        self._decodes = Decodes(
            self._lanes, self._stages, self._time, clock=clock, checker=checker, judge=judge, fail=self._seating.fail
        )
        self.last_batch = 0
        """Samples that took a model evaluation together in the last step."""

    def warm_up(self, known: Profile | None = None, *, seconds: float = 3.0, told: Told = NOBODY) -> Profile:
        """Find out how large a step should be at the native size, in some `seconds`, unless it is `known`.

        On a GPU, measures its memory and captures the steps up to that size. Raises DeviceLost and CannotCompile.
        """
        with current_device(self.device), torch.inference_mode(), device_watch():
            looks = self._checker, self._judge
            return warm_up(self._family, self._lanes, known, looks, 2 * self.seats, seconds=seconds, told=told)

    def submit(self, request: Request, snapshot: Snapshot | None = None) -> None:
        """Take in a request. It will get exactly one of Finished, Failed, Stopped and Parked, whatever is wrong with
        it. It goes on from a `snapshot` that fits."""
        self._jobs.submit(request, snapshot)

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step. An id that is not here changes nothing."""
        self._jobs.cancel(request_id)

    def park(self, request_id: str) -> None:
        """Let a request go within one step: its last event is Parked, with what it can go on from."""
        self._jobs.park(request_id)

    def take_snapshot(self, request_id: str) -> None:
        """Of a request that goes on: SnapshotTaken is reported, if there is something to go on from."""
        self._jobs.take_snapshot(request_id)

    def wait_for_work(self, timeout: float) -> None:
        """Sleep until a step has something to do, at most `timeout` seconds."""
        self._jobs.wait_for_work(timeout)

    @property
    def idle(self) -> bool:
        """Nothing is open: all that was submitted has had its last event."""
        return self._jobs.idle

    @property
    def free_seats(self) -> int:
        """Seats that no open sample, seated or waiting, has a claim to."""
        return self._jobs.free_seats

    @property
    def missing_seats(self) -> int:
        """Seats too few for who has one and for interactive jobs, once those are away that are to leave."""
        return self._jobs.missing_seats

    def seats_of(self, request_id: str) -> int:
        """Seats that an open request has a claim to; 0 for an id that is not here."""
        return self._jobs.seats_of(request_id)

    @property
    def device(self) -> torch.device:
        """Where its model is."""
        return self._family.device

    @property
    def is_compiled(self) -> bool:
        """Its denoiser is, for some sizes of a step."""
        return self._lanes.compiled is not None and bool(self._lanes.compiled.sizes)

    @property
    def stage(self) -> Stage | None:
        """What `step` is at; None while it is not. For a watchdog."""
        return self._stages.current

    @property
    def preview_failures(self) -> int:
        """Previews that could not be made; their pictures could."""
        return self._looks.failures

    def step(self) -> list[EngineEvent]:
        """One iteration: let go, let in, denoise once, decode what is ready. Returns what happened.

        Raises DeviceLost if the device will not compute again; the process must end then.
        """
        began = self.clock()
        at_step = self._stages.at("step", expected=self._lanes.picture_seconds)
        with current_device(self._family.device), torch.inference_mode(), device_watch(), at_step:
            self._read_flags(but_newest=True)
            self._seating.let_go(self._saving.parked)
            self._seating.admit()
            # Of those that went on from a snapshot, all pictures may have been there.
            self._close_complete([job for job in self._jobs.all() if job.samples and job.snapshot is not None])
            stepping = self._batcher.choose([each for each in self._seating.seated if not each.is_at_end_of_pass])
            one_step = step_seconds(stepping)
            self._denoise(stepping)
            self._seating.move_on()
            self._close_complete(self._selection.prune())
            self._events += self._looks.take()
            within = time_to_decode(self._seating.seated, one_step)
            batch, tile = ready_to_decode(self._seating.seated, within=within)
            batch = [] if self._decode_frames(pictures_wait=bool(batch), within=within) else batch
            self._take_pictures(self._decodes.turn(batch, tile, runs_ahead=self._runs_ahead))
            self._events += self._saving.turn(self._jobs.all())
            self._lanes.sweep(self.clock())
        events, self._events = self._events, []
        self._time.divide(since=began, ended={event.request_id for event in events})
        return events

    def _denoise(self, batch: list[Sample]) -> None:
        self.last_batch = len(batch)
        if not batch:
            return
        started, lane = self.clock(), batch[0].lane
        self._looks.begin(batch)
        self._flags.begin_step()
        rows = [(sample.job, sample.rows) for sample in batch]
        for part in in_parts(batch):
            flags = isolate(
                part, partial(self._take_step, lane), name="denoise", on_out_of_memory=partial(self._make_room, lane)
            )
            for sample, flag in zip(part, flags, strict=True):
                self._advance(sample, flag)
        with self._stages.at("preview", expected=self._lanes.picture_seconds):
            self._looks.look([sample for sample in batch if sample.is_seated])
            self._selection.look(batch)
        self._time.spent("denoise", rows, since=started)
        if not self._runs_ahead:
            self._read_flags()
        self._events += [news for job in jobs_of(batch) if (news := job.progress()) is not None]

    def _take_step(self, lane: Lane, samples: Sequence[Sample]) -> list[tuple[Finite, int]]:
        with self._stages.at("denoise", expected=step_seconds(samples)):
            finite = lane.take_step([sample.step_input() for sample in samples])
        self.work.evaluations += len(samples)
        self.work.rows += sum(sample.rows for sample in samples)
        return [(finite, k) for k in range(len(samples))]

    def _advance(self, sample: Sample, flag: tuple[Finite, int] | EngineError) -> None:
        if isinstance(flag, EngineError):
            self._seating.fail(sample.job, flag)
            return
        rows, work = sample.rows, sample.job.work
        work.evaluations, work.rows = work.evaluations + 1, work.rows + rows
        try:
            sample.advance()
        except Exception as error:
            self._seating.fail(sample.job, engine_error(error, stage="solver"))
            return
        self._flags.add(Unread(sample, *flag, rows))

    def _make_room(self, lane: Lane, batch: Sequence[Sample]) -> None:
        self._batcher.lower_cap(lane, sum(sample.rows for sample in batch))
        self._lanes.drop_idle()

    def _read_flags(self, *, but_newest: bool = False, of: Collection[Sample] = ()) -> None:
        """Look after samples whose last step was not made of numbers. Reading the newest step's flags waits for it:
        with `but_newest`, only those `of` the samples given are read."""
        due = self._flags.take(but_newest=but_newest, of=of)
        if not due:
            return
        started = self.clock()
        numbers = [each.finite[each.k] for each in due]
        # On a GPU that is the wait for a step; its launch was measured before.
        self._time.spent("denoise", [(each.sample.job, each.rows) for each in due], since=started)
        for each, is_finite in zip(due, numbers, strict=True):
            if each.sample.is_seated and not is_finite:
                self._seating.rescue(each.sample, NumericalError(NOT_A_NUMBER))

    def _decode_frames(self, *, pictures_wait: bool, within: float) -> bool:
        """Of trajectories. Was it their turn?"""
        started = self.clock()
        wait = not self._seating.seated
        samples, is_their_turn = self._frames.turn(pictures_wait=pictures_wait, wait=wait, within=within)
        self._time.decoded(samples, since=started)
        self._close_complete(jobs_of(samples))
        return is_their_turn

    def _close_complete(self, jobs: Sequence[Job]) -> None:
        """End those of the jobs that have all of their pictures, and all that is kept of them. Some want others."""
        for job in jobs:
            if job.open_samples or job.is_terminal or self._frames.is_busy_for(job):
                continue
            if (last := self._selection.finished(job, self.clock())) is not None:
                self._seating.close(job, last)
        # Verdicts may have come meanwhile by which other jobs' samples left: their seats are the next ones'.
        self._seating.drop_those_who_left()

    def _take_pictures(self, decoding: list[Launched]) -> None:
        """End the samples whose pictures these are, and the jobs that have all of theirs."""
        if not decoding:
            return
        samples = [sample for sample, _, _ in decoding]
        with self._stages.at("decode", expected=samples[0].lane.decode_seconds(len(samples))):
            self._read_flags(but_newest=True, of=samples)
            started = self.clock()
            for sample, decoded, k in decoding:
                if sample.is_seated:
                    self._end(sample, decoded[k])
        self._time.decoded(samples, since=started)
        # Whose picture was read, of those everything has come: a copy for one that left may still be under way.
        self._events += self._looks.take(of=[each for each in samples if each.picture is not None])
        self._close_complete(jobs_of(samples))

    def _end(self, sample: Sample, picture: DecodedPicture | NumericalError) -> None:
        if isinstance(picture, NumericalError):
            self._seating.rescue(sample, picture)
        else:
            sample.picture, sample.nsfw, sample.verdict = picture.pixels, picture.nsfw, picture.verdict
            sample.leave()
