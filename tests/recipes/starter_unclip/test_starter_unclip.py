"""The unCLIP recipe: its parts against diffusers' own, and all of it in miniature, on the bundled model and scorer."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP
from recipes.starter import adopt, sprites, training
from recipes.starter.captions import plain
from recipes.starter.compose import Composer
from recipes.starter_unclip import assemble, evaluate, examples, parts, sheets, train_prior, train_unet
from recipes.starter_unclip.drawing import Drawing
from recipes.starter_unclip.towers import embed, towers
from worker.models.assembly import assembled
from worker.models.quiet import quiet_libraries

UNET = "unet/diffusion_pytorch_model.safetensors"


def options(work: Path, **given: Any) -> argparse.Namespace:
    """Three steps of a training, of four rows; steps end it, never the clock."""
    parser = argparse.ArgumentParser()
    training.add_arguments(parser, minutes=30, rows=4)
    chosen = parser.parse_args(["--work", str(work), "--steps", "3", "--rows", "4", "--device", "cpu"])
    return argparse.Namespace(**{**vars(chosen), "learning_rate": 1e-3, "distil": 5, "unet": None, **given})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, composer: Composer, pictures: dict[str, Any]) -> Path:
    """Three steps of everything."""
    folder = tmp_path_factory.mktemp("unclip")
    sprites.save(folder / "sprites.npz", pictures)
    with quiet_libraries():
        maker = examples.Maker(composer, BUNDLED_MODEL, BUNDLED_SCORER, seed=0)
        examples.write(maker, folder / "examples", 60)
        train_unet.train(options(folder), BUNDLED_MODEL)
        train_prior.train(options(folder), BUNDLED_SCORER)
        assemble.assemble(assemble.trained(folder), BUNDLED_MODEL, BUNDLED_SCORER, folder / "starter-unclip")
    return folder


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    return assembled(work / "starter-unclip", work / "cache")


@pytest.fixture(scope="module")
def stock(whole: Path) -> Any:
    with quiet_libraries():
        pipe = diffusers.StableUnCLIPPipeline.from_pretrained(whole, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def drawing(whole: Path) -> Drawing:
    with quiet_libraries():
        return Drawing(whole, BUNDLED_SCORER, steps=1, guidance=2.0, rows=4)


def test_the_widened_unet_begins_as_the_bundled_one_whatever_the_vector_says() -> None:
    text_encoder, unet = adopt.networks_of(BUNDLED_MODEL)
    wide = parts.widened(unet, 128)
    x, t = torch.randn(2, 12, 8, 8), torch.tensor([900, 10])
    context = text_encoder(torch.randint(1900, (2, 32)))[0]
    with torch.no_grad():
        before, features = train_unet.with_features(unet, x, t, context)
        after, same = train_unet.with_features(wide, x, t, context, class_labels=torch.randn(2, 256))
    assert torch.equal(after, before)
    assert len(features) == 7
    assert all(torch.equal(*pair) for pair in zip(features, same, strict=True))
    assert not any(module._forward_hooks for module in wide.modules())


def test_only_what_is_trained_differs_and_is_shipped(work: Path, whole: Path) -> None:
    before, after = load_file(BUNDLED_MODEL / UNET), load_file(whole / UNET)
    changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    assert changed == set(load_file(work / "starter-unclip" / assemble.TRAINED))
    assert all(re.search(train_unet.TRAINED, name) for name in changed)
    assert {"class_embedding.linear_2.weight", "mid_block.resnets.0.conv1.weight"} <= changed
    assert set(before) < set(after)


def test_the_rest_is_the_bundled_one_byte_for_byte(whole: Path) -> None:
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/vocab.json"):
        assert (whole / name).read_bytes() == (BUNDLED_MODEL / name).read_bytes()
    for line in (whole / "sha256sums.txt").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((whole / name).read_bytes()).hexdigest() == digest, name


def test_the_prior_hears_what_the_stock_pipeline_says(stock: Any) -> None:
    prompts = ["a red circle on a blue background", ""]
    vectors, states, mask = stock._encode_prior_prompt(prompts, "cpu", 1, False)
    texts = train_prior.Texts(BUNDLED_SCORER)
    heard = texts(texts.ids(prompts))
    assert torch.equal(heard["attention_mask"], mask)
    assert torch.allclose(heard["proj_embedding"], vectors, atol=1e-5)
    assert torch.allclose(heard["encoder_hidden_states"], states, atol=1e-5)


def test_vectors_get_the_noise_of_the_stock_pipeline(stock: Any) -> None:
    noiser, vectors, noise = parts.Noiser(stock.image_normalizer), torch.randn(2, 128), torch.randn(2, 128)
    for level in (0, 300):
        wanted = stock.noise_image_embeddings(vectors, noise_level=level, noise=noise)
        assert torch.allclose(noiser(vectors, torch.tensor([level, level]), noise), wanted, atol=1e-6)


def test_a_picture_has_the_vector_that_the_stock_pipeline_gives_it(drawing: Drawing) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    pipe = drawing.pipe
    seen = pipe.image_encoder(pipe.feature_extractor(Image.fromarray(pixels), return_tensors="pt").pixel_values)
    assert torch.allclose(drawing.vectors_of([pixels]), seen.image_embeds, atol=1e-4)
    _, vision = towers(BUNDLED_SCORER)
    ours = embed(vision, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    assert torch.allclose(ours, seen.image_embeds, atol=1e-4)


def test_vectors_of_the_prior_are_those_of_the_stock_pipeline(stock: Any, drawing: Drawing) -> None:
    """Found out from what the stock pipeline hands to the part that adds noise."""
    handed = []
    stock.noise_image_embeddings = lambda image_embeds, **_: handed.append(image_embeds) or _leave()
    with pytest.raises(_Left):
        stock("a red circle", prior_num_inference_steps=3, prior_guidance_scale=2.0, generator=_seeded(7))
    ours = drawing.from_prior(["a red circle"], [7], steps=3, guidance=2.0)
    assert torch.allclose(ours, handed[0], atol=1e-4)


class _Left(Exception):
    """The stock pipeline is not needed any further."""


def _leave() -> None:
    raise _Left


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_resumed_training_goes_on(work: Path) -> None:
    with quiet_libraries():
        progress = train_unet.train(options(work, resume=True, steps=4), BUNDLED_MODEL, copies=2)
    assert (progress.steps, progress.samples) == (4, 3 * 4 + 8)


def test_a_training_begins_with_the_unet_of_an_earlier_one(work: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(work / "examples")
    with quiet_libraries():
        train_unet.train(options(tmp_path, steps=0, unet=work / "unet"), BUNDLED_MODEL)
    name = Path(UNET).name
    earlier, begun = load_file(work / "unet" / name), load_file(tmp_path / "unet" / name)
    assert earlier.keys() == begun.keys()
    assert all(torch.equal(earlier[weight], begun[weight]) for weight in begun)


def test_examples_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run recipes.starter_unclip.examples first"):
        examples.load(tmp_path)


def test_examples_of_single_shapes_are_nothing_else(composer: Composer) -> None:
    with quiet_libraries():
        maker = examples.Maker(composer, BUNDLED_MODEL, BUNDLED_SCORER, seed=0, wishes=examples.SINGLE_SHAPES)
    assert not maker.rows()["kinds"].any()


def test_single_shapes_are_shown_more_often_than_they_were_composed(work: Path) -> None:
    data = examples.load(work / "examples")
    assert {examples.KINDS[kind] for kind in np.unique(data.kinds)} == {"shape", "object", "several"}
    # Each vector says which example it is of.
    marked = examples.Examples(data.latents, np.arange(len(data), dtype=np.float32)[:, None], data.tokens, data.kinds)
    rows = train_unet._rows(marked, np.random.default_rng(0), 400)
    kinds = np.bincount(data.kinds[rows.vectors.flatten().int().numpy()], minlength=3) / 400
    assert np.allclose(kinds, train_unet.SHARES, atol=0.08)
    assert abs(np.mean(data.kinds == 0) - train_unet.SHARES[0]) > 0.2, "or this shows nothing"


def test_the_examination_and_the_sheets_in_miniature(
    drawing: Drawing, composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examination = evaluate.Examination(drawing, composer)
    found = evaluate.evaluate(examination, 2, prior_guidance=1.0)
    assert found["ceiling of shapes"]["all of these"] == 1
    assert set(found["ways"]) == {"closer to the end", "away from the beginning"}
    monkeypatch.setattr(sheets, "DISTANCES", (0.0, 0.5))
    sheets.save(sheets.differences(examination, 1), tmp_path / "sheet.webp")
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.size == (3 * 132 - 4, 128)


@pytest.fixture(scope="module")
def bundled(composer: Composer, tmp_path_factory: pytest.TempPathFactory) -> evaluate.Examination:
    """The bundled model, which was never shown what is asked of it."""
    with quiet_libraries():
        whole = assembled(BUNDLED_UNCLIP, tmp_path_factory.mktemp("bundled"))
        return evaluate.Examination(Drawing(whole, BUNDLED_SCORER, steps=12, guidance=3.0), composer)


def test_the_bundled_prior_makes_the_vector_of_the_picture_that_a_text_says(bundled: evaluate.Examination) -> None:
    plans = bundled.plans("shape", 8)
    true = torch.nn.functional.normalize(bundled.drawing.vectors_of(bundled.composed(plans)))
    made = bundled.drawing.from_prior([plain(plan) for plan in plans], range(8))
    cosines = torch.nn.functional.normalize(made) @ true.T
    assert torch.equal(cosines.argmax(1), torch.arange(8))
    assert cosines.diag().mean() > 0.85


def test_variations_by_the_bundled_decoder_keep_what_their_picture_shows(bundled: evaluate.Examination) -> None:
    kept = bundled.variations(bundled.plans("shape", 8))
    assert kept["background"] >= 0.75
    assert kept["colour"] >= 0.5
    assert kept["shape"] >= 0.5
