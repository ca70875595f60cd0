"""Mixed requests arriving at random, served in three ways: `python -m benchmarks.trace`.

The same seeded Poisson trace of requests with different steps, schedulers and guidance goes through

- the engine, by `submit` and `step`;
- the stock pipeline, one request after the other;
- the stock pipeline in static batches: whenever it is free, the oldest waiting request and all waiting ones that the
  stock pipeline can draw in one call with it (same scheduler, steps, guidance), run to the end together.

at 0.6, 1.2 and 2 times what one after the other can carry. A figure, never a gate. Prints markdown. Latency is from
arrival to pixels; idle time is skipped. The length of the trace follows from `--seconds`: where a queue grows without
end, a longer trace shows a worse median, so compare figures of equal length.

Then how regularly requests took their steps in the engine, with and without the decodes in between (benchmarks.gaps).

On a machine that others use too, `--clock cpu --threads 1` counts only what this process computes.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import as_diffusers_loads, begin
from benchmarks.gaps import GAPS, Gaps, TimedVae
from benchmarks.report import Column, add_option
from worker.engine.engine import Engine
from worker.engine.events import Failed, Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.quiet import quiet_libraries

LOADS = (0.6, 1.2, 2.0)
"""Times the capacity of one request after the other."""

SCHEDULERS = {"dpmpp_2m": 5, "euler_a": 3, "ddim": 2}
STEPS = {20: 5, 12: 3, 30: 2}
GUIDANCE = {4.0: 6, 7.5: 3, 1.0: 1}
"""Each with its share. Some are more popular than others, which is what static batches live on: the commonest of the
27 kinds is one request in seven."""

PROMPTS = (
    "a red circle on a blue background",
    "a yellow star on a purple background",
    "a panda on a pink background",
    "a rocket in space",
)
MOST = 16
"""Requests in a static batch, and seats of the engine."""

CALIBRATION = 12
"""Requests that warm up each way, and then tell what one alone costs."""

TRACES_A_LOAD = 2.4
"""What a trace costs in all three ways, in units of one after the other, about."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes, in seconds since the start."""

    at: float
    request: Request

    @property
    def kind(self) -> tuple[object, ...]:
        """Requests of one kind can share a call of the stock pipeline."""
        parameters = self.request
        return parameters.scheduler, parameters.num_inference_steps, parameters.guidance_scale


MIXED = {
    "load": Column(label="load", format="g"),
    "way": Column(label="way"),
    "p50": Column(label="p50, s", format=".2f"),
    "p95": Column(label="p95, s", format=".2f"),
    "rate": Column(label="pictures/s", format=".2f"),
    "ratio": Column(label="p50 / engine's", format=".1f"),
}

Trace = Sequence[Arrival]
Way = Callable[[Trace], list[float]]
"""Serves a trace, and says when each request was done."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one way made of one trace: seconds from arrival to pixels, and pictures a second from the first arrival to
    the last picture."""

    p50: float
    p95: float
    rate: float

    @classmethod
    def of(cls, trace: Trace, ends: Sequence[float]) -> Row:
        waits = sorted(done - arrival.at for arrival, done in zip(trace, ends, strict=True))
        return cls(statistics.median(waits), waits[int(0.95 * len(waits))], len(waits) / (max(ends) - trace[0].at))


class Clock:
    """Seconds since the start of a trace. Waiting for somebody to come takes no real time."""

    def __init__(self, base: Callable[[], float]) -> None:
        self._base = base
        self._started = base()

    def __call__(self) -> float:
        return self._base() - self._started

    def wait_until(self, at: float) -> None:
        self._started -= max(0.0, at - self())


def main() -> None:
    options = _parser().parse_args()
    bundle, report = begin("trace", options)
    base = time.process_time if options.clock == "cpu" else time.perf_counter
    vae = TimedVae(bundle.vae, base)
    plain = as_diffusers_loads(options)
    stock, engine = Stock(plain), Engine(family_of(dataclasses.replace(bundle, vae=vae)), seats=MOST)
    engine.warm_up(seconds=options.seconds / 9)
    gaps: list[Gaps] = []

    def served(trace: Trace) -> list[float]:
        gaps.append(Gaps(lambda: vae.seconds))
        return through_engine(engine, trace, Clock(base), gaps=gaps[-1])

    ways: dict[str, Way] = {
        "engine": served,
        "one after the other": lambda trace: through_stock(stock, trace, Clock(base), first),
        "static batches": lambda trace: through_stock(stock, trace, Clock(base), all_of_a_kind),
    }
    chance = random.Random(options.seed)
    for way in ways.values():
        way(poisson(bundle, chance, count=CALIBRATION, rate=1e6, same=options.same))
    alone = poisson(bundle, chance, count=CALIBRATION, rate=1e6, same=options.same)
    cost = max(ways["one after the other"](alone)) / CALIBRATION
    count = max(CALIBRATION, int(options.seconds / len(LOADS) / cost / TRACES_A_LOAD))
    report.note(f"Clock: {options.clock}. One request alone takes {cost:.3f} s. {count} requests at each load.")
    for load_factor in LOADS:
        trace = poisson(bundle, chance, count=count, rate=load_factor / cost, same=options.same)
        for row in compared(trace, ways):
            report.add("mixed", MIXED, load=load_factor, **row)
    for load_factor, own in zip(LOADS, gaps[-len(LOADS) :], strict=True):
        report.add("gaps", GAPS, load=load_factor, **own.cells())


