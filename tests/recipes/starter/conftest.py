"""A small world: the eight shapes, a few painted objects, an empty work folder. No network, no icons."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recipes.starter import sprites, tokens, train_unet, training
from recipes.starter.compose import Composer
from recipes.starter.sprites import SIDE, Sprites
from recipes.starter.words import COLOURS, SHAPES

torch.set_num_threads(1)

OBJECTS = ("cat-face", "frog", "automobile", "house", "red-apple", "rocket", "banana", "ghost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Some of diffusers' schedulers hand tensors to numpy in a way that numpy 2 deprecates. Not ours to mend."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning"))


def painted(number: int) -> NDArray[np.uint8]:
    """RGBA of an object of two colours, another one for each number."""
    picture = np.zeros((SIDE, SIDE, 4), np.uint8)
    palette = list(COLOURS.values())
    picture[40:216, 30:226] = (*palette[number % 12], 255)
    picture[80:130, 60 : 90 + 10 * number] = (*palette[(number + 5) % 12], 255)
    return picture


@pytest.fixture(scope="session")
def pictures() -> dict[str, NDArray[np.uint8]]:
    shapes = {name: sprites.draw_shape(name) for name in SHAPES}
    return shapes | {name: painted(number) for number, name in enumerate(OBJECTS)}


@pytest.fixture(scope="session")
def small_sprites(pictures: dict[str, NDArray[np.uint8]]) -> Sprites:
    return sprites.from_rgba(tuple(pictures), np.stack(list(pictures.values())))


@pytest.fixture(scope="session")
def composer(small_sprites: Sprites) -> Composer:
    return Composer(small_sprites, variations=2)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tokens.train(tokens.sample_captions(800), merges=300)


@pytest.fixture
def short_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_unet, "SHEET_PROMPTS", ("a red circle",))


def options(work: Path, **given: Any) -> argparse.Namespace:
    """Options of a training as the command line would give them; steps end it, never the clock."""
    parser = argparse.ArgumentParser()
    training.add_arguments(parser, minutes=30, rows=4)
    chosen = parser.parse_args(["--work", str(work), "--processes", "0", "--device", "cpu"])
    return argparse.Namespace(**{**vars(chosen), "rows": 4, **given})
