"""The scorer that is shipped: whole, small, and it prefers the text that is true."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil, CLIPModel

from recipes.starter import score
from recipes.starter.looks import Scorer, embedding
from recipes.starter.score import BUNDLED, ranked
from recipes.starter.words import COLOURS

WORDS_ONLY = {"README.md", "NOTICE", "sha256sums.txt"}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(BUNDLED)


def painted(path: Path, thing: str, background: str, *, square: bool = False) -> Path:
    image = Image.new("RGB", (128, 128), COLOURS[background])
    draw = ImageDraw.Draw(image)
    (draw.rectangle if square else draw.ellipse)((22, 22, 106, 106), fill=COLOURS[thing])
    image.save(path)
    return path


def test_the_manifest_lists_every_file_with_its_hash() -> None:
    files = {file.name for file in BUNDLED.iterdir()} - WORDS_ONLY
    listed = dict(reversed(line.split("  ")) for line in (BUNDLED / "sha256sums.txt").read_text().splitlines())
    assert listed.keys() == files
    for name, digest in listed.items():
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == digest, name
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 4_000_000


@pytest.mark.parametrize(("thing", "background"), [("red", "blue"), ("yellow", "purple"), ("black", "pink")])
@pytest.mark.parametrize("square", [False, True])
def test_the_true_text_fits_best(scorer: Scorer, tmp_path: Path, thing: str, background: str, square: bool) -> None:
    picture = painted(tmp_path / "picture.png", thing, background, square=square)
    texts = [
        f"a {colour} {shape} on a {behind} background"
        for colour, behind in ((thing, background), (background, thing), ("green", "gray"))
        for shape in ("circle", "square")
    ]
    best, text = ranked(scorer, picture, texts)[0]
    assert text == f"a {thing} {'square' if square else 'circle'} on a {background} background"
    assert -1 <= best <= 1


def test_the_best_of_several_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = painted(tmp_path / "right.png", "red", "blue")
    others = [
        painted(tmp_path / "other.png", "blue", "red"),
        painted(tmp_path / "square.png", "red", "blue", square=True),
        painted(tmp_path / "green.png", "green", "blue"),
    ]
    score.main([*map(str, others), str(right), "--best-of", "a red circle on a blue background"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1] == str(right)
    assert len(lines) == 4


def test_the_folder_says_how_pictures_are_prepared(tmp_path: Path) -> None:
    """What `from_pretrained` reads gives what the recipe computes."""
    pixels = np.asarray(Image.open(painted(tmp_path / "picture.png", "red", "blue")))
    prepared = CLIPImageProcessorPil.from_pretrained(BUNDLED)(images=pixels, return_tensors="pt").pixel_values
    model = CLIPModel.from_pretrained(BUNDLED, dtype="float32").requires_grad_(False)
    theirs = F.normalize(embedding(model.get_image_features(pixel_values=prepared)), dim=1)
    ours = Scorer(BUNDLED).images([pixels])
    assert float((ours * theirs).sum()) > 0.999
