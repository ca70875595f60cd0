"""A model at work in a worker, from its beginning to its end."""

from __future__ import annotations

import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.driving import wish
from tests.engine.tiny_models import save_tiny_model
from tests.waiting import WAIT_SECONDS, until
from worker import loading
from worker.engine.events import Finished, Progress
from worker.listeners import Listeners
from worker.open_model import OpenModel
from worker.own_thread import OwnThread
from worker.served import Drawing, scorer_beside
from worker.settings import WorkerSettings
from worker.turns import Turns


def surroundings(*observers: Any, reporter: Any) -> Any:
    return SimpleNamespace(
        turns=Turns(),
        computes=nullcontext,
        listeners=Listeners(observers, reporter=reporter),
        safety="off",
        provenances={},
        park_seconds=0.0,
        **dict.fromkeys(("fetching", "attempts", "reporter", "store", "metrics", "snapshots")),
    )


def test_figures_that_cannot_be_noted_end_no_process() -> None:
    """What happens in the engine's thread beside the engine must not end it."""

    def breaks(*args: Any) -> None:
        raise ValueError("a mistake of ours")

    heard: list[Any] = []
    reporter: Any = SimpleNamespace(stepped=lambda seconds, events: heard.extend(events))
    engine: Any = SimpleNamespace(
        wait_for_work=lambda seconds: None,
        step=lambda: [Progress("a", 1, 20)],
        device=torch.device("cpu"),
        is_compiled=False,
    )
    card, nowhere = SimpleNamespace(name="starter"), SimpleNamespace()
    drawing = Drawing(engine, card, OwnThread("engine"), nowhere)  # type: ignore[arg-type]
    made = OpenModel(drawing, surroundings(SimpleNamespace(stepped=breaks), reporter=reporter))
    made.begin(lambda card: None)
    until(lambda: len(heard) > 2)
    made.close()
    assert set(heard) == {Progress("a", 1, 20)}


def test_nothing_of_a_closed_model_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the scorer shared its weights, and where its adapters are still being looked at."""
    folder = save_tiny_model(tmp_path / "tiny", prediction_type="epsilon")
    parts: list[weakref.ref[Any]] = []
    load = loading.load

    def noting(*args: Any, **options: Any) -> Any:
        bundle = load(*args, **options)
        parts.extend(weakref.ref(part) for part in (bundle, bundle.unet, bundle.vae, bundle.text_encoder))
        return bundle

    monkeypatch.setattr(loading, "load", noting)
    starting: Any = SimpleNamespace(**dict.fromkeys(("say", "measured", "compiling"), lambda *_: None))
    settings = WorkerSettings(model=folder, device="cpu", profile_folder=tmp_path / "remembered")
    answering, thread = scorer_beside(settings, name="tiny"), OwnThread("engine")
    finished, looks, may_go_on = threading.Event(), threading.Event(), threading.Event()

    def heard(seconds: float, events: Any) -> None:
        if any(isinstance(event, Finished) for event in events):
            finished.set()

    def hash_for_minutes(*args: Any) -> None:
        looks.set()
        may_go_on.wait(WAIT_SECONDS)

    monkeypatch.setattr("worker.adapter_details.AdapterFiles.look_up", hash_for_minutes)
    around = surroundings(reporter=SimpleNamespace(stepped=heard))
    for _ in range(2):
        drawing = loading.open_drawing(settings, "tiny", starting, answering=answering, thread=thread)
        made = OpenModel(drawing, around)
        made.begin(lambda card: None)
        drawing.engine.submit(wish())
        assert finished.wait(WAIT_SECONDS)
        assert looks.wait(WAIT_SECONDS)
        assert all(part() is not None for part in parts[-4:])
        del drawing
        made.close()
        finished.clear()
    may_go_on.set()
    assert [part() for part in parts] == [None] * 8
