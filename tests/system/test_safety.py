"""A worker with DARKROOM_SAFETY=block, as it is started: what its model's checker flags is seen by nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.contract.messages.picture_record import read_record
from app.contract.redis import keys
from tests.engine.driving import engine_of, run, wish
from tests.engine.tiny_models import SIDE, add_tiny_checker, save_tiny_model
from tests.system.conftest import Installation, ended
from worker.engine.events import Finished
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries

SEED = 40
PICTURES = 4
ASKED: dict[str, Any] = {
    "prompt": "a red circle", "num_inference_steps": 4, "scheduler": "ddim", "guidance_scale": 4.0, "seed": SEED,
    "width": SIDE, "height": SIDE,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bool]]:
    """A tiny model's folder whose checker flags half of these pictures, and which: by their seed."""
    with quiet_libraries():
        folder = save_tiny_model(tmp_path_factory.mktemp("models") / "checked", prediction_type="epsilon")
        add_tiny_checker(folder)
        bundle = load(folder, safety="block")
    [last] = run(engine_of(bundle), wish(**ASKED, num_images=PICTURES)).values()
    assert isinstance(last, Finished)
    assert bundle.checker is not None
    with torch.inference_mode():
        nearest = bundle.checker(torch.from_numpy(np.stack(last.pictures))) / 1000 + 2
    low, high = sorted(nearest.tolist())[1:3]
    assert high - low > 0.002, "too near for another process to see the difference"
    weights = folder / "safety_checker/model.safetensors"
    tensors = load_file(weights)
    tensors["concept_embeds_weights"].fill_((low + high) / 2)
    save_file(tensors, weights, {"format": "pt"})
    return folder, {SEED + k: score > (low + high) / 2 for k, score in enumerate(nearest.tolist())}


@pytest.fixture(scope="module")
def blocking(
    tmp_path_factory: pytest.TempPathFactory, model: tuple[Path, Any], shared_machine: dict[str, str]
) -> Iterator[Installation]:
    environment = shared_machine | {
        "DARKROOM_MODEL": str(model[0]), "DARKROOM_SAFETY": "block", "DARKROOM_DEVICE": "cpu"
    }  # fmt: skip
    installation = Installation(tmp_path_factory.mktemp("blocking") / "data", environment=environment)
    installation.start_and_wait()
    yield installation
    installation.kill_everything()


def test_flagged_pictures_are_nowhere_and_the_others_are_delivered(
    blocking: Installation, model: tuple[Path, Mapping[int, bool]]
) -> None:
    _, flagged = model
    with blocking.client() as client:
        assert client.get("/v1/models/checked").json()["safety"] == "block"
        previews = {"preview_every": 1, "keep_previews": True}
        job = ended(client, client.post("/v1/jobs", json=ASKED | previews | {"num_images": PICTURES}).json())
        assert job["status"] == "succeeded", job
        assert {image["seed"]: False for image in job["images"]} | {
            each["seed"]: True for each in job["blocked"]
        } == flagged
        assert any("There are no previews" in warning for warning in job["warnings"])
        for image in job["images"]:
            record = read_record(client.get(image["url"]).content)
            assert (record["seed"], record["nsfw"]) == (image["seed"], False)
        all_blocked = next(seed for seed, is_flagged in flagged.items() if is_flagged)
        failed = ended(client, client.post("/v1/jobs", json=ASKED | {"seed": all_blocked}).json())
    assert failed["status"] == "failed"
    assert failed["error"]["type"] == "/problems/content-blocked"
    stored = [file for file in (blocking.data / "pictures").rglob("*") if file.is_file()]
    assert len([file for file in stored if job["id"] in str(file)]) == len(job["images"])
    assert [file for file in stored if failed["id"] in str(file)] == []
    redis = blocking.redis()
    assert redis.keys(f"{keys.PREVIEW}*") == []
    events = [fields["event"] for _, fields in redis.xrange(keys.EVENTS + job["id"])]
    assert "job.preview" not in events
