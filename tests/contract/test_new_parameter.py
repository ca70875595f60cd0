"""What a new parameter costs: one field of PictureSpec, tried in a copy of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.contract.redis import keys
from tests.contract.test_spec import complaint
from tests.waiting import WAIT_SECONDS

SOURCE = Path(__file__).parents[2]
BEFORE = "\n\nclass FileSpec("
FIELD = '    tile_overlap: Annotated[int, Parameter(about="Pixels shared", default=0, least=0, most=12)] = 0\n'
UNDECLARED = "    tile_overlap: int = 0\n"

ASK_EVERYBODY = """
import json
import numpy as np
from fastapi.testclient import TestClient
from app.cli.main import app as commands
from app.cli.reproduce import _request
from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.picture_record import read_record
from app.contract.messages.kept_spec import recorded
from app.contract.messages.spec import JobSpec
from app.main import create_app
from app.replicate.input import published_schema
from app.settings import Settings
from tests.contract.test_spec import fields_of
from typer.main import get_command
from worker.engine.request import Request
from worker.images import encode

card = ModelCard.model_validate_json(CARD)
spec = resolve(JobRequest(prompt="a red circle", seed=7, tile_overlap=2), card)
stored = JobSpec.model_validate_json(spec.model_dump_json())
record = recorded(stored, seed=8) | {"model_hash": "0" * 64}
picture = encode(np.zeros((8, 8, 3), np.uint8), output_format="png", record=record)
try:
    Request.of("token", spec.model_copy(update={"tile_overlap": 13}))
except ValueError as error:
    refusal = str(error)
command = get_command(commands).commands["generate"]
client = TestClient(create_app(Settings()), base_url="http://127.0.0.1:8000")
shapes = client.get("/openapi.json").json()["components"]["schemas"]
print(json.dumps({
    "engine": Request.of("token", stored).tile_overlap,
    "refusal": refusal,
    "metadata": read_record(picture)["tile_overlap"],
    "reproduce": _request(read_record(picture), [])["tile_overlap"],
    "a job's input": shapes["JobSpec"]["properties"]["tile_overlap"]["type"],
    "a request": shapes["JobRequest"]["properties"]["tile_overlap"],
    "OpenAI's request": shapes["ImageGeneration"]["properties"]["tile_overlap"],
    "Replicate's form": published_schema(card)["properties"]["tile_overlap"]["maximum"],
    "command line": [param.opts for param in command.params],
    "page": client.get("/static/parameters.js").text,
    "fields": fields_of(JobSpec),
}))
"""


def copy_with(field: str, folder: Path) -> Path:
    """The package in `folder`, with one line more at the end of PictureSpec."""
    for package in ("app", "worker", "tests"):
        shutil.copytree(SOURCE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "app" / "contract" / "messages" / "spec.py"
    text = file.read_text()
    assert text.count(BEFORE) == 1, "PictureSpec ends where FileSpec begins"
    file.write_text(text.replace(BEFORE, f"{field}{BEFORE}"))
    return folder


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every part of the copy says of the new parameter."""
    folder = copy_with(FIELD, tmp_path_factory.mktemp("copy"))
    done = run(folder, f"CARD = {CARD!r}\n{ASK_EVERYBODY}")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


CARD = json.dumps(
    {
        "name": "starter", "family": "StableDiffusionPipeline", "sha256": "0" * 64, "width": 64, "height": 64,
        "side_multiple": 8, "min_side": 64, "max_side": 256, "max_steps": 100, "max_guidance_scale": 20,
        "max_images": 4, "max_work": 2**40, "num_inference_steps": 20, "guidance_scale": 4.0, "scheduler": "ddim",
        "schedulers": ["ddim"], "max_prompt_tokens": 30, "seats": 4,
    }
)  # fmt: skip


def test_everybody_knows_it(answers: dict[str, Any]) -> None:
    assert (answers["engine"], answers["metadata"], answers["reproduce"]) == (2, 2, 2)
    assert answers["refusal"] == "tile_overlap must be at most 12, not 13"
    assert answers["a job's input"] == "integer"
    for asked in ("a request", "OpenAI's request"):
        assert answers[asked]["description"] == "Pixels shared"
        limits = next(kind for kind in answers[asked]["anyOf"] if kind["type"] == "integer")
        assert (limits["minimum"], limits["maximum"], answers[asked]["default"]) == (0, 12, 0)
    assert answers["Replicate's form"] == 12
    assert ["--tile-overlap"] in answers["command line"]


def test_the_page_is_told_of_it(answers: dict[str, Any]) -> None:
    """tests/browser/test_parameters.py shows what the page makes of it."""
    told = json.loads(answers["page"].removeprefix("export const PARAMETERS = ").rstrip(";\n"))
    [field] = [each for each in told if each["name"] == "tile_overlap"]
    assert (field["part"], field["type"], field["least"], field["most"]) == ("picture", "integer", 0, 12)


def test_older_workers_would_leave_it_out_and_that_is_said(answers: dict[str, Any]) -> None:
    assert "tile_overlap" in str(complaint(answers["fields"], keys.RECORD_VERSION))


@pytest.mark.parametrize("module", ["app.main", "worker.engine.request"])
def test_half_a_declaration_starts_nothing(tmp_path: Path, module: str) -> None:
    done = run(copy_with(UNDECLARED, tmp_path), f"import {module}")
    assert done.returncode != 0
    assert "Undeclared: JobSpec.tile_overlap needs a Parameter in its annotation" in done.stderr
