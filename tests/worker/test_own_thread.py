"""Calls that share a thread, and the engine's: it is warmed up where it steps."""

from __future__ import annotations

import threading
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


def test_the_engine_is_warmed_up_in_the_thread_that_it_steps_in() -> None:
    """And every size of which it is told gives it all the time again."""
    starting: Any = SimpleNamespace(say=lambda sentence: None, measured=lambda rows: None, compiling=lambda rows: None)

    def warm(told: Told) -> Any:
        told.compiling(2)
        told.measured(2)
        return threading.get_ident()

    thread = OwnThread("engine")
    assert loading._warm_engine(warm, starting, thread) == thread.wait_for(threading.get_ident)
