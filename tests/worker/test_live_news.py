"""Progress and previews cost by who watches: what is told is counted, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis.ownership import Claim, Ownership, StepsDone
from tests.engine.driving import StoppedClock
from worker.attempts import Attempts
from worker.engine.events import Preview, Progress
from worker.live_news import UNWATCHED_SECONDS, WATCHED_SECONDS, LiveNews

STEPS = 1_000


class Told(Ownership):
    """Notes what it is told, and answers what the test says of each job."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.calls: list[list[tuple[str, int]]] = []
        self.previews: list[tuple[str, int]] = []
        self.left_ms: dict[str, int] = {}

    def steps_done(self, news: Sequence[StepsDone]) -> list[int]:
        self.calls.append([(each.claim.token, each.step) for each in news])
        return [self.left_ms.get(each.claim.token, 0) for each in news]

    def preview(self, claim: Claim, index: int, step: int, steps: int, jpeg: str) -> bool:
        self.previews.append((claim.token, step))
        return True


class Drawing:
    """Some jobs that take a step each fifth of a second of the test's clock."""

    def __init__(self, client: redis.Redis, card: ModelCard, tokens: str, *, watched_ms: int = 0) -> None:
        self.ownership, self.clock, self.attempts = Told(client), StoppedClock(), Attempts()
        self.clock.now = 100.0
        self.news = LiveNews(self.ownership, self.attempts, clock=lambda: self.clock.now)
        spec = resolve(JobRequest(prompt="a red circle", seed=7), card)
        self.claims = {token: Claim(new_job_id(), token, spec, 1, 0, "", watched_ms=watched_ms) for token in tokens}
        for claim in self.claims.values():
            self.attempts.open(claim)
        self.step = 0

    def go_on(self, seconds: float) -> None:
        for _ in range(round(seconds / WATCHED_SECONDS)):
            self.step += 1
            for token in self.claims:
                self.news.put(Progress(token, self.step, STEPS))
                self.news.put(Preview(token, 0, self.step, STEPS, np.zeros((8, 8, 3), np.uint8)))
            self.news.tell()
            self.clock.now += WATCHED_SECONDS

    def told(self, token: str) -> list[int]:
        return [step for call in self.ownership.calls for of, step in call if of == token]


@pytest.fixture
def one(redis_client: redis.Redis, card: ModelCard) -> Drawing:
    return Drawing(redis_client, card, "a")


def test_nobody_watches_and_it_is_told_once_a_second(one: Drawing) -> None:
    one.go_on(4)
    assert one.told("a") == [1, 6, 11, 16]
    assert one.ownership.previews == [("a", 1), ("a", 6), ("a", 11), ("a", 16)]


def test_who_watched_before_it_began_sees_every_step(redis_client: redis.Redis, card: ModelCard) -> None:
    drawing = Drawing(redis_client, card, "a", watched_ms=2_000)
    drawing.ownership.left_ms["a"] = 2_000
    drawing.go_on(3)
    assert drawing.told("a") == list(range(1, 16))
    assert [step for _, step in drawing.ownership.previews] == list(range(1, 16))


def test_who_begins_to_watch_sees_the_next_step(one: Drawing) -> None:
    one.go_on(0.4)
    one.ownership.left_ms["a"] = 10_000
    one.news.watch(one.claims["a"])
    one.go_on(1)
    assert one.told("a") == [1, 3, 4, 5, 6, 7]


def test_a_look_of_which_no_word_came_is_learned_with_the_next_answer(one: Drawing) -> None:
    one.ownership.left_ms["a"] = 10_000
    one.go_on(0.6)
    assert one.told("a") == [1, 2, 3]


def test_who_looks_no_more_is_told_no_more(one: Drawing) -> None:
    one.ownership.left_ms["a"] = 500
    one.go_on(0.4)
    one.ownership.left_ms["a"] = 0
    one.go_on(3)
    # The third answer said that nobody looks any more.
    assert one.told("a") == [1, 2, 3, 6, 11, 16]


def test_many_jobs_are_one_call(redis_client: redis.Redis, card: ModelCard) -> None:
    drawing = Drawing(redis_client, card, "abcdefgh")
    drawing.ownership.left_ms["c"] = 60_000
    drawing.go_on(2)
    assert [len(call) for call in drawing.ownership.calls] == [8, 1, 1, 1, 1, 8, 1, 1, 1, 1]


def test_what_has_ended_is_no_news(one: Drawing) -> None:
    one.news.put(Progress("a", 7, STEPS))
    one.news.put(Preview("a", 0, 7, STEPS, np.zeros((8, 8, 3), np.uint8)))
    one.attempts.close("a")
    one.news.tell()
    assert (one.ownership.calls, one.news._progress, one.news._previews) == ([], {}, {})


def test_redis_is_away_and_the_next_step_is_told(one: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any) -> list[int]:
        raise redis.ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(one.ownership, "steps_done", away)
        with pytest.raises(redis.RedisError):
            one.go_on(WATCHED_SECONDS)
    one.clock.now += UNWATCHED_SECONDS
    one.go_on(WATCHED_SECONDS)
    assert one.told("a") == [2]
