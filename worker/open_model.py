"""A model that draws, in memory and at work: its engine's thread, the road of its jobs, and the one of questions to it.

From `begin` to `close`, after which nothing here keeps its memory. Knows what works together for one model. Refuses to
know which one comes next, and when.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch

from app.contract.messages.card import ModelCard, Safety
from worker.arrivals import Arrivals
from worker.attempts import Attempts
from worker.cadence import Cadence
from worker.engine.engine import Engine
from worker.engine.stage import Stage
from worker.fetching import Fetching
from worker.listeners import Listeners
from worker.machine import give_back_freed_memory
from worker.metrics import WorkerMetrics
from worker.parking import Parking
from worker.prior_answers import PriorAnswers
from worker.provenance import Provenance
from worker.reporter import Reporter
from worker.scoring import Answering, Scoring
from worker.served import Drawing
from worker.snapshots import Snapshots
from worker.storage import ObjectStore
from worker.turns import OwnTurns, Turns

WAKES_SECONDS = 0.5
"""After so long without work the engine's thread looks whether it is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What models work with, and what outlives them all. `computes` is entered around each thread that computes."""

    attempts: Attempts
    reporter: Reporter
    fetching: Fetching
    listeners: Listeners
    store: ObjectStore
    computes: Callable[[], AbstractContextManager[None]]
    turns: Turns = field(default_factory=Turns)
    provenances: dict[str, Provenance] = field(default_factory=dict)
    """Of the pictures of each model: what the reporter looks into."""
    metrics: WorkerMetrics | None = None
    safety: Safety = "off"
    snapshots: Snapshots | None = None
    park_seconds: float = 0.0
    """For how long a batch job may be put aside; 0: never."""

    def scoring(self, answers: Callable[..., Answering], card: ModelCard) -> Scoring:
        """A road of questions to the model of this card; `answers` makes whoever answers, given its `turn`."""
        turns, count = OwnTurns(self.turns), self.metrics.answered if self.metrics else None
        roads = (self.fetching, self.attempts, self.reporter)
        return Scoring(answers(turn=turns), *roads, model=card.name, turns=turns, count=count)

    def answer(self, scoring: Scoring, until: threading.Event, *, name: str) -> threading.Thread:
        """A thread that answers what comes by this road."""

        def run() -> None:
            with self.computes():
                scoring.run(until)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread


class OpenModel:
    """One model. `begin` and `close` are called once each, everything else by any thread."""

    def __init__(self, drawing: Drawing, around: Surroundings) -> None:
        self.card = drawing.card
        self._around = around
        self._drawing: Drawing | None = drawing
        self._closed = threading.Event()
        self._stepping: Future[None] | None = None
        self._answering: threading.Thread | None = None
        embedder = drawing.embedder
        self._embedding = around.scoring(partial(PriorAnswers, embedder), drawing.card) if embedder else None
        parking = Parking(
            drawing.engine,
            around.attempts,
            longest=around.park_seconds,
            put_aside=around.listeners.put_aside,
            keep=around.snapshots.keep_if_room if around.snapshots else None,
        )
        self.road = Arrivals(
            drawing.engine, around.fetching, around.attempts, around.reporter, around.safety, self._embedding,
            around.snapshots, parking,
        )  # fmt: skip
        self._cadence = Cadence(around.snapshots, drawing.engine.take_snapshot) if around.snapshots else None
        around.provenances[drawing.card.name] = drawing.provenance

    @property
    def stage(self) -> Stage | None:
        """What the device is at for this model. While a question is looked at, the engine waits for its turn."""
        # Another thread may close it meanwhile.
        drawing, embedding = self._drawing, self._embedding
        working = (drawing.engine if drawing else None, embedding)
        stages = (each.stage for each in working if each is not None)
        return next((stage for stage in stages if stage is not None), None)

    @property
    def rows_done(self) -> int:
        """Rows that its denoiser has evaluated; 0 once it is closed."""
        drawing = self._drawing
        return drawing.engine.work.rows if drawing else 0

    def begin(self, announce: Callable[[ModelCard], None]) -> None:
        """Work from now on. `announce` hears of the card again whenever more is known of the model."""
        assert self._drawing is not None
        if self._around.metrics is not None:
            self._around.metrics.begun(self.card.name, self._drawing.engine)
        self._stepping = self._drawing.thread.begin(partial(self._denoise, self._drawing.engine))
        if self._embedding is not None:
            self._answering = self._around.answer(self._embedding, self._closed, name="embedding")
        if self._drawing.adapters is not None:
            details = [self.card, self._around.store, partial(self._announce, announce)]
            look_up = self._drawing.adapters.look_up
            threading.Thread(target=look_up, args=details, name="adapter details", daemon=True).start()

    def close(self) -> None:
        """End its threads and give its memory back. None of its jobs may be in flight, and no more may come."""
        assert self._drawing is not None
        device, is_compiled = self._drawing.engine.device, self._drawing.engine.is_compiled
        self._closed.set()
        if self._stepping is not None:
            self._stepping.result()
        if self._answering is not None:
            self._answering.join()
        if self._around.metrics is not None:
            self._around.metrics.closed(self.card.name)
        self._drawing = self._embedding = self._stepping = self._cadence = None
        del self.road
        free_memory(device, was_compiled=is_compiled)

    def _announce(self, announce: Callable[[ModelCard], None], card: ModelCard) -> None:
        if not self._closed.is_set():
            announce(card)

    def _denoise(self, engine: Engine) -> None:
        """The engine's thread: step, and pass on what happened."""
        with self._around.computes():
            while not self._closed.is_set():
                engine.wait_for_work(WAKES_SECONDS)
                with self._around.turns:
                    began = time.perf_counter()
                    events = engine.step()
                self._around.listeners.stepped(time.perf_counter() - began, self.road.hear(events))
                # Of those that leave the engine and come back it hears all.
                if self._cadence is not None:
                    self._cadence.stepped(events)


def free_memory(device: torch.device, *, was_compiled: bool = False) -> None:
    """What nobody refers to any more goes back to the device and to the system: the next model needs it."""
    if was_compiled:
        torch.compiler.reset()
    # Networks, hooks and futures refer to each other in circles.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back_freed_memory()
