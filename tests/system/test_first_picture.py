"""HTTP in, picture out: the whole road, with real processes and the bundled model; and `darkroom reproduce` draws the
same picture again, or gives an honest answer."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from rq import Queue, Worker

from app.contract.messages.picture_record import read_record
from benchmarks import memory
from benchmarks.one_machine import Service
from tests.system.conftest import COMMAND, Installation, drawn, ended, processes_of
from tests.waiting import WAIT_SECONDS, until
from worker.images import encode

PARAMETERS = {"prompt": "a red circle on a blue background", "seed": 7}


def shows_a_red_circle_on_blue(picture: bytes) -> bool:
    """Border blue, middle red, by the medians of both."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    border = np.concatenate([pixels[:6].reshape(-1, 3), pixels[-6:].reshape(-1, 3)])
    middle = pixels[52:76, 52:76].reshape(-1, 3)
    (r, _, b), (mid_r, mid_g, mid_b) = np.median(border, 0), np.median(middle, 0)
    return bool(b > r + 60 and mid_r > mid_b + 60 and mid_r > mid_g + 60)


def test_a_job_from_request_to_picture(installation: Installation) -> None:
    with installation.client() as client:
        answer = client.post("/v1/jobs", json=PARAMETERS)
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        assert job["status"] in ("queued", "running")
        seen = [job]
        while seen[-1]["status"] in ("queued", "running"):
            seen.append(client.get(answer.headers["location"], params={"wait": 10}).json())
        job = seen[-1]
        assert job["status"] == "succeeded", job
        steps = [each["progress"]["step"] for each in seen]
        assert steps == sorted(steps)
        assert any(0 < each["progress"]["step"] < each["progress"]["steps"] for each in seen), steps
        assert job["input"]["seed"] == 7
        (image,) = job["images"]
        by_url = client.get(image["url"])
        by_route = client.get(f"/v1/jobs/{job['id']}/images/0")
    assert by_url.headers["content-type"] == "image/png"
    assert by_url.content == by_route.content
    assert len(by_url.content) == image["bytes"]
    assert shows_a_red_circle_on_blue(by_url.content)
    record = read_record(by_url.content)
    assert (record["prompt"], record["seed"]) == (PARAMETERS["prompt"], 7)


def test_prefer_wait_answers_with_the_finished_job(installation: Installation) -> None:
    with installation.client() as client:
        parameters, wait = PARAMETERS | {"num_images": 2}, {"Prefer": "wait=60"}
        # A machine that needs more than the minute for a new model is quicker the second time.
        answer = until(lambda: (a := client.post("/v1/jobs", json=parameters, headers=wait)).status_code != 202 and a)
        job = answer.json()
        assert (answer.status_code, job["status"]) == (200, "succeeded")
        assert [image["seed"] for image in job["images"]] == [7, 8]
        again = drawn(client, PARAMETERS)
        first, second = (client.get(each["images"][0]["url"]).content for each in (job, again))
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (first, second)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2, "the same seed draws the same picture, alone or in company"


def test_the_processes_are_recognisable(installation: Installation) -> None:
    lines = processes_of(installation.data).values()
    for name in ("gateway", "worker", "webhooks"):
        assert sum(line.endswith(f"darkroom {name}") for line in lines) == 1, lines
    assert any("valkey-server" in line for line in lines)


