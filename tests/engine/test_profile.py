"""How large a step should be: measured by a stopped clock, bounded, and asked for nothing it does not need."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from tests.engine.driving import engine_of, lanes_of, run, scripted, wish
from tests.engine.tiny_models import SIDE
from tests.waiting import WAIT_SECONDS
from worker.engine.costs import Profile
from worker.engine.engine import Engine
from worker.engine.events import Finished, Progress, Started
from worker.engine.graphs import StepGraphs
from worker.engine.lanes import IDLE_SECONDS
from worker.engine.profile import SIZES, Told, knee, measure, profile_of, time_decode
from worker.engine.rows import Rows
from worker.models.bundle import Bundle


class TimedLane:
    """A lane whose steps take the time they are said to take."""

    row_cost = 1.0
    device = torch.device("cpu")

    def __init__(self, seconds: dict[int, float], *, fits: int = 10_000, first: float = 0.0) -> None:
        """`first`: seconds that the first step of each size takes longer, as on a GPU."""
        self.now, self.steps = 0.0, 0
        self._seconds, self._fits, self._first = seconds, fits, first
        self._seen: set[int] = set()
        self.told: list[int] = []

    def is_to_compile(self, rows: int) -> bool:
        return False

    def rehearse(self, rows: int) -> None:
        if rows > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.steps += 1
        self.now += self._seconds[rows] + (0.0 if rows in self._seen else self._first)
        self._seen.add(rows)

    def measured(self, *, most_rows: int = 64, seconds: float = 1e9, known: Profile | None = None) -> Profile:
        clock = partial(getattr, self, "now")
        return measure(
            self,  # type: ignore[arg-type]
            most_rows=most_rows, seconds=seconds, known=known,
            told=Told(self.told.append), clock=clock, stopwatch=clock,
        )  # fmt: skip


def flat_from(size: int) -> dict[int, float]:
    """A device that takes one second for up to `size` rows, and proportionally longer for more."""
    return {rows: max(1.0, rows / size) for rows in SIZES}


@pytest.mark.parametrize("size", [2, 8, 16, 24])
def test_the_size_after_which_more_rows_bring_nothing(size: int) -> None:
    assert TimedLane(flat_from(size)).measured().rows == size


def test_no_limit_where_more_always_brings_more() -> None:
    profile = TimedLane(dict.fromkeys(SIZES, 1.0)).measured()
    assert profile.rows is None
    assert profile.rows_for(5.0) is None


def test_one_size_that_suits_badly_is_not_the_end() -> None:
    assert knee({2: 10, 4: 20, 8: 20.5, 12: 30}) is None
    assert knee({2: 10, 4: 20, 8: 20.5, 12: 20.9}) == 4


@pytest.mark.parametrize(("seconds_a_row", "rows"), [(100.0, 2), (0.5, 10), (0.125, 40)])
def test_a_slow_device_is_not_kept_from_its_work(seconds_a_row: float, rows: int) -> None:
    """Time runs out after one size: then steps of five seconds, if they are as slow as that, and no final verdict."""
    lane = TimedLane({size: seconds_a_row * size for size in SIZES})
    profile = lane.measured(seconds=0.9)
    assert (profile.rows, profile.is_complete) == (rows, False)
    assert (profile.rows_a_second.keys(), lane.told) == ({2}, [2])


def test_a_slow_step_is_waited_for_once() -> None:
    lane = TimedLane({size: 30.0 * size for size in SIZES})
    profile = lane.measured(seconds=3)
    assert lane.steps == 1
    assert (profile.row_seconds, profile.seconds) == (30.0, {2: 60.0})


def test_on_a_gpu_the_first_run_makes_what_the_second_is_timed_by() -> None:
    lane = TimedLane({size: 30.0 * size for size in SIZES})
    lane.device = torch.device("cuda")
    lane.measured(seconds=3)
    assert lane.steps == 2


@pytest.mark.parametrize("first", [0.1, 1.2, 60.0])
def test_what_the_first_runs_take_on_a_gpu_changes_no_profile(first: float) -> None:
    """Steps of 6 ms at 2 rows, and nothing gained beyond 8: some 200 ms of timed steps in all."""
    seconds = {size: 0.006 * max(1.0, size / 8) for size in SIZES}
    lane = TimedLane(seconds, first=first)
    lane.device = torch.device("cuda")
    profile = lane.measured(seconds=3.0)
    assert (profile.rows, profile.is_complete) == (8, True)
    assert profile.seconds == pytest.approx({size: seconds[size] for size in profile.seconds})


def test_an_unfinished_profile_is_gone_on_with_and_not_begun_again() -> None:
    """Each start has some time; together they find what one start with all of it finds."""
    seconds = flat_from(16)
    profile: Profile | None = None
    told: list[int] = []
    for _ in range(len(SIZES)):
        lane = TimedLane(seconds)
        profile = lane.measured(seconds=8.0, known=profile)
        told += lane.told
        if profile.is_complete:
            break
    assert profile == TimedLane(seconds).measured()
    assert told == sorted(set(told)), "no size was measured twice"


def test_a_machine_that_was_busy_at_one_start_is_not_slow_for_ever() -> None:
    """Its steps were waited for long, but took little of the processor."""
    busy = Profile(2, 1.0, {2: 2.0}, is_complete=False, seconds={2: 40.0}, decode_seconds=9.0)
    profile = TimedLane(flat_from(16)).measured(seconds=100, known=busy)
    assert (profile.rows, profile.is_complete) == (16, True)


def test_a_slow_device_measures_nothing_at_its_second_start() -> None:
    lane = TimedLane({size: 30.0 * size for size in SIZES})
    known = lane.measured(seconds=3)
    again = TimedLane({})
    assert again.measured(seconds=3, known=known) == known
    assert (again.steps, again.told) == (0, [])


def test_out_of_memory_bounds_the_step() -> None:
    assert TimedLane(dict.fromkeys(SIZES, 1.0), fits=12).measured().rows == 12


def test_dearer_rows_are_fewer_and_never_less_than_one_picture() -> None:
    profile = Profile(rows=16, row_cost=803.0, rows_a_second={})
    assert [profile.rows_for(cost) for cost in (803, 2148, 4674, 1e9)] == [16, 6, 3, 2]


def test_the_engine_keeps_to_its_profile(epsilon_bundle: Bundle) -> None:
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    engine = engine_of(bundle)
    engine.warm_up(Profile(rows=4, row_cost=float(4 * (SIDE // 4) ** 2), rows_a_second={}))
    last = run(engine, *(wish(str(k), seed=k) for k in range(3)))
    assert all(isinstance(event, Finished) for event in last.values())
    assert max(unet.batches) == 4


def test_warming_up_measures_and_leaves_nothing_behind(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=2)
    told: list[int] = []
    profile = engine.warm_up(seconds=0.5, told=Told(told.append))
    assert profile.rows_a_second.keys() == profile.seconds.keys() == set(told) <= {2, 4}
    assert profile.row_cost > 1e6
    assert profile.decode_seconds > 0
    assert isinstance(run(engine, wish())["a"], Finished)


def test_a_lane_is_dropped_when_it_has_been_empty_for_a_while(epsilon_bundle: Bundle) -> None:
    lanes = lanes_of(epsilon_bundle, seats=2)
    key = lanes.native
    lane = lanes.open(key)
    context = {"encoder_hidden_states": torch.zeros(key.conditioning[0][1])}
    seat = lane.take_seat(Rows(context))
    for now in (0.0, 1e6):
        lanes.sweep(now)
    assert lanes.open(key) is lane, "somebody sits there"
    lane.leave(seat)
    lanes.sweep(2e6)
    assert lanes.open(key) is lane
    lanes.sweep(2e6 + IDLE_SECONDS)
    assert lanes.open(key) is not lane


def test_steps_are_captured_from_the_largest_on_and_without_those_that_memory_is_too_small_for(
    epsilon_bundle: Bundle,
) -> None:
    lanes = lanes_of(epsilon_bundle, seats=2)
    lane, asked = lanes.open(lanes.native), list[int]()

    def rehearse(rows: int) -> None:
        asked.append(rows)
        if rows > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    lane._run = StepGraphs(lane.step, None)  # type: ignore[arg-type]
    lane.rehearse = rehearse  # type: ignore[assignment]
    lane.capture(9)
    assert asked == [10, 8, 6, 4, 2], "nine rows are filled up to ten"


class CompilingLane(TimedLane):
    """Each size takes a minute to compile."""

    is_compiled = True
    most_rows = None

    def decodes(self) -> tuple[int, int]:
        """None for which there is memory for a whole one: nothing to time."""
        return 1, 32

    def is_to_compile(self, rows: int) -> bool:
        return rows not in self.ready

    def compile(self, rows: int) -> None:
        self.now += 60.0
        self.ready.append(rows)

    def capture(self, most_rows: int) -> None:
        self.captured = most_rows

    def profile(self, known: Profile | None) -> Profile:
        self.ready, self.heard = list[int](), list[tuple[str, int]]()
        told = Told(lambda rows: self.heard.append(("measured", rows)), lambda rows: self.heard.append(("next", rows)))
        clock = partial(getattr, self, "now")
        with patch("worker.engine.profile.measure", partial(measure, clock=clock, stopwatch=clock)):
            return profile_of(self, known, most_rows=32, seconds=4.5, told=told)  # type: ignore[arg-type]


def test_sizes_are_compiled_before_they_are_timed_and_that_takes_no_time_from_it() -> None:
    lane = CompilingLane({size: 0.01 * max(1.0, size / 4) for size in SIZES})
    profile = lane.profile(None)
    assert (profile.rows, profile.is_complete, profile.is_compiled) == (4, True, True)
    assert lane.ready == [2, 4, 8, 12], "the knee is seen from there"
    assert lane.heard[:4] == [("next", 2), ("measured", 2), ("next", 4), ("measured", 4)]
    assert lane.captured == 4


def test_what_is_known_of_another_start_is_compiled_again_as_far_as_it_is_needed() -> None:
    lane = CompilingLane({})
    known = Profile(8, 1.0, {2: 1.0, 4: 2.0, 8: 4.0}, seconds={2: 2.0, 4: 2.0, 8: 2.0}, is_compiled=True)
    assert lane.profile(known) == known
    assert (lane.ready, lane.captured, lane.steps) == ([2, 4, 8], 8, 0)


def test_a_decode_that_could_not_be_timed_is_timed_at_the_next_start() -> None:
    """Also where all else is known."""
    lane, decoded = CompilingLane({}), list[int]()
    lane.decodes = lambda: (1, None)  # type: ignore[assignment]
    lane.rehearse_decode = lambda: decoded.append(1)  # type: ignore[attr-defined]
    known = Profile(8, 1.0, {8: 4.0}, seconds={8: 2.0}, is_compiled=True)
    with patch("worker.engine.profile.time_decode", wraps=partial(time_decode, clock=iter([1.0, 8.0]).__next__)):
        profile = lane.profile(known)
        assert profile == replace(known, decode_seconds=7.0)
        assert lane.profile(profile) == profile
    assert decoded == [1]


def test_what_is_known_of_steps_that_were_not_compiled_is_found_out_anew() -> None:
    lane = CompilingLane(dict.fromkeys(SIZES, 0.01))
    known = Profile(2, 1.0, {2: 1.0}, seconds={2: 2.0}, decode_seconds=9.0)
    profile = lane.profile(known)
    assert (profile.rows, profile.is_compiled, profile.decode_seconds) == (None, True, 0.0)


def test_a_step_is_filled_up_to_one_that_is_compiled(epsilon_bundle: Bundle) -> None:
    lanes = lanes_of(epsilon_bundle, seats=2)
    lane = lanes.open(lanes.native)
    lane._run = StepGraphs(lane.step, None)  # type: ignore[arg-type]
    assert [lane._filled_up(rows) for rows in (1, 5, 9, 65)] == [2, 6, 10, 65]
    lane._compiled = SimpleNamespace(sizes=[2, 4, 8])  # type: ignore[assignment]
    assert [lane._filled_up(rows) for rows in (1, 5, 9, 65)] == [2, 8, 10, 65]


def test_graphs_need_a_gpu(epsilon_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="set graphs to auto or off"):
        engine_of(epsilon_bundle, graphs="on")


def test_a_solver_being_compiled_keeps_nobody_waiting(epsilon_bundle: Bundle) -> None:
    """The compiler is busy with somebody else's table until it is told to go on."""
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as compiler:
        engine = engine_of(epsilon_bundle, compiler=compiler)
        run_known(engine)
        compiler.submit(go_on.wait, WAIT_SECONDS)
        engine.submit(wish("new", scheduler="unipc", num_inference_steps=2))
        engine.submit(wish("known", scheduler="ddim", num_inference_steps=2))
        assert engine.step() == [Started("known"), Progress("known", 1, 2)]
        assert not engine.idle
        go_on.set()
        engine.wait_for_work(WAIT_SECONDS)
        events = drain_waiting(engine)
    assert {event.request_id for event in events if isinstance(event, Finished)} == {"known", "new"}


def test_who_waits_for_a_compiler_can_still_leave(epsilon_bundle: Bundle) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as compiler:
        engine = engine_of(epsilon_bundle, compiler=compiler)
        compiler.submit(go_on.wait, WAIT_SECONDS)
        engine.submit(wish("new", scheduler="unipc"))
        assert engine.step() == []
        engine.cancel("new")
        [stopped] = engine.step()
        go_on.set()
    assert stopped.request_id == "new"
    assert engine.idle


def run_known(engine: Engine) -> None:
    engine.submit(wish("known", scheduler="ddim", num_inference_steps=2))
    drain_waiting(engine)


def drain_waiting(engine: Engine) -> list[object]:
    """As `drain`, for an engine whose compiler needs its time."""
    events: list[object] = []
    while not engine.idle:
        engine.wait_for_work(10)
        events += engine.step()
    return events
