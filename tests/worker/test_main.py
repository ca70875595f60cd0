"""What happens in the engine's thread beside the engine must not end it."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from tests.waiting import until
from worker.engine.events import Progress
from worker.listeners import Listeners
from worker.main import Worker
from worker.turns import Turns


def test_figures_that_cannot_be_noted_end_no_process() -> None:
    def breaks(*args: Any) -> None:
        raise ValueError("a mistake of ours")

    heard: list[Any] = []
    breaking: Any = SimpleNamespace(stepped=breaks)
    reporter: Any = SimpleNamespace(stepped=lambda seconds, events: heard.extend(events))
    engine = SimpleNamespace(wait_for_work=lambda seconds: None, step=lambda: [Progress("a", 1, 20)])
    worker: Any = SimpleNamespace(
        stopped=threading.Event(),
        turns=Turns(),
        ends_with_the_device=nullcontext,
        listeners=Listeners([breaking], reporter=reporter),
        hard_exit=lambda *args, **options: heard.append("the end"),
    )
    thread = threading.Thread(target=Worker.denoise, args=[worker, engine])
    thread.start()
    until(lambda: len(heard) > 2)
    worker.stopped.set()
    thread.join()
    assert set(heard) == {Progress("a", 1, 20)}
