"""The engine on a GPU that is not there: what it asks of the device, when, and whether it has to wait.

On cuda:1, where whatever forgets to name its device lands on another.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from app.contract.messages.deep_cache import Cache
from app.contract.messages.trajectory import Trajectory
from tests.engine.driving import engine_of, last_events, wish
from tests.engine.fake_cuda import Crossing, FakeCuda, Launch, Made, Wait
from worker.engine.costs import Profile
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Preview
from worker.engine.family import Autoencoder
from worker.engine.lane import Lane
from worker.engine.rows import Mode
from worker.engine.transfer import current_device, fill
from worker.models.bundle import Bundle
from worker.models.preparation import channels
from worker.models.resampling import weights

INDEX = 1
PROFILE = Profile(rows=8, row_cost=1.0, rows_a_second={2: 1.0}, seconds={2: 1.0}, decode_seconds=0.1)


SAVING = Cache(interval=3)


class Served:
    """Three requests, the last one admitted while the others are drawn; and the diary of it."""

    def __init__(self, bundle: Bundle) -> None:
        self.cuda = FakeCuda(INDEX)
        self.events: list[EngineEvent] = []
        with self.cuda.in_place(), patch("worker.engine.costs.row_flops", return_value=1.0):
            self._engine = self._warm(bundle)
            self.warm_up, self.cuda.diary, self.cuda.launches = self.cuda.diary, [], 0
            self.sent: list[tuple[int, int]] = []
            """To which seat noise was sent, and how many steps had been launched by then."""
            self._submit("a", num_inference_steps=9, scheduler="euler_a", trajectory=Trajectory(decode="vae"))
            self._submit(
                "b", num_inference_steps=7, scheduler="dpmpp_2m", guidance_scale=1.0, preview_every=2, cache=SAVING
            )
            with patch.object(Lane, "send_noise", self._send_noise):
                self._step(3)
                self._submit("c", prompt="a blue square", num_inference_steps=2, scheduler="euler")
                self._step(40)
            self.serving, self.cuda.diary = self.cuda.diary, []
            self._another_lane()

    def _warm(self, bundle: Bundle) -> Engine:
        on_cuda = self.cuda.bundle(bundle, torch.float16)
        with self.cuda.computing():
            engine = engine_of(on_cuda, seats=4, graphs="on", checker=on_cuda.checker)
            self.rehearsed: dict[str, list[int]] = {"decode": [], "encode": []}
            with ExitStack() as stack:
                for name, sizes in self.rehearsed.items():
                    stack.enter_context(_noting(engine._family.autoencoder, name, sizes))
                engine.warm_up(PROFILE)
            # Its fit asks for values.
            factors = torch.zeros(bundle.latent_channels + 1, 12, device=self.cuda.device)
            engine._looks.__dict__.update(factors=factors, _map=factors.cpu())
        return engine

    def _submit(self, id: str, **changes: object) -> None:
        """Solvers are compiled with values."""
        self._engine.submit(wish(id, **changes))

    def _step(self, most: int) -> None:
        for _ in range(most):
            if not self._engine.idle:
                with self.cuda.computing():
                    self.events += self._engine.step()

    def _send_noise(self, seat: int, noise: torch.Tensor) -> None:
        self.sent.append((seat, self.cuda.launches))
        fill(self._engine._lanes.open(self._engine._lanes.native).step.noise[seat], noise)

    def _another_lane(self) -> None:
        """Beside the one that was used; and once more, when both are gone."""
        lanes = self._engine._lanes
        with self.cuda.computing(), torch.inference_mode(), current_device(self.cuda.device):
            for _ in range(2):
                lanes.open(replace(lanes.native, mode=Mode.REPRODUCIBLE)).rehearse(2)
                lanes.drop_idle()
                gc.collect()


@contextmanager
def _noting(autoencoder: Autoencoder, name: str, sizes: list[int]) -> Iterator[None]:
    """How many pictures each call is of."""
    call = getattr(autoencoder, name)

    def noted(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        return call(batch)

    with patch.object(autoencoder, name, noted):
        yield


@pytest.fixture(scope="module", params=["xl_bundle", "checked_bundle"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """One with a safety checker and one without."""
    yield Served(request.getfixturevalue(request.param))
    for kept in (weights, channels):
        kept.cache_clear()


def test_it_draws(served: Served) -> None:
    assert {id: type(event) for id, event in last_events(served.events).items()} == dict.fromkeys("abc", Finished)
    assert any(isinstance(event, Preview) for event in served.events)
    assert sum(isinstance(entry, Launch) for entry in served.serving) == 9 + 4, "of b, 4 are of the outermost layers"


def test_the_next_step_is_launched_before_the_last_one_is_waited_for(served: Served) -> None:
    """Nor does anybody wait for a decode, which comes behind its step, as long as there is a next step."""
    steps = sum(isinstance(entry, Launch) for entry in served.serving)
    launched, waits = 0, []
    for entry in served.serving:
        if isinstance(entry, Launch):
            launched = entry.number
        elif isinstance(entry, Wait) and launched < steps:
            waits.append((entry.number, launched))
    assert waits, "flags and pictures are read"
    assert all(waited_for < newest for waited_for, newest in waits), waits


def test_nothing_that_crosses_stops_the_host(served: Served) -> None:
    crossings = [entry for entry in served.serving if isinstance(entry, Crossing)]
    assert {entry.what for entry in crossings} == {"cpu to cuda", "cuda to cpu"}
    assert [entry for entry in crossings if entry.is_blocking] == []


def test_noise_is_sent_for_who_draws_and_behind_the_step_before(served: Served) -> None:
    """One of the three has a solver that draws, in all of its steps but maybe the last."""
    launches = [launches for _, launches in served.sent]
    assert len({seat for seat, _ in served.sent}) == 1
    assert launches[0] == 0
    assert launches == sorted(set(launches)), "each behind a further launch"
    assert len(launches) in (8, 9)


def test_as_many_pictures_as_there_may_be_are_rehearsed(served: Served) -> None:
    assert served.rehearsed == {"decode": [1, 1, 2, 3, 4], "encode": [1, 2, 3, 4]}, "the first is measured"


def test_nothing_crosses_within_a_capture(served: Served) -> None:
    entries = [*served.warm_up, *served.serving]
    assert sum(entry == Made("capture", INDEX) for entry in entries) > 0
    assert [entry for entry in entries if isinstance(entry, Crossing) and entry.in_capture] == []


def test_graphs_of_all_lanes_share_their_memory_as_long_as_there_are_any(served: Served) -> None:
    *before, last = served.cuda.pools
    assert len(before) > 2
    assert len(set(before)) == 1
    assert last is not before[0]


def test_events_streams_and_graphs_belong_to_the_device(served: Served) -> None:
    made = [entry for entry in (*served.warm_up, *served.serving) if isinstance(entry, Made)]
    assert {entry.kind for entry in made} == {"event", "stream", "graph", "capture"}
    assert [entry for entry in made if entry.current != INDEX] == []
