"""unCLIP models in the step engine: prior and decoder as passes, held against diffusers' own pipelines."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from app.contract.messages.deep_cache import Cache
from app.contract.messages.unclip import ImageEmbedding, Prior
from tests.engine.driving import Recorder, distance, drain, engine_of, last_events, run, wish
from tests.engine.pictures import named, picture
from tests.engine.test_equation import IN_COMPANY
from tests.engine.test_selection import Brightest
from tests.engine.tiny_models import EMBEDDING, save_tiny_unclip, save_tiny_unclip_of_images, save_tiny_variation
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Failed, Finished, Preview, Progress, Stopped
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import for_name

CLOSE = IN_COMPANY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_libraries():
        return save_tiny_unclip(tmp_path_factory.mktemp("models") / "tiny-unclip")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    with quiet_libraries():
        return load(folder)


def in_company(bundle: Bundle, *requests: Request, **options: Any) -> tuple[list[torch.Tensor], list[EngineEvent]]:
    """Each joins one step after the other. The latents that were decoded, and all events."""
    recorder = Recorder(bundle)
    engine: Engine = engine_of(dataclasses.replace(bundle, vae=recorder), **{"seats": 8} | options)
    events: list[EngineEvent] = []
    for request in requests:
        engine.submit(request)
        events += engine.step()
    events += drain(engine)
    last = last_events(events)
    assert all(isinstance(event, Finished) for event in last.values()), last
    return recorder.latents, events


def nearest(latents: list[torch.Tensor], by_hand: torch.Tensor) -> float:
    return min(distance(each, by_hand) for each in latents if each.shape == by_hand.shape)


def stock(bundle: Bundle, folder: Path, request: Request) -> torch.Tensor:
    """Latents of diffusers' own pipeline, loaded by itself."""
    said = request.prior or Prior()
    with quiet_libraries():
        pipeline = diffusers.StableUnCLIPPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = for_name(bundle.scheduler, request.scheduler)
        return pipeline(
            request.prompt, negative_prompt=request.negative_prompt, width=request.width, height=request.height,
            num_inference_steps=request.num_inference_steps, guidance_scale=request.guidance_scale,
            noise_level=request.noise_level, generator=torch.Generator().manual_seed(request.seed),
            prior_num_inference_steps=said.num_inference_steps or 25,
            prior_guidance_scale=4.0 if said.guidance_scale is None else said.guidance_scale,
            output_type="latent",
        ).images[0]  # fmt: skip


UNEQUAL = [
    wish("a", prior=Prior(num_inference_steps=4), noise_level=0, seed=1),
    wish("b", prior=Prior(num_inference_steps=7, guidance_scale=1.0), noise_level=300, seed=2, num_inference_steps=3),
    wish("c", prior=Prior(num_inference_steps=3, guidance_scale=2.0), prompt="a blue star", negative_prompt="red",
         seed=3, scheduler="euler_a", guidance_scale=1.0, noise_level=50),
]  # fmt: skip


def test_text_to_image_in_company_is_what_the_stock_pipeline_draws(bundle: Bundle, folder: Path) -> None:
    latents, _ = in_company(bundle, *UNEQUAL)
    for request in UNEQUAL:
        assert nearest(latents, stock(bundle, folder, request)) <= CLOSE, request.id


def test_the_parts_of_an_embedding_count(bundle: Bundle, folder: Path) -> None:
    """Else the test above would hold whatever the prior does."""
    plain = stock(bundle, folder, UNEQUAL[0])
    for changes in ({"prior": Prior(num_inference_steps=5)}, {"noise_level": 1}):
        assert distance(stock(bundle, folder, UNEQUAL[0].model_copy(update=changes)), plain) > 25 * CLOSE, changes


def test_progress_tells_the_stage_and_counts_both(bundle: Bundle) -> None:
    _, events = in_company(bundle, wish(prior=Prior(num_inference_steps=2), num_inference_steps=3))
    told = [(event.step, event.steps, event.stage) for event in events if isinstance(event, Progress)]
    assert told == [(k, 5, "prior" if k <= 2 else "decoder") for k in range(1, 6)]


