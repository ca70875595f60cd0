"""A worker whose engine follows a script: real intake, reporter, scripts and store, and milliseconds of arithmetic.

At every stage it may die as a kill -9 would kill it, or stand still as SIGSTOP would have it, until its jobs are
another's. A prompt that says "poison" kills its process whenever it is drawn. Knows stages and chances; refuses to know
what the harness makes of the deaths.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.contract.common.exits import DRAINED
from app.contract.messages.card import ModelCard
from app.contract.messages.usage import Work
from app.contract.objects import folder
from app.contract.objects.store import open_store
from app.contract.redis.model_demand import ModelDemand
from app.contract.redis.ownership import Claim, Ownership
from worker import holding, main, swapping
from worker.connections import Connections, connect
from worker.engine.errors import DeviceLost
from worker.engine.events import (
    DrawnImage,
    EngineEvent,
    Finished,
    Parked,
    Progress,
    SnapshotTaken,
    Started,
    Stopped,
    Timings,
)
from worker.engine.request import Request
from worker.engine.snapshot import SampleSnapshot, Snapshot
from worker.engine.stage import Stage
from worker.model_folders import KnownFolder, ModelFolders
from worker.own_thread import OwnThread
from worker.provenance import Provenance
from worker.served import Drawing, Served
from worker.settings import WorkerSettings, settings_from_env, worker_name
from worker.starting import Starting
from worker.storage import ObjectStore, Stored

HOLD = "hold"
"""A file beside the diary: while it is there, no job goes on after its second step."""

STAGES = ("claimed", "denoise", "upload", "before finish", "after finish")

ASLEEP = "asleep: "
"""Before the name of a stage: the chance that the process stands still there."""

LOAD_SECONDS = 0.1
"""Of a model, in a worker that has two."""

ASLEEP_SECONDS = (3.0, 6.0)
"""Beyond a lease of the fork server's, and the time in which another worker ends the job."""

CARD = ModelCard(
    name="starter", family="Scripted", sha256="0" * 64, width=64, height=64, side_multiple=8, min_side=64, max_side=256,
    max_steps=1_000, max_guidance_scale=20.0, max_images=4, max_work=2**40, num_inference_steps=4, guidance_scale=4.0,
    scheduler="euler", schedulers=("euler",), max_prompt_tokens=30, seats=4, tasks=("text-to-image", "image-to-image"),
    takes=("image", "strength"),
)  # fmt: skip

SECOND = CARD.model_copy(update={"name": "second", "sha256": "1" * 64})
FOLDERS = "DARKROOM_TEST_FOLDERS"
"""Environment variable of a worker that has both models, and one of them in memory at a time."""

NOWHERE = Provenance(**{each.name: "0" for each in fields(Provenance)})  # type: ignore[arg-type]


