"""The recipe from its first stage to a folder that is served, in miniature: ten steps of everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from recipes.starter import (
    adopt,
    assemble,
    autoencoder,
    card,
    evaluate,
    make,
    networks,
    score,
    sprites,
    tokens,
    train_decoder,
    train_judges,
    train_unet,
)
from recipes.starter.compose import Composer
from recipes.starter.diffusion import STEPS
from recipes.starter.looks import Looks
from recipes.starter.networks import FULL, TINY
from recipes.starter.stream import SQUARE, PlanStream
from tests.recipes.starter.conftest import OBJECTS, options
from worker.models.announced import describe
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries


@pytest.fixture(scope="session")
def work(
    tmp_path_factory: pytest.TempPathFactory, composer: Composer, tokenizer: Any, pictures: dict[str, NDArray[np.uint8]]
) -> Path:
    """A work folder after ten steps of each training."""
    folder = tmp_path_factory.mktemp("recipe")
    sprites.save(folder / "sprites.npz", pictures)
    tokens.save(tokenizer, folder / "tokenizer")
    ten = options(folder, steps=10)
    with quiet_libraries():
        train_decoder.train(ten, composer, sizes=TINY, buckets=SQUARE)
        train_unet.train(ten, composer, sizes=TINY, buckets=SQUARE)
        train_judges.train_judge(ten, composer, sizes=TINY)
        train_judges.train_scorer(ten, composer, sizes=TINY)
    return folder


@pytest.fixture(scope="session")
def model(work: Path) -> Path:
    with quiet_libraries():
        assemble.assemble(work, work / "model")
    return work / "model"


def test_sprites_come_back_from_their_file(work: Path, composer: Composer) -> None:
    loaded = sprites.load(work / "sprites.npz")
    assert loaded.names == composer.sprites.names
    assert all(map(torch.equal, loaded.levels, composer.sprites.levels))


def test_every_training_leaves_a_log_with_finite_losses(work: Path) -> None:
    for stage in ("train_decoder", "train_unet", "judge", "train_scorer"):
        [line] = [json.loads(line) for line in (work / stage / "log.jsonl").read_text().splitlines()]
        assert (line["steps"], line["samples"]) == (10, 40)
        assert 0 < line["loss"] < 20


def test_a_sheet_and_a_curve_are_left_to_look_at(work: Path) -> None:
    assert size_of(work / "train_unet" / "sheet-000000040.png") == (960, 4 * 188)
    assert size_of(work / "train_unet" / "loss.png") == (640, 320)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_unet_learns_one_batch_by_heart(work: Path, composer: Composer, tokenizer: Any) -> None:
    torch.manual_seed(0)
    parts = train_decoder.components(work / "components.safetensors", composer, TINY, SQUARE)
    model = train_unet.Model(tokenizer, parts, device=torch.device("cpu"), sizes=TINY)
    batch = next(iter(PlanStream(composer.sprites.names, rows=4, seed=0, tokenizer=tokenizer, buckets=SQUARE)))
    latents = model.encode(composer.draw(batch.packed))
    weights = [weight for module in model.modules.values() for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(1)
        loss = model.loss(latents, batch.tokens, torch.Generator().manual_seed(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.75 * losses[0]
    assert all(weight.grad is not None for weight in model.text_encoder.parameters()), "the text encoder learns too"


def test_a_lost_caption_is_the_empty_prompt(
    work: Path, composer: Composer, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What guidance subtracts must be what training dropped to."""
    parts = train_decoder.components(work / "components.safetensors", composer, TINY, SQUARE)
    model = train_unet.Model(tokenizer, parts, device=torch.device("cpu"), sizes=TINY)
    batch = next(iter(PlanStream(composer.sprites.names, rows=2, seed=0, tokenizer=tokenizer, buckets=SQUARE)))
    seen: list[torch.Tensor] = []
    model.text_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    monkeypatch.setattr(train_unet, "DROPPED", 2.0)
    model.loss(model.encode(composer.draw(batch.packed)), batch.tokens, torch.Generator().manual_seed(0))
    empty = tokenizer("", padding="max_length", max_length=tokens.POSITIONS, return_tensors="pt").input_ids
    assert torch.equal(seen[0], empty.expand(2, -1))


@pytest.mark.usefixtures("short_sheet")
def test_training_goes_on_where_it_was(work: Path, composer: Composer) -> None:
    resumed = options(work, steps=12, resume=True)
    with quiet_libraries():
        progress = train_unet.train(resumed, composer, sizes=TINY, buckets=SQUARE, parts=2)
    assert (progress.steps, progress.samples) == (12, 40 + 2 * 2 * 4)


