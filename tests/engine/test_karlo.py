"""Karlo in the step engine: its four networks as passes, held against UnCLIPPipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from app.contract.messages.unclip import Prior
from tests.engine.driving import distance, drain, engine_of, last_events, run, wish
from tests.engine.test_unclip import CLOSE
from tests.engine.tiny_models import SIDE, save_tiny_karlo
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Failed, Finished, Preview, Progress, Stopped
from worker.engine.request import Request
from worker.families.autoencoder import Pixels
from worker.families.karlo import SUPER_RESOLUTION_STEPS, Karlo
from worker.models.announced import describe
from worker.models.bundle import Bundle, load, stock_pipeline
from worker.models.quiet import quiet_libraries

OWN = "UnCLIPScheduler"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with quiet_libraries():
        return load(save_tiny_karlo(tmp_path_factory.mktemp("models") / "tiny-karlo"))


def ask(id: str = "a", *, steps: int = 2, scale: float = 4.0, **changes: object) -> Request:
    """A request for that many steps of the prior, with that guidance of it."""
    plain = {"scheduler": OWN, "prior": Prior(num_inference_steps=steps, guidance_scale=scale)}
    return wish(id, **(plain | changes))


class Recorded(Pixels):
    """Keeps what it was asked to decode, [3, H, W] each."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.kept: list[torch.Tensor] = []

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.kept += latents.clone().unbind()
        return super().decode(latents)


def in_company(bundle: Bundle, *requests: Request) -> tuple[list[torch.Tensor], list[EngineEvent]]:
    """Each joins one step after the other. The pictures, of 0 to 1, and all events."""
    family = Karlo(bundle)
    family.autoencoder = recorded = Recorded(bundle.device)
    engine, events = Engine(family, seats=8), list[EngineEvent]()
    for request in requests:
        engine.submit(request)
        events += engine.step()
    events += drain(engine)
    assert all(isinstance(event, Finished) for event in last_events(events).values())
    large = [each for each in recorded.kept if each.shape[-1] == SIDE]
    return [(each * 0.5 + 0.5).clamp(0, 1) for each in large], events


def by_stock(bundle: Bundle, request: Request) -> torch.Tensor:
    """The same of diffusers' own pipeline."""
    said = request.prior or Prior()
    with quiet_libraries():
        drawn = stock_pipeline(bundle, OWN)(
            request.prompt, prior_num_inference_steps=said.num_inference_steps,
            prior_guidance_scale=said.guidance_scale, decoder_num_inference_steps=request.num_inference_steps,
            decoder_guidance_scale=request.guidance_scale, super_res_num_inference_steps=SUPER_RESOLUTION_STEPS,
            generator=torch.Generator().manual_seed(request.seed), output_type="np",
        ).images[0]  # fmt: skip
    return torch.from_numpy(drawn).permute(2, 0, 1)


UNEQUAL = [
    ask("a", steps=4, seed=1, guidance_scale=8.0),
    ask("b", steps=6, scale=1.0, seed=2, num_inference_steps=3, prompt="a blue star"),
    ask("c", steps=3, scale=2.0, seed=3, num_inference_steps=5, guidance_scale=1.0),
    ask("d", steps=3, scale=0.0, seed=4, num_inference_steps=4, guidance_scale=1.0, prompt="two cats"),
]


def test_pictures_in_company_are_what_the_stock_pipeline_draws(bundle: Bundle) -> None:
    """Unconditional rows for both or for none, whatever each scale is."""
    pictures, _ = in_company(bundle, *UNEQUAL)
    assert len(pictures) == len(UNEQUAL)
    for request in UNEQUAL:
        expected = by_stock(bundle, request)
        assert min(distance(each, expected) for each in pictures) <= CLOSE, request.id


def test_every_stage_counts(bundle: Bundle) -> None:
    """Else the test above would hold whatever one of them does."""
    plain = by_stock(bundle, UNEQUAL[0])
    for changes in ({"prompt": "a dog"}, {"prior": Prior(num_inference_steps=5, guidance_scale=4.0)}):
        assert distance(by_stock(bundle, UNEQUAL[0].model_copy(update=changes)), plain) > 10 * CLOSE, changes