class Folders(ModelFolders):
    """Two that are known, and no files."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._known = {
            card.name: KnownFolder(card.name, settings, (), found_at=0.0, card=card, load_seconds=LOAD_SECONDS)
            for card in (CARD, SECOND)
        }

    def _look_again(self) -> None: ...

    def _keep(self, folder: KnownFolder) -> None:
        self._known[folder.name] = folder


class Fate:
    """Whether the process dies now, and a line in the log of deaths if it does."""

    def __init__(self, chances: Mapping[str, float], diary: Path | None, seed: int) -> None:
        self._chances = chances
        self._diary = diary
        self._chance = random.Random(seed)
        self._claims: dict[str, Claim] = {}

    @classmethod
    def from_env(cls) -> Fate:
        diary = os.environ.get("DARKROOM_TEST_DIARY")
        chances = json.loads(os.environ.get("DARKROOM_TEST_FATE", "{}"))
        return cls(
            chances, Path(diary) if diary else None, int(os.environ.get("DARKROOM_TEST_SEED", "0")) + os.getpid()
        )

    def note(self, what: str, **fields: Any) -> None:
        if self._diary:
            line = json.dumps({"at": time.time(), "pid": os.getpid(), "what": what, **fields}) + "\n"
            with self._diary.open("a") as diary:
                diary.write(line)

    def note_claimed(self, claim: Claim, *, holding: int) -> None:
        self._claims[claim.token] = claim
        self.note("claimed", job=claim.id, attempt=claim.attempt, alone=claim.runs_alone, holding=holding)

    def note_begun(self, token: str, behind: int) -> None:
        """The engine knows attempts by their tokens. One that was put aside and goes on begins no second time."""
        if claim := self._claims.pop(token, None):
            self.note("begun", job=claim.id, attempt=claim.attempt, behind=behind)

    def tempt(self, stage: str, *, certainly: bool = False) -> None:
        if self._chance.random() < self._chances.get(ASLEEP + stage, 0):
            self._sleep(stage)
        if certainly or self._chance.random() < self._chances.get(stage, 0):
            self.note("killed", stage="poison" if certainly else stage)
            os.kill(os.getpid(), signal.SIGKILL)

    def _sleep(self, stage: str) -> None:
        """All of this process. Another one wakes it up."""
        self.note("asleep", stage=stage)
        nap = f"sleep {self._chance.uniform(*ASLEEP_SECONDS):.1f}; kill -CONT {os.getpid()}"
        subprocess.Popen(["/bin/sh", "-c", nap])
        os.kill(os.getpid(), signal.SIGSTOP)


class ScriptedEngine:
    """The engine's few methods. A step takes `step_seconds` for everybody in it, as a batch does."""

    def __init__(self, fate: Fate, *, seats: int = 4, step_seconds: float = 0.01, hold: Path | None = None) -> None:
        self.seats = seats
        self.device = torch.device("cpu")
        self.work = Work()
        self.stage: Stage | None = None
        self.is_compiled = False
        self.device, self.work, self.rows_done = torch.device("cpu"), Work(), 0
        self._fate = fate
        self._step_seconds = step_seconds
        self._hold = hold
        self._changed = threading.Condition()
        self._open: dict[str, Request] = {}
        self._steps: dict[str, int] = {}
        self._started: set[str] = set()
        self._canceled: set[str] = set()
        self._parked: set[str] = set()
        self._wanted: set[str] = set()

    def submit(self, request: Request, snapshot: Snapshot | None = None) -> None:
        with self._changed:
            self._open[request.id] = request
            self._steps[request.id] = snapshot.step if snapshot else 0
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self._changed:
            self._canceled.add(request_id)

    def park(self, request_id: str) -> None:
        with self._changed:
            self._parked.add(request_id)

    def take_snapshot(self, request_id: str) -> None:
        with self._changed:
            self._wanted.add(request_id)

    def wait_for_work(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._open), timeout)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._open

    def seats_of(self, request_id: str) -> int:
        with self._changed:
            return self._open[request_id].num_images if request_id in self._open else 0

    @property
    def free_seats(self) -> int:
        with self._changed:
            return max(0, self.seats - sum(request.num_images for request in self._open.values()))

    @property
    def missing_seats(self) -> int:
        with self._changed:
            return max(0, sum(request.num_images for request in self._open.values()) - self.seats)

    def step(self) -> list[EngineEvent]:
        with self._changed:
            batch = list(self._open.values())
        if any("a step without end" in request.prompt for request in batch):
            self.stage = Stage("denoise")
            threading.Event().wait()
        if any("a lost device" in request.prompt for request in batch):
            raise DeviceLost("the script says so")
        if batch:
            time.sleep(self._step_seconds)
        events = [event for request in batch for event in self._advance(request)]
        return events

    def _advance(self, request: Request) -> list[EngineEvent]:
        if request.id in self._canceled:
            return [self._close(request, Stopped(request.id))]
        if request.id in self._parked:
            return [self._close(request, Parked(request.id, self._snapshot(request)))]
        taken = [SnapshotTaken(request.id, self._snapshot(request))] if request.id in self._wanted else []
        self._wanted.discard(request.id)
        return [*taken, *self._go_on(request)]

    def _go_on(self, request: Request) -> list[EngineEvent]:
        if self._steps[request.id] == 2 and self._hold is not None and self._hold.exists():
            return []
        behind = self._steps[request.id]
        step = self._steps[request.id] = behind + 1
        if step == 2 or (step > 2 and "poison" in request.prompt):
            self._fate.tempt("denoise", certainly="poison" in request.prompt)
        begun: list[EngineEvent] = []
        if request.id not in self._started:
            self._started.add(request.id)
            begun = [Started(request.id, behind, behind * request.num_images)]
            self._fate.note_begun(request.id, behind)
        if step < request.num_inference_steps:
            return [*begun, Progress(request.id, step, request.num_inference_steps)]
        return [*begun, self._close(request, self._finished(request, step))]

    def _snapshot(self, request: Request) -> Snapshot:
        """So many steps are behind each picture: there is nothing else."""
        samples = [
            SampleSnapshot(
                index=k, seed=request.seed_of(k), mode="shared", step=self._steps[request.id], number=0, ended=[],
                began=torch.zeros(1, dtype=torch.uint8),
            )
            for k in range(request.num_images)
        ]  # fmt: skip
        return Snapshot(request="", passes=[], drawn_with={}, samples=samples, wanted=request.num_images)

    def _close(self, request: Request, last: EngineEvent) -> EngineEvent:
        with self._changed:
            del self._open[request.id]
            # It may come back.
            self._parked.discard(request.id)
            self._started.discard(request.id)
        return last

    @staticmethod
    def _finished(request: Request, steps: int) -> Finished:
        # The pixels tell attempts apart, so that a zombie that overwrites the winner's picture is seen.
        digest = np.frombuffer(hashlib.sha256(request.id.encode()).digest(), np.uint8)
        images = [
            DrawnImage(np.resize(digest + np.uint8(index), (64, 64, 3)), seed=request.seed + index, index=index)
            for index in range(request.num_images)
        ]
        return Finished(request.id, images, steps, Timings(0.0, 0.0, 0.0, 0.0), [])