def compared(trace: Trace, ways: dict[str, Way]) -> Iterator[dict[str, Any]]:
    """MIXED's cells of each way, but for the load. The engine is the first of the ways."""
    ours = None
    for name, way in ways.items():
        row = Row.of(trace, way(trace))
        ours = ours or row.p50
        yield {"way": name, **dataclasses.asdict(row), "ratio": row.p50 / ours}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--seconds", type=float, default=180.0, help="About how long all of it may take")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--same", action="store_true", help="All requests of one kind: what static batches are best at")
    add_option(parser)
    return parser


def poisson(bundle: Bundle, chance: random.Random, *, count: int, rate: float, same: bool) -> Trace:
    """`count` requests, `rate` a second on average."""
    at, trace = 0.0, []
    for index in range(count):
        at += chance.expovariate(rate)
        trace.append(Arrival(at, _request(bundle, chance, str(index), same=same)))
    return trace


def _request(bundle: Bundle, chance: random.Random, id: str, *, same: bool) -> Request:
    def drawn(shares: dict[Any, int]) -> Any:
        return next(iter(shares)) if same else chance.choices(list(shares), list(shares.values()))[0]

    return Request(
        id=id,
        prompt=chance.choice(PROMPTS),
        negative_prompt="",
        width=bundle.defaults.width,
        height=bundle.defaults.height,
        num_inference_steps=drawn(STEPS),
        guidance_scale=drawn(GUIDANCE),
        scheduler=drawn(SCHEDULERS),
        seed=chance.randrange(2**32),
        num_images=1,
    )


def through_engine(engine: Engine, trace: Trace, clock: Clock, *, gaps: Gaps | None = None) -> list[float]:
    """When each request of the trace was done, in seconds since the start."""
    done: dict[str, float] = {}
    waiting, gaps = deque(trace), gaps or Gaps(lambda: 0.0)
    while len(done) < len(trace):
        if engine.idle:
            clock.wait_until(waiting[0].at)
        while waiting and waiting[0].at <= clock():
            engine.submit(waiting.popleft().request)
        began = clock()
        gaps.begin()
        events = engine.step()
        gaps.note(clock() - began, events)
        for event in events:
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                done[event.request_id] = clock()
    return [done[arrival.request.id] for arrival in trace]


def through_stock(stock: Stock, trace: Trace, clock: Clock, choose: Callable[[Trace], Trace]) -> list[float]:
    """When each was done. `choose` takes the next batch from those that have arrived, oldest first."""
    done: dict[str, float] = {}
    left = list(trace)
    while left:
        clock.wait_until(left[0].at)
        batch = choose([arrival for arrival in left if arrival.at <= clock()])
        stock.draw([arrival.request for arrival in batch])
        left = [arrival for arrival in left if arrival not in batch]
        done |= dict.fromkeys((arrival.request.id for arrival in batch), clock())
    return [done[arrival.request.id] for arrival in trace]


def first(here: Trace) -> Trace:
    return here[:1]


def all_of_a_kind(here: Trace) -> Trace:
    return [arrival for arrival in here if arrival.kind == here[0].kind][:MOST]


class Stock:
    """StableDiffusionPipeline, one for each scheduler around the same weights: nobody waits for a swap."""

    def __init__(self, bundle: Bundle) -> None:
        with quiet_libraries():
            self._pipelines = {name: stock_pipeline(bundle, name) for name in SCHEDULERS}

    def draw(self, requests: Sequence[Request]) -> None:
        """Requests of one kind, in one call."""
        parameters = requests[0]
        self._pipelines[parameters.scheduler](
            [request.prompt for request in requests],
            width=parameters.width,
            height=parameters.height,
            num_inference_steps=parameters.num_inference_steps,
            guidance_scale=parameters.guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )


if __name__ == "__main__":
    main()
