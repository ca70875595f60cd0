"""A ControlNet, a LoRA and another VAE, through the whole service: announced, drawn with, recorded, and drawn again."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.messages.picture_record import read_record
from tests.engine.tiny_loras import factors, is_attention, save_kohya
from tests.system.conftest import COMMAND, Installation, drawn, ended
from tests.waiting import WAIT_SECONDS, until
from worker.images import encode
from worker.models.quiet import quiet_libraries

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLAIN = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 6, "reproducible": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet and a LoRA of the bundled model, which push pictures somewhere, and its own VAE under a name."""
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
    (folder / "loras").mkdir()
    made = factors(SimpleNamespace(unet=unet), rank=4, seed=1, chosen=is_attention)
    save_kohya(folder / "loras" / "ink.safetensors", made, alpha=4.0)
    Image.new("RGBA", (1_024, 512), "teal").save(folder / "loras" / "ink.preview.png")
    shutil.copytree(BUNDLED_MODEL / "vae", folder / "finer")
    return folder


@pytest.fixture(scope="module")
def installation(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]
) -> Iterator[Installation]:
    beside = {"DARKROOM_CONTROLNETS": str(folder / "controlnets"), "DARKROOM_VAE": str(folder / "finer")}
    beside["DARKROOM_LORAS"] = str(folder / "loras")
    installation = Installation(tmp_path_factory.mktemp("installation") / "data", environment=beside | shared_machine)
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
    assert [each["name"] for each in model["loras"]] == ["ink"]
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


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_files_beside_the_model_are_told_by_their_hashes(installation: Installation, folder: Path) -> None:
    """Once the worker has read them, which it does beside its work. A LoRA has something to see."""

    def model() -> dict[str, Any]:
        [found] = [each for each in client.get("/v1/models").json()["data"] if each["default"]]
        return dict(found)

    def hashes() -> list[str | None]:
        return [each["sha256"] for kind in ("controls", "loras") for each in model()[kind]]

    with installation.client() as client:
        until(lambda: None not in hashes())
        files = (folder / "controlnets" / "Edges" / WEIGHTS, folder / "loras" / "ink.safetensors")
        assert hashes() == [sha256_of(file) for file in files]
        shown = client.get(f"/v1/thumbnails/{model()['loras'][0]['thumbnail']}").content
    with Image.open(io.BytesIO(shown)) as thumbnail:
        assert thumbnail.size == (256, 128)


def test_a_picture_with_a_lora(installation: Installation, folder: Path, tmp_path: Path) -> None:
    """Beside one without, which it does not touch; its record draws it again, and says which file it was."""
    with installation.client() as client:
        others = [client.post("/v1/jobs", json=PLAIN | {"seed": seed}).json() for seed in (1, 2)]
        weighed = [PLAIN | {"loras": [{"name": "ink", "weight": weight}]} for weight in (0.0, 0.5)]
        asked = [*weighed, PLAIN | {"prompt": f"{PLAIN['prompt']} <lora:ink:0.5>", "prompt_syntax": "a1111"}]
        files = [client.get(drawn(client, each)["images"][0]["url"]).content for each in (PLAIN, *asked)]
        for other in others:
            ended(client, other)
    without, zero, inked, tagged = (np.asarray(Image.open(io.BytesIO(data))) for data in files)
    assert (without == zero).all(), "a weight of 0 is none"
    assert (without != inked).mean() > 0.1
    assert (inked == tagged).all(), "a tag in the prompt is the same"
    record = read_record(files[2])
    assert record["lora_files"] == {"ink": sha256_of(folder / "loras" / "ink.safetensors")}
    picture, other = tmp_path / "picture.png", tmp_path / "other.png"
    picture.write_bytes(files[2])
    other.write_bytes(encode(inked, output_format="png", record=record | {"lora_files": {"ink": "0" * 64}}))
    for file, said in ((picture, ""), (other, "another LoRA ink: the picture is from 0000000000")):
        command = [COMMAND, "reproduce", str(file), "--url", installation.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert (done.returncode, done.stdout) == (0, "identical: every pixel\n"), done.stderr
        assert said in done.stderr
        assert ("LoRA" in done.stderr) == bool(said)


def test_another_name_is_refused_with_the_likeliest(installation: Installation) -> None:
    with installation.client() as client:
        answer = client.post("/v1/jobs", json=PLAIN | control(model="edge"))
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/control/0/model", "unknown")
    assert error["detail"] == "is unknown; did you mean edges?"