def test_the_folder_is_served_and_drawn_by_the_stock_pipeline(model: Path) -> None:
    bundle = load(model)
    described = describe(bundle, seats=2, limits={})
    assert (described.scheduler, described.width, described.max_prompt_tokens) == ("euler_a", 128, 90)
    assert bundle.scheduler.config.prediction_type == "v_prediction"
    assert bundle.scheduler.config.num_train_timesteps == STEPS
    ddim = diffusers.DDIMScheduler.from_config(bundle.scheduler.config)
    assert not ddim.config.clip_sample, "latents reach beyond 1"
    assert ddim.final_alpha_cumprod == ddim.alphas_cumprod[0], "the last step ends where training began"
    with quiet_libraries():
        pipe = evaluate.load_pipeline(model, "cpu")
        generator = torch.Generator().manual_seed(0)
        [latents] = pipe("a red circle", num_inference_steps=2, generator=generator, output_type="latent").images
        [picture] = pipe("a red circle", num_inference_steps=2, generator=generator, output_type="np").images
    assert picture.shape == (128, 128, 3)
    # Of a model that has hardly been trained the picture may be black all over.
    assert latents.std() > 0
    assert np.isfinite(picture).all()


def test_nothing_in_the_folder_tells_where_it_was_made(model: Path, work: Path) -> None:
    for file in model.rglob("*.json"):
        assert str(work) not in file.read_text(), file


def test_weights_are_float16_and_equal_to_the_trained_ones(model: Path, work: Path) -> None:
    shipped = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float16}
    trained = load_file(work / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(shipped[name].float(), trained[name], atol=2e-3) for name in trained)


def test_a_folder_over_the_limit_is_refused(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "LIMIT", 1000)
    with quiet_libraries(), pytest.raises(ValueError, match="over the limit of 1000"):
        assemble.assemble(work, tmp_path / "model")


def test_the_shipped_sizes_fit_the_limit() -> None:
    """Weights in float16, and half a megabyte for everything else."""
    vocabulary = 2 * 256 + tokens.MERGES + 2
    text = {"__len__": lambda self: vocabulary, "model_max_length": tokens.POSITIONS}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), vocabulary - 1)
    tokenizer = type("Vocabulary", (), text | ids)()
    with torch.device("meta"):
        trained = networks.parameters(networks.unet(FULL)) + networks.parameters(networks.text_encoder(tokenizer))
    decoder = sum(FULL.decoder_blocks) * 3 * 9 * FULL.decoder_width**2 + 4 * 9 * FULL.decoder_width**2
    assert 9e6 < trained < 12.5e6
    assert 2 * (trained + decoder + 4 * 9 * 48 * 48) + 500_000 < assemble.LIMIT


def test_the_scorer_is_a_clip_that_anyone_can_load(work: Path) -> None:
    looks = Looks(work, OBJECTS)
    picture = np.full((128, 192, 3), 200, np.uint8)
    [score] = looks.scorer.scores([picture], ["a red circle on a blue background"])
    assert -1 <= score <= 1
    assert looks.objects_by_judge([picture])[0] in OBJECTS


def test_texts_are_ranked_for_a_picture(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    arguments = [str(tmp_path / "red.png"), "a red circle", "a cat", "--scorer", str(work / "scorer")]
    score.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    values = [float(line[:6]) for line in lines]
    assert sorted(line[8:] for line in lines) == ["a cat", "a red circle"]
    assert values == sorted(values, reverse=True)
    [alone] = Looks(work, OBJECTS).scorer.scores([np.full((48, 64, 3), (255, 0, 0), np.uint8)], ["a cat"])
    assert f"{alone:6.3f}  a cat" in lines


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere.png", "a cat"], "No such file"),
        ([__file__, "a cat"], "cannot identify image file"),
        (["x.png"], "say at least one text"),
        (["x.png", *["a cat"] * 33], "33 are too many; at most 32"),
        (["--best-of", "a cat", *["x.png"] * 33], "33 are too many; at most 32"),
        (["--best-of", "a cat", __file__], "cannot identify image file"),
    ],
)
def test_what_cannot_be_scored_is_refused(given: list[str], said: str, work: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        score.main([*given, "--scorer", str(work / "scorer")])
    assert said in capsys.readouterr().err


def test_a_picture_that_is_too_big_is_refused(work: Path, tmp_path: Path, capsys: Any) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "big.png")
    with pytest.raises(SystemExit, match="2"):
        score.main([str(tmp_path / "big.png"), "a cat", "--scorer", str(work / "scorer")])
    assert "9000 x 9000 pixels; at most 67,108,864 are read" in capsys.readouterr().err


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_scorer_is_refused(spoilt: str, work: Path, tmp_path: Path, capsys: Any) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    folder = tmp_path / "scorer"
    shutil.copytree(work / "scorer", folder)
    (folder / spoilt).write_bytes(b"this is neither JSON nor a tensor")
    with pytest.raises(SystemExit, match="2"):
        score.main([str(tmp_path / "red.png"), "a cat", "--scorer", str(folder)])
    assert "error: " in capsys.readouterr().err


