"""Scorers in every layout: equal to the library whose it is, and refused in one sentence where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file

from app.contract.messages.model_name import BUNDLED_MODEL
from tests.models.tiny_scorers import clip_folder, noise, open_clip_folder, open_clip_tensors, siglip_folder
from worker.models.errors import ModelError
from worker.models.open_clip import from_transformers, to_transformers
from worker.models.scorer import load_scorer
from worker.models.scorer_judge import judge_scorer
from worker.models.scorer_texts import clip_tokenizer
from worker.models.shared_weights import share

TEXTS = ["A red circle, isn't it?", "a yellow star", "night", "a very long text " * 9]
PICTURES = [noise(32, 32), noise(50, 60), noise(40, 75), noise(1, 500), noise(9, 7)]

SQUASHED = {
    "image_processor_type": "CLIPImageProcessor", "size": {"height": 64, "width": 64}, "do_center_crop": False,
    "resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25],
}  # fmt: skip

OPEN_CLIP = {
    "gelu": ({}, [0.29449, 0.01745, 0.00624, -0.09383, -0.09587], [-0.26469, -0.14956, 0.19793, 0.26001, -0.10356]),
    "quick_gelu, squash": (
        {"quick_gelu": True, "resize_mode": "squash", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        [0.29703, 0.01232, 0.00717, -0.09095, -0.08628],
        [-0.26515, -0.15286, 0.19702, 0.26002, -0.10424],
    ),
    "longest": (
        {"resize_mode": "longest", "interpolation": "bilinear"},
        [0.29943, 0.01589, -0.00703, -0.09901, -0.10865],
        [-0.26469, -0.14956, 0.19793, 0.26001, -0.10356],
    ),
}
"""What open_clip 3.3.0 with torchvision 0.28.0 makes of noise(40, 75) and of the first text: the first five numbers."""


def cosines(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the whole model's own forward, and the logits [pictures, texts]."""
    with torch.inference_mode():
        out = model(**inputs)
    return out.image_embeds @ out.text_embeds.T, out.logits_per_image


@pytest.mark.parametrize(
    ("side", "said"), [(224, None), (336, None), (64, SQUASHED)], ids=["224 cut", "336 cut", "64 squeezed"]
)
def test_a_clip_scores_as_its_own_processor_and_forward_do(side: int, said: dict | None, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip", side=side, preparation=said)
    scorer = load_scorer(folder)
    images = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    pixels = images(PICTURES, input_data_format="channels_last", return_tensors="pt").pixel_values
    ids = transformers.CLIPTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    ).input_ids
    theirs, logits = cosines(
        transformers.CLIPModel.from_pretrained(folder).eval(), {"input_ids": ids, "pixel_values": pixels}
    )
    ours = scorer.image_features(PICTURES) @ scorer.text_features(TEXTS).T
    assert (ours - theirs).abs().max() < 1e-5
    assert ours.std() > 0.01
    assert (scorer.probabilities(ours) - logits.softmax(1)).abs().max() < 1e-3
    assert scorer.logit_bias is None


@pytest.mark.parametrize("tokenizer", ["SiglipTokenizer", "GemmaTokenizer"])
def test_siglip_scores_as_its_own_forward_does(tokenizer: str, tmp_path: Path) -> None:
    """Punctuation is not for SigLIP, and capital letters for neither."""
    folder = siglip_folder(tmp_path / "siglip", tokenizer_class=tokenizer, lower=tokenizer == "SiglipTokenizer")
    scorer = load_scorer(folder)
    pixels = transformers.SiglipImageProcessorPil.from_pretrained(folder)(
        PICTURES, input_data_format="channels_last", return_tensors="pt"
    ).pixel_values
    first = "a red circle isnt it" if tokenizer == "SiglipTokenizer" else "a red circle, isn't it?"
    ids = transformers.PreTrainedTokenizerFast.from_pretrained(folder)(
        [first, *TEXTS[1:]], padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    ).input_ids
    theirs, logits = cosines(
        transformers.SiglipModel.from_pretrained(folder).eval(), {"input_ids": ids, "pixel_values": pixels}
    )
    ours = scorer.image_features(PICTURES) @ scorer.text_features(TEXTS).T
    assert (ours - theirs).abs().max() < 1e-5
    assert (scorer.probabilities(ours) - logits.sigmoid()).abs().max() < 1e-4
    assert scorer.logit_bias == -3.0
    assert scorer.dimensions == ours.shape[1] or scorer.dimensions == 32
    assert scorer.max_tokens == 12


