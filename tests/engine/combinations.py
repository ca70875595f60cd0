"""Whatever a model is asked at once: each request is drawn, and is the picture that it is alone.

A round draws a few requests at random. All that are let in have to be drawn. Each is drawn alone, and then again: as
its own record asks for it; in company, where all join, are called off, put aside, moved to other engines and go on at
random steps; and from a snapshot that was taken on the way. The bits have to be the same where they are promised.

In some rounds memory is scarce, and larger pictures come in tiles, alone as in company. In company the network says now
and then what is no number: all of that step are drawn again in float32, which is the same picture up to rounding.

`python -m tests.engine.combinations --seed 7 --seconds 180` goes through all families. A model and a seed say what is
asked for, in which engines it is drawn alone, and what is asked again. They do not say all that happens in company:
there chances are drawn at each step of an engine, and how many steps go by while a LoRA or a ControlNet is loaded
depends on the machine. A fault that shows in company alone may need its seed more than once.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import structlog
import torch

from app.contract.messages.card import ModelCard
from app.contract.messages.kept_spec import asked_again, read_stored, recorded, stored
from app.contract.messages.spec import JobSpec
from app.contract.messages.urgency import Priority
from tests.engine.driving import drain, last_events
from tests.engine.parking import assert_same
from tests.engine.random_requests import Bodies, Refused, accepted, request_of
from tests.engine.rich_models import MODELS, card_of, rich
from tests.engine.test_selection import Brightest
from worker.engine import costs
from worker.engine.costs import SPARE, Memory
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Parked, Progress, SnapshotTaken, Started, Stopped
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.families.choose import family_of
from worker.models.bundle import Bundle
from worker.snapshot_file import read, written

ROUNDED = 3
"""Levels of 255 by which a picture may differ whose bits are not promised. Random networks make much of rounding."""

SCARCE, SPOILED = 0.25, 0.04
"""Chances of a round with little memory, and of a step in company in which the network breaks."""

LARGE = 96
"""Pixels of a side of a picture that comes in tiles then. The models' own are 64."""

TILE = 8
"""Latents along the smallest side of a tile, which has 32 elsewhere: these models have 16."""

LITTLE = Memory(free=1e12, step=0.0, row=1.0, picture=1e9, free_now=lambda: 1.001e9 / (1 - SPARE))
"""For all but decoding a picture that is larger than the model's own size."""

MOST_STEPS = 3_000
"""Of an engine in one round; more is a request that waits for ever."""


@dataclass(frozen=True)
class Model:
    name: str
    bundle: Bundle
    card: ModelCard
    is_scarce: bool = False
    """There is memory to decode a picture of the model's own size, and none larger."""

    def engine(self, seats: int = 8) -> Engine:
        engine = Engine(family_of(self.bundle), seats=seats, checker=self.bundle.checker, judge=Brightest())
        if self.is_scarce:
            engine.costs.memory = LITTLE
        return engine


@dataclass(frozen=True)
class Drawn:
    """A request as it is drawn alone."""

    body: dict[str, Any]
    spec: JobSpec
    request: Request
    finished: Finished


def alone(model: Model, request: Request, *, seats: int = 8, snapshot: Snapshot | None = None) -> Finished:
    engine = model.engine(seats)
    engine.submit(request, snapshot)
    events = drain(engine)
    assert_empty(engine)
    [last] = last_events(events).values()
    assert isinstance(last, Finished), last
    if snapshot is not None:
        assert [each.resumed for each in events if isinstance(each, Started)] == [snapshot.evaluations]
    _assert_told(request, events, last)
    return last


def _assert_told(request: Request, events: Sequence[EngineEvent], last: Finished) -> None:
    """Progress rises to the end, and there are as many pictures as were asked for, with all that was to be kept."""
    told = [each.step for each in events if isinstance(each, Progress)]
    assert told == sorted(set(told))
    if not request.is_judged and told:
        assert told[-1] == last.steps
    assert len(last.images) == request.num_images
    for image in last.images:
        assert image.pixels.shape == (request.height, request.width, 3)
        assert (image.recordings.trajectory is not None) == (request.trajectory is not None)
        assert (image.recordings.previews is not None) == (request.keep_previews and request.preview_every > 0)
        for kept in image.recordings:
            assert kept.whole == list(range(len(kept.moments)))
            assert not kept.undecoded


