"""What Prometheus reads of a worker: driven by scripted events, scraped over HTTP."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest
from prometheus_client import generate_latest

from app.contract.messages.questions import EmbedSpec
from app.contract.messages.usage import Work
from tests.waiting import WAIT_SECONDS
from worker.engine.errors import GenerationFailed
from worker.engine.events import DrawnImage, Failed, Finished, Progress, Stopped, Timings
from worker.metrics import WorkerMetrics, _Gpu, handle_of

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


class ThreeSeatsTaken:
    seats = 8
    free_seats = 5
    last_batch = 3
    preview_failures = 2
    work = Work(evaluations=3, rows=5, device_seconds=0.5)


def finished(request: str) -> Finished:
    timings = Timings(encode=0.25, denoise=2.0, decode=0.5, wall=3.0)
    pixels = np.zeros((8, 8, 3), np.uint8)
    images = [DrawnImage(pixels, seed=1 + index, index=index, nsfw=index == 1) for index in range(2)]
    return Finished(request, images=images, steps=20, timings=timings, warnings=[])


def test_what_a_scrape_shows() -> None:
    metrics = WorkerMetrics(ThreeSeatsTaken(), models=["starter", "starter-scorer"])
    metrics.answered(EmbedSpec(model="starter-scorer", input=("zanzibar",)), "succeeded", 0.25)
    metrics.tell_stored(lambda: 700)
    metrics.stepped(0.03, [Progress("secret-token", 1, 20)])
    metrics.stepped(0.03, [finished("a"), Failed("b", GenerationFailed("zanzibar")), Stopped("c")])
    port = metrics.serve("127.0.0.1", 0)
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=WAIT_SECONDS).text
    for line in (
        'darkroom_step_seconds_bucket{le="0.05"} 2.0',
        'darkroom_step_samples_bucket{le="4.0"} 2.0',
        "darkroom_seats 8.0",
        "darkroom_seats_in_use 3.0",
        "darkroom_pictures_total 2.0",
        "darkroom_pictures_flagged_total 1.0",
        'darkroom_jobs_total{outcome="succeeded"} 1.0',
        'darkroom_jobs_total{outcome="failed"} 1.0',
        'darkroom_jobs_total{outcome="stopped"} 1.0',
        'darkroom_faults_total{problem="generation-failed"} 1.0',
        "darkroom_preview_failures_total 2.0",
        'darkroom_stage_seconds_total{stage="denoise"} 2.0',
        'darkroom_worker{model="starter"} 1.0',
        'darkroom_worker{model="starter-scorer"} 1.0',
        'darkroom_questions_total{outcome="succeeded",task="embed"} 1.0',
        "darkroom_evaluations_total 3.0",
        "darkroom_rows_total 5.0",
        "darkroom_device_seconds_total 0.75",
        "darkroom_stored_bytes_total 700.0",
    ):
        assert line in text.splitlines(), line
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE") and "_created " not in line}
    assert {name for name in told if f"`{name}`" not in OPERATIONS} == set()
    assert "secret-token" not in text
    assert "zanzibar" not in text


def test_idle_steps_are_no_steps() -> None:
    engine: Any = SimpleNamespace(seats=8, free_seats=8, last_batch=0, preview_failures=0, work=Work())
    metrics = WorkerMetrics(engine, models=["starter"])
    metrics.stepped(0.5, [])
    assert b"darkroom_step_seconds_count 0.0" in generate_latest(metrics.registry)


class NvmlError(Exception):
    pass


def no_power(handle: str, *which: int) -> int:
    raise NvmlError


def by_uuid(uuid: str) -> str:
    if uuid not in ("GPU-b", "MIG-c"):
        raise NvmlError
    return uuid


@pytest.fixture
def slice_without_power() -> Any:
    """NVML as a MIG slice answers: memory, but no power reading."""
    return SimpleNamespace(
        NVMLError=NvmlError,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetIndex=lambda handle: 3,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=5, total=10),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50),
        nvmlDeviceGetPowerUsage=no_power,
        nvmlDeviceGetTemperature=lambda handle, sensor: 61,
    )


def test_a_gpu_that_does_not_answer_everything(slice_without_power: Any) -> None:
    families = {family.name: family.samples for family in _Gpu(slice_without_power, "GPU-b").collect()}
    assert all(f"`{name}`" in OPERATIONS for name in families)
    assert [sample.value for sample in families["darkroom_gpu_utilization"]] == [0.5]
    assert [sample.value for sample in families["darkroom_gpu_memory_used_bytes"]] == [5]
    assert [sample.labels for sample in families["darkroom_gpu_memory_used_bytes"]] == [{"gpu": "3"}]
    assert families["darkroom_gpu_power_watts"] == []


def test_a_gpu_that_answers_nothing_any_more_takes_no_other_figure_along(slice_without_power: Any) -> None:
    fallen = SimpleNamespace(**vars(slice_without_power))
    for question in [name for name in vars(fallen) if name.startswith("nvmlDeviceGet")]:
        setattr(fallen, question, no_power)
    assert [family.samples for family in _Gpu(fallen, "GPU-b").collect()] == [[]] * 5


def test_a_worker_tells_of_its_own_gpu_whatever_its_number_is(slice_without_power: Any) -> None:
    assert handle_of(slice_without_power, "b") == "GPU-b"
    assert handle_of(slice_without_power, "c") == "MIG-c"
    with pytest.raises(NvmlError):
        handle_of(slice_without_power, "a")


def test_models_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker with several folders: seats are those of what is in memory, and counts go on."""
    metrics = WorkerMetrics(None, models=["scorer"])

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("darkroom_seats") is None
    for model in ("a", "b"):
        metrics.begun(model, ThreeSeatsTaken())
        metrics.loaded(model, 2.5, "loaded")
        assert (value("darkroom_seats_in_use"), value("darkroom_worker", model=model)) == (3, 1)
        metrics.stepped(0.01, [])
        metrics.closed(model)
        assert (value("darkroom_seats"), value("darkroom_worker", model=model)) == (0, 0)
    metrics.loaded("b", 1.5, "failed")
    assert value("darkroom_model_loads_total", model="b", outcome="failed") == 1
    assert value("darkroom_model_load_seconds_total", model="b") == 4.0
    assert value("darkroom_step_seconds_count") == 2