def test_previews_are_of_the_decoder(bundle: Bundle) -> None:
    _, events = in_company(bundle, wish(prior=Prior(num_inference_steps=2), num_inference_steps=3, preview_every=1))
    assert [event.step for event in events if isinstance(event, Preview)] == [3, 4]


@pytest.mark.parametrize("steps", [1, 4])
def test_a_cancel_takes_effect_within_a_step_of_either_pass(bundle: Bundle, steps: int) -> None:
    engine = engine_of(bundle)
    engine.submit(wish(prior=Prior(num_inference_steps=3)))
    for _ in range(steps):
        engine.step()
    engine.cancel("a")
    assert engine.step() == [Stopped("a")]
    assert engine.free_seats == engine.seats


def test_a_reproducible_picture_has_the_same_bits_in_company(bundle: Bundle) -> None:
    asked = wish("alone", prior=Prior(num_inference_steps=3), reproducible=True)
    [alone], _ = in_company(bundle, asked)
    latents, _ = in_company(bundle, asked, wish("b", prior=Prior(num_inference_steps=2)), wish("c", prompt="a star"))
    assert any(torch.equal(each, alone) for each in latents)


A, B = picture(seed=1), picture(seed=2)


def drawn_from(id: str = "a", *, pictures: Sequence[np.ndarray] = (A,), **way: Any) -> Request:
    """A request for points of which `{}` stands for the next picture."""
    changes = way.pop("changes", {})
    names = iter(named(each).model_dump() for each in pictures)
    filled = json.loads(json.dumps(way), object_hook=lambda found: found or next(names))
    embedding = ImageEmbedding.model_validate(filled)
    plain = {"prompt": "", "num_images": len(embedding.at or (0,)), "image_embedding": embedding}
    return wish(id, pictures={named(each).sha256: each for each in pictures}, **(plain | changes))


def decoder_of(folder: Path) -> diffusers.StableUnCLIPImg2ImgPipeline:
    """The decoder behind a prior, with the image encoder of the folder, of which diffusers' own knows nothing."""
    whole = diffusers.StableUnCLIPPipeline.from_pretrained(folder)
    shared = ("image_normalizer", "image_noising_scheduler", "tokenizer", "text_encoder", "unet", "scheduler", "vae")
    return diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=transformers.CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
        image_encoder=transformers.CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval(),
        **{name: getattr(whole, name) for name in shared},
    )