def assert_empty(engine: Engine) -> None:
    """Nobody sits anywhere, and nothing is lent to anybody."""
    assert engine.free_seats == engine.seats
    assert not engine._seating.seated
    for lane in engine._lanes._lanes.values():
        assert sorted(lane._free) == list(range(1, engine.seats + 1))
    for part in (getattr(engine._family, name, None) for name in ("_controlnets", "_adapters")):
        assert part is None or not (part._lending._held or part._lending._queue)


def assert_alike(one: Finished, other: Finished, *, exact: bool) -> None:
    """To the bit where that is promised; else up to rounding, and in all that is said of them."""
    if exact:
        assert_same({"": one}, {"": other})
        return
    assert (one.steps, one.warnings, one.solver) == (other.steps, other.warnings, other.solver)
    assert [each.index for each in one.images] == [each.index for each in other.images]
    for mine, theirs in zip(one.images, other.images, strict=True):
        assert mine.seed == theirs.seed
        assert np.abs(mine.pixels.astype(int) - theirs.pixels).max() <= ROUNDED


@dataclass
class Round:
    """`reproducible`: all requests are, so that no verdict depends on how the machine rounds."""

    model: Model
    chance: random.Random
    reproducible: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def play(self) -> None:
        self.model = replace(self.model, is_scarce=self.chance.random() < SCARCE)
        with patch.object(costs, "SMALLEST", TILE):
            self._play()

    def _play(self) -> None:
        drawn = {f"request {k}": self._drawn(f"request {k}") for k in range(self.chance.randint(2, 4))}
        for each in drawn.values():
            self._ask_again(each)
        # The last to draw chances: how many it needs is not in the seed.
        _Company(self.model, self.chance, drawn, self.counts).play()

    def _drawn(self, id: str) -> Drawn:
        """Somebody who was let in, alone."""
        body, spec = self._let_in()
        priority: Priority = self.chance.choice(("interactive", "batch"))
        request = request_of(id, spec, priority=priority)
        with _telling(body):
            assert read_stored(stored(spec)) == spec
            finished = alone(self.model, request, seats=self.chance.choice((8, 8, 3, 1)))
        self.counts["drawn"] += 1
        self.counts["in tiles"] += any("overlapping tiles" in each for each in finished.warnings)
        return Drawn(body, spec, request, finished)

    def _let_in(self) -> tuple[dict[str, Any], JobSpec]:
        bodies = Bodies(self.model.card, self.chance)
        while True:
            body = bodies() | ({"reproducible": True} if self.reproducible else {})
            if self.model.is_scarce:
                self._suit_little_memory(body)
            try:
                return body, accepted(body, self.model.card)
            except Refused:
                self.counts["refused"] += 1

    def _suit_little_memory(self, body: dict[str, Any]) -> None:
        if "trajectory" in body:
            # Frames for which there is no memory are left out.
            body["trajectory"].pop("decode", None)
        if "aspect_ratio" not in body and self.chance.random() < 0.5:
            body["width"] = LARGE // self.model.card.side_multiple * self.model.card.side_multiple

    def _ask_again(self, drawn: Drawn) -> None:
        """One of its pictures, as the record in it says."""
        image = self.chance.choice(list(drawn.finished.images))
        record = json.loads(json.dumps(recorded(drawn.spec, seed=image.seed, index=image.index)))
        with _telling(drawn.body):
            again = request_of("again", accepted(asked_again(record), self.model.card))
            [redrawn] = alone(self.model, again).images
            far = np.abs(redrawn.pixels.astype(int) - image.pixels).max()
            assert far <= (0 if again.reproducible else ROUNDED)
        self.counts["asked again"] += 1