class MortalOwnership(Ownership):
    """Says the last word, and may die just before or just after it."""

    fate: Fate

    def claim(self, model: str, worker: str, *, holding: int = 0, interactive_only: bool = False) -> Claim | None:
        claim = super().claim(model, worker, holding=holding, interactive_only=interactive_only)
        if claim:
            self.fate.note_claimed(claim, holding=holding)
            self.fate.tempt("claimed")
        return claim

    def succeed(self, claim: Claim, *args: Any, **options: Any) -> bool:
        self.fate.tempt("before finish")
        owned = super().succeed(claim, *args, **options)
        self.fate.note("finished" if owned else "refused", job=claim.id)
        self.fate.tempt("after finish")
        return owned


class MortalStore(ObjectStore):
    """May die between the bytes of a picture and its name."""

    def __init__(self, place: Any, fate: Fate) -> None:
        super().__init__(place)
        self._here = threading.local()
        sync = os.fsync

        def sync_or_die(descriptor: int) -> None:
            if getattr(self._here, "puts", False):
                fate.tempt("upload")
            sync(descriptor)

        folder.os.fsync = sync_or_die  # type: ignore[attr-defined]

    def put(self, *args: Any, **options: Any) -> Stored:
        self._here.puts = True
        try:
            return super().put(*args, **options)
        finally:
            self._here.puts = False


def run() -> int:
    """A worker process as `darkroom worker` runs one, with this engine."""
    fate = Fate.from_env()
    settings = settings_from_env()
    MortalOwnership.fate = fate
    main.Ownership = MortalOwnership  # type: ignore[misc]
    step_seconds = float(os.environ.get("DARKROOM_TEST_STEP", "0.01"))
    diary = os.environ.get("DARKROOM_TEST_DIARY")
    hold = Path(diary).with_name(HOLD) if diary else None

    def drawing(card: ModelCard, thread: OwnThread) -> Drawing:
        engine: Any = ScriptedEngine(fate, seats=card.seats, step_seconds=step_seconds, hold=hold)
        return Drawing(engine, card, thread, NOWHERE)

    store, connections = MortalStore(open_store(settings.storage_url), fate), connect(settings)
    has_two = FOLDERS in os.environ
    served = Served(None if has_two else drawing(CARD, OwnThread("engine")), None)
    worker = main.Worker(settings, served, store, connections, name=worker_name())
    if has_two:
        _swap(worker, Folders(settings), connections, drawing)
    code = worker.run()
    fate.note("left", worker=worker.name, drained=code == DRAINED)
    return code


def _swap(
    worker: main.Worker,
    folders: Folders,
    connections: Connections,
    drawing: Callable[[ModelCard, OwnThread], Drawing],
) -> None:
    """The worker takes up one of the two after the other, each in no time."""

    def opened(
        settings: WorkerSettings, name: str, starting: Starting, *, answering: Any, thread: OwnThread
    ) -> Drawing:
        time.sleep(LOAD_SECONDS)
        card = folders.look()[name].card
        assert card is not None
        return drawing(card, thread)

    holding.open_drawing = opened
    holding.whole_model = lambda path: path
    swapping.LOOK_SECONDS = 0.1
    starting = Starting(worker.leasing, worker.name)
    worker.swap_among(folders, None, starting, ModelDemand(connections.commands))