def of_pictures(bundle: Bundle, folder: Path, request: Request, pixels: np.ndarray, seed: int = 7) -> torch.Tensor:
    """Latents of diffusers' own pipelines that draw from a picture."""
    with quiet_libraries():
        has_prior = (folder / "prior").is_dir()
        pipeline = (
            decoder_of(folder)
            if has_prior
            else diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = for_name(bundle.scheduler, request.scheduler)
        more = {"noise_level": request.noise_level, "prompt": request.prompt} if "unclip" in folder.name else {}
        return pipeline(
            image=Image.fromarray(pixels), width=request.width, height=request.height,
            num_inference_steps=request.num_inference_steps, guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(seed), output_type="latent", **more,
        ).images[0]  # fmt: skip


@pytest.mark.parametrize(
    ("save", "name"), [(save_tiny_unclip_of_images, "tiny-unclip-images"), (save_tiny_variation, "tiny-variation")]
)
def test_variations_in_company_are_what_the_stock_pipelines_draw(
    tmp_path: Path, save: Callable[[Path], Path], name: str
) -> None:
    with quiet_libraries():
        folder = save(tmp_path / name)
        bundle = load(folder)
    asked = [
        drawn_from("a", of={}, changes={"seed": 1}),
        drawn_from("b", of={}, pictures=[B], changes={"seed": 2, "num_inference_steps": 3, "guidance_scale": 1.0}),
        drawn_from("c", of={}, changes={"seed": 3, "scheduler": "euler_a", "num_images": 2}),
    ]
    if "unclip" in name:
        asked[0] = asked[0].model_copy(update={"noise_level": 200, "prompt": "a red circle"})
    latents, _ = in_company(bundle, *asked)
    assert len(latents) == 4
    for request, pixels, seed in zip([*asked, asked[2]], (A, B, A, A), (1, 2, 3, 4), strict=True):
        assert nearest(latents, of_pictures(bundle, folder, request, pixels, seed)) <= CLOSE, request.id


def test_variations_keep_deep_features_and_say_when_guidance_cannot_end(tmp_path: Path) -> None:
    with quiet_libraries():
        bundle = load(save_tiny_variation(tmp_path / "tiny-variation"))
    plain = drawn_from("a", of={}, changes={"seed": 1, "num_inference_steps": 6, "reproducible": True})
    saved = plain.model_copy(update={"cache": Cache(interval=2)})
    [whole], [kept] = drawn(bundle, plain), drawn(bundle, saved)
    other = plain.model_copy(update={"id": "b", "seed": 2, "cache": Cache(interval=3)})
    together, _ = in_company(bundle, saved, other)
    assert any(torch.equal(kept, latents) for latents in together)
    assert distance(kept, whole) > 10 * CLOSE
    unguided = plain.model_copy(update={"guidance_scale": 1.0, "guidance_end": 0.5})
    finished = run(engine_of(bundle), unguided)["a"]
    assert isinstance(finished, Finished)
    assert "guidance_end had no effect: it needs a guidance_scale above 1." in finished.warnings
    for said, unread in (({}, 1), ({"best_of": 2}, 0), ({"best_of": 2, "expect": ("a cat",)}, 1)):
        asked = unguided.model_copy(update={"prompt": "a star", **said})
        finished = run(engine_of(bundle, judge=Brightest()), asked)["a"]
        assert isinstance(finished, Finished)
        assert sum("prompt had no effect" in each for each in finished.warnings) == unread, "it chooses, if asked to"


def test_variations_beside_texts_are_what_the_stock_pipelines_draw(bundle: Bundle, folder: Path) -> None:
    """Both join the same batches of one decoder: who comes through the prior, and who does not."""
    texts = [UNEQUAL[0], UNEQUAL[2]]
    of = drawn_from("v", of={}, changes={"seed": 5, "noise_level": 20, "num_inference_steps": 8, "prompt": "a star"})
    latents, _ = in_company(bundle, of, *texts)
    assert nearest(latents, of_pictures(bundle, folder, of, A, 5)) <= CLOSE
    for request in texts:
        assert nearest(latents, stock(bundle, folder, request)) <= CLOSE, request.id


def drawn(bundle: Bundle, request: Request, **options: Any) -> list[torch.Tensor]:
    """Latents of a reproducible request's pictures, in their order."""
    latents, events = in_company(bundle, request.model_copy(update={"reproducible": True}), **options)
    last = events[-1]
    assert isinstance(last, Finished)
    assert len(latents) == request.num_images
    return latents


def test_a_way_between_two_pictures_ends_at_them(bundle: Bundle) -> None:
    """And all of it is drawn from one noise: what is between is near both."""
    way = drawn(bundle, drawn_from(slerp=[{"of": {}}, {"of": {}}], at=[0, 0.5, 1], pictures=[A, B]))
    ends = [drawn(bundle, drawn_from(of={}, pictures=[each]))[0] for each in (A, B)]
    assert torch.equal(way[0], ends[0])
    assert torch.equal(way[2], ends[1])
    assert 0 < distance(way[1], way[0]) < distance(way[2], way[0])


def test_pictures_of_a_way_keep_their_order_whichever_fits_best(bundle: Bundle) -> None:
    way = {"slerp": [{"of": {}}, {"of": {}}], "at": [0, 0.5, 1]}
    changes = {"expect": ("a cat",), "num_inference_steps": 2}
    for pictures in ([A, B], [B, A]):
        asked = drawn_from(**way, pictures=pictures, changes=changes)
        finished = run(engine_of(bundle, judge=Brightest()), asked)["a"]
        assert isinstance(finished, Finished)
        assert [image.index for image in finished.images] == [0, 1, 2]
        assert None not in [image.score for image in finished.images]


def test_a_way_between_two_texts_ends_at_what_each_alone_would_be(bundle: Bundle) -> None:
    texts, changes = ("a red circle", "a blue star"), {"prior": Prior(num_inference_steps=3)}
    for end, text in enumerate(texts):
        way = drawn_from(
            slerp=[{"text": each} for each in texts], at=[0.5, float(end)], changes={**changes, "prompt": text}
        )
        middle, at_end = drawn(bundle, way)
        [alone] = drawn(bundle, wish(prompt=text, **changes))
        assert torch.equal(at_end, alone)
        assert distance(middle, alone) > 25 * CLOSE


def test_a_text_difference_of_nothing_is_the_picture_alone(bundle: Bundle) -> None:
    diff = {"from": "a red circle", "to": "a blue circle"}
    none, some = drawn(bundle, drawn_from(of={}, diff=diff, at=[0, 0.4]))
    [alone] = drawn(bundle, drawn_from(of={}))
    assert torch.equal(none, alone)
    assert distance(some, alone) > 25 * CLOSE


def test_a_picture_comes_back_from_its_own_noise(bundle: Bundle) -> None:
    """DDIM inversion: the more steps, the nearer. In decibels of the autoencoder's own reading of the picture."""
    diff, near = {"from": "a red circle", "to": "a blue circle"}, []
    family = family_of(bundle)
    [kept] = family.inputs(drawn_from(of={}, changes={"start": "inverted"})).pictures
    with torch.inference_mode():
        original = family.autoencoder.encode(kept[None]).mean[0]
    for steps in (10, 50):
        changes = {"start": "inverted", "num_inference_steps": steps, "guidance_scale": 2.0}
        back, changed = drawn(bundle, drawn_from(of={}, diff=diff, at=[0, 0.4], changes=changes))
        near.append(distance(back, original))
        assert distance(changed, original) > near[-1]
    assert near[1] < near[0] / 2, near


@pytest.mark.parametrize(
    "asked",
    [
        drawn_from(slerp=[{"text": "a red circle"}, {"text": "a blue star"}], at=[0.2, 0.7], pictures=[]),
        drawn_from(of={}, changes={"start": "inverted", "num_images": 2}),
    ],
    ids=["two texts", "there and back"],
)
@pytest.mark.parametrize("seats", [1, 2])
def test_a_pass_goes_over_to_the_next_where_every_seat_of_their_lane_is_taken(
    bundle: Bundle, asked: Request, seats: int
) -> None:
    asked = asked.model_copy(update={"num_inference_steps": 2, "prior": Prior(num_inference_steps=2)})
    for one, other in zip(drawn(bundle, asked, seats=seats), drawn(bundle, asked), strict=True):
        assert torch.equal(one, other)


def test_vectors_are_points_too(bundle: Bundle) -> None:
    """What one picture was drawn from draws it again, as /v1/embeddings and the record write it."""
    _, events = in_company(bundle, drawn_from(of={}, changes={"reproducible": True}))
    last = events[-1]
    assert isinstance(last, Finished)
    vector = last.images[0].found["image_embedding"]
    assert vector.shape == (EMBEDDING,)
    [by_number] = drawn(bundle, drawn_from(vector=base64.b64encode(vector.tobytes()).decode(), pictures=[]))
    [by_picture] = drawn(bundle, drawn_from(of={}))
    assert torch.equal(by_number, by_picture)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (drawn_from(vector=base64.b64encode(bytes(12)).decode(), pictures=[]), "embeddings of 32 numbers, not of 3"),
        (drawn_from(of={}, diff={"from": "a", "to": "a"}, at=[0]), "the same to this model"),
        (drawn_from(of={}, changes={"start": "inverted", "scheduler": "euler"}), "goes with the scheduler ddim alone"),
        (wish(start="inverted"), "needs the picture that is to be kept"),
        (wish(noise_level=1_000), "noise_level must be at most 999"),
    ],
)
def test_what_cannot_be_drawn_ends_in_a_sentence(bundle: Bundle, request_: Request, sentence: str) -> None:
    last = run(engine_of(bundle), request_, wish("well", prior=Prior(num_inference_steps=1), num_inference_steps=2))
    assert isinstance(last["a"], Failed)
    assert sentence in last["a"].error.detail
    assert isinstance(last["well"], Finished)


def test_a_decoder_alone_needs_a_picture(tmp_path: Path) -> None:
    with quiet_libraries():
        bundle = load(save_tiny_unclip_of_images(tmp_path / "m"))
    last = run(engine_of(bundle), wish())["a"]
    assert isinstance(last, Failed)
    assert "has no prior" in last.error.detail
