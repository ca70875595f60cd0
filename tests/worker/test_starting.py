"""A worker that is not ready says what it is at, and nothing that goes wrong with that keeps it from starting."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import redis

from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from tests.waiting import WAIT_SECONDS, until
from worker.starting import Starting


def said(client: redis.Redis) -> list[str]:
    told: Any = client.hvals(keys.STARTING)
    return [sentence.split(" ", 1)[1] for sentence in told]


def test_it_is_told_as_it_changes_and_no_more_when_it_is_over(redis_client: redis.Redis) -> None:
    starting = Starting(Ownership(redis_client), "w1")
    with starting.published():
        starting.say("loading the model")
        until(lambda: said(redis_client) == ["loading the model"])
        starting.measured(2)
        until(lambda: said(redis_client) == ["warming up, 2 rows measured"])
    assert said(redis_client) == []


class Deaf(Ownership):
    """A Redis that is away, and says so after a while."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.asked, self.answers = threading.Event(), threading.Event()

    def starting(self, worker: str, sentence: str) -> None:
        self.asked.set()
        self.answers.wait()
        raise redis.TimeoutError("away")


def test_a_redis_that_hangs_holds_nobody_up(redis_client: redis.Redis) -> None:
    ownership = Deaf(redis_client)
    starting = Starting(ownership, "w1")
    with starting.published():
        assert ownership.asked.wait(WAIT_SECONDS)
        for rows in (2, 4, 8):
            starting.measured(rows)
        ownership.answers.set()


def test_a_start_that_fails_takes_its_sentence_along(redis_client: redis.Redis) -> None:
    starting = Starting(Ownership(redis_client), "w1")
    with suppress(ValueError), starting.published():
        starting.say("loading the model")
        until(lambda: said(redis_client))
        raise ValueError("no model")
    assert said(redis_client) == []
