"""What is kept of a picture's steps: how it becomes files, and that they reach the record with their picture."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load

from app.contract.messages.trajectory import LAST_MS, Shown, Trajectory, durations
from app.contract.objects.names import TRAJECTORY_TYPES, trajectory_key
from app.contract.redis.ownership import Claim
from tests.waiting import until
from tests.worker.test_reporter import PIXELS, Recorder, claim, drawn, ownership, pictures, reporter
from worker.engine.events import DrawnImage, Finished, Timings
from worker.engine.recording import Moment, Recording, Recordings
from worker.images import encode_sheet
from worker.reporter import Reporter
from worker.trajectory import Drawn, files_of

__all__ = ["claim", "ownership", "pictures", "reporter"]

TIMINGS = Timings(encode=0.1, denoise=0.2, decode=0.3, wall=0.6)
GREY = torch.zeros(5, 12)
GREY[0] = 1.0
"""A map from four channels to 2 x 2 pixels that shows the first one as grey."""


def recording_of(steps: int, *series: Shown, linear: torch.Tensor | None = GREY) -> Recording:
    """Latents of 4 x 8 x 6 that get brighter from step to step, -1 to 1, with sigmas that fall from `steps` to 0."""
    moments = [
        Moment(k, float(10 * (steps - k)) if k < steps else None, (1.0, float(steps - k)))
        if k
        else Moment(0, 10.0 * steps, (0.0, 1.0), ("noisy",))
        for k in range(steps + 1)
    ]
    made = Recording.empty(moments, (4, 8, 6), series, asked=steps + 1, is_decoded=False)
    made.linear = linear
    for each in series:
        for place, moment in enumerate(moments):
            if each in moment.series:
                shade = 2 * place / steps - 1
                made.keep(each, place, np.full((4, 8, 6), shade * (moment.size if each == "noisy" else 1), np.float16))
    return made


def previews_of(steps: list[int]) -> Recording:
    made = Recording.empty(
        [Moment(k, 1.0, (1.0, 1.0)) for k in steps], (4, 8, 8), ["estimate"], asked=9, is_decoded=False
    )
    made.linear = GREY
    for place in range(len(steps)):
        made.keep("estimate", place, np.full((4, 8, 8), 0.5, np.float16))
    return made


def with_recordings(images: list[DrawnImage], recordings: Recordings) -> list[DrawnImage]:
    return [dataclasses.replace(image, recordings=recordings) for image in images]


def test_a_sheet() -> None:
    shades = [0, 30, 60, 90, 120, 150, 180, 210, 240, 255]
    file = encode_sheet([np.full((12, 16, 3), shade, np.uint8) for shade in shades])
    assert (file.width, file.height, file.columns) == (16, 12, 8)
    with Image.open(io.BytesIO(file.data)) as image:
        assert (image.format, image.size) == ("JPEG", (128, 24))
        grey = np.asarray(image.convert("L")).astype(int)
    for number, shade in enumerate(shades):
        row, column = divmod(number, 8)
        assert abs(grey[row * 12 + 6, column * 16 + 8] - shade) <= 3
    large = encode_sheet([np.zeros((600, 300, 3), np.uint8)])
    assert (large.width, large.height, large.columns) == (128, 256, 1)
    narrow = encode_sheet([np.zeros((600, 300, 3), np.uint8)] * 3, columns=2, side=100)
    assert (narrow.width, narrow.height, narrow.columns) == (50, 100, 2)
    with pytest.raises(ValueError, match="needs a frame"):
        encode_sheet([])


def test_previews_are_stored_with_their_picture(
    ownership: Recorder, reporter: Reporter, claim: Claim, tmp_path: Path
) -> None:
    images = with_recordings(drawn(PIXELS, PIXELS), Recordings(previews=previews_of([3, 6, 9])))
    reporter.handle(Finished(claim.token, images, 20, TIMINGS, ["its own"]))
    until(lambda: ownership.told[-1:] and ownership.told[-1][0] == "succeed")
    assert ownership.facts["warnings"] == ["its own"]
    for index, picture in enumerate(ownership.told[-1][1]):
        sheet = picture.previews
        assert (sheet.steps, sheet.columns, sheet.width, sheet.height) == ((3, 6, 9), 3, 16, 16)
        assert sheet.key.startswith(f"images/{claim.id}/{claim.token}/{index}")
        data = (tmp_path / "pictures" / sheet.key).read_bytes()
        assert len(data) == sheet.bytes
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (48, 16)
            assert abs(np.asarray(image).astype(int) - 191).max() <= 3


def test_a_trajectory_is_stored_with_its_picture(
    ownership: Recorder, reporter: Reporter, claim: Claim, tmp_path: Path
) -> None:
    spec = claim.spec.model_copy(update={"trajectory": Trajectory(), "num_images": 1})
    asking = dataclasses.replace(claim, spec=spec, token="c" * 32)
    reporter._attempts.open(asking)
    images = with_recordings(drawn(PIXELS), Recordings(trajectory=recording_of(3, "noisy", "estimate")))
    reporter.handle(Finished(asking.token, images, 3, TIMINGS, []))
    [told] = until(lambda: [fact for fact in ownership.told if fact[0] == "succeed"])
    [picture] = told[1]
    assert picture.trajectory.steps == 4
    assert picture.trajectory.files.keys() == TRAJECTORY_TYPES.keys()
    for kind, file in picture.trajectory.files.items():
        assert file.key == trajectory_key(claim.id, asking.token, 0, kind)
        assert len((tmp_path / "pictures" / file.key).read_bytes()) == file.bytes
        assert file.content_type == TRAJECTORY_TYPES[kind]
    assert set(picture.object_keys) == {picture.key, *(file.key for file in picture.trajectory.files.values())}


def test_nothing_is_kept_of_others(ownership: Recorder, reporter: Reporter, claim: Claim) -> None:
    reporter.handle(Finished(claim.token, drawn(PIXELS, PIXELS), 20, TIMINGS, []))
    until(lambda: ownership.told[-1:] and ownership.told[-1][0] == "succeed")
    assert [(picture.previews, picture.trajectory) for picture in ownership.told[-1][1]] == [(None, None)] * 2


WIDE = np.zeros((64, 48, 3), np.uint8)
WIDE[..., 1] = 200


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return files_of(recording_of(4, "noisy", "estimate"), Drawn(WIDE, {"seed": 7}), every=1, decode="linear")


def test_what_each_step_is(files: dict[str, bytes]) -> None:
    said = json.loads(files["json"])
    steps = said.pop("steps")
    assert said == {
        "seed": 7, "every": 1, "decode": "linear", "show": ["noisy", "estimate"],
        "sheet": {"width": 36, "height": 48},
    }  # fmt: skip
    assert [step["step"] for step in steps] == [0, 1, 2, 3, 4]
    assert [step["timestep"] for step in steps] == [40, 30, 20, 10, None]
    assert [step["sigma"] for step in steps] == [None, 3, 2, 1, 0], "the first is noise alone"
    assert [list(step["norms"]) for step in steps] == [["noisy"]] + [["noisy", "estimate"]] * 4
    assert steps[1]["norms"]["estimate"] == pytest.approx(0.5 * (4 * 8 * 6) ** 0.5)
    assert len({tuple(box) for step in steps for box in step["boxes"].values()}) == 9


def test_every_frame_is_where_its_box_says(files: dict[str, bytes]) -> None:
    with Image.open(io.BytesIO(files["jpg"])) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    for step in json.loads(files["json"])["steps"]:
        for series, (left, top, width, height) in step["boxes"].items():
            assert (width, height) == (12, 16)
            middle = pixels[top + 8, left + 6]
            is_picture = (series, step["step"]) == ("noisy", 4)
            expected = (0, 200, 0) if is_picture else (255 * step["step"] / 4,) * 3
            assert np.abs(middle - expected).max() <= 8, (series, step["step"])


def test_the_latents(files: dict[str, bytes], tmp_path: Path) -> None:
    tensors = load(files["safetensors"])
    assert {name: (each.shape, each.dtype.name) for name, each in tensors.items()} == {
        "noisy": ((5, 4, 8, 6), "float16"), "estimate": ((4, 4, 8, 6), "float16"),
        "step": ((5,), "int64"), "timestep": ((5,), "float32"), "sigma": ((5,), "float32"),
    }  # fmt: skip
    assert tensors["estimate"][:, 0, 0, 0].tolist() == [-0.5, 0, 0.5, 1]
    assert np.isnan(tensors["timestep"][-1])
    assert np.isinf(tensors["sigma"][0])
    (tmp_path / "latents.safetensors").write_bytes(files["safetensors"])
    with safe_open(tmp_path / "latents.safetensors", framework="np") as opened:
        assert json.loads(opened.metadata()["darkroom"])["seed"] == 7


def test_a_film_that_ends_with_the_picture(files: dict[str, bytes]) -> None:
    with Image.open(io.BytesIO(files["webp"])) as film:
        assert (film.format, film.size, film.n_frames) == ("WEBP", (2 * 192, 256), 5)
        film.seek(1)
        left, right = (film.convert("RGB").getpixel((x, 128)) for x in (96, 288))
        assert max(abs(a - 64) for a in (*left, *right)) <= 6
        film.seek(4)
        film.load()
        assert film.info["duration"] == LAST_MS
        assert all(abs(film.convert("RGB").getpixel((x, 128))[1] - 200) <= 6 for x in (96, 288))
    assert durations(5)[-1] == LAST_MS


def test_without_colours_there_are_numbers() -> None:
    made = files_of(recording_of(3, "noisy", linear=None), Drawn(WIDE, {}), every=1, decode="vae")
    assert made.keys() == {"json", "safetensors"}
    assert [step["boxes"] for step in json.loads(made["json"])["steps"]] == [{}] * 4


def test_a_long_one_fits_into_a_sheet_that_browsers_draw() -> None:
    """256 steps of two series, of the largest frames."""
    moments = [Moment(k, 1.0, (1.0, 1.0)) for k in range(256)]
    long = Recording.empty(moments, (4, 1, 1), ["noisy", "estimate"], asked=256, is_decoded=True)
    for series in ("noisy", "estimate"):
        long.arrived[series][:] = True
        long.latents[series][:] = 0
        for place in range(256):
            long.decoded[series, place] = np.zeros((256, 256, 3), np.uint8)
    sheet = json.loads(files_of(long, Drawn(WIDE, {}), every=1, decode="vae")["json"])["sheet"]
    assert max(sheet.values()) <= 4_096


def test_the_vectors_of_a_picture_are_stored_with_it(
    ownership: Recorder, reporter: Reporter, claim: Claim, tmp_path: Path
) -> None:
    own, text = np.array([1, 2, 2], np.float32), np.array([2, 4, 4], np.float32)
    found = {"image_embedding": own, "from_embedding": text, "to_embedding": -own}
    images = [dataclasses.replace(image, found=found) for image in drawn(PIXELS, PIXELS)]
    reporter.handle(Finished(claim.token, images, 20, TIMINGS, []))
    [told] = until(lambda: [fact for fact in ownership.told if fact[0] == "succeed"])
    for picture in told[1]:
        kept = picture.embedding
        assert (kept.kind, kept.cosine_to) == ("prior", {"from": 1.0, "to": -1.0})
        vectors = load((tmp_path / "pictures" / kept.file.key).read_bytes())
        assert {name: vector.tolist() for name, vector in vectors.items()} == {
            name: vector.tolist() for name, vector in found.items()
        }
        assert picture.object_keys == [picture.key, kept.file.key]
