"""`python -m benchmarks.kills`: workers that are killed at random steps, and what of their work is done again.

Each job is drawn by a real engine on a tiny model until its worker is "killed": the engine is dropped without a word.
Its next one goes on from the newest snapshot that had been kept, as bytes. Time is counted in evaluations, so that the
figures are the same on any machine: `--seconds` is what one takes. Prints one JSON line: evaluations, how many of them
were made twice, and how many pictures are not, to the last bit, those of a worker that lived.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tests.engine.driving import engine_of, wish
from tests.engine.tiny_models import save_tiny_model
from worker.cadence import Cadence
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Progress
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries
from worker.snapshot_file import read, written
from worker.snapshots import Limits

SCHEDULERS = ("ddim", "euler_a", "dpmpp_2m", "dpmpp_sde", "unipc", "heun", "pndm", "deis")
MODEL = {"model_hash": "tiny"}


@dataclass
class Figures:
    """Of all jobs. `differ`: pictures of which a bit is another one; `bytes_`: of all snapshots."""

    kills: int = 0
    evaluations: int = 0
    twice: int = 0
    snapshots: int = 0
    bytes_: int = 0
    differ: int = 0

    @property
    def share_twice(self) -> float:
        return self.twice / self.evaluations


class Kept:
    """The newest snapshot of a job, as bytes, and the clock of its evaluations."""

    def __init__(self, seconds: float) -> None:
        self.limits = Limits(seconds=seconds)
        self.now = 0.0
        self.newest: bytes | None = None
        self.sizes: list[int] = []

    def clock(self) -> float:
        return self.now

    @property
    def room(self) -> int:
        return 1

    def rests(self, token: str) -> bool:
        return False

    def keep_soon(self, token: str, snapshot: Snapshot) -> None:
        self.newest = written(snapshot, MODEL)
        self.sizes.append(len(self.newest))


def killed(
    make: Callable[[], Engine], request: Request, kills: Sequence[int], figures: Figures, *, each: float, every: float
) -> np.ndarray:
    """The picture of a request whose worker is killed after each of these numbers of evaluations."""
    kept, made, reached = Kept(every), 0, 0
    for death in [*kills, None]:
        engine = make()
        snapshot = read(kept.newest, MODEL) if kept.newest else None
        cadence = Cadence(kept, engine.take_snapshot)  # type: ignore[arg-type]
        engine.submit(request, snapshot)
        step = snapshot.step if snapshot else 0
        figures.twice += max(0, reached - step)
        while death is None or made < death:
            events = engine.step()
            made, kept.now = made + engine.last_batch, kept.now + each * engine.last_batch
            reached = max([reached, *(event.step for event in events if isinstance(event, Progress))])
            cadence.stepped(events)
            if (last := _finished(events)) is not None:
                figures.evaluations += last.steps
                figures.snapshots += len(kept.sizes)
                figures.bytes_ += sum(kept.sizes)
                return last.pictures[0]
        figures.kills += 1
    raise AssertionError("This is a bug: the last worker lives.")


def _finished(events: Sequence[EngineEvent]) -> Finished | None:
    return next((event for event in events if isinstance(event, Finished)), None)


def run(make: Callable[[], Engine], *, kills: int, seed: int, steps: int, each: float, every: float) -> Figures:
    """So many jobs, each of which loses its worker once at a random evaluation."""
    chance, figures = random.Random(seed), Figures()
    for k in range(kills):
        scheduler, own = SCHEDULERS[k % len(SCHEDULERS)], chance.randrange(2**32)
        request = wish("a", scheduler=scheduler, seed=own, num_inference_steps=steps, reproducible=True)
        engine = make()
        engine.submit(request)
        while (last := _finished(engine.step())) is None:
            pass
        picture = killed(make, request, [chance.randrange(1, last.steps)], figures, each=each, every=every)
        figures.differ += not np.array_equal(picture, last.pictures[0])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.2, help="that an evaluation takes")
    parser.add_argument("--every", type=float, default=2.0, help="DARKROOM_SNAPSHOT_SECONDS")
    given = parser.parse_args()
    # More would only wait for each other.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        bundle = load(save_tiny_model(Path(folder) / "tiny", prediction_type="epsilon"))
    figures = run(
        lambda: engine_of(bundle), kills=given.kills, seed=given.seed, steps=given.steps, each=given.seconds,
        every=given.every,
    )  # fmt: skip
    print(json.dumps(vars(given) | asdict(figures) | {"share_twice": round(figures.share_twice, 4)}))


if __name__ == "__main__":
    main()
