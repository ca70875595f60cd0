"""ControlNets by row: a sample with some, in a mixed, changing batch = alone = StableDiffusionControlNetPipeline; and
who has none gets no bit of it."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.engine.driving import Recorder, distance, drain, engine_of, final_latents, last_events, run, stock, wish
from tests.engine.pictures import edit, half_mask
from tests.engine.pictures import picture as painted
from tests.engine.test_equation import ALONE, IN_COMPANY
from tests.engine.tiny_controlnets import PICTURES, control, stock_controlled, with_controlnets
from tests.waiting import until
from worker.engine.events import Failed, Finished
from worker.engine.request import Request
from worker.families.controlnet import ControlNet, scales
from worker.families.unet import UNet
from worker.models.bundle import Bundle
from worker.models.controlnets import load_controlnet


@pytest.fixture(scope="module", params=["velocity_bundle", "xl_bundle"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What a model predicts is no business of a ControlNet's; `one_bundle` predicts noise."""
    return with_controlnets(request.getfixturevalue(request.param), tmp_path_factory.mktemp("controlnets"))


@pytest.fixture(scope="module")
def one_bundle(epsilon_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_controlnets(epsilon_bundle, tmp_path_factory.mktemp("controlnets"))


def controlled(id: str = "a", *controls: Any, **changes: Any) -> Request:
    return wish(id, control=controls, pictures=PICTURES, **changes)


def expected(bundle: Bundle, request: Request) -> torch.Tensor:
    return stock_controlled(bundle, request) if request.control else stock(bundle, request, output_type="latent")


def in_step(bundle: Bundle, *requests: Request) -> list[torch.Tensor]:
    """Final latents of requests that begin in the same step."""
    recorder = Recorder(bundle)
    engine = engine_of(dataclasses.replace(bundle, vae=recorder))
    for request in requests:
        engine.submit(request)
    until(lambda: all(job.is_ready for job in engine._jobs.all()))
    last = last_events(drain(engine))
    assert all(isinstance(event, Finished) for event in last.values()), last
    return recorder.latents


def test_any_of_them_in_a_changing_batch_equal_the_stock_pipelines(bundle: Bundle) -> None:
    recorder = Recorder(bundle)
    engine = engine_of(dataclasses.replace(bundle, vae=recorder), seats=8)
    requests = [
        controlled("whole", control(), scheduler="ddim", num_inference_steps=6, seed=1),
        controlled("none", scheduler="euler_a", num_inference_steps=7, seed=2),
        controlled("zero", control(scale=0.0), scheduler="euler", num_inference_steps=5, seed=3),
        controlled("half", control(image=2, scale=0.5), scheduler="dpmpp_2m", num_inference_steps=4, seed=4),
        controlled("two", control(scale=0.7), control("other", image=2, scale=0.4), num_inference_steps=5, seed=5),
        controlled("late", control(start=0.3, end=0.8), scheduler="heun", num_inference_steps=5, seed=6),
        controlled("unguided", control("other", image=3), guidance_scale=1.0, scheduler="unipc", seed=7),
        controlled("wide", control(image=3, scale=1.3), width=96, seed=8, negative_prompt="a dog"),
        controlled("of odd sides", control(), width=84, height=60, seed=9),
        controlled("the same twice", control(scale=0.7), control(image=2, scale=0.9, start=0.3), seed=10),
        controlled("twice, and another", *(control(name, image=2) for name in ("edges", "other", "edges")), seed=11),
    ]
    events = []
    for request in requests:
        engine.submit(request)
        events += engine.step()
    last = last_events(events + drain(engine))
    assert all(isinstance(event, Finished) for event in last.values()), last
    for request in requests:
        theirs = expected(bundle, request)
        of_its_size = [latents for latents in recorder.latents if latents.shape == theirs.shape]
        assert min(distance(latents, theirs) for latents in of_its_size) <= IN_COMPANY, request.id
    assert engine.free_seats == engine.seats


def test_alone_it_is_the_same_and_the_network_matters(bundle: Bundle) -> None:
    request = controlled("a", control(scale=0.8), scheduler="euler")
    [latents] = final_latents(bundle, request)
    assert distance(latents, stock_controlled(bundle, request)) <= ALONE
    [plain] = final_latents(bundle, controlled("a", scheduler="euler"))
    assert distance(latents, plain) > 0.1


def test_edits_follow_one_as_in_the_stock_pipelines(bundle: Bundle) -> None:
    """The range counts the evaluations that are left of a picture's own start."""
    ranged = control(scale=0.8, start=0.2, end=0.7), control("other", image=2, scale=0.5)
    requests = [
        edited("from-a-picture", edit("a", painted(), strength=0.7, scheduler="ddim", num_inference_steps=8), *ranged),
        edited("repainted", edit("a", painted(), half_mask(), strength=0.9, scheduler="euler"), control(image=3)),
        controlled("plain", scheduler="euler_a", num_inference_steps=4),
    ]
    together = final_latents(bundle, *requests)
    for request in requests[:2]:
        assert min(distance(latents, expected(bundle, request)) for latents in together) <= IN_COMPANY, request.id


def edited(id: str, of: Request, *controls: Any) -> Request:
    return of.model_copy(update={"id": id, "control": controls, "pictures": {**of.pictures, **PICTURES}})


def test_a_single_file_is_a_controlnet_as_well(one_bundle: Bundle) -> None:
    request = controlled("a", control("single"))
    [latents] = final_latents(one_bundle, request)
    assert distance(latents, stock_controlled(one_bundle, request)) <= ALONE


def test_neighbours_without_one_get_no_bit_of_it(one_bundle: Bundle) -> None:
    """In a batch of the same size: kernels differ with that, whoever the company is."""
    plain = [wish("plain", scheduler="euler_a", seed=1), wish("unguided", guidance_scale=1.0, seed=2)]
    before = in_step(one_bundle, *plain, wish("company", seed=3))
    beside = in_step(one_bundle, *plain, controlled("company", control(), control("other", image=2), seed=3))
    assert [torch.equal(a, b) for a, b in zip(before, beside, strict=True)] == [True, True, False]


def test_a_scale_of_zero_is_none_bit_by_bit(one_bundle: Bundle) -> None:
    [without] = final_latents(one_bundle, wish())
    [zero] = final_latents(one_bundle, controlled("a", control(scale=0.0)))
    assert torch.equal(without, zero)


def test_only_the_rows_that_want_one_at_that_step_ask_it(one_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []
    given: list[bool] = []
    ask, answer = ControlNet.__call__, UNet.forward

    def listening(self: ControlNet, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> Any:
        asked.append((self.file.name, len(given), len(x)))
        return ask(self, x, t, rows)

    def answering(self: UNet, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> Any:
        given.append(any(name.startswith("residual_") for name in rows))
        return answer(self, x, t, rows)

    monkeypatch.setattr(ControlNet, "__call__", listening)
    monkeypatch.setattr(UNet, "forward", answering)
    requests = [
        wish("plain", num_inference_steps=5),
        controlled("edges", control(end=0.4), control("other", scale=0.0), num_inference_steps=5),
        controlled("unguided", control("other", start=0.2, end=0.6), num_inference_steps=5, guidance_scale=1.0),
    ]
    in_step(one_bundle, *requests)
    assert asked == [("edges", 0, 2), ("edges", 1, 2), ("other", 1, 1), ("other", 2, 1)]
    assert given == [True, True, True, False, False], "a step that nobody wants one in is the one without"


@pytest.mark.parametrize("count", [1, 4, 7, 30])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.8), (0.5, 0.6), (0.33, 0.34)])
def test_a_range_is_rounded_as_the_stock_pipeline_does(count: int, start: float, end: float) -> None:
    stock_keeps = [1.0 - float(i / count < start or (i + 1) / count > end) for i in range(count)]
    assert scales(count, 0.7, start, end) == [0.7 * keep for keep in stock_keeps]


def test_a_reproducible_picture_has_the_same_bits_in_company(one_bundle: Bundle) -> None:
    request = controlled("a", control(scale=0.8), reproducible=True)
    [alone] = final_latents(one_bundle, request)
    together = final_latents(one_bundle, wish("b", num_inference_steps=9), request, controlled("c", control("other")))
    assert any(torch.equal(alone, latents) for latents in together)


def test_after_nan_it_is_drawn_again_with_its_network_in_float32(half_bundle: Bundle, tmp_path: Any) -> None:
    bundle = with_controlnets(half_bundle, tmp_path / "half")
    types: list[torch.dtype] = []
    ask = ControlNet.__call__

    def overflowing(self: ControlNet, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> Any:
        said = ask(self, x, t, rows)
        types.extend({each.dtype for each in said.values()})
        return said if types[-1] == torch.float32 else {name: each * math.inf for name, each in said.items()}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ControlNet, "__call__", overflowing)
        last = run(engine_of(bundle), controlled("a", control(end=0.5)), wish("b"))
    assert isinstance(last["a"], Finished)
    assert isinstance(last["b"], Finished)
    assert (last["a"].images[0].is_rescued, last["b"].images[0].is_rescued) == (True, False)
    assert set(types) == {torch.bfloat16, torch.float32}


def test_the_picture_says_which_weights_it_was_drawn_with(one_bundle: Bundle) -> None:
    finished = run(engine_of(one_bundle), controlled("a", control(), control("single")))["a"]
    assert isinstance(finished, Finished)
    hashes = finished.drawn_with["controlnets"]
    assert hashes.keys() == {"edges", "single"}
    assert len(set(hashes.values())) == 2


def test_more_of_them_than_are_kept_in_memory_take_turns(one_bundle: Bundle) -> None:
    """And each is loaded once for all who come at that time."""
    requests = [
        controlled(f"{name}{k}", control(name), num_inference_steps=2 + k, seed=k)
        for k, name in enumerate(["edges", "other", "single", "edges", "single"])
    ]
    bundle = dataclasses.replace(one_bundle, controlnets=dataclasses.replace(one_bundle.controlnets, kept=1))
    recorder = Recorder(bundle)
    last = run(engine_of(dataclasses.replace(bundle, vae=recorder)), *requests)
    assert all(isinstance(event, Finished) for event in last.values()), last
    for request in requests:
        theirs = stock_controlled(bundle, request)
        assert min(distance(latents, theirs) for latents in recorder.latents) <= IN_COMPANY


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ([control("nothing")], "no ControlNet nothing"),
        ([control(), control("other"), control("single")], "3 ControlNets, and 2"),
    ],
)
def test_what_cannot_be_drawn_ends_its_own_request(one_bundle: Bundle, controls: list[Any], said: str) -> None:
    last = run(engine_of(one_bundle), controlled("no", *controls), controlled("well", control(), num_inference_steps=2))
    assert isinstance(last["no"], Failed)
    assert said in last["no"].error.detail
    assert isinstance(last["well"], Finished)


