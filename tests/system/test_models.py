"""README's chapters in one data folder: the bundled model, another one, and back to the first.

Nobody names a model, natively, in OpenAI's and Replicate's words and on the command line: everything is drawn.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx2
import pytest

from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.messages.picture_record import read_record
from tests.system.conftest import COMMAND, Installation, drawn, ended

PARAMETERS = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 4}
PARTS = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
REVISION = "0123456789abcdef0123456789abcdef01234567"


def model_at(folder: Path) -> Path:
    """The bundled model under another name."""
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / part).symlink_to(BUNDLED_MODEL / part)
    return folder


def drawn_by(installation: Installation, folder: Path) -> set[str]:
    """The models that drew pictures for requests which name none."""
    names = []
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        assert (job["status"], job["warnings"]) == ("succeeded", []), job
        names.append(job["model"])
        theirs = client.post("/v1/images/generations", json=PARAMETERS | {"response_format": "url"}).json()
        names.append(read_record(client.get(theirs["data"][0]["url"]).content)["model"])
        prediction = client.post("/v1/predictions", json={"input": PARAMETERS}).json()
        ended(client, prediction)
        prediction = client.get(f"/v1/predictions/{prediction['id']}").json()
        assert prediction["status"] == "succeeded", prediction
        names.append(prediction["model"].removeprefix("darkroom/"))
    output = folder / "out.png"
    arguments = ["generate", "a red circle", "--steps", "4", "-o", output, "--overwrite", "--url", installation.url]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names.append(read_record(output.read_bytes())["model"])
    return set(map(str, names))


def models_of(client: httpx2.Client) -> dict[str, tuple[str, bool]]:
    return {model["id"]: (model["state"], model["default"]) for model in client.get("/v1/models").json()["data"]}


@pytest.mark.timeout(900)  # Three starts, on machines that do much else.
def test_the_chapters_in_one_folder(closed_installation: Installation, tmp_path: Path) -> None:
    installation = closed_installation
    installation.environment["DARKROOM_MODEL_ALIASES"] = "gpt-image-1=starter"
    snapshot = model_at(tmp_path / "hub" / "models--Someone--Second-Model" / "snapshots" / REVISION)
    (tmp_path / "link").symlink_to(snapshot)
    chapters = [(None, "starter"), (tmp_path / "link", "second-model"), (None, "starter")]
    for model, name in chapters:
        if installation.process is not None:
            assert installation.stop() == 0
        installation.environment.pop("DARKROOM_MODEL", None)
        installation.environment |= {"DARKROOM_MODEL": str(model)} if model else {}
        installation.start_and_wait()
        assert drawn_by(installation, tmp_path) == {name}

    with installation.client() as client:
        away = ("away", False)
        ready = ("ready", True)
        others = {"second-model": away, "gpt-image-1": ("ready", False), "starter-scorer": ("ready", False)}
        assert models_of(client) == {"starter": ready} | others
        job = client.post("/v1/jobs", json=PARAMETERS | {"model": "second-model"}).json()
        assert job["queue"]["workers"] == 0
        assert "No worker serves second-model since" in job["warnings"][0]
        forget = [COMMAND, "models", "forget", "second-model", "--data", str(installation.data)]
        assert subprocess.run(forget, capture_output=True).returncode == 2, "a job waits for it"
        assert subprocess.run([*forget, "--cancel-jobs"], capture_output=True).returncode == 0
        assert client.get(job["urls"]["self"]).json()["status"] == "canceled"
        images = client.post("/v1/images/generations", json=PARAMETERS | {"model": "gpt-image-1"})
        assert images.status_code == 200, images.text


def test_a_name_that_no_request_could_use(closed_installation: Installation, tmp_path: Path) -> None:
    """Said before anything is started."""
    folder = model_at(tmp_path / "My Model (v2)")
    closed_installation.environment["DARKROOM_MODEL"] = str(folder)
    closed_installation.start()
    said = closed_installation.output()
    assert closed_installation.process is not None
    assert closed_installation.process.returncode == 78
    assert said.splitlines() == [line for line in said.splitlines() if "DARKROOM_MODEL_NAME=my-model-v2" in line]
    assert not (closed_installation.data / "logs").exists()
