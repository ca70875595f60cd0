"""A ControlNet and another VAE, through the whole service: announced, drawn with, recorded, and drawn again."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.messages.picture_record import read_record
from tests.system.conftest import COMMAND, Installation, drawn
from tests.waiting import WAIT_SECONDS
from worker.models.quiet import quiet_libraries

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLAIN = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 6, "reproducible": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet of the bundled model, which pushes pictures somewhere, and the model's own VAE under a name."""
    folder = tmp_path_factory.mktemp("beside")
    torch.manual_seed(1)
    with quiet_libraries():
        unet = diffusers.UNet2DConditionModel.from_pretrained(BUNDLED_MODEL / "unet", use_safetensors=True)
        network = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    network.save_pretrained(folder / "controlnets" / "Edges")
    (folder / "controlnets" / "old.pth").write_bytes(b"\x80")
    shutil.copytree(BUNDLED_MODEL / "vae", folder / "finer")
    return folder


@pytest.fixture(scope="module")
def installation(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, remembered: dict[str, str]
) -> Iterator[Installation]:
    beside = {"DARKROOM_CONTROLNETS": str(folder / "controlnets"), "DARKROOM_VAE": str(folder / "finer")}
    installation = Installation(tmp_path_factory.mktemp("installation") / "data", environment=beside | remembered)
    installation.start_and_wait()
    yield installation
    installation.kill_everything()


def control(**changes: Any) -> dict[str, Any]:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    reference = {"b64": base64.b64encode(buffer.getvalue()).decode()}
    return {"control": [{"model": "edges", "image": reference} | changes]}


def test_what_lies_beside_the_model_is_announced(installation: Installation) -> None:
    with installation.client() as client:
        [model] = [each for each in client.get("/v1/models").json()["data"] if each["default"]]
    assert ([each["name"] for each in model["controls"]], model["max_controls"]) == (["edges"], 2)
    assert "control" in model["takes"]
    assert model["vae"] == "finer"
    assert "old.pth is pickled" in installation.log("worker")


def test_a_picture_follows_it_and_its_record_draws_it_again(
    installation: Installation, folder: Path, tmp_path: Path
) -> None:
    with installation.client() as client:
        files = [
            client.get(drawn(client, PLAIN | more)["images"][0]["url"]).content
            for more in ({}, control(scale=0.0), control(scale=0.9, end=0.7))
        ]
    without, zero, followed = (np.asarray(Image.open(io.BytesIO(data))) for data in files)
    assert (without == zero).all(), "a scale of 0 is none"
    assert (without != followed).mean() > 0.1
    record = read_record(files[2])
    [said] = record["control"]
    assert (said["model"], said["scale"], said["start"], said["end"]) == ("edges", 0.9, 0.0, 0.7)
    assert (said["image"]["width"], said["image"]["height"]) == (60, 40)
    weights = (folder / "controlnets" / "Edges" / WEIGHTS).read_bytes()
    assert record["controlnets"] == {"edges": hashlib.sha256(weights).hexdigest()}
    assert record["vae"] == "finer"
    assert "controlnets" not in read_record(files[0])

    picture, again = tmp_path / "picture.png", tmp_path / "again.png"
    picture.write_bytes(files[2])
    command = [COMMAND, "reproduce", str(picture), "--url", installation.url, "-o", str(again)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert (done.returncode, done.stdout) == (0, "identical: every pixel\n"), done.stderr


def test_another_name_is_refused_with_the_likeliest(installation: Installation) -> None:
    with installation.client() as client:
        answer = client.post("/v1/jobs", json=PLAIN | control(model="edge"))
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/control/0/model", "unknown")
    assert error["detail"] == "is unknown; did you mean edges?"