@pytest.mark.parametrize(("written", "image", "text"), OPEN_CLIP.values(), ids=OPEN_CLIP)
def test_open_clips_checkpoints_score_as_open_clip_does(
    written: dict, image: list[float], text: list[float], tmp_path: Path
) -> None:
    scorer = load_scorer(open_clip_folder(tmp_path / "open_clip", **written))
    assert scorer.image_features([noise(40, 75)])[0, :5].tolist() == pytest.approx(image, abs=2e-5)
    assert scorer.text_features(TEXTS)[0, :5].tolist() == pytest.approx(text, abs=2e-5)
    assert scorer.logit_scale == pytest.approx(np.exp(3.0))


def test_open_clips_checkpoints_score_as_the_package_itself(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch wants the torchvision of its torch")
    folder = open_clip_folder(tmp_path / "open_clip")
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([prepare(Image.fromarray(picture)) for picture in PICTURES])
    with torch.inference_mode():
        theirs = model.eval().encode_image(pixels, normalize=True)
    assert ((load_scorer(folder).image_features(PICTURES) * theirs).sum(1) > 1 - 1e-5).all()


def test_names_lead_from_one_layout_to_the_other_and_back() -> None:
    before = open_clip_tensors()
    again = from_transformers(to_transformers(before))
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())
    # As it was written with custom_text, and by open_clip before 2.20.
    other = {name if name.startswith(("visual", "logit")) else f"text.{name}": each for name, each in before.items()}
    assert to_transformers(other | {"text.attn_mask": torch.zeros(16, 16)}).keys() == to_transformers(before).keys()


def test_the_bundled_merges_are_clips() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


