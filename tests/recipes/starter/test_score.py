"""The command that asks the bundled scorer."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from recipes.starter import score
from recipes.starter.words import COLOURS


def painted(path: Path, thing: str, background: str, *, square: bool = False) -> Path:
    image = Image.new("RGB", (128, 128), COLOURS[background])
    draw = ImageDraw.Draw(image)
    (draw.rectangle if square else draw.ellipse)((22, 22, 106, 106), fill=COLOURS[thing])
    image.save(path)
    return path


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
