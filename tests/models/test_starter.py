"""The bundled model: whole, small, and it draws what it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.engine.driving import engine_of, run, stock, wish
from worker.engine.events import Finished
from worker.models.announced import describe
from worker.models.bundle import Bundle, load

STARTER = Path(__file__).parents[2] / "models" / "starter"
WORDS_ONLY = {"README.md", "NOTICE", "sha256sums.txt"}


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return load(STARTER)


def test_the_manifest_lists_every_file_with_its_hash() -> None:
    files = {file.relative_to(STARTER).as_posix() for file in STARTER.rglob("*") if file.is_file()} - WORDS_ONLY
    lines = (STARTER / "sha256sums.txt").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert listed.keys() == files
    for name, digest in listed.items():
        assert hashlib.sha256((STARTER / name).read_bytes()).hexdigest() == digest, name


def test_it_is_small_enough_to_travel_with_the_code() -> None:
    assert sum(file.stat().st_size for file in STARTER.rglob("*") if file.is_file()) < 28_000_000


def test_its_card(starter: Bundle) -> None:
    card = describe(starter, seats=4, limits={})
    assert (card.name, card.width, card.height) == ("starter", 128, 128)
    assert (card.num_inference_steps, card.guidance_scale, card.scheduler) == (30, 3.0, "euler_a")


def test_a_red_circle_on_a_blue_background(starter: Bundle) -> None:
    request = wish(
        prompt="a red circle on a blue background",
        width=128,
        height=128,
        num_inference_steps=20,
        scheduler="dpmpp_2m",
        seed=7,
    )
    finished = run(engine_of(starter), request)["a"]
    assert isinstance(finished, Finished)
    [picture] = finished.pictures
    red, _, blue = np.median(picture[54:74, 54:74].reshape(-1, 3), axis=0)
    assert red > blue + 100
    border = np.concatenate([picture[:6].reshape(-1, 3), picture[-6:].reshape(-1, 3), picture[:, :6].reshape(-1, 3)])
    red, _, blue = np.median(border, axis=0)
    assert blue > red + 100
    expected = np.asarray(stock(starter, request, output_type="pil")).astype(int)
    assert np.abs(picture - expected).max() <= 1


def test_sides_that_do_not_halve_evenly(starter: Bundle) -> None:
    request = wish(width=136, height=72, num_inference_steps=2, scheduler="euler")
    finished = run(engine_of(starter), request)["a"]
    assert isinstance(finished, Finished)
    expected = np.asarray(stock(starter, request, output_type="pil")).astype(int)
    assert np.abs(finished.pictures[0] - expected).max() <= 1
