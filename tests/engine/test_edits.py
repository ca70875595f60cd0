"""Image to image and inpainting: a sample in a mixed, changing batch = the same sample alone = the stock pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from app.contract.messages.schedulers import SCHEDULERS
from tests.engine.driving import Recorder, distance, drain, final_latents, last_events, run, stock, wish
from tests.engine.driving import engine_of as Engine
from tests.engine.pictures import box_mask, edit, half_mask, picture
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_models import save_tiny_model
from worker.engine.compile import compile_table
from worker.engine.errors import GenerationFailed
from worker.engine.events import Failed, Finished, Progress
from worker.engine.request import Request
from worker.engine.solver import SolverFactory, TableSolver
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

MIXED = ("ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "heun", "pndm", "lcm")

REQUESTS = [
    request
    for k, scheduler in enumerate(MIXED)
    for request in (
        edit(
            f"{scheduler} from a picture",
            picture(seed=k),
            strength=(0.35, 0.6, 0.85)[k % 3],
            scheduler=scheduler,
            num_inference_steps=7 + k % 3,
            guidance_scale=(1.0, 4.0, 7.5)[k % 3],
            seed=k,
        ),
        edit(
            f"{scheduler} repaints",
            picture(side=48 + 16 * (k % 2), seed=k),
            box_mask() if k % 2 else half_mask(side=48),
            strength=(1.0, 0.5, 0.8)[k % 3],
            scheduler=scheduler,
            num_inference_steps=6 + k % 3,
            guidance_scale=(4.0, 1.0, 7.5)[k % 3],
            mask_blur=3 * (k % 2),
            seed=k + 20,
        ),
    )
]


def together(bundle: Bundle, requests: list[Request], *, seats: int = 6) -> list[torch.Tensor]:
    """Latents of all, of whom one more comes at every step, and who leave at different ones."""
    recorder = Recorder(bundle)
    engine = Engine(dataclasses.replace(bundle, vae=recorder), seats=seats)
    events = []
    for request in requests:
        engine.submit(request)
        events += engine.step()
    last = last_events(events + drain(engine))
    assert all(isinstance(event, Finished) for event in last.values()), last
    return recorder.latents


@pytest.mark.parametrize("kind", ["epsilon", "velocity", "xl"])
def test_edits_and_plain_neighbours_in_one_batch_are_the_stock_pipelines_each(
    kind: str, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(f"{kind}_bundle")
    plain = [wish("plain", scheduler="dpmpp_2m"), wish("other", scheduler="euler_a", guidance_scale=1.0, seed=3)]
    asked = [plain[0], *REQUESTS, plain[1]]
    drawn = together(bundle, asked)
    assert len(drawn) == len(asked)
    for each in asked:
        expected = stock(bundle, each, output_type="latent")
        assert min(distance(latents, expected) for latents in drawn) <= IN_COMPANY, each.id


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_edits_as_in_the_stock_pipeline(epsilon_bundle: Bundle, scheduler: str) -> None:
    both = [
        edit("from a picture", picture(), strength=0.6, scheduler=scheduler, num_inference_steps=8),
        edit("repaints", picture(), box_mask(), strength=0.8, scheduler=scheduler, num_inference_steps=7, seed=5),
    ]
    drawn = final_latents(epsilon_bundle, *both)
    for each in both:
        expected = stock(epsilon_bundle, each, output_type="latent")
        assert min(distance(latents, expected) for latents in drawn) <= IN_COMPANY, each.id


@pytest.mark.parametrize("mask", [False, True])
def test_latent_consistency_models_edit_in_as_many_steps_as_asked(lcm_bundle: Bundle, mask: bool) -> None:
    """Their own pipeline for pictures takes all steps on the way that is left."""
    asked = [
        edit("a", picture(), half_mask() if mask else None, strength=0.5, scheduler="lcm", seed=3),
        edit("b", picture(seed=1), box_mask() if mask else None, strength=0.9, scheduler="lcm", seed=4),
        edit("c", picture(seed=2), strength=0.3, scheduler="lcm", num_inference_steps=3, guidance_scale=8.0),
        wish("d", scheduler="lcm", num_inference_steps=5),
    ]
    drawn = together(lcm_bundle, asked)
    for each in asked:
        expected = stock(lcm_bundle, each, output_type="latent")
        assert min(distance(latents, expected) for latents in drawn) <= IN_COMPANY, each.id
    steps = {event.request_id: event.steps for event in _finished(lcm_bundle, asked[:3])}
    assert steps == ({"a": 3, "b": 5, "c": 3} if mask else {"a": 6, "b": 6, "c": 3})


def _finished(bundle: Bundle, requests: list[Request]) -> list[Finished]:
    engine = Engine(bundle)
    for request in requests:
        engine.submit(request)
    return [event for event in drain(engine) if isinstance(event, Finished)]


@pytest.mark.parametrize("task", ["image-to-image", "inpainting"])
def test_what_no_table_can_do_edits_as_well(epsilon_bundle: Bundle, task: str) -> None:
    """Thresholding bends what a scheduler does: it is stepped itself, and puts back itself what stays."""
    scheduler = diffusers.DDIMScheduler.from_config(epsilon_bundle.scheduler.config, thresholding=True)
    bundle = dataclasses.replace(epsilon_bundle, scheduler=scheduler)
    each = edit("a", picture(), box_mask() if task == "inpainting" else None, strength=0.7, scheduler="DDIMScheduler")
    [schedule] = family_of(bundle).schedules(each)
    assert SolverFactory(schedule).table is None
    plain = wish("b", scheduler="DDIMScheduler", seed=9)
    drawn = together(bundle, [each, plain])
    for request in (each, plain):
        assert min(distance(latents, stock(bundle, request, output_type="latent")) for latents in drawn) <= IN_COMPANY


def test_who_edits_nothing_is_drawn_to_the_same_bits_beside_who_does(epsilon_bundle: Bundle) -> None:
    """Beside plain neighbours of the same numbers of rows: other sizes of a batch round differently."""
    plain = [wish(str(k), scheduler=scheduler, seed=k) for k, scheduler in enumerate(("euler_a", "unipc", "ddim"))]
    plain_neighbours = [wish("c", scheduler="ddim", num_inference_steps=5), wish("d", num_inference_steps=3)]
    editing = [
        edit("c", picture(), half_mask(), strength=0.5, scheduler="ddim", num_inference_steps=10),
        edit("d", picture(), strength=0.5, num_inference_steps=6),
    ]
    before, beside = (
        {request.id: picture for request, picture in zip(plain, _pictures(epsilon_bundle, plain, others), strict=True)}
        for others in (plain_neighbours, editing)
    )
    assert all((before[name] == beside[name]).all() for name in before)


def _pictures(bundle: Bundle, requests: list[Request], neighbours: list[Request]) -> list[torch.Tensor]:
    """Latents of the requests, which are the last that are decoded."""
    drawn = final_latents(bundle, *requests, *neighbours)
    assert len(drawn) == len(requests) + len(neighbours)
    return drawn[-len(requests) :]


def test_what_is_not_repainted_comes_back(epsilon_bundle: Bundle) -> None:
    each = edit("a", picture(), half_mask(), strength=1.0, scheduler="dpmpp_2m")
    [latents] = final_latents(epsilon_bundle, each)
    posterior = family_of(epsilon_bundle).autoencoder.encode(family_of(epsilon_bundle).inputs(each).pictures[0][None])
    stays = posterior[0].sample(torch.Generator().manual_seed(each.seed))
    half = latents.shape[-1] // 2
    assert torch.allclose(latents[..., half:], stays[..., half:], atol=1e-6)
    assert distance(latents[..., :half], stays[..., :half]) > 0.5


def test_what_is_transparent_in_a_mask_stays_whatever_its_colour(epsilon_bundle: Bundle) -> None:
    """Programs that paint on layers store white, black or what was erased there."""
    opaque = half_mask()
    layers = [np.dstack([np.full_like(opaque, colour), opaque[..., 0]]) for colour in (255, 0)]
    read = [family_of(epsilon_bundle).inputs(edit("a", picture(), each, strength=1.0)).repainted for each in layers]
    assert read[0] is not None
    assert read[1] is not None
    assert read[0][0].sum(-1).tolist() == [8] * 16, "painted with white on the left"
    assert not read[1].any(), "painted with black"


@pytest.mark.parametrize("kind", ["epsilon", "xl", "lcm"])
def test_a_mask_that_repaints_nothing_is_told(kind: str, request: pytest.FixtureRequest) -> None:
    """Black everywhere, or a dot between the points of the latents: the picture comes back, and nothing says why."""
    bundle: Bundle = request.getfixturevalue(f"{kind}_bundle")
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[33, 33] = 255
    masks = {"black": dot * 0, "dot": dot, "layer": np.dstack([dot, dot[..., 0]]), "half": half_mask()}
    options: dict[str, Any] = {"strength": 0.5, "num_inference_steps": 2}
    options |= {"scheduler": "lcm"} if kind == "lcm" else {}
    last = run(Engine(bundle), *(edit(name, picture(), mask, **options) for name, mask in masks.items()))
    said = {name: [each for each in event.warnings if "mask" in each] for name, event in last.items()}
    nothing = "Nothing was repainted: mask_image has no white part as large as a latent, 4 x 4 pixels."
    stays = "mask_image is transparent in places: those stay, as if they were black."
    assert said == {"black": [nothing], "dot": [nothing], "layer": [stays, nothing], "half": []}


def test_every_picture_of_a_job_has_draws_of_its_own_and_one_encode(epsilon_bundle: Bundle) -> None:
    recorder = Recorder(epsilon_bundle)
    encodes: list[int] = []
    encode = recorder.encode
    recorder.encode = lambda images: encodes.append(len(images)) or encode(images)  # type: ignore[method-assign]
    asked = [
        edit("a", picture(), strength=0.6, num_images=3),
        edit("b", picture(seed=1), half_mask(), strength=0.6, seed=50),
    ]
    last = run(Engine(dataclasses.replace(epsilon_bundle, vae=recorder)), *asked)
    assert all(isinstance(event, Finished) for event in last.values())
    assert encodes == [2], "of both jobs together"
    for seed in (7, 8, 9):
        one = asked[0].model_copy(update={"seed": seed, "num_images": 1})
        expected = stock(epsilon_bundle, one, output_type="latent")
        assert min(distance(latents, expected) for latents in recorder.latents) <= IN_COMPANY


def test_progress_counts_what_is_evaluated(epsilon_bundle: Bundle) -> None:
    engine = Engine(epsilon_bundle)
    engine.submit(edit("a", picture(), strength=0.6, num_inference_steps=7, scheduler="heun"))
    events = drain(engine)
    assert [(event.step, event.steps) for event in events if isinstance(event, Progress)] == [
        (step, 7) for step in range(1, 8)
    ], "four of seven steps, of which the last takes one evaluation"
    assert events[-1].steps == 7


def test_an_edit_of_which_nothing_is_left_to_do_ends_alone_and_says_what_would_do(epsilon_bundle: Bundle) -> None:
    engine = Engine(epsilon_bundle)
    too_little = edit("no", picture(), strength=0.1, num_inference_steps=6)
    last = run(engine, too_little, edit("well", picture(), strength=0.5))
    assert isinstance(last["no"], Failed)
    assert "leaves nothing to do; take at least 0.167" in last["no"].error.detail
    assert isinstance(last["well"], Finished)
    assert engine.free_seats == engine.seats


def test_a_scheduler_that_adds_no_noise_cannot_start_from_a_picture() -> None:
    solver = TableSolver(compile_table(diffusers.IPNDMScheduler(), 5))
    with pytest.raises(GenerationFailed, match="cannot start from a picture"):
        solver.noised(torch.zeros(4, 2, 2), torch.zeros(4, 2, 2))


class Small:
    """A VAE whose memory is too small to encode more than so many pixels at once."""

    def __init__(self, vae: Any, *, pixels: int) -> None:
        self._vae = vae
        self._pixels = pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def encode(self, images: torch.Tensor) -> Any:
        if images[:, 0].numel() > self._pixels:
            raise torch.OutOfMemoryError("as if")
        return self._vae.encode(images)


@pytest.mark.parametrize("has_chance", [True, False], ids=["a posterior", "none"])
def test_a_picture_too_large_to_encode_whole_is_encoded_in_tiles_and_its_job_says_so(
    epsilon_bundle: Bundle, tmp_path: Path, has_chance: bool
) -> None:
    """Tiles of 32 latents: of a picture of 40, with the same draws after it as before."""
    if not has_chance:
        with quiet_libraries():
            folder = save_tiny_model(tmp_path / "tiny", prediction_type="epsilon", vae="AutoencoderTiny")
            epsilon_bundle = load(folder)
    side = 160
    each = edit("a", picture(side=side), strength=0.7, width=side, height=side, scheduler="euler_a")
    bundle = dataclasses.replace(epsilon_bundle, vae=Small(epsilon_bundle.vae, pixels=128 * 128))
    recorder = Recorder(bundle)
    finished = run(Engine(dataclasses.replace(bundle, vae=recorder)), each)["a"]
    assert isinstance(finished, Finished), finished
    assert [warning for warning in finished.warnings if "encoded in overlapping tiles" in warning]
    [latents] = recorder.latents
    expected = stock(epsilon_bundle, each, output_type="latent")
    assert distance(latents[:, :8, :8], expected[:, :8, :8]) < 0.5, "far from every seam"


class Narrow:
    """A VAE whose memory is too small to encode more than one picture at once, or one of black."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def encode(self, images: torch.Tensor) -> Any:
        if len(images) > 1 or bool((images == -1).all()):
            raise torch.OutOfMemoryError("as if")
        return self._vae.encode(images)


def test_a_picture_that_cannot_be_encoded_ends_its_own_job(epsilon_bundle: Bundle) -> None:
    bundle = dataclasses.replace(epsilon_bundle, vae=Narrow(epsilon_bundle.vae))
    black = np.zeros((64, 64, 3), np.uint8)
    last = run(Engine(bundle), *(edit(str(k), image, strength=0.5) for k, image in enumerate([picture(), black])))
    assert isinstance(last["0"], Finished)
    assert isinstance(last["1"], Failed)
    assert last["1"].error.slug == "out-of-memory"
