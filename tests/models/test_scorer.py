"""The scorer that is shipped: whole, small, and it prefers the true text. Pictures are prepared as its folder says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, CLIPModel, SiglipImageProcessorPil

from app.cli.score_commands import score
from app.contract.messages.model_name import BUNDLED_SCORER
from worker.models.errors import ModelError
from worker.models.preparation import PREPARATION, read_preparation
from worker.models.scorer import Picture, Scorer, load_scorer

DOCS = Path(__file__).parents[2] / "docs"
WORDS_ONLY = {"README.md", "NOTICE", "sha256sums.txt"}
COLOURS = {
    "red": (222, 41, 41),
    "blue": (42, 98, 220),
    "yellow": (252, 217, 50),
    "purple": (138, 60, 190),
    "black": (28, 28, 30),
    "pink": (248, 140, 185),
}
"""As it has learnt them."""

CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""openai/clip-vit-base-patch32's, in today's words."""

PREPARATIONS = {
    "CLIP": CLIP,
    "CLIP in 2022": CLIP | {"size": 224, "crop_size": 224},
    "336 pixels": CLIP | {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    "nothing said": {},
    "squeezed": CLIP | {"size": {"height": 96, "width": 96}, "do_center_crop": False, "resample": 2},
    "squeezed and cut": CLIP | {"size": {"height": 96, "width": 96}, "crop_size": {"height": 64, "width": 64}},
    "less than the shorter edge": CLIP | {"size": {"shortest_edge": 96}, "crop_size": 80},
    "SigLIP": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 96, "width": 96}},
    "SigLIP without a word": {"image_processor_type": "SiglipImageProcessorFast"},
}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(BUNDLED_SCORER)


def painted(thing: str, background: str, *, square: bool = False) -> Picture:
    image = Image.new("RGB", (128, 128), COLOURS[background])
    draw = ImageDraw.Draw(image)
    (draw.rectangle if square else draw.ellipse)((22, 22, 106, 106), fill=COLOURS[thing])
    return np.asarray(image)


def test_the_manifest_lists_every_file_with_its_hash() -> None:
    files = {file.name for file in BUNDLED_SCORER.iterdir()} - WORDS_ONLY
    listed = dict(reversed(line.split("  ")) for line in (BUNDLED_SCORER / "sha256sums.txt").read_text().splitlines())
    assert listed.keys() == files
    for name, digest in listed.items():
        assert hashlib.sha256((BUNDLED_SCORER / name).read_bytes()).hexdigest() == digest, name
    assert sum(file.stat().st_size for file in BUNDLED_SCORER.iterdir()) < 4_000_000


@pytest.mark.parametrize(("thing", "background"), [("red", "blue"), ("yellow", "purple"), ("black", "pink")])
@pytest.mark.parametrize("square", [False, True])
def test_the_true_text_fits_best(scorer: Scorer, thing: str, background: str, square: bool) -> None:
    texts = [
        f"a {colour} {shape} on a {behind} background"
        for colour, behind in ((thing, background), (background, thing), ("green", "gray"))
        for shape in ("circle", "square")
    ]
    cosines = scorer.text_features(texts) @ scorer.image_features([painted(thing, background, square=square)])[0]
    assert float(cosines.abs().max()) <= 1
    assert texts[int(cosines.argmax())] == f"a {thing} {'square' if square else 'circle'} on a {background} background"


def test_each_picture_is_scored_by_its_text(scorer: Scorer) -> None:
    pictures, texts = [painted("red", "blue"), painted("yellow", "purple")], ["a red circle", "a yellow circle"]
    right, wrong = scorer.scores(pictures, texts), scorer.scores(pictures, texts[::-1])
    assert all(true > false for true, false in zip(right, wrong, strict=True))


