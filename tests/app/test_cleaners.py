"""Processes that decode pictures: one that stands still or was taken over ends, and gets no other picture."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from app.pictures import cleaners
from app.pictures.clean_picture import CleanPicture, UnfitPicture
from app.pictures.cleaners import CleanerDied, Cleaners, cleaned, read_answer
from tests.app import taken_over
from tests.app.taken_over import framed
from tests.pictures import file_of, noise
from tests.waiting import WAIT_SECONDS, until

ROOT = Path(__file__).parents[2]
ANSWER = json.dumps({"width": 1, "height": 1, "content_type": "image/png"}).encode()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cleaners]:
    """Whose processes find what tests/app/taken_over.py has."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pool = Cleaners()
    yield pool
    pool.close()


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Path]:
    """Where taken_over.say writes the pids of its processes, which end with the test."""
    note = tmp_path / "pids"
    yield note
    for pid in note.read_text().split() if note.exists() else ():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


class ByHand(threading.Timer):
    """Its time is over when the test says so."""

    made: list[ByHand]

    def __init__(self, seconds: float, function: Callable[..., object], args: list[object]) -> None:
        super().__init__(3_600, function, args)
        self.seconds = seconds
        self.made.append(self)

    def run_out(self) -> None:
        self.function(*self.args)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[ByHand]:
    monkeypatch.setattr(ByHand, "made", [], raising=False)
    monkeypatch.setattr(threading, "Timer", ByHand)
    return ByHand.made


@pytest.fixture
def sender() -> Iterator[ThreadPoolExecutor]:
    """After which nobody waits, so that a test that fails ends."""
    sender = ThreadPoolExecutor(1)
    yield sender
    sender.shutdown(wait=False)


def require_late(asked: Future[CleanPicture], timers: list[ByHand]) -> None:
    assert not asked.done()
    until(lambda: timers)
    timers[-1].run_out()
    with pytest.raises(CleanerDied, match=r"did not answer within 120 s"):
        asked.result(WAIT_SECONDS)
    assert timers[-1].seconds == cleaners.LONGEST_SECONDS


def test_one_that_does_not_read_is_ended(
    pool: Cleaners, timers: list[ByHand], sender: ThreadPoolExecutor, note: Path
) -> None:
    """More than a socket holds: the sender of the picture waits in the middle of it."""
    pool.run(cleaned, file_of(noise(8, 8)))
    [pid] = pool.pids
    note.write_text(str(pid))
    decoder = psutil.Process(pid)
    decoder.suspend()
    timers.clear()
    require_late(sender.submit(pool.run, cleaned, bytes(8 * 2**20)), timers)
    assert not decoder.is_running()
    assert pool.pids == []


@pytest.mark.parametrize(
    ("words", "forks"),
    [(b"\0\0", False), (framed(ANSWER)[:-1], False), (framed(ANSWER), False), (framed(ANSWER), True)],
    ids=["half-a-length", "half-an-answer", "no-file", "a-child-of-it-holds-the-socket"],
)
def test_one_that_stops_in_the_middle_is_ended(
    pool: Cleaners, timers: list[ByHand], sender: ThreadPoolExecutor, note: Path, words: bytes, forks: bool
) -> None:
    asked = sender.submit(pool.run, partial(taken_over.say, words=words, note=note, forks=forks), b"x")
    until(note.exists)
    pid, *_ = map(int, note.read_text().split())
    require_late(asked, timers)
    assert not psutil.pid_exists(pid)
    assert pool.pids == []


@pytest.mark.parametrize(
    "said",
    [
        b"no json",
        b"[" * 50_000,
        b"7",
        b"{}",
        json.dumps({"code": 7, "detail": "x"}).encode(),
        json.dumps({"width": "1", "height": 1, "content_type": "image/png"}).encode(),
        json.dumps({"width": 1, "height": 1, "content_type": "text/html"}).encode(),
    ],
    ids=["text", "deep", "number", "nothing", "code", "side", "kind"],
)
def test_what_it_never_says_is_no_answer(said: bytes) -> None:
    with pytest.raises(CleanerDied, match="no answer"):
        read_answer(said, b"x")


def test_one_that_lies_gets_no_other_picture(pool: Cleaners, note: Path) -> None:
    with pytest.raises(CleanerDied, match="no answer"):
        pool.run(partial(taken_over.say, words=framed(b"lies") + framed(b""), note=note), b"x")
    assert pool.pids == []


def test_one_in_which_our_code_failed_gets_no_other_picture(pool: Cleaners) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        pool.run(taken_over.fail, b"x")
    assert pool.pids == []


def test_one_that_refuses_a_picture_is_kept(pool: Cleaners) -> None:
    kept = list[int]()
    for _ in range(2):
        with pytest.raises(UnfitPicture):
            pool.run(cleaned, b"no picture")
        kept += pool.pids
    assert len(kept) == 2
    assert len(set(kept)) == 1
