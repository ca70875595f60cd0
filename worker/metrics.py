"""What a worker counts, for Prometheus on a port of its own: steps, seats, pictures, faults, and a GPU if there is one.

Listens to the engine's events and reads its properties. Never a label per job, prompt or tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.contract.messages.questions import Question
from app.contract.messages.usage import Work
from worker.engine.events import EngineEvent, Failed, Finished, Parked, Started, Stopped

log = structlog.get_logger()

STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Seated(Protocol):
    """What is asked of the engine."""

    seats: int
    last_batch: int
    work: Work

    @property
    def free_seats(self) -> int: ...

    @property
    def preview_failures(self) -> int: ...


class WorkerMetrics:
    """One worker's figures. `stepped` is called from the engine's thread. `device` is where it computes: if that is a
    GPU, it is told of as well."""

    def __init__(self, engine: Seated | None, *, models: Sequence[str], device: torch.device | None = None) -> None:
        self.registry = CollectorRegistry()
        self._engine = engine
        self._steps = Histogram(
            "darkroom_step_seconds",
            "One iteration of the engine",
            buckets=STEP_SECONDS,
            registry=self.registry,
        )
        self._samples = Histogram(
            "darkroom_step_samples", "Samples that took a step together", buckets=SAMPLES, registry=self.registry
        )
        self._pictures = Counter("darkroom_pictures", "Pictures drawn", registry=self.registry)
        self._flagged = Counter(
            "darkroom_pictures_flagged", "Pictures that the model's safety checker flagged", registry=self.registry
        )
        self._jobs = Counter("darkroom_jobs", "Attempts that ended", ["outcome"], registry=self.registry)
        self._faults = Counter("darkroom_faults", "Attempts that failed", ["problem"], registry=self.registry)
        self._stages = Counter(
            "darkroom_stage_seconds", "Time of jobs in a stage, shared steps counted in full", ["stage"],
            registry=self.registry,
        )  # fmt: skip
        self._parked = Counter(
            "darkroom_jobs_parked", "Times that a batch job was put aside for interactive ones", registry=self.registry
        )
        self._previews = Counter("darkroom_preview_failures", "Previews that could not be made", registry=self.registry)
        self._previews_lost = 0
        self._evaluations = Counter(
            "darkroom_evaluations", "Evaluations of the denoiser, one for each sample", registry=self.registry
        )
        self._rows = Counter("darkroom_rows", "Rows that they took in its batches", registry=self.registry)
        self._device = Counter(
            "darkroom_device_seconds", "Time that was divided among jobs and questions", registry=self.registry
        )
        self._worked = Work()
        self._late = Counter(
            "darkroom_jobs_found_late", "Jobs that were claimed without word of them: a free seat had to ask",
            registry=self.registry,
        )  # fmt: skip
        self._has_seats = False
        if engine is not None:
            self._register_seats()
        self._questions = Counter(
            "darkroom_questions", "Questions about pictures and texts that ended", ["task", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._snapshots = _Snapshots(self.registry)
        self._models = _Models(self.registry, models)
        if device is not None and device.type == "cuda" and (gpu := _Gpu.found(device)) is not None:
            self.registry.register(gpu)

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """Count one call of the engine's step, and what came of it."""
        assert self._engine is not None
        if self._engine.last_batch:
            self._steps.observe(seconds)
            self._samples.observe(self._engine.last_batch)
        lost = self._engine.preview_failures
        self._previews.inc(lost - self._previews_lost)
        self._previews_lost = lost
        self._count_work(self._engine.work)
        for event in events:
            if isinstance(event, Finished):
                self._jobs.labels("succeeded").inc()
                self._pictures.inc(len(event.images))
                self._flagged.inc(sum(bool(image.nsfw) for image in event.images))
                for stage in ("encode", "denoise", "decode"):
                    self._stages.labels(stage).inc(getattr(event.timings, stage))
            elif isinstance(event, Failed):
                self._jobs.labels("failed").inc()
                self._faults.labels(event.error.slug).inc()
            elif isinstance(event, Stopped | Parked):
                self._jobs.labels("stopped" if isinstance(event, Stopped) else "parked").inc()
            elif isinstance(event, Started) and event.resumed:
                self._snapshots.resumed.inc()
                self._snapshots.spared.inc(event.resumed)

    def put_aside(self, token: str) -> None:
        """Count a batch job that has made room."""
        self._parked.inc()

    def _count_work(self, work: Work) -> None:
        """What has come since the last look."""
        before, self._worked = self._worked, replace(work)
        self._evaluations.inc(work.evaluations - before.evaluations)
        self._rows.inc(work.rows - before.rows)
        self._device.inc(work.device_seconds - before.device_seconds)

    def begun(self, model: str, engine: Seated) -> None:
        """This model is in memory from now on, and drawn by this engine."""
        if not self._has_seats:
            self._register_seats()
        self._engine, self._previews_lost, self._worked = engine, 0, Work()
        self._models.in_memory.labels(model).set(1)

    def closed(self, model: str) -> None:
        """It is not any more."""
        self._engine = None
        self._models.in_memory.labels(model).set(0)

    def loaded(self, model: str, seconds: float, outcome: str) -> None:
        """Count that a model was taken up: `loaded` or `failed`."""
        self._models.loads.labels(model, outcome).inc()
        self._models.load_seconds.labels(model).inc(seconds)

    def answered(self, question: Question, outcome: str, seconds: float) -> None:
        """Count a question that has ended (succeeded, failed or stopped), and its part of the device's time."""
        self._questions.labels(question.task, outcome).inc()
        self._device.inc(seconds)

    def tell_stored(self, stored_bytes: Callable[[], int]) -> None:
        """Ask at each scrape how much was stored since the start."""
        self.registry.register(_Stored(stored_bytes))

    def job_found_late(self) -> None:
        """Count a job that was claimed only because the worker asked all the same."""
        self._late.inc()

    def _register_seats(self) -> None:
        self._has_seats = True
        seats = Gauge("darkroom_seats", "Seats of this worker", registry=self.registry)
        seats.set_function(lambda: self._engine.seats if self._engine else 0)
        used = Gauge("darkroom_seats_in_use", "Seats that samples claim", registry=self.registry)
        used.set_function(lambda: self._engine.seats - self._engine.free_seats if self._engine else 0)

    def snapshot(self, outcome: str, size: int) -> None:
        """Count a snapshot that was kept, or was not; of so many bytes."""
        self._snapshots.kept.labels(outcome).inc()
        self._snapshots.bytes_kept.inc(size)

    def looked_for(self, *, found: bool, is_refused: bool, repeated: int) -> None:
        """Count an attempt that is not its job's first, and the evaluations that it makes again."""
        self._snapshots.repeated.inc(repeated)
        self._snapshots.looked_for.labels("found" if found else "refused" if is_refused else "none").inc()

    def serve(self, host: str, port: int) -> int:
        """Answer GET /metrics in a thread until the process ends. Returns the port. OSError if it is taken."""
        server, _ = start_http_server(port, addr=host, registry=self.registry)
        log.info("metrics", host=host, port=server.server_port)
        return int(server.server_port)


