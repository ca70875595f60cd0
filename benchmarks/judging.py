"""`python -m benchmarks.judging`: what judging costs, as a part of this process' CPU time, where the best of several
pictures are kept.

Draws with the bundled model beside the bundled scorer, in one thread: so many pictures without a judge, the same with
each of them scored, and the best of so many. CPU time and no clock: other programs may run beside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.expectations import Expectations
from worker.families.choose import family_of
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries
from worker.models.scorer import load_scorer

PICTURES, WANTED, STEPS, ROUNDS = 8, 2, 30, 3
EXPECTED = ("a red circle", "a blue background")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "nobody judges": {"num_images": PICTURES},
    "each is scored": {"num_images": PICTURES, "expect": EXPECTED},
    f"the best {WANTED} are kept": {"num_images": WANTED, "best_of": PICTURES, "expect": EXPECTED},
}


class Timed:
    """A judge, and the CPU time that it takes: seconds of all threads of this process."""

    def __init__(self, judge: Expectations) -> None:
        self._judge = judge
        self.seconds = 0.0
        self.pictures = 0

    def __call__(self, pictures: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        began = time.process_time()
        verdicts = self._judge(pictures, requests)
        self.seconds += time.process_time() - began
        self.pictures += len(pictures)
        return verdicts

    def describe(self, request: Request) -> Mapping[str, Any]:
        return self._judge.describe(request)

    def rehearse(self, pictures: torch.Tensor) -> None:
        self._judge.rehearse(pictures)


def main() -> None:
    """Print one JSON object for each way, of the round that took the least CPU time."""
    torch.set_num_threads(1)
    with quiet_libraries():
        bundle = load(BUNDLED_MODEL)
        judge = Timed(Expectations(load_scorer(BUNDLED_SCORER, name="scorer", device="cpu", dtype="float32")))
    engine = Engine(family_of(bundle), judge=judge)
    _drawn(engine, judge, num_images=1, expect=EXPECTED)
    for way, asked in WAYS.items():
        best = min((_drawn(engine, judge, **asked) for _ in range(ROUNDS)), key=lambda each: float(each["cpu_seconds"]))
        print(json.dumps({"way": way} | best), flush=True)


def _drawn(engine: Engine, judge: Timed, **asked: Any) -> dict[str, float]:
    judge.seconds, judge.pictures = 0.0, 0
    began = time.process_time()
    engine.submit(_request(**asked))
    events = []
    while not engine.idle:
        engine.wait_for_work(1.0)
        events += engine.step()
    seconds = time.process_time() - began
    assert isinstance(events[-1], Finished), events[-1]
    return {
        "cpu_seconds": round(seconds, 2),
        "judging_seconds": round(judge.seconds, 3),
        "judging_percent": round(100 * judge.seconds / seconds, 2),
        "judged_pictures": judge.pictures,
    }


def _request(**asked: Any) -> Request:
    return Request(
        id="a", prompt="a red circle on a blue background", negative_prompt=None, width=128, height=128,
        num_inference_steps=STEPS, guidance_scale=4.0, scheduler="euler_a", seed=7, **asked,
    )  # fmt: skip


if __name__ == "__main__":
    main()
