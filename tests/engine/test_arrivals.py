"""Random requests, arriving, leaving and failing at random times: each ends exactly once, and nothing stays behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.driving import SIDE, drain, engine_of, last_events, scripted, wish
from worker.engine.events import EngineEvent, Failed, Finished, Progress, Started
from worker.models.bundle import Bundle

requests = st.fixed_dictionaries(
    {
        "num_inference_steps": st.integers(1, 4),
        "num_images": st.integers(1, 4),
        "guidance_scale": st.sampled_from([0.0, 1.0, 4.0]),
        "scheduler": st.sampled_from(["ddim", "euler_a", "dpmpp_2m", "pndm", "no such"]),
        "reproducible": st.booleans(),
        "width": st.sampled_from([SIDE // 2, SIDE // 4]),
        "height": st.just(SIDE // 4),
    }
)
actions = st.one_of(
    st.tuples(st.just("submit"), requests),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("step"), st.none()),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(actions, max_size=20),
    troubled_call=st.integers(1, 30),
    poisoned_calls=st.sets(st.integers(1, 30), max_size=4),
    seats=st.integers(1, 4),
)
def test_every_request_ends_exactly_once(
    epsilon_bundle: Bundle, plan: list[tuple[str, Any]], troubled_call: int, poisoned_calls: set[int], seats: int
) -> None:
    def trouble(call: int, rows: torch.Tensor) -> None:
        if call == troubled_call:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if call in poisoned_calls:
            rows[0] = float("nan")

    bundle, _ = scripted(epsilon_bundle, trouble)
    engine = engine_of(bundle, seats=seats)
    submitted: list[str] = []
    events: list[EngineEvent] = []
    for action, argument in plan:
        if action == "submit":
            submitted.append(str(len(submitted)))
            engine.submit(wish(submitted[-1], **argument))
        elif action == "cancel":
            engine.cancel(str(argument))
        else:
            events += engine.step()
    events += drain(engine)
    last = last_events(events)
    assert sorted(last) == sorted(submitted)
    assert (engine.free_seats, engine.idle) == (seats, True)
    works = [end.work for end in last.values()]
    assert sum(work.evaluations for work in works) == engine.work.evaluations
    assert sum(work.rows for work in works) == engine.work.rows
    assert math.fsum(work.device_seconds for work in works) == pytest.approx(engine.work.device_seconds)
    for id, end in last.items():
        story = [event for event in events if event.request_id == id]
        assert story[-1] is end, "nothing follows the last word"
        steps = [event.step for event in story if isinstance(event, Progress)]
        assert steps == sorted(set(steps))
        if isinstance(end, Finished):
            assert story[0] == Started(id)
            assert steps[-1] == end.steps
        if isinstance(end, Failed) and end.error.slug == "numerical-error":
            assert len(poisoned_calls) > 1, "one NaN is forgiven"