def test_weights_come_from_the_disk_in_a_thread_and_to_the_device_in_the_engines(
    one_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a disk; and a step that is captured on a GPU bears no other thread that takes memory there."""
    threads: dict[str, set[str]] = {"load": set(), "place": set()}

    def load(*args: Any) -> Any:
        threads["load"].add(threading.current_thread().name)
        return load_controlnet(*args)

    def place(self: Bundle, network: Any) -> Any:
        threads["place"].add(threading.current_thread().name)
        return network

    monkeypatch.setattr("worker.families.controlnet.load_controlnet", load)
    monkeypatch.setattr(Bundle, "place", place)
    final_latents(one_bundle, controlled("a", control(), control("other"), num_inference_steps=1))
    assert threads["load"] == {"controlnets_0"}
    assert threads["place"] == {threading.current_thread().name}


def test_weights_that_are_gone_end_the_request_and_no_other(epsilon_bundle: Bundle, tmp_path: Any) -> None:
    bundle = with_controlnets(epsilon_bundle, tmp_path / "gone")
    bundle.controlnets.files["edges"].weights.unlink()
    last = run(engine_of(bundle), controlled("no", control()), controlled("well", control("other")))
    assert isinstance(last["no"], Failed)
    assert "edges" in last["no"].error.detail
    assert str(tmp_path) not in last["no"].error.detail
    assert isinstance(last["well"], Finished)


def test_who_is_canceled_before_it_is_loaded_holds_nothing(one_bundle: Bundle) -> None:
    bundle = dataclasses.replace(one_bundle, controlnets=dataclasses.replace(one_bundle.controlnets, kept=1))
    engine = engine_of(bundle)
    engine.submit(controlled("a", control()))
    engine.submit(controlled("b", control("other")))
    engine.cancel("b")
    engine.submit(controlled("c", control("single")))
    last = last_events(drain(engine))
    assert isinstance(last["a"], Finished)
    assert isinstance(last["c"], Finished)