def test_progress_tells_the_stage(bundle: Bundle) -> None:
    """And previews are of the small picture."""
    _, events = in_company(bundle, ask(steps=2, num_inference_steps=3, preview_every=1))
    stages = ["prior"] * 2 + ["decoder"] * 3 + ["super-resolution"] * SUPER_RESOLUTION_STEPS
    told = [(event.step, event.steps, event.stage) for event in events if isinstance(event, Progress)]
    assert told == [(k, len(stages), stage) for k, stage in enumerate(stages, 1)]
    previews = [(event.step, event.picture.shape) for event in events if isinstance(event, Preview)]
    assert previews == [(step, (SIDE // 4, SIDE // 4, 3)) for step in (3, 4, 5)]


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_a_cancel_takes_effect_within_a_step_of_any_pass(bundle: Bundle, steps: int) -> None:
    engine = engine_of(bundle)
    engine.submit(ask(steps=2, num_inference_steps=3))
    for _ in range(steps):
        engine.step()
    engine.cancel("a")
    assert engine.step() == [Stopped("a")]
    assert engine.free_seats == engine.seats


def test_a_reproducible_picture_has_the_same_bits_in_company(bundle: Bundle) -> None:
    asked = ask("alone", reproducible=True, num_inference_steps=2)
    [alone], _ = in_company(bundle, asked)
    pictures, _ = in_company(bundle, asked, ask("b", prompt="a star"), ask("c", steps=3))
    assert any(torch.equal(each, alone) for each in pictures)


def test_its_record_has_the_vectors(bundle: Bundle) -> None:
    finished = run(engine_of(bundle), ask(num_inference_steps=2))["a"]
    assert isinstance(finished, Finished)
    assert {name: vector.shape for name, vector in finished.images[0].found.items()} == {
        "image_embedding": (32,),
        "text_embedding": (32,),
    }


def test_what_it_does_not_read_is_said(bundle: Bundle) -> None:
    unread = {"negative_prompt": "red", "guidance_scale": 1.0, "guidance_rescale": 0.5}
    finished = run(engine_of(bundle), ask(num_inference_steps=2, prompt="star " * 40, **unread))["a"]
    assert isinstance(finished, Finished)
    assert any("negative prompt had no effect" in each for each in finished.warnings)
    assert any("guidance_rescale had no effect" in each for each in finished.warnings)
    assert any("read only the first" in each for each in finished.warnings)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [(ask(width=2 * SIDE), f"always {SIDE} x {SIDE}"), (ask(steps=1), "2 or 3 will do")],
)
def test_what_cannot_be_drawn_ends_in_a_sentence(bundle: Bundle, request_: Request, sentence: str) -> None:
    last = run(engine_of(bundle), request_, ask("well", num_inference_steps=2))
    assert isinstance(last["a"], Failed)
    assert sentence in last["a"].error.detail
    assert isinstance(last["well"], Finished)


def test_its_card_has_the_fewest_steps_that_its_prior_takes(bundle: Bundle) -> None:
    assert describe(bundle, seats=1, limits={}).prior_min_steps == 2


def test_in_half_precision_and_after_nan(tmp_path: Path) -> None:
    """The rescue is in float32, with copies of all networks."""
    with quiet_libraries():
        half = load(save_tiny_karlo(tmp_path / "half"), dtype="bfloat16")
    calls: list[object] = []

    def once(network: object, given: object, answer: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        calls.append(None)
        return (answer[0] * float("nan"),) if len(calls) == 1 else answer

    half.part("super_res_last").register_forward_hook(once)
    family = Karlo(half)
    last = run(Engine(family), ask(num_inference_steps=2))["a"]
    assert isinstance(last, Finished)
    assert last.images[0].is_rescued
    assert last.pictures[0].shape == (SIDE, SIDE, 3)
