"""What an engine does before its first request: memory and steps are measured, graphs captured, kernels chosen.

Knows the model's own size of a picture, and nothing of requests.
"""

from __future__ import annotations

import torch

from worker.engine.compiled import end_compilers
from worker.engine.costs import Profile
from worker.engine.decode import Checker
from worker.engine.errors import at_worst_without
from worker.engine.family import Family
from worker.engine.judging import Judge
from worker.engine.lane import Lane
from worker.engine.lanes import Lanes
from worker.engine.memory import measure_memory
from worker.engine.profile import Told, profile_of


def warm_up(
    family: Family,
    lanes: Lanes,
    known: Profile | None,
    looks: tuple[Checker | None, Judge | None],
    most_rows: int,
    *,
    seconds: float,
    told: Told,
) -> Profile:
    """Find out what steps cost, of which something may be `known`, and make everything that requests would wait for.
    `looks` are who looks at finished pictures; `most_rows` is what all seats together can need; `seconds` is for the
    timing of steps.

    Raises DeviceLost and CannotCompile.
    """
    lane = lanes.open(lanes.native)
    _rehearse_check(lane, *looks)
    later = family.later_bytes + lane.deep_bytes
    lanes.costs.memory = measure_memory(lane, weights=family.weights_bytes, later=later)
    profile = profile_of(lane, known, most_rows=most_rows, seconds=seconds, told=told)
    lanes.costs.profile = profile
    end_compilers()
    _rehearse_pictures(lane)
    return profile


def _rehearse_check(lane: Lane, checker: Checker | None, judge: Judge | None) -> None:
    """Its kernels are loaded, and what it keeps on the device is there, before memory is measured."""
    pictures = torch.zeros(1, *lane.picture_sides, 3, dtype=torch.uint8, device=lane.device)
    if checker is not None:
        checker(pictures)
    if judge is not None:
        judge.rehearse(pictures)


def _rehearse_pictures(lane: Lane) -> None:
    """On a GPU, decode and encode as many of the lane's pictures together as there may be, for kernels are chosen anew
    for each number. What fails is a request's affair, later."""
    if lane.device.type != "cuda":
        return
    most, _ = lane.decodes()
    for rehearse in (lane.rehearse_decode, lane.rehearse_encode):
        with at_worst_without("pictures could not be rehearsed"):
            for pictures in range(1, most + 1):
                rehearse(pictures)
            torch.cuda.synchronize(lane.device)
