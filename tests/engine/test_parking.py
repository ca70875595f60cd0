"""A job that is taken out of an engine in the middle and goes on in another one draws the undisturbed picture."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from app.contract.messages.deep_cache import Cache
from app.contract.messages.inputs import Lora
from app.contract.messages.schedulers import SCHEDULERS
from app.contract.messages.trajectory import Trajectory
from app.contract.messages.unclip import Prior
from tests.engine.driving import Recorder, distance, drain, engine_of, last_events, scripted, wish
from tests.engine.parking import Kept, assert_same, begun, finished, moved, undisturbed
from tests.engine.pictures import box_mask, edit, half_mask, picture
from tests.engine.test_equation import IN_COMPANY
from tests.engine.test_passes import Enlarging
from tests.engine.test_selection import Brightest
from tests.engine.test_unclip import A, B, drawn_from
from tests.engine.tiny_controlnets import PICTURES, control, with_controlnets
from tests.engine.tiny_loras import factors, is_any, is_attention, save_kohya, save_peft
from tests.engine.tiny_models import (
    save_tiny_inpainting,
    save_tiny_kandinsky,
    save_tiny_karlo,
    save_tiny_lcm,
    save_tiny_model,
    save_tiny_unclip,
    save_tiny_unclip_of_images,
    save_tiny_variation,
)
from worker.engine import saving, snapshot
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Parked, Progress, SnapshotTaken, Started, Stopped
from worker.engine.recording import Recording, Recordings
from worker.engine.request import Request
from worker.engine.run import Run
from worker.engine.sample import Job, Sample
from worker.engine.snapshot import KeptRecording, SampleSnapshot, Snapshot, Standing
from worker.engine.solver import ObjectSolver, Schedule
from worker.engine.table import BLOCK
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import for_name, step_options

WHY_NOT: dict[type, dict[str, str]] = {
    Job: {
        "request": "submitted again, and held against its hash",
        "submitted_at": "of this engine's clock",
        "solvers": "made of the request",
        "inputs": "made of the request",
        "brought": "made of the request",
        "prepared": "made of the request",
        "snapshot": "what it goes on from itself",
        "is_canceled": "ends it",
        "is_to_park": "ends it",
        "is_to_snapshot": "asked of this engine",
        "is_terminal": "ends it",
        "reported_step": "what was told; told again from there on",
        "is_tiled": "its pictures are encoded again",
        "work": "of the attempt: what was used before was counted with the one that ended",
    },
    Sample: {
        "job": "the one that is submitted again",
        "generator": "of its state: began, and chance of what stands",
        "run": "begun again, and filled with what stands",
        "evaluation": "of what stands; at the end where nothing does",
        "is_seated": "it takes another seat",
        "is_decoding": "it is decoded again",
    },
    Run: {
        "of": "made of the request and what the passes before ended with",
        "lane": "another one's",
        "seat": "another one",
        "solver": "of its state",
        "keeps": "made of the request",
        "ahead": "of chance: the noise is drawn again",
    },
    Recording: {"linear": "fitted again", "decoded": "decoded again"},
    Recordings: {},
}
"""Of everything that a job is made of in the engine, what no snapshot has, and where it comes from instead."""

KEPT_BY: dict[type, tuple[type, ...]] = {
    Job: (Snapshot,),
    Sample: (SampleSnapshot,),
    Run: (SampleSnapshot, Standing),
    Recording: (KeptRecording,),
    Recordings: (SampleSnapshot,),
}
OTHER_NAMES = {"arrived": "places", "previews": "recordings", "trajectory": "recordings"}


@pytest.mark.parametrize("kind", WHY_NOT)
def test_nothing_of_a_job_is_forgotten(kind: type) -> None:
    """A new field is kept, or it is said why not."""
    kept = {each.name for of in KEPT_BY[kind] for each in fields(of)}
    own = {each.name for each in fields(kind)}
    assert not WHY_NOT[kind].keys() - own, "no such field"
    assert not [name for name in own - WHY_NOT[kind].keys() if OTHER_NAMES.get(name, name) not in kept]


def reproducible(id: str = "a", **changes: Any) -> Request:
    return wish(id, reproducible=True, **changes)


def test_a_snapshot_fits_whether_somebody_waits_or_not() -> None:
    """It decides no pixel, and workers of earlier versions know of no priority."""
    assert snapshot.hash_of(wish(priority="batch")) == snapshot.hash_of(wish()) != snapshot.hash_of(wish(seed=8))


def test_any_scheduler_at_any_step(epsilon_bundle: Bundle) -> None:
    """Each is evaluated alone: after a number of the engine's steps they have come to different ones of their own."""
    make, chance = partial(engine_of, epsilon_bundle), random.Random(80)
    requests = [
        reproducible(name, scheduler=name, seed=k, guidance_scale=(1.0, 4.0)[k % 2])
        for k, name in enumerate(SCHEDULERS)
    ]
    alone = undisturbed(make, *requests)
    most = sum(each.steps for each in alone.values())
    assert_same(moved(make, *requests, after=[chance.randrange(most // 2) for _ in range(2)]), alone)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_every_step_of_a_solver_of_many_registers(velocity_bundle: Bundle, step: int) -> None:
    """Latents too: eight bits a pixel could hide a difference."""
    requests = [
        wish(name, scheduler=name, seed=k, num_inference_steps=7, negative_prompt="a dog")
        for k, name in enumerate(("unipc", "euler_a", "dpmpp_sde", "pndm", "heun"))
    ]
    recorders = [Recorder(velocity_bundle), Recorder(velocity_bundle)]
    one, other = (partial(engine_of, dataclasses.replace(velocity_bundle, vae=each)) for each in recorders)
    undisturbed(one, *requests)
    moved(other, *requests, after=[step])
    assert len(recorders[0].latents) == len(recorders[1].latents) == len(requests)
    for latents in recorders[0].latents:
        assert min(distance(each, latents) for each in recorders[1].latents) <= IN_COMPANY


@pytest.mark.parametrize("name", [*SCHEDULERS, "UnCLIPScheduler"])
def test_a_scheduler_that_is_stepped_as_an_object_goes_on(epsilon_bundle: Bundle, name: str) -> None:
    """What no table can do has all of its history in an object of diffusers'."""
    is_own = name == "UnCLIPScheduler"
    scheduler = diffusers.UnCLIPScheduler() if is_own else for_name(epsilon_bundle.scheduler, name)
    schedule = Schedule(
        name=name,
        scheduler=scheduler,
        num_inference_steps=6,
        options=step_options(name),
        channels=4,
    )
    alone = _stepped(schedule, move_at=None)
    for step in (1, 2, 4):
        assert torch.equal(_stepped(schedule, move_at=step)[-1], alone[-1]), step


def _stepped(schedule: Schedule, *, move_at: int | None) -> list[torch.Tensor]:
    """The latents after each step of a solver, which another one takes over before one of them."""
    solver, registers = ObjectSolver(schedule), torch.zeros(BLOCK[0], 4, 2, 2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((4, 2, 2), generator=generator)
    solver.begin(registers, noise * solver.table.init_noise_sigma)
    seen = []
    for i, timestep in enumerate(solver.table.timesteps):
        if i == move_at:
            state = copy.deepcopy(solver.state())
            before, solver = registers, ObjectSolver(schedule)
            registers = torch.zeros_like(before)
            solver.begin(registers, noise)
            registers[: solver.table.registers] = before[: solver.table.registers]
            solver.resume(state)
        registers[1] = torch.tanh(1.5 * registers[0]) + float(timestep) / 5000
        solver.after_step(registers, i, generator)
        seen.append(solver.latents(registers).clone())
    return seen


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "unclip": save_tiny_unclip,
    "kandinsky": save_tiny_kandinsky,
    "karlo": save_tiny_karlo,
}
AFTER = [[2, 3], [7], [12]]
"""Steps of the engine between two moves, of requests that take theirs one after the other."""


@pytest.fixture(scope="module", params=FAMILIES)
def of_passes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, list[Request], dict[str, Finished]]:
    """A model of several passes, requests of it, and what they end with undisturbed."""
    with quiet_libraries():
        bundle = load(FAMILIES[request.param](tmp_path_factory.mktemp("models") / request.param))
    own: dict[str, Any] = {"prior": Prior(num_inference_steps=3), "num_inference_steps": 3}
    if request.param == "karlo":
        own |= {"scheduler": "UnCLIPScheduler"}
    requests = [reproducible("a", **own), reproducible("b", **own, seed=11, num_images=2)]
    return bundle, requests, undisturbed(partial(engine_of, bundle), *requests)


@pytest.mark.parametrize("after", AFTER)
def test_any_pass_of_a_model_of_several(
    of_passes: tuple[Bundle, list[Request], dict[str, Finished]], after: list[int]
) -> None:
    bundle, requests, alone = of_passes
    assert_same(moved(partial(engine_of, bundle), *requests, after=after), alone)


def test_a_pass_that_begins_with_what_one_before_ended_with(epsilon_bundle: Bundle) -> None:
    def make() -> Engine:
        return Engine(Enlarging(epsilon_bundle))

    requests = [reproducible("a"), reproducible("b", scheduler="euler_a", seed=3)]
    alone = undisturbed(make, *requests)
    for step in (2, 9):
        assert_same(moved(make, *requests, after=[step]), alone)


def variety() -> list[Request]:
    return [
        edit("from a picture", picture(seed=1), strength=0.6, scheduler="dpmpp_2m", num_inference_steps=9),
        edit("repaints", picture(seed=2), box_mask(), strength=0.8, scheduler="euler_a", mask_blur=3, seed=3),
        edit("repaints half", picture(seed=3), half_mask(), strength=1.0, scheduler="unipc", seed=4),
        wish("cached", cache=Cache(interval=3), num_inference_steps=9, scheduler="dpmpp_2m_karras", seed=5),
        wish("ends", guidance_end=0.5, num_inference_steps=8, scheduler="heun", seed=6),
        wish("rescaled", guidance_rescale=0.7, num_inference_steps=8, seed=7),
        wish("shown", preview_every=2, keep_previews=True, num_inference_steps=9, seed=8),
        wish("kept", trajectory=Trajectory(every=2, decode="vae"), num_inference_steps=9, scheduler="euler_a", seed=9),
        wish("controlled", control=[control(scale=0.8, end=0.7)], pictures=PICTURES, num_inference_steps=8, seed=10),
        wish("two", num_images=2, scheduler="dpmpp_sde", seed=11),
    ]


@pytest.fixture(scope="module", params=["epsilon_bundle", "xl_bundle"])
def controlled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_controlnets(request.getfixturevalue(request.param), tmp_path_factory.mktemp("controlnets"))


def test_whatever_a_request_wants(controlled: Bundle) -> None:
    """With fewer seats than pictures some have their picture, some stand in the middle, and some have not begun."""
    requests = [request.model_copy(update={"reproducible": True}) for request in variety()]
    alone = undisturbed(partial(engine_of, controlled), *requests)
    for seats in (16, 3):
        chance = random.Random(seats)
        after = [chance.randrange(10, 40) for _ in range(2)]
        assert_same(moved(partial(engine_of, controlled, seats=seats), *requests, after=after), alone)


def adapted(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model with two LoRAs, one of which reads the text as well; and how both are loaded."""
    model, loras = save_tiny_model(folder / "tiny", prediction_type="epsilon"), folder / "loras"
    plain = load(model)
    loras.mkdir()
    ink = factors(plain, rank=4, seed=1, chosen=is_attention)
    both = factors(plain, rank=2, seed=2, parts=("unet", "text_encoder"), chosen=is_any)
    save_kohya(loras / "ink.safetensors", ink, alpha=2.0)
    save_peft(loras / "both.safetensors", both)
    return model, {"loras": loras}


def with_loras(id: str, *named: tuple[str, float], **changes: Any) -> Request:
    return reproducible(id, loras=tuple(Lora(name=name, weight=weight) for name, weight in named), **changes)


MODELS: dict[str, tuple[Callable[[Path], tuple[Path, dict[str, Any]]], list[Request]]] = {
    "loras": (
        adapted,
        [
            with_loras("one", ("ink", 0.8), scheduler="dpmpp_2m", num_inference_steps=7),
            with_loras("two", ("both", 0.9), ("ink", -0.4), scheduler="euler_a", seed=3),
            with_loras("cached", ("both", 1.0), cache=Cache(interval=3), num_inference_steps=8, seed=4),
            with_loras(
                "controlled",
                ("ink", 0.5),
                control=[control(scale=0.8, end=0.7)],
                pictures=PICTURES,
                seed=5,
                num_images=2,
            ),
            with_loras("none", seed=6),
        ],
    ),
    "lcm": (
        lambda folder: (save_tiny_lcm(folder / "lcm"), {}),
        [
            reproducible("guided", scheduler="lcm", num_inference_steps=6, guidance_scale=8.5, seed=3),
            reproducible("unguided", scheduler="lcm", num_inference_steps=4, guidance_scale=1.0, num_images=2),
            edit("from a picture", picture(seed=1), strength=0.7, scheduler="lcm", reproducible=True, seed=5),
        ],
    ),
    "nine channels": (
        lambda folder: (save_tiny_inpainting(folder / "nine"), {}),
        [
            edit("repaints", picture(seed=2), box_mask(), strength=0.8, scheduler="euler_a", reproducible=True, seed=3),
            edit("half", picture(seed=3), half_mask(), strength=1.0, scheduler="unipc", reproducible=True, seed=4),
        ],
    ),
    "variations": (
        lambda folder: (save_tiny_variation(folder / "variation"), {}),
        [
            drawn_from("varied", of={}, changes={"reproducible": True, "seed": 2}),
            drawn_from("cached", of={}, changes={"reproducible": True, "cache": Cache(interval=2), "num_images": 2}),
        ],
    ),
    "unclip of pictures": (
        lambda folder: (save_tiny_unclip_of_images(folder / "unclip"), {}),
        [
            drawn_from("noisy", of={}, changes={"reproducible": True, "noise_level": 200, "scheduler": "euler_a"}),
            drawn_from(
                "between",
                pictures=[A, B],
                slerp=[{"of": {}}, {"of": {}}],
                at=[0.25, 0.75],
                changes={"reproducible": True},
            ),
        ],
    ),
}
"""What decides how a model is asked, and is made of the request again: adapters, other rows, other channels."""


@pytest.mark.parametrize("name", MODELS)
def test_whatever_a_model_is_asked_with(name: str, tmp_path: Path) -> None:
    save, requests = MODELS[name]
    with quiet_libraries():
        folder, options = save(tmp_path)
        bundle = load(folder, **options)
    if name == "loras":
        bundle = with_controlnets(bundle, tmp_path / "controlnets")
    make, chance = partial(engine_of, bundle), random.Random(80)
    alone = undisturbed(make, *requests)
    whole = sum(each.steps for each in alone.values())
    # In another order: an adapter has other columns of the bank.
    assert_same(moved(make, *reversed(requests), after=[chance.randrange(1, whole // 2) for _ in range(2)]), alone)


def test_the_best_of_several_are_the_same(epsilon_bundle: Bundle) -> None:
    def make() -> Engine:
        return engine_of(epsilon_bundle, seats=3, judge=Brightest())

    requests = [
        reproducible("best", num_images=2, best_of=5, seed=4),
        reproducible("redrawn", num_images=2, best_of=2, min_probability=0.99, expect=["bright"], seed=30),
    ]
    alone = undisturbed(make, *requests)
    for after in ([2], [5, 3], [9, 2], [20, 9]):
        assert_same(moved(make, *requests, after=after), alone)


def test_one_that_was_rescued_stays_so(epsilon_bundle: Bundle) -> None:
    def bad(call: int, rows: torch.Tensor) -> None:
        if call == 2:
            rows.fill_(torch.nan)

    def make() -> Engine:
        return engine_of(scripted(epsilon_bundle, bad)[0])

    kept: Kept = {}
    events = begun(make, [wish()], kept, steps=5)
    [parked] = [event for event in events if isinstance(event, Parked)]
    assert parked.snapshot is not None
    assert [each.mode for each in parked.snapshot.samples] == ["rescue"]
    last = finished(_resumed(engine_of(epsilon_bundle), wish(), parked.snapshot))["a"]
    assert last.images[0].is_rescued


def _resumed(engine: Engine, request: Request, kept: Snapshot | None) -> list[EngineEvent]:
    engine.submit(request, kept)
    return drain(engine)


def half_way(bundle: Bundle, request: Request, *, steps: int = 3) -> Snapshot:
    events = begun(partial(engine_of, bundle), [request], {}, steps=steps)
    [parked] = [event for event in events if isinstance(event, Parked)]
    assert parked.snapshot is not None
    return parked.snapshot


def test_what_is_behind_it_is_said_and_not_evaluated_again(epsilon_bundle: Bundle) -> None:
    kept = half_way(epsilon_bundle, wish())
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    events = _resumed(engine_of(bundle), wish(), kept)
    assert len(unet.batches) == 3
    [started] = [event for event in events if isinstance(event, Started)]
    assert (started.resumed_at, started.resumed) == (3, 3)
    assert [event.step for event in events if isinstance(event, Progress)] == [4, 5, 6]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"version": snapshot.VERSION + 1}, "of version"),
        ({"request": "0" * 64}, "another request"),
        ({"passes": []}, "solvers or networks"),
        ({"drawn_with": {"loras": []}}, "adapters"),
        ({"wanted": 0}, "samples"),
    ],
)
def test_a_snapshot_of_something_else_is_not_gone_on_from(
    epsilon_bundle: Bundle, other: dict[str, Any], reason: str
) -> None:
    alone = undisturbed(partial(engine_of, epsilon_bundle), reproducible())
    kept = replace(half_way(epsilon_bundle, reproducible()), **other)
    with capture_logs() as logs:
        events = _resumed(engine_of(epsilon_bundle), reproducible(), kept)
    assert_same(finished(events), alone)
    assert [line["reason"] for line in logs if "snapshot" in line["event"] and reason in line["reason"]]
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4, 5, 6]


def test_another_number_of_steps_is_another_request(epsilon_bundle: Bundle) -> None:
    kept = half_way(epsilon_bundle, wish())
    events = _resumed(engine_of(epsilon_bundle), wish(num_inference_steps=7), kept)
    assert next(event.step for event in events if isinstance(event, Progress)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda standing: replace(standing, registers=standing.registers[:, :, :4]),
        lambda standing: replace(standing, registers=standing.registers.half()),
        lambda standing: replace(standing, chance=standing.chance[:9]),
        lambda standing: replace(standing, evaluation=99),
    ],
)
def test_numbers_that_do_not_fit_cost_evaluations_and_no_job(
    epsilon_bundle: Bundle, damage: Callable[[Standing], Standing]
) -> None:
    alone = undisturbed(partial(engine_of, epsilon_bundle), reproducible(num_images=2))
    kept = half_way(epsilon_bundle, reproducible(num_images=2), steps=5)
    second = kept.samples[1]
    assert second.standing is not None
    samples = [kept.samples[0], replace(second, standing=damage(second.standing))]
    engine = engine_of(epsilon_bundle)
    assert_same(finished(_resumed(engine, reproducible(num_images=2), replace(kept, samples=samples))), alone)
    assert engine.free_seats == engine.seats


def test_a_snapshot_is_taken_behind_a_step_and_the_job_goes_on(epsilon_bundle: Bundle) -> None:
    make = partial(engine_of, epsilon_bundle)
    alone = undisturbed(make, reproducible(scheduler="euler_a"))
    engine, events = make(), list[EngineEvent]()
    engine.submit(reproducible(scheduler="euler_a"))
    for step in range(6):
        if step in (2, 4):
            engine.take_snapshot("a")
        events += engine.step()
    assert_same(finished(events + drain(engine)), alone)
    taken = [event.snapshot for event in events if isinstance(event, SnapshotTaken)]
    assert [each.step for each in taken] == [3, 5]
    for each in taken:
        # Its numbers stay as they were, whatever the engine has done since.
        assert_same(finished(_resumed(make(), reproducible(scheduler="euler_a"), each)), alone)


def test_no_snapshot_is_taken_of_one_that_has_not_begun_or_is_over(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=1)
    engine.submit(wish("first"))
    engine.submit(wish("waits"))
    engine.take_snapshot("waits")
    engine.take_snapshot("nobody")
    assert not [event for event in engine.step() if isinstance(event, SnapshotTaken)]
    events = drain(engine)
    engine.take_snapshot("first")
    assert not [event for event in engine.step() if isinstance(event, SnapshotTaken)]
    # It is taken as soon as there is something.
    assert [event.snapshot.step for event in events if isinstance(event, SnapshotTaken)] == [1]


def test_who_is_called_off_as_well_is_stopped(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish())
    engine.step()
    engine.park("a")
    engine.cancel("a")
    assert isinstance(last_events(drain(engine))["a"], Stopped)


def test_who_has_not_begun_is_parked_with_what_it_came_with(epsilon_bundle: Bundle) -> None:
    kept = half_way(epsilon_bundle, wish())
    engine = engine_of(epsilon_bundle)
    engine.submit(wish("new"))
    engine.submit(wish(), kept)
    engine.park("new")
    engine.park("a")
    assert [(each.request_id, each.snapshot) for each in engine.step() if isinstance(each, Parked)] == [
        ("new", None),
        ("a", kept),
    ]


def test_one_whose_pictures_are_all_there_ends_at_once(epsilon_bundle: Bundle) -> None:
    """As where the last of its samples were pruned while it was parked: nothing is left to draw."""
    engine, events = engine_of(epsilon_bundle), list[EngineEvent]()
    engine.submit(wish())
    while not engine.idle:
        engine.take_snapshot("a")
        events += engine.step()
    kept = next(each.snapshot for each in events if isinstance(each, SnapshotTaken))
    picture = finished(events)["a"].images[0].pixels
    whole = replace(kept, samples=[replace(each, standing=None, picture=picture, step=6) for each in kept.samples])
    again = engine_of(epsilon_bundle)
    again.submit(wish(), whole)
    events = []
    for _ in range(5):
        again.wait_for_work(0.2)
        events += again.step()
    assert again.idle
    assert np.array_equal(finished(events)["a"].images[0].pixels, picture)


class Arriving:
    """An event of a device, behind which copies have arrived."""

    def __init__(self) -> None:
        self.is_waited_for = False

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.is_waited_for = True


def test_what_finished_samples_left_has_arrived_before_it_is_kept(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = list[tuple[object, Arriving]]()

    def copied(value: Any) -> tuple[Any, Arriving]:
        copies.append((value, Arriving()))
        return value, copies[-1][1]

    monkeypatch.setattr(saving, "on_host", copied)
    engine = engine_of(epsilon_bundle, seats=1)
    engine.submit(wish(num_images=2))
    events = list[EngineEvent]()
    for _ in range(20):
        engine.take_snapshot("a")
        events += engine.step()
    assert any(isinstance(each, SnapshotTaken) and each.snapshot.samples[0].picture is not None for each in events)
    of_finished = [event for value, event in copies if isinstance(value, SampleSnapshot)]
    assert of_finished
    assert all(event.is_waited_for for event in of_finished)


def test_what_cannot_be_copied_of_finished_samples_ends_no_engine(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Sample) -> None:
        raise MemoryError("no pinned memory is left")

    monkeypatch.setattr(saving, "_finished", full)
    engine = engine_of(epsilon_bundle, seats=1)
    engine.submit(wish(num_images=2))
    events = list[EngineEvent]()
    while not engine.idle:
        engine.take_snapshot("a")
        events += engine.step()
    assert finished(events).keys() == {"a"}


def test_what_cannot_be_kept_is_said_once(epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.solver.TableSolver.state", lambda self: {"lock": object()})
    engine = engine_of(epsilon_bundle)
    for id in ("a", "b"):
        engine.submit(wish(id))
    engine.step()
    engine.park("a")
    engine.take_snapshot("b")
    with capture_logs() as logs:
        events = engine.step()
    assert [each.snapshot for each in events if isinstance(each, Parked)] == [None]
    assert not [each for each in events if isinstance(each, SnapshotTaken)]
    assert len([line for line in logs if "no snapshot" in line["event"]]) == 1
    assert isinstance(last_events(drain(engine))["b"], Finished)