def test_rq_shows_the_worker(installation: Installation) -> None:
    connection = redis.Redis(unix_socket_path=str(installation.data / "valkey" / "valkey.sock"))
    queue = Queue("generate-starter", connection=connection, serializer="json")
    (worker,) = Worker.all(queue=queue)
    assert worker.pid == installation.pids("worker")[0]
    info = subprocess.run(
        [COMMAND.with_name("rq"), "info", "--url", f"unix://{installation.data}/valkey/valkey.sock"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "generate-starter" in info.stdout
    assert worker.name in info.stdout
    connection.close()


def generate(installation: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "generate", *arguments, "--url", installation.url],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp"])
def test_generate_saves_a_picture(installation: Installation, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    done = generate(installation, str(PARAMETERS["prompt"]), "-o", str(output), "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    assert "seed 7" in done.stdout
    assert shows_a_red_circle_on_blue(output.read_bytes())
    assert read_record(output.read_bytes())["seed"] == 7


def test_generate_says_what_was_refused(installation: Installation, tmp_path: Path) -> None:
    done = generate(installation, "a circle", "-o", str(tmp_path / "out.png"), "--scheduler", "magic")
    assert done.returncode == 2
    assert "darkroom generate: --scheduler " in done.stderr
    assert "Traceback" not in done.stderr
    assert generate(installation, "a circle", "-o", str(tmp_path / "nowhere" / "out.png")).returncode == 2
    assert generate(installation, "a circle", "-o", str(tmp_path / "out.gif")).returncode == 2


def test_cancel_frees_the_worker_within_a_step(installation: Installation) -> None:
    with installation.client() as client:
        job = client.post("/v1/jobs", json=PARAMETERS | {"num_inference_steps": 100, "num_images": 4}).json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
        client.post(f"/v1/jobs/{job['id']}/cancel")
        canceled = until(lambda: (j := client.get(f"/v1/jobs/{job['id']}").json())["ended_at"] and j)
        assert (canceled["status"], canceled["images"]) == ("canceled", [])
        assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "canceled", "twice does no harm"
        after = drawn(client, PARAMETERS)
        assert after["status"] == "succeeded"
        assert client.post(f"/v1/jobs/{after['id']}/cancel").status_code == 409


def story(installation: Installation, job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    with installation.client() as client, client.stream("GET", job["urls"]["events"]) as told:
        lines = [line.partition(": ")[::2] for line in told.iter_lines() if line]
    names = [value for name, value in lines if name == "event"]
    return list(zip(names, (json.loads(value) for name, value in lines if name == "data"), strict=True))


def test_a_watcher_sees_the_picture_come(installation: Installation) -> None:
    parameters = PARAMETERS | {"num_inference_steps": 60, "preview_every": 2}
    with installation.client() as client:
        job = client.post("/v1/jobs", json=parameters).json()
    told = story(installation, job)
    assert told[-1][0] == "job.succeeded"
    previews = [data for name, data in told if name == "job.preview"]
    steps = [preview["step"] for preview in previews]
    assert steps
    assert steps == sorted(set(steps)), "each once, in order"
    assert all(step % 2 == 0 and step < 60 for step in steps)
    with Image.open(io.BytesIO(base64.b64decode(previews[-1]["jpeg"]))) as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
        pixels = np.asarray(image.convert("RGB")).astype(int)
    border, middle = pixels[0].mean(0), pixels[14:18, 14:18].mean((0, 1))
    assert border[2] > border[0], "blue around"
    assert middle[0] > middle[2], "red within"


def test_a_second_one_in_the_same_folder(installation: Installation) -> None:
    """It waits until it is told to stop, and the first goes on."""
    second = Installation(installation.data)
    second.start()
    assert second.process is not None
    assert second.process.stderr is not None
    try:
        assert "its processes are still ending" in second.process.stderr.readline()
        assert second.stop() == 78
    finally:
        second.process.kill()
    with installation.client() as client:
        assert client.get("/healthz").status_code == 200


def test_everything_on_disk_is_for_this_user_alone(installation: Installation) -> None:
    """It was started under umask 0, and has drawn."""
    with installation.client() as client:
        drawn(client, PARAMETERS)
    found = [installation.data, *installation.data.rglob("*")]
    names = {path.name for path in found}
    assert {"gateway.log", "worker.log", "appendonlydir", "signing.key", "0.png"} <= names
    assert [(str(path), oct(path.lstat().st_mode)) for path in found if path.lstat().st_mode & 0o077] == []


def test_the_bench_of_memory_sees_its_worker(installation: Installation) -> None:
    assert installation.process is not None
    service = Service(installation.data, installation.url, installation.process.pid)
    ready, peak = memory.worker_mb(service, 1, 2)
    assert service.worker().pid in installation.pids("worker")
    assert 100 < ready <= peak


EXACT = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 6, "reproducible": True}


def reproduce(installation: Installation, picture: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "reproduce", str(picture), "--url", installation.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)


def picture_of(installation: Installation, folder: Path, **parameters: object) -> Path:
    """The second of two pictures, drawn in company."""
    with installation.client() as client:
        others = [client.post("/v1/jobs", json=EXACT | {"seed": seed, "reproducible": False}) for seed in range(3)]
        job = drawn(client, EXACT | {"num_images": 2, **parameters})
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
