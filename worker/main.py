"""A worker's life: settings, model, engine, intake; signals; exit codes.

Threads: the main one claims, one runs the engine, one beats, one reports progress, a few put pictures away.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import redis
import structlog
import torch
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from app import __version__
from app.contract.card import ModelCard
from app.contract.durability import durability_faults
from app.contract.environment import SettingsError
from app.contract.exits import CANNOT_START, LOST_DEVICE
from app.contract.logs import configure
from app.contract.model_name import IllegalName
from app.contract.objects import StoreOptions
from app.contract.ownership import Claim, Ownership
from app.contract.tracing import close_provider, open_provider
from worker.attempts import Attempts
from worker.engine.engine import Engine
from worker.engine.sample import Request
from worker.errors import StorageDenied, StorageError
from worker.intake import Intake
from worker.metrics import WorkerMetrics
from worker.models.bundle import Bundle, ModelError, describe, load
from worker.profiles import start_engine
from worker.provenance import Provenance, provenance_of
from worker.reporter import Reporter
from worker.settings import WorkerSettings, settings_from_env, worker_name
from worker.storage import ObjectStore
from worker.tracing import Traces
from worker.watchdog import abandon_ship, ends_within

log = structlog.get_logger()

WARM_UP_SECONDS = 600.0
"""Profiling is bounded to seconds, but one step of a large model on a slow CPU, or the graphs of a GPU, are not."""

LAST_WORDS_SECONDS = 10.0
"""After the grace period: time to hand jobs back and to say so, before the process goes anyway."""


class CannotStart(Exception):
    """A reason that no restart mends. One sentence, with the remedy."""


def run() -> int:
    """Serve one model until told to stop. Returns the exit code."""
    try:
        settings = settings_from_env()
        configure(settings.log_level, process="worker")
        name = settings.name()
        store = _open_store(settings)
        clients = _connect(settings)
        bundle = _load(settings, name)
        with ends_within(WARM_UP_SECONDS, what="warming up"):
            engine = start_engine(bundle, settings)
        card = describe(bundle, seats=settings.seats)
        worker = Worker(settings, engine, card, provenance_of(bundle), store, *clients)
    except (SettingsError, IllegalName, CannotStart, ModelError) as error:
        print(f"darkroom worker: {error}", file=sys.stderr)
        return CANNOT_START
    return worker.run()


class Worker:
    """The rooms of this process, wired. `engine` draws what `card` promises and `provenance` says of its pictures."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        card: ModelCard,
        provenance: Provenance,
        store: ObjectStore,
        commands: redis.Redis,
        rq: redis.Redis,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.card = card
        self.attempts = Attempts()
        ownership = Ownership(commands)
        self.provider = open_provider("darkroom-worker", version=__version__)
        self.traces = Traces(self.provider.get_tracer("darkroom.worker", __version__) if self.provider else None)
        self.reporter = Reporter(ownership, store, self.attempts, provenance, self.traces)
        self.intake = Intake(
            card=self.card,
            name=worker_name(),
            connection=rq,
            ownership=ownership,
            engine=self.engine,
            attempts=self.attempts,
            begin=self.begin,
            may_claim=self.reporter.storage_is_well,
            on_beat=self.show_a_pulse,
        )
        self.stopped = threading.Event()
        self.metrics: WorkerMetrics | None = None
        if settings.worker_metrics_port is not None:
            self.metrics = WorkerMetrics(engine, model=card.name)
            self.metrics.serve(settings.metrics_host, settings.worker_metrics_port)

    def run(self) -> int:
        """Claim until a signal, then finish what fits into the grace period and hand back the rest."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.intake.request_stop)
        threading.Thread(target=self.denoise, name="engine", daemon=True).start()
        self.intake.claim_until_stopped(registered=self.say_ready)
        log.info("stopping", jobs=len(self.attempts.claims()), grace_seconds=self.settings.grace_seconds)
        self.finish_or_hand_back()
        self.stopped.set()
        self.intake.leave()
        self.close_traces("worker-stopped")
        return 0

    def say_ready(self) -> None:
        log.info("ready", model=self.card.name, seats=self.card.seats, sha256=self.card.sha256[:12])

    def begin(self, claim: Claim) -> None:
        """Hand a claimed job to the engine, which calls it by its token."""
        self.traces.claimed(claim)
        spec = claim.spec.model_dump(exclude={"model", "output_format", "keep_previews"})
        try:
            request = Request(id=claim.token, **spec)
        except ValueError as error:
            self.reporter.refuse(claim, str(error))
            return
        self.engine.submit(request)

    def denoise(self) -> None:
        """The engine's thread: step, and pass on what happened."""
        try:
            while not self.stopped.is_set():
                self.engine.wait_for_work(0.5)
                began = time.perf_counter()
                events = self.engine.step()
                seconds = time.perf_counter() - began
                self.traces.stepped(seconds, events)
                for event in events:
                    self.reporter.hear(event)
                if self.metrics is not None:
                    self.metrics.stepped(seconds, events)
        except Exception:
            log.exception("the engine broke; its jobs will run elsewhere")
            self.abandon_ship(LOST_DEVICE)

    def finish_or_hand_back(self) -> None:
        ends = time.monotonic() + self.settings.grace_seconds
        while time.monotonic() < ends and self.intake.stops_asked < 2:
            if self.attempts.wait_until_empty(0.05):
                break
        self.intake.hand_back()
        self.reporter.close(seconds=LAST_WORDS_SECONDS)

    def show_a_pulse(self) -> None:
        """With every heartbeat. A step that never ends cannot be interrupted from inside: then the process goes, and
        the leases run out.
        """
        if not self.engine.idle and self.engine.clock() - self.engine.last_step_at > self.settings.stall_seconds:
            log.error("no step has ended for too long", stall_seconds=self.settings.stall_seconds)
            self.abandon_ship(LOST_DEVICE)
        if self.settings.heartbeat_file:
            self.settings.heartbeat_file.touch()

    def close_traces(self, reason: str) -> None:
        """Send the spans that are left; attempts that are still open end for this reason."""
        self.traces.abandon(reason)
        if self.provider is not None:
            close_provider(self.provider)

    def abandon_ship(self, code: int) -> NoReturn:
        self.close_traces("device-lost")
        abandon_ship(code)