SPOILT: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], str]] = {
    "a missing tensor": (clip_folder, lambda f: without(f, "text_projection.weight"), r"lack 1 .* text_proj"),
    "a missing tensor of open_clip": (
        open_clip_folder, lambda f: without(f, "visual.transformer.resblocks.1.attn.in_proj_weight"),
        r"lack 1 tensors, e\.g\. visual\.transformer\.resblocks\.1\.attn\.in_proj_weight",
    ),
    "another shape": (clip_folder, lambda f: said(f, projection_dim=20), "of another shape than config.json tells"),
    "no weights": (clip_folder, lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "a pickle": (clip_folder, lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "pickled weights .* rm "),
    "a pickle alone": (
        open_clip_folder, lambda f: (f / "open_clip_model.safetensors").rename(f / "open_clip_pytorch_model.bin"),
        "weights_only=True",
    ),
    "code": (clip_folder, lambda f: (f / "modeling.py").write_text(""), "program code"),
    "cut short": (clip_folder, lambda f: cut(f / "model.safetensors"), "is cut short"),
    "a pointer": (
        clip_folder, lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        "Git LFS pointer",
    ),
    "no tokenizer": (siglip_folder, lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "too many tokens": (open_clip_folder, lambda f: model_cfg(f, "text_cfg", vocab_size=49400), "another shape"),
    "a tower of timm": (
        open_clip_folder, lambda f: model_cfg(f, "vision_cfg", timm_model_name="vit_base_patch16_siglip_224"),
        "timm_model_name='vit_base_patch16_siglip_224', which is no tower of CLIP's own kind; take the same model",
    ),
    "a ResNet": (open_clip_folder, lambda f: model_cfg(f, "vision_cfg", layers=[3, 4, 6, 3]), "is a ResNet"),
    "another size": (
        lambda f: clip_folder(f, preparation=SQUASHED), lambda f: None, "prepares pictures of 64 pixels, .* sees 32",
    ),
    "a text tower": (clip_folder, lambda f: said(f, model_type="clip_text_model"), "text tower of a CLIP alone"),
    "something else": (clip_folder, lambda f: said(f, model_type="bert"), "holds a bert"),
    "one that draws": (clip_folder, lambda f: (f / "model_index.json").write_text("{}"), "is a model that draws"),
    "a manifest": (
        clip_folder, lambda f: (f / "sha256sums.txt").write_text(f"{'0' * 64}  config.json\n"), "is not listed in",
    ),
    "no folder": (lambda f: f, lambda f: None, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "spoil", "sentence"), SPOILT.values(), ids=SPOILT)
def test_a_scorer_that_is_not_whole_is_refused(
    make: Callable[[Path], Path], spoil: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "scorer")
    spoil(folder)
    verdict = judge_scorer(folder)
    assert verdict.faults
    with pytest.raises(ModelError, match=sentence):
        load_scorer(folder)


def test_a_whole_one_is_not(tmp_path: Path) -> None:
    for k, make in enumerate((clip_folder, siglip_folder, open_clip_folder)):
        verdict = judge_scorer(make(tmp_path / str(k)))
        assert (verdict.faults, verdict.notes, verdict.unjudged) == ((), (), "")
        assert verdict.need is not None
        elements = sum(each.numel() for each in load_file(next((tmp_path / str(k)).glob("*.safetensors"))).values())
        assert verdict.need.weights == 4 * elements


def test_a_folder_with_both_layouts_is_read_in_transformers_(tmp_path: Path) -> None:
    both = clip_folder(open_clip_folder(tmp_path / "both"))
    assert load_scorer(both).max_tokens == 16
    assert (both / "open_clip_config.json").is_file()
    (both / "model.safetensors").unlink()
    assert judge_scorer(both).folder.layout.kind == "open_clip"


def test_weights_that_are_equal_lie_in_memory_once(tmp_path: Path) -> None:
    """Of the text tower of Stable Diffusion 1.x, with learned words, and of its safety checker's vision tower."""
    scorer = load_scorer(clip_folder(tmp_path / "clip"))
    before = scorer.image_features(PICTURES[:1]), scorer.text_features(TEXTS)
    encoder = transformers.CLIPTextModel(scorer.model.config.text_config)
    encoder.load_state_dict(scorer.model.text_model.state_dict())
    encoder.resize_token_embeddings(520, mean_resizing=False)
    config = transformers.CLIPConfig.from_dict(scorer.model.config.to_dict() | {"attn_implementation": "eager"})
    checker = StableDiffusionSafetyChecker._from_config(config, attn_implementation="eager")
    checker.vision_model.load_state_dict(
        {f"vision_model.{name}": each for name, each in scorer.model.vision_model.state_dict().items()}, strict=False
    )
    size = sum(each.nbytes for each in scorer.model.text_model.parameters())
    assert share(scorer.model.text_model, of=encoder) == size
    assert share(scorer.model.text_model, of=encoder) == 0
    again = load_scorer(tmp_path / "clip")
    again.model.load_state_dict(scorer.model.state_dict())
    assert torch.equal(scorer.image_features(PICTURES[:1]), before[0])
    assert torch.equal(again.text_features(TEXTS), before[1])
    embeddings = scorer.model.text_model.embeddings.token_embedding.weight
    assert embeddings.data_ptr() == encoder.get_input_embeddings().weight.data_ptr()


def test_a_finetune_shares_nothing(tmp_path: Path) -> None:
    scorer = load_scorer(clip_folder(tmp_path / "clip"))
    encoder = transformers.CLIPTextModel(scorer.model.config.text_config)
    encoder.load_state_dict({name: each + 1e-3 for name, each in scorer.model.text_model.state_dict().items()})
    assert share(scorer.model.text_model, of=encoder) == 0
    assert share(scorer.model.text_model, of=encoder.half()) == 0


def test_the_model_that_draws_is_told_from_one_that_scores() -> None:
    with pytest.raises(ModelError, match="is a model that draws"):
        load_scorer(BUNDLED_MODEL)


def without(folder: Path, name: str) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})


def said(folder: Path, **changed: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def model_cfg(folder: Path, tower: str, **changed: object) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][tower] |= changed
    file.write_text(json.dumps(config))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
