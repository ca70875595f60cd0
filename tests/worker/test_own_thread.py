"""Calls that share a thread, and the engine's: it is warmed up where it steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from worker import loading
from worker.engine.profile import Told
from worker.own_thread import OwnThread


def test_all_calls_run_in_one_thread_and_in_their_order() -> None:
    thread, seen = OwnThread("own"), list[int]()
    last = [thread.begin(lambda k=k: (seen.append(k), threading.get_ident())[1]) for k in range(3)][-1]  # type: ignore[misc]
    assert thread.wait_for(threading.get_ident) == last.result() != threading.get_ident()
    assert seen == [0, 1, 2]


def test_what_a_call_raises_reaches_who_waits_and_the_next_call_runs() -> None:
    thread = OwnThread("own")
    with pytest.raises(ZeroDivisionError):
        thread.wait_for(lambda: 1 // 0)
    assert thread.wait_for(lambda: 7) == 7


def test_the_engine_is_warmed_up_in_the_thread_that_it_steps_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every size of which it is told gives it all the time again."""
    diary: list[tuple[str, float]] = []

    def note(what: str, number: float) -> None:
        diary.append((what, number))

    told: dict[str, Any] = {name: partial(note, name) for name in ("measured", "compiling")}

    @contextmanager
    def deadline(seconds: float, *, what: str) -> Iterator[Any]:
        note("begins", seconds)
        yield SimpleNamespace(begin_again=partial(note, "begins again", seconds))
        note("ends", seconds)

    def warm(told: Told) -> Any:
        told.compiling(2)
        told.measured(4)
        return threading.get_ident()

    monkeypatch.setattr(loading, "ends_within", deadline)
    thread, starting = OwnThread("engine"), SimpleNamespace(say=lambda sentence: None, **told)
    assert loading._warm_engine(warm, starting, thread) == thread.wait_for(threading.get_ident)  # type: ignore[arg-type]
    limit = loading.WARM_UP_SECONDS
    assert diary == [
        ("begins", limit),
        ("begins again", limit), ("compiling", 2),
        ("begins again", limit), ("measured", 4),
        ("ends", limit),
    ]  # fmt: skip
