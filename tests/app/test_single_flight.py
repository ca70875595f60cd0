"""Many ask, few runs: who shares which answer."""

from __future__ import annotations

import asyncio

import pytest
import redis

from app.edge.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


class Question:
    """Runs that end when the test says so, each with what the test says."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[None]] = []
        self.ask = SingleFlight(self._run)

    async def _run(self) -> None:
        self.runs.append(asyncio.get_running_loop().create_future())
        await self.runs[-1]

    async def calls(self, count: int) -> list[asyncio.Task[None]]:
        """So many callers, who have all come as far as they can."""
        tasks = [asyncio.create_task(self.ask()) for _ in range(count)]  # type: ignore[arg-type]
        await settled()
        return tasks


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_comes_later_shares_the_next_run() -> None:
    question = Question()
    [first] = await question.calls(1)
    later = await question.calls(5)
    question.runs[0].set_result(None)
    await settled()
    assert first.done()
    assert not any(task.done() for task in later), "a run that had begun may have looked too early for them"
    question.runs[1].set_result(None)
    await asyncio.gather(*later)
    assert len(question.runs) == 2


async def test_a_failure_is_everybodys_at_once() -> None:
    question = Question()
    callers = await question.calls(50)
    question.runs[0].set_exception(redis.TimeoutError("no answer"))
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(answer, redis.RedisError) for answer in answers)
    assert len(question.runs) == 1


async def test_after_a_failure_it_is_asked_anew() -> None:
    question = Question()
    [lost] = await question.calls(1)
    question.runs[0].set_exception(redis.ConnectionError("away"))
    assert isinstance((await asyncio.gather(lost, return_exceptions=True))[0], redis.ConnectionError)
    [next_one] = await question.calls(1)
    question.runs[1].set_result(None)
    await next_one


@pytest.mark.parametrize("end", ["leaves", "breaks"])
async def test_who_asks_for_the_others_may_leave(end: str) -> None:
    """A caller that is cancelled, or a mistake of ours, is no answer for those who wait."""
    question = Question()
    asking, *waiting = await question.calls(3)
    if end == "leaves":
        asking.cancel()
    else:
        question.runs[0].set_exception(ZeroDivisionError())
    await settled()
    assert asking.done()
    assert not any(task.done() for task in waiting)
    question.runs[1].set_result(None)
    await asyncio.gather(*waiting)
    await asyncio.gather(asking, return_exceptions=True)
    assert len(question.runs) == 2