def test_an_examination_of_unknown_objects_is_refused(work: Path) -> None:
    with pytest.raises(SystemExit, match="no sprite is called cat-face,frog; names are separated by spaces"):
        evaluate.main(["--work", str(work), "--objects", "cat-face,frog"])


def test_an_evaluation_and_its_card(work: Path, model: Path, composer: Composer) -> None:
    asked = ["--work", str(work), "--prompts", "30", "--steps", "2", "--rows", "4", "--device", "cpu", "--categories"]
    chosen = evaluate.parse([*asked, "shape", "object", "two things", "192x128", "style"])
    chosen.objects = list(OBJECTS)
    experts = evaluate.Experts(composer, work, OBJECTS)
    with quiet_libraries():
        result = evaluate.evaluate(evaluate.load_pipeline(model, "cpu"), composer, experts, chosen)
    assert result["categories"]["shape"]["prompts"] == 5
    assert set(result["categories"]["object"]["checks"]) == {
        "background", "object_by_template", "object_by_judge", "object_by_scorer", "all of these",
    }  # fmt: skip
    assert all(0 <= figures["told_apart"]["ceiling"] <= 1 for figures in result["categories"].values())
    assert json.loads((work / "evaluation.json").read_text()) == result
    assert size_of(work / "contact-sheet.png")[0] == 8 * 160
    card.write(work, model, result, device="a test's CPU")
    scorer = assemble.assemble_scorer(work)
    card.write_scorer(work, result, device="a test's CPU")
    assert {"README.md", "model.safetensors", "sha256sums.txt"} <= (names := {file.name for file in scorer.iterdir()})
    assert not names & {"state.pt", "log.jsonl"}
    assert "40 pictures in 0 minutes, on a test's CPU" in (scorer / "README.md").read_text()
    assert (
        f"| style | {result['categories']['style']['told_apart']['ceiling']:.2f} |"
        in (scorer / "README.md").read_text()
    )
    text = (model / "README.md").read_text()
    assert "$" not in text
    assert "| shape | 5 | background | " in text
    assert "| text encoder and UNet | " in text
    assert "- 8 objects: cat, frog, car, house, apple, rocket, banana, ghost\n" in text


def test_the_notice_names_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "read_member", lambda *_: "The MIT License of emojilib")
    assemble.write_notice(tmp_path, tmp_path)
    notice = (tmp_path / "NOTICE").read_text()
    assert "Copyright (c) Microsoft Corporation." in notice
    assert "The MIT License of emojilib" in notice
    assert "@iconify-json/fluent-emoji-flat 1.2.6" in notice


def test_the_stages_share_all_of_the_time(tmp_path: Path) -> None:
    assert sum(stage.share for stage in make.STAGES) == pytest.approx(1)
    given = options(tmp_path, minutes=25.0, rows=None, prompts=40)
    commands = [make.command(stage, given) for stage in make.STAGES]
    assert commands[3][2:] == ["recipes.starter.train_unet", "--work", str(tmp_path), "--minutes", "16.000"]
    assert commands[5][-2:] == ["--only", "scorer"]
    assert commands[7][-2:] == ["--prompts", "40"]


@pytest.mark.usefixtures("short_sheet")
def test_a_training_may_go_on_from_a_model_folder(work: Path, model: Path, composer: Composer, tmp_path: Path) -> None:
    """With that folder's vocabulary, encoder and layout, whatever the recipe's own are now."""
    with quiet_libraries():
        progress = train_unet.train(
            options(tmp_path, steps=1), composer, sizes=FULL, buckets=SQUARE, start=model, learning_rate=0.0
        )
    assert progress.steps == 1
    shipped = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    trained = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert trained["conv_in.weight"].dtype == torch.float32
    assert all(torch.equal(value, shipped[name].float()) for name, value in trained.items())
    assert (tmp_path / "tokenizer" / "merges.txt").read_bytes() == (model / "tokenizer" / "merges.txt").read_bytes()
    ours, theirs = (autoencoder.load_components(folder / "components.safetensors") for folder in (tmp_path, work))
    pictures = train_decoder.sample_pictures(composer, 2, seed=3, buckets=SQUARE)
    assert torch.allclose(autoencoder.encode(pictures, ours), autoencoder.encode(pictures, theirs), atol=0.02)


def test_another_encoders_latents_are_refused(model: Path, work: Path, tmp_path: Path) -> None:
    adopt.adopt(model, tmp_path)
    parts = autoencoder.load_components(tmp_path / "components.safetensors")
    save_file({"mean": parts.mean, "basis": -parts.basis}, tmp_path / "components.safetensors")
    with pytest.raises(ValueError, match="start with an empty work folder"):
        adopt.adopt(model, tmp_path)
