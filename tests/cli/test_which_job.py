"""A job is named by its id, by the first digits of it, or by its picture; what could mean two is asked back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.cli.client import Service
from app.contract.messages import job
from app.contract.redis import keys
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_kept_previews import KEPT, succeed_with_sheet
from tests.cli.conftest import Run, picture

IDS = ("job_abcd1" + "0" * 19, "job_abcd2" + "0" * 19, "job_ffff0" + "1" * 15 + "zeu1")


@pytest.fixture
def named(gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three jobs, two of which begin alike."""
    ids = iter(IDS)
    monkeypatch.setattr("app.jobs.admission.new_job_id", lambda cell: next(ids))
    prompts = ("a frog", "a lion", "a panda")
    made = [gateway.client.post("/v1/jobs", json={"prompt": prompt}).json()["id"] for prompt in prompts]
    assert made == list(IDS)
    monkeypatch.setattr("app.jobs.admission.new_job_id", job.new_job_id)
    return made


def file_of(job_id: Any, path: Path, **more: Any) -> None:
    note, file = PngInfo(), io.BytesIO()
    note.add_itxt("darkroom", json.dumps({"job_id": job_id} | more))
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=note)
    path.write_bytes(file.getvalue())


def test_every_command_takes_the_first_digits(run: Run, named: list[str], worker: ScriptedWorker) -> None:
    for given in ("ffff", "FFFF0", "job_ffff01", IDS[2][:-2], IDS[2], IDS[2].removeprefix("job_")):
        assert json.loads(run("jobs", "show", given, "--json").stdout)["id"] == IDS[2]
    assert run("jobs", "cancel", "abcd1", IDS[0]).stdout == f"{IDS[0]}  canceled\n", "once, however often it is named"
    assert run("jobs", "watch", "abcd1").stdout.startswith(f"{IDS[0]}  canceled")
    assert run("jobs", "delete", "abcd1").stdout == f"{IDS[0]}  deleted\n"
    assert json.loads(run("jobs", "show", "abcd", "--json").stdout)["id"] == IDS[1], "now they mean one"


def test_what_may_be_two_is_asked_back_before_anything_is_done(run: Run, named: list[str], gateway: Running) -> None:
    for command in ("show", "cancel", "delete", "watch"):
        done = run("jobs", command, *(["ffff"] if command != "show" else []), "abcd")
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"job_abcd may be {IDS[1]} (a lion), {IDS[0]} (a frog); give more of it" in done.stderr
    assert {each["status"] for each in gateway.client.get("/v1/jobs").json()["data"]} == {"queued"}


def test_a_typing_error_is_recognised(run: Run, named: list[str]) -> None:
    wrong = IDS[2].replace("ffff0", "fffe0")
    for given in (wrong, wrong[:16]):
        done = run("jobs", "show", given)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"did you mean {IDS[2]}?" in done.stderr
    nobody = run("jobs", "delete", "0123")
    assert "no job of yours has an id that begins with job_0123; `darkroom jobs list`" in nobody.stderr
    for given in ("abc", "a frog", "job_", "", "*"):
        assert "nor four or more digits" in run("jobs", "show", given).stderr


def test_a_picture_names_its_job(run: Run, named: list[str], tmp_path: Path) -> None:
    file_of(IDS[1], tmp_path / "lion.png")
    assert json.loads(run("jobs", "show", "lion.png", "--json").stdout)["id"] == IDS[1]
    assert run("jobs", "delete", "lion.png", "abcd2").stdout == f"{IDS[1]}  deleted\n"
    for strange in (None, 7, "../keys", "job_abcd"):
        file_of(strange, tmp_path / "strange.png")
        done = run("jobs", "show", "strange.png")
        assert (done.exit_code, "does not say which job drew it" in done.stderr) == (2, True)
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png: these bytes are no readable PNG" in run("jobs", "show", "text.png").stderr


def test_the_trajectory_of_a_picture(run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    job_id = gateway.client.post("/v1/jobs", json=KEPT | {"num_images": 2}).json()["id"]
    sheet = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sheet, "JPEG")
    succeed_with_sheet(worker, worker.claim(), sheet=sheet.getvalue(), data=picture("white"), columns=2)
    file_of(job_id, tmp_path / "second.png", index=1)
    told = json.loads(run("trajectory", "second.png", "-o", "steps.png", "--json").stdout)
    assert (told["job_id"], told["index"]) == (job_id, 1)
    told = json.loads(run("trajectory", "second.png", "--index", "0", "-o", "steps-0.png", "--json").stdout)
    assert told["index"] == 0


def test_a_service_that_does_not_know_the_question(run: Run, named: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an older release sends every job, page by page."""
    real = Service.jobs

    async def jobs(self: Service, **query: Any) -> dict[str, Any]:
        query.pop("id_prefix", None)
        return await real(self, **query | {"limit": 1})

    monkeypatch.setattr(Service, "jobs", jobs)
    assert json.loads(run("jobs", "show", "abcd1", "--json").stdout)["id"] == IDS[0]
    assert run("jobs", "show", "abcd").exit_code == 2


def test_an_operator_names_anybodys_job(run: Run, named: list[str], redis_client: redis.Redis) -> None:
    assert "only a failed job can be run again" in run("jobs", "retry", "ffff").stderr
    assert "(default)" in run("jobs", "retry", "abcd").stderr
    redis_client.set(keys.JOB + "job_0123456789:other", "")
    assert "no job has an id that begins with job_0123" in run("jobs", "retry", "0123").stderr


def test_the_api_lists_by_the_beginning_of_an_id(named: list[str], gateway: Running) -> None:
    def listed(**query: Any) -> list[str]:
        return [each["id"] for each in gateway.client.get("/v1/jobs", params=query).json()["data"]]

    assert listed(id_prefix="job_abcd") == [IDS[1], IDS[0]]
    assert listed(id_prefix="job_abcd", status="failed") == []
    assert listed(id_prefix=IDS[2]) == listed(id_prefix=IDS[2][:-2]) == [IDS[2]], "with the name of a cell"
    first = gateway.client.get("/v1/jobs", params={"id_prefix": "job_abcd", "limit": 1}).json()
    assert listed(id_prefix="job_abcd", cursor=first["next_cursor"]) == [IDS[0]]
    assert listed(id_prefix="job_0000") == []
    for bad in ("job_abc", "abcd", "job_abcd*", "job_" + "0" * 25):
        assert gateway.client.get("/v1/jobs", params={"id_prefix": bad}).status_code == 422