@dataclass
class _Company:
    """All requests of a round in one engine after the other."""

    model: Model
    chance: random.Random
    drawn: dict[str, Drawn]
    counts: Counter[str]
    _engine: Engine = field(init=False)
    _waiting: dict[str, tuple[int, Snapshot | None]] = field(init=False, default_factory=dict)
    """Who is to join, at which step, and with what."""
    _last: dict[str, EngineEvent] = field(init=False, default_factory=dict)
    _taken: dict[str, Snapshot] = field(init=False, default_factory=dict)
    _spoilt: set[str] = field(init=False, default_factory=set)

    def play(self) -> None:
        self._engine = self.model.engine(self.chance.choice((1, 2, 3, 5, 8, 16)))
        self._waiting = {id: (self.chance.randrange(10), None) for id in self.drawn}
        canceled = {id for id in self.drawn if self.chance.random() < 0.1}
        for step in range(MOST_STEPS):
            if len(self._last) == len(self.drawn):
                break
            self._join(step)
            self._disturb(canceled)
            self._step(step)
        assert self._last.keys() == self.drawn.keys(), "somebody waits for ever"
        assert_empty(self._engine)
        self._compare(canceled)

    def _join(self, step: int) -> None:
        for id in [id for id, (when, _) in self._waiting.items() if when <= step]:
            self._engine.submit(self.drawn[id].request, self._waiting.pop(id)[1])

    def _disturb(self, canceled: set[str]) -> None:
        open_ = [id for id in self.drawn if self._engine.seats_of(id)]
        for id in open_:
            disturbance = self.chance.random()
            if disturbance < 0.08:
                (self._engine.cancel if id in canceled else self._engine.park)(id)
            elif disturbance < 0.14:
                self._engine.take_snapshot(id)
        if self.chance.random() < 0.03:
            # All go on in another worker.
            for id in open_:
                self._engine.park(id)
            self._heard(self._engine.step(), 0)
            # Whoever has had its last step has no seat to be parked from, and ends where it is.
            self._heard(drain(self._engine), 0)
            assert_empty(self._engine)
            self._engine = self.model.engine(self.chance.choice((1, 2, 4, 8)))

    def _step(self, step: int) -> None:
        if not self._engine.idle:
            self._engine.wait_for_work(1.0)
        spoils = self.chance.random() < SPOILED and not any(each.is_rescue for each in self._engine._seating.seated)
        with _no_numbers(self.model.bundle) if spoils else nullcontext():
            events = self._engine.step()
        # Drawn again they are in another batch, and where the model is of half precision of other numbers.
        self._spoilt |= {id for id in self.drawn if spoils and self._engine.seats_of(id)}
        self._heard(events, step + self.chance.randrange(4))

    def _heard(self, events: Sequence[EngineEvent], back_at: int) -> None:
        for event in events:
            if isinstance(event, Parked):
                self.counts["parked"] += 1
                snapshot = event.snapshot and read(written(event.snapshot, {}), {})
                self._waiting[event.request_id] = back_at, snapshot
            elif isinstance(event, SnapshotTaken):
                self._taken[event.request_id] = event.snapshot
        self._last |= last_events([event for event in events if not isinstance(event, Parked)])

    def _compare(self, canceled: set[str]) -> None:
        for id, last in self._last.items():
            drawn = self.drawn[id]
            with _telling(drawn.body):
                if id in canceled and isinstance(last, Stopped):
                    self.counts["canceled"] += 1
                    continue
                assert isinstance(last, Finished), last
                is_exact = drawn.request.reproducible and id not in self._spoilt
                assert_alike(last, drawn.finished, exact=is_exact)
                self.counts["in company"] += 1
                self.counts["rescued"] += any(image.is_rescued for image in last.images)
                if id in self._taken:
                    kept = read(written(self._taken[id], {}), {})
                    resumed = alone(self.model, drawn.request, snapshot=kept)
                    assert_alike(resumed, drawn.finished, exact=is_exact)
                    self.counts["from a snapshot"] += 1


@contextmanager
def _no_numbers(bundle: Bundle) -> Iterator[None]:
    """What the network says first is none. Once: who has started over for it is not spared a second time."""
    spoilt = False

    def spoil(network: Any, given: Any, answer: torch.Tensor) -> torch.Tensor | None:
        nonlocal spoilt
        if spoilt:
            return None
        spoilt = True
        return answer * torch.nan

    with bundle.unet.conv_out.register_forward_hook(spoil):
        yield


class _telling:
    """What does not hold is told with the request."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"asked: {json.dumps(self._body)}")


def rounds(seconds: float, seed: int) -> Iterator[tuple[str, int]]:
    """For so long, a model and a seed."""
    end, names = time.monotonic() + seconds, [*MODELS]
    while time.monotonic() < end:
        yield names[seed % len(names)], seed
        seed += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.combinations", description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=180.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    counts, models, faults = Counter[str](), dict[str, Model](), 0
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in rounds(asked.seconds, asked.seed):
            if name not in models:
                bundle = rich(name, Path(folder) / name.replace(" ", "-"))
                models[name] = Model(name, bundle, card_of(bundle))
            try:
                Round(models[name], random.Random(seed), counts=counts).play()
            except Exception:
                faults += 1
                print(f"{name}, seed {seed}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    print(f"from seed {asked.seed}: {faults} rounds of which something does not hold; {dict(counts)}")
    return 1 if faults or not counts["in company"] else 0


if __name__ == "__main__":
    sys.exit(main())
