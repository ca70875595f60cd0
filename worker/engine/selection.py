"""Which pictures of a job are kept where more are drawn than are wanted: by how well they fit what is expected of them.

The worse half gives its seats away on the way, by estimates of the finished pictures (successive halving, Jamieson and
Talwalkar 2016, arXiv 1502.07943): what a picture is of is settled long before it is finished. Who goes depends on all
estimates of a job at the same evaluation and on nothing else, so the same request keeps the same pictures in any
company. Knows jobs and samples. Refuses to know who judges, and by which words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import torch

from app.contract.messages.spec import place_of
from worker.engine.errors import at_worst_without
from worker.engine.events import Candidate, Finished
from worker.engine.judging import Judge, Verdict
from worker.engine.preview import to_pixels
from worker.engine.sample import Job, Sample
from worker.engine.transfer import to_host

log = structlog.get_logger()

PRUNE_AT = 0.6
"""Of the evaluations of the last pass. Measured on the bundled model: docs/decisions/0061."""


@dataclass(slots=True, eq=False)
class _Pending:
    """Verdicts on their way from the device."""

    samples: Sequence[Sample]
    rows: torch.Tensor
    arrived: torch.cuda.Event | None

    @property
    def has_arrived(self) -> bool:
        return self.arrived is None or self.arrived.query()


class Selection:
    """Looks at estimates without holding up the device: what `look` starts, a later `prune` reads.

    What goes wrong with estimates costs nobody a picture: a job whose estimates could not be judged is drawn to its
    end. Raises DeviceLost alone.
    """

    def __init__(self, judge: Judge | None, factors: Callable[[], torch.Tensor]) -> None:
        """`factors`: the linear map from latents to pixels, as `to_pixels` wants it, once it is needed."""
        self._judge = judge
        self._factors = factors
        self._pending: list[_Pending] = []
        self._pruned: list[Job] = []

    def look(self, samples: Sequence[Sample]) -> None:
        """After an evaluation of these samples, of one lane."""
        if self._judge is None:
            return
        due = [each for each in samples if each.is_seated and _is_due(each)]
        # Kernels differ with the size of the batch, and so would the numbers.
        alone = [[each] for each in due if each.job.request.reproducible]
        for batch in (*alone, [each for each in due if not each.job.request.reproducible]):
            if batch:
                self._judge_estimates(self._judge, batch)

    def prune(self) -> list[Job]:
        """Let the worse half of each job go whose estimates have all arrived. Returns those jobs: nothing more may be
        open of them."""
        self._read()
        pruned, self._pruned = self._pruned, []
        return pruned

    def finished(self, job: Job, now: float) -> Finished | None:
        """The last event of a job that has all of its pictures; None where some are drawn again from further seeds."""
        self.wait_for_estimates_of(job)
        if more := redraws(job):
            job.wanted += more
            return None
        last = job.finished(now, kept(job))
        if self._judge is None or not job.request.is_judged:
            return last
        said = self._judge.describe(job.request)
        warnings = [*last.warnings, *remarks(job)]
        return replace(last, candidates=candidates(job), judged_by=said, warnings=warnings)

    def _judge_estimates(self, judge: Judge, samples: Sequence[Sample]) -> None:
        with at_worst_without("estimates could not be judged; all pictures of the job are drawn"):
            pictures = to_pixels(self._factors(), torch.stack([sample.estimate for sample in samples]))
            judged = judge(pictures, [each.job.request for each in samples])
            self._pending.append(_Pending(samples, *to_host(judged)))

    def _read(self) -> None:
        """What has arrived, and who goes by it."""
        arrived = [each for each in self._pending if each.has_arrived]
        self._pending = [each for each in self._pending if each not in arrived]
        for each in arrived:
            for sample, row in zip(each.samples, each.rows.tolist(), strict=True):
                sample.estimated = Verdict.of(row)
        jobs = dict.fromkeys(sample.job for each in arrived for sample in each.samples)
        self._pruned += [job for job in jobs if _prune(job)]

    def wait_for_estimates_of(self, job: Job) -> None:
        for each in self._pending:
            if each.arrived is not None and any(sample.job is job for sample in each.samples):
                each.arrived.synchronize()
        self._read()


def prune_step(job: Job) -> int | None:
    """After how many evaluations the worse half of a job's pictures goes; None where none does."""
    last = job.passes[-1].evaluations
    at = math.ceil(PRUNE_AT * last)
    if _survivors(job) >= job.request.drawn or at >= last:
        return None
    return job.evaluations - last + at


