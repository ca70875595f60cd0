"""`darkroom reproduce` against the whole service: the same picture again, or an honest answer."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.contract.messages.picture_record import read_record
from tests.system.conftest import COMMAND, Installation, drawn, ended
from tests.waiting import WAIT_SECONDS
from worker.images import encode

PARAMETERS = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 6, "reproducible": True}


def reproduce(installation: Installation, picture: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "reproduce", str(picture), "--url", installation.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)


def picture_of(installation: Installation, folder: Path, **parameters: object) -> Path:
    """The second of two pictures, drawn in company."""
    with installation.client() as client:
        others = [client.post("/v1/jobs", json=PARAMETERS | {"seed": seed, "reproducible": False}) for seed in range(3)]
        job = drawn(client, PARAMETERS | {"num_images": 2, **parameters})
        path = folder / f"picture.{job['input']['output_format']}"
        path.write_bytes(client.get(job["images"][1]["url"]).content)
        for other in others:
            ended(client, other.json())
    return path


WEIGHED = {"prompt": "a (red:1.3) circle BREAK on a [blue] background", "prompt_syntax": "a1111"}


@pytest.mark.parametrize(
    "parameters", [{"output_format": "png"}, {"output_format": "jpeg"}, {"output_format": "webp", **WEIGHED}], ids=str
)
def test_a_picture_is_drawn_again_to_the_bit(
    installation: Installation, tmp_path: Path, parameters: dict[str, str]
) -> None:
    picture, again = picture_of(installation, tmp_path, **parameters), tmp_path / "again"
    done = reproduce(installation, picture, "-o", str(again))
    assert (done.returncode, done.stdout) == (0, "identical: every pixel\n"), done.stderr
    first, second = read_record(picture.read_bytes()), read_record(again.read_bytes())
    assert (first["seed"], second["seed"], second["index"]) == (8, 8, 0)
    assert first["job_id"] != second["job_id"]


def with_record(picture: Path, name: str = "forged", **changes: object) -> Path:
    """The same pixels, but a record that says something else."""
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())))
    record = read_record(picture.read_bytes()) | changes
    forged = picture.with_name(f"{name}.png")
    forged.write_bytes(encode(pixels, output_format="png", record=record))
    return forged


def test_what_differs_is_said(installation: Installation, tmp_path: Path) -> None:
    picture = picture_of(installation, tmp_path)
    other_seed = reproduce(installation, with_record(picture, seed=99, torch="1.0", reproducible=False))
    assert other_seed.returncode == 4
    assert "different: " in other_seed.stdout
    assert "torch: 1.0 then, 2." in other_seed.stdout
    assert "not drawn as reproducible" in other_seed.stderr
    other_model = reproduce(installation, with_record(picture, model_hash="0" * 64))
    assert "another model: the picture is from 0000000000" in other_model.stderr
    renamed = reproduce(installation, with_record(picture, model="elsewhere"))
    assert (renamed.returncode, renamed.stdout) == (0, "identical: every pixel\n")
    assert "elsewhere is served as starter" in renamed.stderr


def test_what_cannot_be_reproduced_is_said(installation: Installation, tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.png", tmp_path / "text.png"
    Image.new("RGB", (8, 8)).save(foreign)
    text.write_text("no picture")
    picture = picture_of(installation, tmp_path)
    cases = {
        foreign: "no darkroom record",
        text: "no readable PNG",
        tmp_path / "absent.png": "cannot be read",
        with_record(picture, "strange", model_hash="0" * 64, model="elsewhere"): "the models are: starter",
        with_record(picture, "odd", num_inference_steps="many"): "num_inference_steps",
    }
    for file, reason in cases.items():
        done = reproduce(installation, file)
        assert done.returncode == 2, done.stdout
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
