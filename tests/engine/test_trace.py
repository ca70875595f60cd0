"""The benchmark of mixed traffic measures what it says: every way serves the same requests, none before it came."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.gaps import Gaps
from benchmarks.trace import Clock, Row, Stock, Trace, all_of_a_kind, first, poisson, through_engine, through_stock
from tests.engine.driving import engine_of
from worker.engine.events import Progress
from worker.models.bundle import Bundle


def trace_of(bundle: Bundle, *, rate: float, same: bool = False, count: int = 5) -> Trace:
    trace = poisson(bundle, random.Random(7), count=count, rate=rate, same=same)
    return [replace(each, request=each.request.model_copy(update={"num_inference_steps": 2})) for each in trace]


class CountingClock:
    """Time passes when it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.mark.parametrize("rate", [0.01, 1e6])
def test_every_way_serves_every_request_after_it_came(epsilon_bundle: Bundle, rate: float) -> None:
    trace, stock = trace_of(epsilon_bundle, rate=rate, count=3), Stock(epsilon_bundle)
    for ends in (
        through_engine(engine_of(epsilon_bundle), trace, Clock(CountingClock())),
        through_stock(stock, trace, Clock(CountingClock()), first),
        through_stock(stock, trace, Clock(CountingClock()), all_of_a_kind),
    ):
        assert len(ends) == len(trace)
        assert all(arrival.at <= end < arrival.at + 10 for arrival, end in zip(trace, ends, strict=True))


def test_a_static_batch_is_what_waits_and_fits(epsilon_bundle: Bundle) -> None:
    mixed = trace_of(epsilon_bundle, rate=1.0, count=40)
    batch = all_of_a_kind(mixed)
    assert batch == [arrival for arrival in mixed if arrival.kind == mixed[0].kind]
    assert 1 < len(batch) < len(mixed)
    assert len(all_of_a_kind(trace_of(epsilon_bundle, rate=1.0, same=True, count=40))) == 16


def test_figures_of_a_row(epsilon_bundle: Bundle) -> None:
    trace = trace_of(epsilon_bundle, rate=1.0)
    ends = [arrival.at + wait for arrival, wait in zip(trace, (1, 5, 2, 3, 4), strict=True)]
    row = Row.of(trace, ends)
    assert (row.p50, row.p95) == pytest.approx((3, 5))
    assert row.rate == pytest.approx(5 / (max(ends) - trace[0].at))


def test_gaps_are_told_with_and_without_decodes() -> None:
    """Two requests: one steps in each of three turns, of which the second decodes as well; one in the last two."""
    decoded = iter([0.0, 0.0, 0.0, 4.0, 4.0, 4.0])
    gaps = Gaps(lambda: next(decoded))
    for seconds, ids in ((2.0, "a"), (6.0, "ab"), (1.0, "ab")):
        gaps.begin()
        gaps.note(seconds, [Progress(id, 1, 9, None) for id in ids])
    assert gaps.decoding == [0.0, 4.0, 0.0]
    assert gaps.steps == {"a": [0, 1, 2], "b": [1, 2]}
    told = {
        "gap_p99": 3.0,
        "gap_most": 3.0,
        "without_p99": 1.0,
        "without_most": 1.0,
        "decode_p99": 2.0,
        "decode_most": 2.0,
    }
    assert gaps.cells() == told
