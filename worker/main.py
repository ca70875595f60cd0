"""A worker's life: settings, model, engine, intake; signals; exit codes.

Threads: the main one claims, one runs the engine, one answers questions, one keeps the leases, one RQ's books, one
watches the engine, one reports progress, one changes the model in memory where there are several, a few listen for
jobs, a few fetch what jobs start from, a few put pictures away. What must be in time shares its thread and its
connection with nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from app import __version__
from app.contract.common.environment import SettingsError
from app.contract.common.exits import CANNOT_START, DRAINED, LOST_DEVICE
from app.contract.common.logs import configure
from app.contract.common.tracing import close_provider, open_provider
from app.contract.messages.card import ModelCard
from app.contract.messages.model_name import IllegalName
from app.contract.redis.model_demand import ModelDemand
from app.contract.redis.ownership import Ownership
from app.contract.redis.snapshots import SnapshotRecords
from worker.answers import Answers
from worker.attempts import Attempts
from worker.connections import Connections, connect
from worker.engine.stage import Stage
from worker.errors import CannotStart, StorageDenied, StorageError
from worker.fetching import Fetching
from worker.holding import Holding
from worker.inputs import Inputs
from worker.intake import Intake
from worker.listeners import Listeners, Observer
from worker.loading import start, start_with_several
from worker.metrics import WorkerMetrics
from worker.model_folders import ModelFolders
from worker.models.assembly import AssemblyError, whole_model
from worker.models.bundle import ModelError
from worker.models.place import place_of
from worker.note import SelfReport, device_words
from worker.open_model import OpenModel, Surroundings
from worker.provenance import Provenance
from worker.reporter import Reporter
from worker.roads import Road
from worker.scoring import Scoring
from worker.served import Answering, Served
from worker.settings import WorkerSettings, settings_from_env, worker_name
from worker.snapshots import Snapshots
from worker.starting import Starting
from worker.storage import ObjectStore
from worker.swapping import Swapper
from worker.tracing import Traces
from worker.watchdog import Watchdog, hard_exit

log = structlog.get_logger()

FLUSH_SECONDS = 10.0
"""After the grace period: time to hand jobs back and to say so, before the process goes anyway."""

SWAP_SECONDS = 2.0
"""Longer than the thread of swaps takes to hear of the end, unless it loads a model."""

HEARTBEAT_FILE_SECONDS = 10.0


def run() -> int:
    """Serve a model, and a scorer beside it, until told to stop. Returns the exit code."""
    try:
        own_name = worker_name()
        settings = settings_from_env()
        configure(settings.log_level, process="worker")
        name, folders = settings.name(), None
        settings = settings.model_copy(update={"model": whole_model(settings.model)})
        store = _open_store(settings)
        connections = connect(settings)
        starting = Starting(Ownership(connections.leases), own_name)
        with starting.published():
            if settings.models:
                served, folders = start_with_several(settings, starting)
            else:
                served = start(settings, name, starting)
        worker = Worker(settings, served, store, connections, name=own_name)
        if folders is not None:
            worker.swap_among(folders, served.answering, starting, ModelDemand(connections.commands))
    except (SettingsError, IllegalName, AssemblyError, CannotStart, ModelError) as error:
        print(f"darkroom worker: {error}", file=sys.stderr)
        return CANNOT_START
    return worker.run()


class Worker:
    """The parts of this process, wired."""

    def __init__(
        self, settings: WorkerSettings, served: Served, store: ObjectStore, connections: Connections, *, name: str
    ) -> None:
        self.name = name
        self.settings = settings
        self.device = served.device or place_of(settings.device, settings.dtype).device
        self.attempts = Attempts()
        ownership, self.leasing = Ownership(connections.commands), Ownership(connections.leases)
        self.provider = open_provider("darkroom-worker", version=__version__)
        self.traces = Traces(self.provider.get_tracer("darkroom.worker", __version__) if self.provider else None)
        provenances: dict[str, Provenance] = {}
        self.metrics = self._open_metrics(served, store)
        self.snapshots = Snapshots.wanted(
            settings, SnapshotRecords(connections.commands), store, self.attempts, provenances, counts=self.metrics
        )
        told = self.traces, settings.safety, self.snapshots
        self.reporter = Reporter(ownership, store, self.attempts, provenances, *told)
        observers: list[Observer] = [self.traces, *([self.metrics] if self.metrics else [])]
        self.around = Surroundings(
            attempts=self.attempts,
            reporter=self.reporter,
            fetching=Fetching(Inputs(store), self.reporter),
            listeners=Listeners(observers, reporter=self.reporter),
            store=store,
            computes=self.ends_with_the_device,
            provenances=provenances,
            metrics=self.metrics,
            safety=settings.safety,
            snapshots=self.snapshots,
            park_seconds=settings.park_seconds,
        )
        self.opened = OpenModel(served.drawing, self.around) if served.drawing else None
        self.holding: Holding | None = None
        self.scoring, self.scorer_card = self._open_scoring(served)
        self.intake = Intake(
            served=[*self._roads()],
            name=name,
            connection=connections.rq,
            ownership=ownership,
            leasing=self.leasing,
            attempts=self.attempts,
            may_claim=lambda: not self.is_lost and self.reporter.has_room and self.reporter.storage_is_well(),
            claimed=self.traces.claimed,
            note=self._self_report(),
            watched=self.reporter.live.watch,
            found_late=self.metrics.job_found_late if self.metrics else None,
        )
        self.swapper: Swapper | None = None
        self.swaps = threading.Thread(target=self.swap, name="swaps", daemon=True)
        self.watchdog = Watchdog(self.stage, stall_seconds=settings.stall_seconds)
        self.stopped = threading.Event()
        self.is_lost = False

    def swap_among(
        self, folders: ModelFolders, answering: Answering | None, starting: Starting, demand: ModelDemand
    ) -> None:
        """Hold one of these folders at a time. Before `run`."""
        leases = self.intake.leases

        def more_is_known(card: ModelCard) -> None:
            folders.more_is_known(card)
            leases.announce_from_now_on(card)

        self.holding = Holding(
            self.around, self.intake, self.traces, answering=answering, starting=starting, announce=more_is_known
        )
        self.swapper = Swapper(
            folders,
            demand,
            self.holding,
            leases,
            worker=self.name,
            hold_seconds=self.settings.hold_seconds,
            pause=lambda seconds: self.stopped.wait(seconds) or self.intake.is_ending,
            may_swap=lambda: not self.intake.is_draining,
            count=self.metrics.loaded if self.metrics else None,
        )

    @property
    def model(self) -> OpenModel | None:
        """What draws, if anything is in memory that does."""
        return self.holding.model if self.holding else self.opened

    def swap(self) -> None:
        """The thread of swaps."""
        assert self.swapper is not None
        with self.ends_with_the_device():
            self.swapper.run()

    def _open_metrics(self, served: Served, store: ObjectStore) -> WorkerMetrics | None:
        port = self.settings.worker_metrics_port
        if port is None:
            return None
        engine = served.drawing.engine if served.drawing else None
        metrics = WorkerMetrics(engine, models=[card.name for card in served.cards], device=self.device)
        metrics.tell_stored(lambda: store.stored_bytes)
        metrics.serve(self.settings.metrics_host, port)
        return metrics

    def _open_scoring(self, served: Served) -> tuple[Scoring | None, ModelCard | None]:
        """The road of questions to the scorer, and its card."""
        if served.answering is None:
            return None, None
        scorer, card = served.answering.scorer, served.answering.card
        return self.around.scoring(partial(Answers, scorer), card), card

    def _roads(self) -> Iterator[tuple[ModelCard, Road]]:
        if (model := self.model) is not None:
            yield model.card, model.road
        if self.scoring is not None and self.scorer_card is not None:
            yield self.scorer_card, self.scoring

    def _self_report(self) -> SelfReport:
        return SelfReport(
            device=device_words(self.device),
            room=lambda: [(card.seats, road.free_seats) for card, road in self._roads()][:1],
            attempts=self.attempts,
            stage=self.stage,
            rows=lambda: model.rows_done if (model := self.model) else 0,
        )

    def stage(self) -> Stage | None:
        """What the device is at."""
        working = (each.stage for each in (self.model, self.scoring) if each is not None)
        return next((stage for stage in working if stage is not None), None)

    def run(self) -> int:
        """Claim until a signal, then finish what fits into the grace period and hand back the rest; or until it is
        drained, which takes as long as its jobs do. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.intake.request_stop)
        if self.opened is not None:
            self.opened.begin(self.intake.leases.announce_from_now_on)
        if self.scoring is not None:
            self.around.answer(self.scoring, self.stopped, name="scoring")
        threading.Thread(target=self.watch, name="watchdog", daemon=True).start()
        if self.settings.heartbeat_file:
            threading.Thread(target=self.pulse, args=[self.settings.heartbeat_file], name="pulse", daemon=True).start()
        self.intake.claim_until_stopped(registered=self.say_ready)
        log.info("stopping", jobs=len(self.attempts.claims()), grace_seconds=self.settings.grace_seconds)
        self.finish_or_hand_back()
        self.stopped.set()
        self.intake.leave()
        self.close_traces("worker-stopped")
        code = DRAINED if self.intake.was_drained else 0
        if self.swaps.ident is not None:
            self.swaps.join(SWAP_SECONDS)
            if self.swaps.is_alive():
                # A model is being loaded, and the interpreter cannot end beside a thread that computes.
                hard_exit(code)
        return code

    def say_ready(self) -> None:
        """Others can see this worker."""
        for card, _ in self._roads():
            log.info("ready", model=card.name, seats=card.seats, sha256=card.sha256[:12])
        if self.swapper is not None:
            self.swaps.start()

    @contextmanager
    def ends_with_the_device(self) -> Iterator[None]:
        """Around a thread that computes: what breaks it ends the process, and its jobs run elsewhere."""
        try:
            yield
        except Exception:
            log.exception("the engine broke; its jobs will run elsewhere")
            self.hard_exit(LOST_DEVICE, because="the device or the engine broke; the worker's log says how.")

    def finish_or_hand_back(self) -> None:
        self.intake.finish(self.settings.grace_seconds)
        self.reporter.close(seconds=FLUSH_SECONDS)
        if self.snapshots is not None:
            self.snapshots.close()
        self.around.fetching.close()

    def watch(self) -> None:
        """A step that never ends cannot be interrupted from inside: the process goes, and its jobs run elsewhere."""
        while not self.stopped.wait(self.watchdog.look_seconds):
            try:
                if stalled := self.watchdog.look():
                    self.abandon_stalled(*stalled)
            except Exception:
                log.exception("the watchdog could not look")

    def abandon_stalled(self, stage: Stage, limit: float) -> NoReturn:
        log.error("no step has ended for too long", stage=stage.name, limit_seconds=round(limit, 1))
        because = (
            f"its {stage.name} took longer than {limit:.4g} s, which is the worker's limit: "
            "the larger of DARKROOM_STALL_SECONDS and ten times what was measured."
        )
        self.hard_exit(LOST_DEVICE, because=because)

    def pulse(self, file: Path) -> None:
        """Touch the file for whoever judges this process from outside. A full disk must not cost more than that."""
        said = False
        while True:
            try:
                file.touch()
                said = False
            except OSError as error:
                if not said:
                    log.warning("the heartbeat file cannot be touched", file=str(file), reason=str(error))
                said = True
            if self.stopped.wait(HEARTBEAT_FILE_SECONDS):
                return

    def close_traces(self, reason: str) -> None:
        """Send the spans that are left; attempts that are still open end for this reason."""
        self.traces.abandon(reason)
        if self.provider is not None:
            close_provider(self.provider)

    def hard_exit(self, code: int, *, because: str) -> NoReturn:
        """End at once. The jobs need not wait for their leases; without Redis they do."""
        self.is_lost = True
        try:
            requeued, failed = self.leasing.worker_lost(self.name, because)
            log.info("jobs left to others", requeued=requeued, failed=failed)
        except Exception as error:
            log.warning("the leases run out", reason=str(error))
        self.close_traces("device-lost")
        hard_exit(code)


def _open_store(settings: WorkerSettings) -> ObjectStore:
    """The store, if it will take pictures. One that is away may come back; one that refuses will not."""
    try:
        store = ObjectStore.from_url(settings.storage_url, settings.store_options())
        store.check()
    except (ValueError, StorageDenied) as error:
        raise CannotStart(f"pictures cannot be stored: {error}") from error
    except StorageError as error:
        log.warning("storage is away; claiming will wait for it", reason=error.detail)
    return store
