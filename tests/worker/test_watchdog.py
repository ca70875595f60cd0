"""What hangs is ended, and nothing else: neither who is slow nor who was stopped, nor who had nothing to do."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from app.contract.common.exits import LOST_DEVICE
from tests.engine.driving import StoppedClock
from tests.waiting import WAIT_SECONDS
from worker.engine.stage import Stage, Stages
from worker.main import Worker
from worker.open_model import OpenModel
from worker.watchdog import Deadline, Watchdog, ends_within

HANGING = """
import threading
from worker.watchdog import ends_within
with ends_within(0.3, what="warming up"):
    threading.Event().wait()
"""


class Watch:
    """A watchdog whose time goes by when it is told to, one look after the other."""

    def __init__(self, *, stall_seconds: float = 60.0) -> None:
        self.stages, self.clock = Stages(), StoppedClock()
        self.dog = Watchdog(
            lambda: self.stages.current, stall_seconds=stall_seconds, clock=partial(getattr, self.clock, "now")
        )

    def looks_for(self, seconds: float, *, pause: float = 1.0) -> tuple[str, float] | None:
        """The name and limit of the first stage that was found to hang."""
        for _ in range(int(seconds / pause)):
            self.clock.now += pause
            if found := self.dog.look():
                return found[0].name, found[1]
        return None


def test_time_without_work_is_nobodys() -> None:
    """A warm-up of ten minutes, or a night without requests, and then a step."""
    watch = Watch()
    assert watch.looks_for(600) is None
    with watch.stages.at("denoise"):
        assert watch.looks_for(59) is None
        assert watch.looks_for(10) == ("denoise", 60.0)


def test_every_piece_of_work_has_its_own_time() -> None:
    watch = Watch()
    with watch.stages.at("step"):
        for name in ("denoise", "decode", "denoise"):
            with watch.stages.at(name):
                assert watch.looks_for(59) is None
            assert watch.looks_for(59) is None, "what goes on between them has its own as well"


def test_the_limit_is_ten_times_what_was_measured_where_that_is_more() -> None:
    watch = Watch()
    with watch.stages.at("denoise", expected=40.0):
        assert watch.looks_for(400) is None
        assert watch.looks_for(10) == ("denoise", 400.0)
    with watch.stages.at("denoise", expected=0.01):
        assert watch.looks_for(70) == ("denoise", 60.0)


def test_what_was_sent_off_is_waited_for_as_long_as_it_may_take() -> None:
    """A GPU's step returns at once; whoever reads its result waits."""
    watch = Watch()
    with watch.stages.at("step", expected=1.0):
        with watch.stages.at("denoise", expected=40.0):
            pass
        assert watch.looks_for(399) is None


def test_a_machine_that_was_stopped_has_not_hung() -> None:
    """SIGSTOP, a frozen container, a laptop's lid: one look, however long it took to come, is one look."""
    watch = Watch()
    with watch.stages.at("denoise"):
        assert watch.looks_for(3_600, pause=360) is None
        assert watch.looks_for(70) == ("denoise", 60.0)


def test_a_step_forward_gives_all_the_time_again() -> None:
    deadline = Deadline(600, what="warming up")
    first = timers()
    deadline.begin_again()
    assert len(first) == 1
    assert timers() != first
    deadline.call_off()
    assert timers() == []


def timers() -> list[threading.Timer]:
    found = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    return [timer for timer in found if not timer.finished.is_set()]


def test_what_never_ends_ends_the_process_and_says_what_it_was() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert ended.returncode == LOST_DEVICE
    assert "warming up" in ended.stdout + ended.stderr


def test_what_ends_in_time_leaves_no_timer_behind() -> None:
    with ends_within(600, what="nothing"):
        assert len(timers()) == 1
    assert timers() == []


def test_one_look_that_breaks_is_not_the_last() -> None:
    stage, abandoned = Stage("denoise"), list[tuple[Stage, float]]()
    looks = iter([AttributeError("closed meanwhile"), (stage, 60.0)])
    ends = iter([False, False, True])

    def look() -> object:
        seen = next(looks)
        if isinstance(seen, Exception):
            raise seen
        return seen

    worker = SimpleNamespace(
        watchdog=SimpleNamespace(look=look, look_seconds=0.0),
        stopped=SimpleNamespace(wait=lambda _: next(ends)),
        abandon_stalled=lambda *stalled: abandoned.append(stalled),
    )
    Worker.watch(cast(Any, worker))
    assert abandoned == [(stage, 60.0)]


def test_a_model_that_is_closed_meanwhile_is_at_nothing_else() -> None:
    stage = Stage("denoise")

    class Closing:
        drawings = iter([SimpleNamespace(engine=SimpleNamespace(stage=stage)), None])
        _drawing = property(lambda self: next(self.drawings))
        _embedding = None

    assert OpenModel.stage.__get__(cast(Any, Closing())) is stage
