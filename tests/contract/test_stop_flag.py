"""A signal may come at any instruction, and often does."""

from __future__ import annotations

import signal

from app.contract.stop_flag import StopFlag


def test_signals_in_the_middle_of_a_wait_hold_up_nothing() -> None:
    flag, told = StopFlag(), 0

    def tell(*_: object) -> None:
        nonlocal told
        told += 1
        flag.set()
        flag._set = False

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        while told < 2_000:
            flag.wait(0.0002)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    flag.set()
    assert flag.is_set()
    assert flag.wait(60)
