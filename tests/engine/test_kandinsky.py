"""Kandinsky 2.2 in the step engine: prior and decoder as passes, held against diffusers' own pipelines."""

from __future__ import annotations

import base64
import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from app.contract.messages.unclip import ImageEmbedding, Prior
from tests.engine.driving import distance, engine_of, run, wish
from tests.engine.test_unclip import CLOSE, A, B, drawn, drawn_from, in_company, nearest
from tests.engine.tiny_models import EMBEDDING, SIDE, save_tiny_kandinsky
from tests.waiting import WAIT_SECONDS
from worker.engine.errors import GenerationFailed
from worker.engine.events import Failed, Finished, Preview, Progress
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.families.embedder import embedder_of
from worker.families.image_encoder import ImageEncoder
from worker.models.bundle import Bundle, load
from worker.models.parts import SeldomPart
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import for_name
from worker.models.seldom import Seldom

Stock = diffusers.KandinskyV22CombinedPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_libraries():
        return save_tiny_kandinsky(tmp_path_factory.mktemp("models") / "tiny-kandinsky")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    with quiet_libraries():
        return load(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Stock:
    with quiet_libraries():
        pipeline = Stock.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_stock(pipeline: Stock, request: Request, scheduler: Any, *, output_type: str = "latent") -> Any:
    """What diffusers' own pipeline makes of the request: prior, then decoder, by one generator."""
    said, generator = request.prior or Prior(), torch.Generator().manual_seed(request.seed)
    own = for_name(scheduler, request.scheduler)
    decoder = diffusers.KandinskyV22Pipeline(unet=pipeline.unet, scheduler=own, movq=pipeline.movq)
    decoder.set_progress_bar_config(disable=True)
    with quiet_libraries():
        embedding, away = pipeline.prior_pipe(
            request.prompt, negative_prompt=request.negative_prompt, generator=generator,
            num_inference_steps=said.num_inference_steps or 25,
            guidance_scale=4.0 if said.guidance_scale is None else said.guidance_scale, return_dict=False,
        )  # fmt: skip
        return decoder(
            embedding, away, height=request.height, width=request.width, guidance_scale=request.guidance_scale,
            num_inference_steps=request.num_inference_steps, generator=generator, output_type=output_type,
        ).images[0]  # fmt: skip


def test_what_needs_guidance_is_said_to_be_idle_where_there_is_none(bundle: Bundle) -> None:
    plain = {"prior": Prior(num_inference_steps=2), "num_inference_steps": 2, "guidance_scale": 1.0}
    finished = run(engine_of(bundle), wish(guidance_end=0.5, guidance_rescale=0.5, **plain))["a"]
    assert isinstance(finished, Finished)
    for name in ("guidance_end", "guidance_rescale"):
        assert f"{name} had no effect: it needs a guidance_scale above 1." in finished.warnings


UNEQUAL = [
    wish("a", prior=Prior(num_inference_steps=4), seed=1, scheduler="ddim"),
    wish("b", prior=Prior(num_inference_steps=7, guidance_scale=1.0), seed=2, num_inference_steps=3,
         scheduler="DDPMScheduler", width=128),
    wish("c", prior=Prior(num_inference_steps=3, guidance_scale=2.0), prompt="a blue star", seed=3,
         scheduler="dpmpp_2m", guidance_scale=1.0),
    wish("d", prior=Prior(num_inference_steps=5), prompt="a blue star", negative_prompt="red", seed=4,
         scheduler="dpmpp_sde"),
    wish("e", prior=Prior(num_inference_steps=3, guidance_scale=1.0), negative_prompt="", seed=5,
         scheduler="DDPMScheduler"),
]  # fmt: skip


def unclipped(scheduler: Any) -> Any:
    return type(scheduler).from_config(scheduler.config, clip_sample=False)


def test_text_to_image_in_company_is_what_the_stock_pipeline_draws(bundle: Bundle, stock: Stock) -> None:
    """With and without negative prompts and guidance, in one batch of tables and scheduler objects."""
    scheduler = unclipped(bundle.scheduler)
    latents, _ = in_company(dataclasses.replace(bundle, scheduler=scheduler), *UNEQUAL)
    for request in UNEQUAL:
        assert nearest(latents, by_stock(stock, request, scheduler)) <= CLOSE, request.id


def test_its_own_scheduler_reads_the_variance_and_clips(bundle: Bundle, stock: Stock) -> None:
    """As published. Where it clips, rounding is amplified: by ten and more with random weights."""
    requests = [wish(str(k), scheduler="DDPMScheduler", seed=k, num_inference_steps=5 + k) for k in range(3)]
    latents, _ = in_company(bundle, *requests)
    for request in requests:
        assert nearest(latents, by_stock(stock, request, bundle.scheduler)) <= CLOSE, request.id


def test_pictures_equal_the_stock_pipelines(bundle: Bundle, stock: Stock) -> None:
    """Decoded without quantizing."""
    request = wish(scheduler="dpmpp_2m", prior=Prior(num_inference_steps=3), num_inference_steps=3)
    finished = run(engine_of(bundle), request)["a"]
    assert isinstance(finished, Finished)
    expected = np.asarray(by_stock(stock, request, bundle.scheduler, output_type="pil"))
    assert expected.std() > 5
    assert np.abs(finished.pictures[0].astype(int) - expected).max() <= 1


def test_progress_and_previews(bundle: Bundle) -> None:
    _, events = in_company(bundle, wish(prior=Prior(num_inference_steps=2), num_inference_steps=3, preview_every=1))
    told = [(event.step, event.steps, event.stage) for event in events if isinstance(event, Progress)]
    assert told == [(k, 5, "prior" if k <= 2 else "decoder") for k in range(1, 6)]
    assert [event.step for event in events if isinstance(event, Preview)] == [3, 4]


def test_the_negative_prompt_counts(bundle: Bundle) -> None:
    """Else the equations would hold without it."""
    plain = wish(prior=Prior(num_inference_steps=3), num_inference_steps=3, scheduler="dpmpp_2m")
    [without] = drawn(bundle, plain)
    [against] = drawn(bundle, plain.model_copy(update={"negative_prompt": "red"}))
    assert distance(against, without) > 25 * CLOSE


def test_the_negative_prompt_is_no_end_of_a_way(bundle: Bundle) -> None:
    """Its vector is not among those that a picture is said to lie between."""
    way = {"slerp": [{"vector": vector_in_base64(1.0)}, {"text": "a red circle"}], "at": (0.5,)}
    steps = {"prior": Prior(num_inference_steps=2), "num_inference_steps": 2, "scheduler": "dpmpp_2m"}
    asked = wish(image_embedding=ImageEmbedding.model_validate(way), negative_prompt="a dog", **steps)
    finished = run(engine_of(bundle), asked)["a"]
    assert isinstance(finished, Finished)
    assert {*finished.images[0].found} == {"image_embedding", "to_embedding"}


def vector_in_base64(number: float) -> str:
    return base64.b64encode(np.full(EMBEDDING, number, "<f4").tobytes()).decode()


@pytest.fixture
def counted(bundle: Bundle) -> tuple[Bundle, list[object]]:
    """The same, and how often its image encoder was loaded."""
    part, loaded = bundle.seldom["image_encoder"], list[object]()

    def load_it() -> Any:
        loaded.append(None)
        return part.lending.load()

    return dataclasses.replace(bundle, seldom={"image_encoder": SeldomPart(Seldom(load_it), part.nbytes)}), loaded


def test_who_draws_and_who_answers_share_one_encoder(counted: tuple[Bundle, list[object]]) -> None:
    """It is what was counted once where memory was measured."""
    bundle, loaded = counted
    drawing, answering = ImageEncoder(bundle), ImageEncoder(bundle)
    for number, encoder in enumerate((drawing, answering)):
        [future] = encoder.bring(str(number), [str(number)])
        future.result(WAIT_SECONDS)
    for number, encoder in enumerate((drawing, answering)):
        encoder.close(str(number))
    assert len(loaded) == 1


def test_variations_of_a_picture(counted: tuple[Bundle, list[object]], folder: Path, stock: Stock) -> None:
    """From the embedding that transformers makes of it. Only who names a picture has the encoder loaded, once for all
    that are open, and it goes with the last of them."""
    bundle, loaded = counted
    asked = [
        drawn_from("a", of={}, changes={"seed": 1, "scheduler": "dpmpp_2m"}),
        wish("b", scheduler="dpmpp_2m", prior=Prior(num_inference_steps=2)),
        drawn_from("c", of={}, pictures=[B], changes={"seed": 2, "scheduler": "dpmpp_2m", "num_inference_steps": 4}),
    ]
    engine = engine_of(bundle)
    for picture in (A, B):
        run(engine, drawn_from("one", of={}, pictures=[picture], changes={"num_inference_steps": 2}))
    assert len(loaded) == 2, "it stayed when nobody needed it"
    run(engine, drawn_from("one", of={}, pictures=[A], changes={"seed": 3, "num_inference_steps": 2}))
    assert len(loaded) == 2, "what it said of a picture was asked again"
    latents, _ = in_company(bundle, *asked)
    assert len(loaded) == 3
    preparation = stock.prior_image_processor
    for request, pixels in ((asked[0], A), (asked[2], B)):
        with torch.inference_mode():
            seen = preparation(Image.fromarray(pixels), return_tensors="pt").pixel_values
            embedding = stock.prior_image_encoder(seen).image_embeds
            black = stock.prior_pipe.get_zero_embed()
        scheduler = for_name(bundle.scheduler, request.scheduler)
        decoder = diffusers.KandinskyV22Pipeline(unet=stock.unet, scheduler=scheduler, movq=stock.movq)
        decoder.set_progress_bar_config(disable=True)
        by_hand = decoder(
            embedding, black, height=SIDE, width=SIDE, guidance_scale=request.guidance_scale, output_type="latent",
            num_inference_steps=request.num_inference_steps, generator=torch.Generator().manual_seed(request.seed),
        ).images[0]  # fmt: skip
        # Our own preparation of a picture differs in a grey level here and there.
        assert nearest(latents, by_hand) <= 1e-3, request.id


def test_a_way_between_two_pictures_ends_at_them(bundle: Bundle) -> None:
    changes = {"scheduler": "dpmpp_2m", "num_inference_steps": 3}
    way = drawn(bundle, drawn_from(slerp=[{"of": {}}, {"of": {}}], at=[0, 0.5, 1], pictures=[A, B], changes=changes))
    ends = [drawn(bundle, drawn_from(of={}, pictures=[each], changes=changes))[0] for each in (A, B)]
    assert torch.equal(way[0], ends[0])
    assert torch.equal(way[2], ends[1])
    assert 0 < distance(way[1], way[0]) < distance(way[2], way[0])


def test_a_way_between_two_texts_ends_at_them_also_away_from_a_third(bundle: Bundle) -> None:
    texts = ("a red circle", "a blue star")
    changes = {
        "scheduler": "dpmpp_2m", "num_inference_steps": 3, "prior": Prior(num_inference_steps=2),
        "negative_prompt": "a dog",
    }  # fmt: skip
    way = drawn(bundle, drawn_from(slerp=[{"text": each} for each in texts], at=[0, 1], pictures=[], changes=changes))
    for end, text in zip(way, texts, strict=True):
        [alone] = drawn(bundle, wish(prompt=text, **changes))
        assert torch.equal(end, alone)


def test_its_embeddings_are_what_it_draws_from(bundle: Bundle) -> None:
    """Also where the prior's scheduler has to be told which timestep follows, and of pictures."""
    embedder = embedder_of(bundle, family_of(bundle))
    assert embedder is not None
    finished = run(engine_of(bundle), wish(num_inference_steps=2), drawn_from("b", of={}))
    assert all(isinstance(event, Finished) for event in finished.values()), finished
    with torch.inference_mode():
        [text] = embedder.among_pictures(embedder.texts(["a red circle"], nullcontext), 7, nullcontext)
        [picture] = embedder.pictures({"a": A}, nullcontext).values()
    for id, vector in (("a", text), ("b", picture)):
        drawn_from_it = finished[id].images[0].found["image_embedding"]
        assert np.allclose(vector.numpy(), drawn_from_it, atol=1e-4 * abs(drawn_from_it).max())


def test_an_encoder_that_cannot_be_loaded_ends_its_own_request(bundle: Bundle) -> None:
    def fails() -> Any:
        raise GenerationFailed("The image encoder is gone.")

    broken = dataclasses.replace(bundle, seldom={"image_encoder": SeldomPart(Seldom(fails), 0)})
    well = wish("well", scheduler="dpmpp_2m", num_inference_steps=2, prior=Prior(num_inference_steps=2))
    last = run(engine_of(broken), drawn_from(of={}), well)
    assert isinstance(last["a"], Failed)
    assert "image encoder is gone" in last["a"].error.detail
    assert isinstance(last["well"], Finished)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (wish(width=SIDE + 8), "multiples of 16"),
        (drawn_from(vector="AAAAAA==", pictures=[]), "embeddings of 32 numbers, not of 1"),
        (wish(prior=Prior(num_inference_steps=1)), "2 or 3 will do"),
    ],
)
def test_what_cannot_be_drawn_ends_in_a_sentence(bundle: Bundle, request_: Request, sentence: str) -> None:
    last = run(engine_of(bundle), request_)["a"]
    assert isinstance(last, Failed)
    assert sentence in last.error.detail


def test_two_folders_are_the_one(tmp_path: Path, bundle: Bundle) -> None:
    """As it is published: the decoder, and the prior beside it."""
    with quiet_libraries():
        folder = save_tiny_kandinsky(tmp_path / "decoder", in_two=True)
        two = load(folder, prior=tmp_path / "decoder-prior")
    assert (two.family, two.tasks, two.takes) == ("KandinskyV22Pipeline", bundle.tasks, bundle.takes)
    request = wish(prior=Prior(num_inference_steps=2), num_inference_steps=2)
    assert torch.equal(drawn(two, request)[0], drawn(bundle, request)[0])


def test_in_half_precision_too(folder: Path) -> None:
    with quiet_libraries():
        half = load(folder, dtype="bfloat16")
    last = run(engine_of(half), wish(prior=Prior(num_inference_steps=2), num_inference_steps=2))["a"]
    assert isinstance(last, Finished)
    assert last.pictures[0].std() > 0