def redraws(job: Job) -> int:
    """How many pictures of a job that has all of its own are to be drawn from further seeds: what is kept of it fits
    too badly."""
    request = job.request
    missing = request.num_images - sum(_is_good_enough(each) for each in job.samples)
    return max(0, min(missing, request.most_drawn - job.wanted))


def kept(job: Job) -> list[Sample]:
    """Those of a job that is over which it was asked for, the best first; or all as they were drawn, where nobody has
    judged, or each has its place on a way."""
    finished = [each for each in job.samples if each.picture is not None]
    if not job.request.is_judged or place_of(job.request, 0) is not None:
        return finished
    return sorted(finished, key=_rank)[: job.request.num_images]


def candidates(job: Job) -> list[Candidate]:
    """All that were drawn for a job, in the order of their seeds."""
    chosen = kept(job)
    return [
        Candidate(
            index=each.index,
            seed=each.seed,
            score=each.verdict.score if each.verdict else None,
            probability=each.verdict.probability if each.verdict else None,
            estimated_score=each.estimated.score if each.estimated else None,
            pruned_at=each.pruned_at,
            kept=each in chosen,
        )
        for each in job.samples
    ]


def remarks(job: Job) -> list[str]:
    """What whoever asked should know."""
    request, again = job.request, job.wanted - job.request.drawn
    if request.min_probability is None:
        return []
    said = [f"{again} more were drawn from the seeds after: too few fitted as well as was asked."] if again > 0 else []
    bad = sum(not _is_good_enough(each) for each in kept(job))
    if bad:
        said.append(
            f"{bad} of {request.num_images} pictures fit what is expected with less than {request.min_probability:g}; "
            f"{job.wanted} were drawn, which is the most."
        )
    return said


def _prune(job: Job) -> bool:
    first = job.samples[: job.request.drawn]
    estimates = [each.estimated for each in first]
    if job.is_pruned or job.is_terminal or len(first) < job.request.drawn or None in estimates:
        return False
    job.is_pruned = True
    step = prune_step(job)
    ranked = sorted(first, key=lambda each: (-_score(each.estimated), each.index))
    for loser in ranked[_survivors(job) :]:
        loser.prune(at=step)
    log.info("pruned", request_id=job.request.id, step=step, left=_survivors(job))
    return True


def _is_due(sample: Sample) -> bool:
    job = sample.job
    is_open = job.request.is_judged and not job.is_pruned and sample.estimated is None
    is_picture = sample.is_in_last_pass and sample.is_shown
    return is_open and is_picture and sample.index < job.request.drawn and sample.step == prune_step(job)


def _survivors(job: Job) -> int:
    return max(job.request.num_images, math.ceil(job.request.drawn / 2))


def _rank(sample: Sample) -> tuple[bool, bool, float, int]:
    """What is flagged is kept only where there is nothing else. Of two that are equal, the earlier seed."""
    return bool(sample.nsfw), not _is_good_enough(sample), -_score(sample.verdict), sample.index


def _is_good_enough(sample: Sample) -> bool:
    least = sample.job.request.min_probability
    if sample.picture is None:
        return False
    return least is None or (sample.verdict is not None and (sample.verdict.probability or 0.0) >= least)


def _score(verdict: Verdict | None) -> float:
    return -math.inf if verdict is None or verdict.score is None else verdict.score
