"""`python -m benchmarks.judging`: what judging costs, as a part of this process' CPU time, where the best of several
pictures are kept.

Draws with the bundled model beside the bundled scorer, in one thread: so many pictures without a judge, the same with
each of them scored, and the best of so many. CPU time and no clock: other programs may run beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER
from benchmarks.report import Column, Report, add_option
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


JUDGING = {
    "way": Column(label=""),
    "cpu_seconds": Column(label="CPU time, s", format=".2f"),
    "judging_seconds": Column(label="of it judging, s", format=".3f"),
    "judging_percent": Column(label="%", format=".2f"),
    "judged_pictures": Column(label="pictures judged"),
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
    """One row for each way, of the round that took the least CPU time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    report = Report("judging", parser.parse_args().json)
    torch.set_num_threads(1)
    with quiet_libraries():
        bundle = load(BUNDLED_MODEL)
        judge = Timed(Expectations(load_scorer(BUNDLED_SCORER, name="scorer", device="cpu", dtype="float32")))
    engine = Engine(family_of(bundle), judge=judge)
    _drawn(engine, judge, num_images=1, expect=EXPECTED)
    for way, asked in WAYS.items():
        best = min((_drawn(engine, judge, **asked) for _ in range(ROUNDS)), key=lambda each: float(each["cpu_seconds"]))
        report.add("judging", JUDGING, way=way, **best)


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
        "cpu_seconds": seconds,
        "judging_seconds": judge.seconds,
        "judging_percent": 100 * judge.seconds / seconds,
        "judged_pictures": judge.pictures,
    }


def _request(**asked: Any) -> Request:
    return Request(
        id="a", prompt="a red circle on a blue background", negative_prompt=None, width=128, height=128,
        num_inference_steps=STEPS, guidance_scale=4.0, scheduler="euler_a", seed=7, **asked,
    )  # fmt: skip


if __name__ == "__main__":
    main()