class _Snapshots:
    """What became of snapshots, and of the attempts that looked for one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.kept = Counter(
            "darkroom_snapshots", "Snapshots of running jobs, by what became of them", ["outcome"], registry=registry
        )
        self.bytes_kept = Counter("darkroom_snapshot_bytes", "Bytes of snapshots kept", registry=registry)
        self.looked_for = Counter(
            "darkroom_snapshots_looked_for", "Attempts beyond a job's first, by whether a snapshot was there",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.resumed = Counter("darkroom_jobs_resumed", "Attempts that went on from a snapshot", registry=registry)
        self.repeated = Counter(
            "darkroom_evaluations_repeated", "Model evaluations made again, as far as is known", registry=registry
        )
        self.spared = Counter(
            "darkroom_evaluations_resumed", "Model evaluations that were not made again", registry=registry
        )


class _Models:
    """Which models are in memory, and what it takes to bring them there."""

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        self.in_memory = Gauge("darkroom_worker", "1, with what is in memory", ["model"], registry=registry)
        for model in models:
            self.in_memory.labels(model).set(1)
        self.loads = Counter(
            "darkroom_model_loads", "Models taken up by a worker of several", ["model", "outcome"], registry=registry
        )
        self.load_seconds = Counter(
            "darkroom_model_load_seconds", "Time that this took, jobs at rest not counted", ["model"], registry=registry
        )


class _Stored(Collector):
    """What the store has counted."""

    def __init__(self, stored_bytes: Callable[[], int]) -> None:
        self._stored_bytes = stored_bytes

    def collect(self) -> Iterator[CounterMetricFamily]:
        about = "Bytes of pictures, and of files beside them, that were stored"
        yield CounterMetricFamily("darkroom_stored_bytes", about, value=self._stored_bytes())


class _Gpu(Collector):
    """NVML's figures of one GPU."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def found(cls, device: torch.device) -> _Gpu | None:
        """Of this worker's GPU. None without the library or a driver that knows it."""
        try:
            import pynvml  # type: ignore[import-untyped]

            pynvml.nvmlInit()
            return cls(pynvml, handle_of(pynvml, str(torch.cuda.get_device_properties(device).uuid)))
        except Exception as error:  # NVML's errors are made at run time, and a missing driver is no fault
            log.info("no figures of the GPU", reason=str(error))
            return None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Memory in bytes, power in watts, use from 0 to 1, temperature in degrees Celsius."""
        nvml, handle = self._nvml, self._handle
        questions: dict[str, Callable[[], Any]] = {
            "memory_used_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "memory_total_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total,
            "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "temperature_celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }
        values = {name: self._answer(ask) for name, ask in questions.items()}
        number = self._answer(lambda: nvml.nvmlDeviceGetIndex(handle))
        for name, value in values.items():
            family = GaugeMetricFamily(f"darkroom_gpu_{name}", "Of this worker's GPU", labels=["gpu"])
            if value is not None:
                family.add_metric(["" if number is None else str(int(number))], value)
            yield family

    def _answer(self, ask: Callable[[], Any]) -> float | None:
        """None if there is none: not every device answers every question, a MIG slice has no power of its own, and a
        GPU that has fallen off its bus must not take the other figures along."""
        try:
            return float(ask())
        except self._nvml.NVMLError:
            return None


def handle_of(nvml: Any, uuid: str) -> Any:
    """NVML's handle of the GPU, or the slice of one, that has this UUID. Numbers would not do: NVML counts all of a
    machine's GPUs, whatever CUDA_VISIBLE_DEVICES leaves to this process."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