def test_the_templates_that_are_shown_find_what_is_on_a_picture(scorer: Scorer) -> None:
    """`a drawing of {}` stood there, by which this small one takes a panda for a frog."""
    shown = set(re.findall(r'--template "(a [^"]+)"', (DOCS / "cli.md").read_text() + str(score.__doc__)))
    assert shown
    with Image.open(DOCS / "images" / "walk-three.webp") as three:
        panda = np.asarray(three.convert("RGB").crop((264, 0, 392, 128)))
    for template in shown:
        texts = scorer.text_features([template.format(each) for each in ("a frog", "a panda")])
        assert int((texts @ scorer.image_features([panda])[0]).argmax()) == 1, template


def test_it_says_what_its_vectors_are(scorer: Scorer) -> None:
    """Their size, what their cosines are multiplied by, and which files made them."""
    tensors = load_file(BUNDLED_SCORER / "model.safetensors")
    assert scorer.dimensions == len(tensors["text_projection.weight"]) == scorer.text_features(["a"]).shape[1]
    assert scorer.logit_scale == pytest.approx(float(tensors["logit_scale"].float().exp()), rel=1e-6)
    assert scorer.logit_bias is None
    lines = (BUNDLED_SCORER / "sha256sums.txt").read_text().splitlines(keepends=True)
    expected = hashlib.sha256("".join(sorted(lines, key=lambda line: line.split()[1])).encode()).hexdigest()
    assert scorer.sha256 == expected
    long = "red " * 40
    assert scorer.max_tokens == 32
    assert scorer.tokens(["a red circle", long]) == [5, 42]
    torch.testing.assert_close(scorer.text_features([long]), scorer.text_features(["red " * 30]))


def test_it_is_the_clip_that_anyone_loads(scorer: Scorer) -> None:
    """Also for pictures of another size and shape."""
    pixels = np.asarray(Image.fromarray(painted("red", "blue")).resize((300, 200)))
    prepared = CLIPImageProcessorPil.from_pretrained(BUNDLED_SCORER)(images=pixels, return_tensors="pt").pixel_values
    model = CLIPModel.from_pretrained(BUNDLED_SCORER, dtype=torch.float32).requires_grad_(False)
    theirs = F.normalize(model.get_image_features(pixel_values=prepared).pooler_output, dim=1)
    assert float((scorer.image_features([pixels]) * theirs).sum()) > 0.9999


@pytest.mark.parametrize("said", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (224, 224), (100, 301), (97, 64), (500, 1), (1, 1)])
def test_pictures_are_prepared_as_by_transformers(said: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / PREPARATION).write_text(json.dumps(said))
    noise = np.random.default_rng(7).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize(size))
    cls = SiglipImageProcessorPil if "image_processor_type" in said else CLIPImageProcessorPil
    prepare = cls.from_pretrained(tmp_path)
    theirs = prepare(images=picture, input_data_format="channels_last", return_tensors="pt").pixel_values[0]
    ours = read_preparation(tmp_path)(torch.from_numpy(np.array(picture)))
    if size[1] <= 2 * size[0]:
        assert torch.equal(ours, theirs)
    # Pillow 13 shrinks tall pictures in another order, and rounds in between.
    levels = (ours - theirs) * torch.tensor(prepare.image_std).view(3, 1, 1) * 255
    assert float(levels.abs().mean()) < 0.3


@pytest.mark.parametrize(
    "changed",
    [
        {"do_resize": False},
        {"resample": 0},
        {"image_std": [0.5, 0.5, 0]},
        {"image_mean": [0.5]},
        {"crop_size": 256},
        {"do_center_crop": False},
        {"size": {"shortest_edge": 224, "longest_edge": 336}},
        {"image_processor_type": "ViTImageProcessor"},
        {"rescale_factor": "half"},
        {"size": {"height": 96, "width": 128}, "do_center_crop": False},
        {"size": "large"},
    ],
    ids=str,
)
def test_other_preparations_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / PREPARATION).write_text(json.dumps(CLIP | changed))
    with pytest.raises(ModelError, match="tells of no way to prepare pictures"):
        read_preparation(tmp_path)