def _connect(settings: WorkerSettings) -> tuple[redis.Redis, redis.Redis]:
    """One client that decodes, for the scripts, and one as RQ wants it. Refuses a Redis that may forget jobs."""
    url = settings.redis_url.get_secret_value()
    options = {"retry": Retry(ExponentialBackoff(cap=1, base=0.05), 5), "health_check_interval": 30}
    commands = redis.Redis.from_url(url, decode_responses=True, socket_timeout=5, **options)
    rq = redis.Redis.from_url(url, **options)
    if settings.redis_durability == "require":
        faults = _until_answered(lambda: durability_faults(commands.info()))
        if faults:
            raise CannotStart("; ".join(faults) + ", or accept the loss with DARKROOM_REDIS_DURABILITY=ignore")
    return commands, rq


def _until_answered(ask: Callable[[], list[str]]) -> list[str]:
    """Redis may come up after us. Wait for it and say so."""
    said = 0.0
    while True:
        try:
            return ask()
        except redis.RedisError as error:
            if time.monotonic() - said > 10:
                said = time.monotonic()
                log.warning("waiting for redis: start it, or set REDIS_URL", reason=str(error))
            time.sleep(0.5)


def _open_store(settings: WorkerSettings) -> ObjectStore:
    """The store, if it will take pictures. One that is away may come back; one that refuses will not."""
    options = StoreOptions(
        endpoint=settings.storage_endpoint,
        region=settings.storage_region,
        access_key_id=settings.storage_access_key_id,
        secret_access_key=_secret(settings),
    )
    try:
        store = ObjectStore.from_url(settings.storage_url, options)
        store.check()
    except (ValueError, StorageDenied) as error:
        raise CannotStart(f"pictures cannot be stored: {error}") from error
    except StorageError as error:
        log.warning("storage is away; claiming will wait for it", reason=error.detail)
    return store


def _secret(settings: WorkerSettings) -> str | None:
    secret = settings.storage_secret_access_key
    return secret.get_secret_value() if secret else None


def _load(settings: WorkerSettings, name: str) -> Bundle:
    started = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    bundle = load(
        settings.model,
        name=name,
        device=settings.device,
        dtype=settings.dtype,
        channels_last=settings.channels_last,
    )
    log.info("model loaded", model=bundle.name, seconds=round(time.monotonic() - started, 2))
    return bundle
