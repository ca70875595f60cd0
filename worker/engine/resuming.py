"""Samples that go on from a snapshot, in the place of beginning.

A pass is begun as at first, with the chance it was begun with, and then what its seat had is put onto it: so all that
a request decides comes from the request. Knows jobs, samples and lanes. What does not fit costs evaluations, never a
job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog
import torch

from worker.engine.errors import at_worst_without, is_lost_device
from worker.engine.events import STAGES
from worker.engine.lanes import Lanes
from worker.engine.noise import generator_for
from worker.engine.passes import Before
from worker.engine.recording import Moment, Recording, Recordings
from worker.engine.rows import Mode
from worker.engine.run import Run
from worker.engine.sample import Job, Sample
from worker.engine.snapshot import VERSION, KeptRecording, SampleSnapshot, Snapshot, Unfit, hash_of
from worker.engine.transfer import to_device

log = structlog.get_logger()


def passes_of(job: Job) -> list[dict[str, object]]:
    """What a snapshot has to fit beside the request."""
    return [
        {"solver": each.solver.description, "evaluations": each.evaluations, "dtype": str(each.denoiser.dtype)}
        for each in job.passes
    ]


def drawn_with(job: Job) -> dict[str, object]:
    """The same of adapters: another file may have got the name of one."""
    return dict(job.prepared.drawn_with) if job.prepared is not None else {}


def drop_unfit(job: Job) -> None:
    """Forget the snapshot of a job that has just been prepared, if it is of something else."""
    if job.snapshot is None:
        return
    try:
        _require_fit(job.snapshot, job)
    except Unfit as reason:
        _log_unfit(job, reason)
        job.snapshot = None
        return
    kept = job.snapshot
    job.wanted, job.is_pruned = kept.wanted, kept.is_pruned
    for stage in STAGES:
        job.seconds[stage] += kept.seconds.get(stage, 0.0)


def resumed(job: Job, lanes: Lanes, keep_on: Callable[[Sample, Recordings], None]) -> Sample | None:
    """The job's next sample as its snapshot has it, on a seat unless it needs none any more; None where it has none
    that fits. `keep_on` goes on with its recordings."""
    if job.snapshot is None or len(job.samples) >= len(job.snapshot.samples):
        return None
    kept = job.snapshot.samples[len(job.samples)]
    try:
        sample = _resumed(job, kept, lanes)
    except Unfit as reason:
        _log_unfit(job, reason)
        return None
    if kept.recordings is not None:
        with at_worst_without("what was kept of a picture's steps is lost; the picture goes on without it"):
            keep_on(sample, _recordings(kept.recordings, kept.not_begun))
    return sample


def _require_fit(kept: Snapshot, job: Job) -> None:
    if kept.version != VERSION:
        raise Unfit(f"it is of version {kept.version}, and not {VERSION}")
    if kept.request != hash_of(job.request):
        raise Unfit("it is of another request")
    if [dict(each) for each in kept.passes] != passes_of(job):
        raise Unfit("its solvers or networks are others")
    if dict(kept.drawn_with) != drawn_with(job):
        raise Unfit("its adapters are others")
    if [each.index for each in kept.samples] != list(range(len(kept.samples))) or len(kept.samples) > kept.wanted:
        raise Unfit("its samples are not the job's")


def _resumed(job: Job, kept: SampleSnapshot, lanes: Lanes) -> Sample:
    if not 0 <= kept.number < len(job.passes) or len(kept.ended) != kept.number:
        raise Unfit("it is in a pass that there is not")
    generator = generator_for(kept.seed)
    with _unfit_if_it_raises():
        generator.set_state(kept.began)
        following = job.passes[kept.number]
        ended = [to_device(each, following.denoiser.device) for each in kept.ended]
        run = Run.begin(following, Before(kept.index, ended, generator), Mode(kept.mode), lanes)
        sample = _sample(job, kept, generator, run, ended)
    if kept.standing is None:
        # It is only remembered: what belongs to its record came with its pass.
        sample.evaluation = run.of.evaluations
        sample.leave()
        return sample
    try:
        with _unfit_if_it_raises():
            run.resume(kept.standing, generator)
    except Exception:
        sample.leave()
        raise
    sample.evaluation = kept.standing.evaluation
    return sample


def _sample(job: Job, kept: SampleSnapshot, generator: torch.Generator, run: Run, ended: list[torch.Tensor]) -> Sample:
    return Sample(
        job=job,
        index=kept.index,
        seed=kept.seed,
        mode=Mode(kept.mode),
        generator=generator,
        run=run,
        number=kept.number,
        ended=ended,
        picture=kept.picture,
        nsfw=kept.nsfw,
        estimated=kept.estimated,
        verdict=kept.verdict,
        pruned_at=kept.pruned_at,
        is_tiled=kept.is_tiled,
    )


@contextmanager
def _unfit_if_it_raises() -> Iterator[None]:
    """A fresh beginning may do without what raised. Where it does not, it raises again."""
    try:
        yield
    except Unfit:
        raise
    except Exception as error:
        if is_lost_device(error):
            raise
        raise Unfit(f"it cannot be put back: {type(error).__name__}: {error}") from error


def _recordings(kept: Mapping[str, KeptRecording], not_begun: Sequence[str]) -> Recordings:
    """Without what can be made again."""
    own = {name: _recording(each) for name, each in kept.items()}
    return Recordings(previews=own.get("previews"), trajectory=own.get("trajectory"), not_begun=not_begun)


def _recording(kept: KeptRecording) -> Recording:
    moments = [Moment(*each) for each in kept.moments]
    own = Recording.empty(
        moments,
        kept.shape,
        [*kept.latents],
        asked=kept.asked,
        is_decoded=kept.is_decoded,
        makes_picture=kept.makes_picture,
    )
    for series, latents in kept.latents.items():
        for place, each in zip(kept.places[series], latents, strict=True):
            own.keep(series, place, each)
    return own


def _log_unfit(job: Job, reason: Unfit) -> None:
    log.warning("a snapshot does not fit; the job starts over", request_id=job.request.id, reason=str(reason))
