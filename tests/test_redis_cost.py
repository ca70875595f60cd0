"""The benchmarks of what Redis does for jobs and idle workers live real jobs, and count what they say they count."""

from __future__ import annotations

import anyio
import pytest
import redis

from benchmarks import redis_cost, redis_life, wake_ups
from benchmarks.report import Report

MOST_COMMANDS = {"accept": 23, "claim": 24, "end": 19, "forget": 13}
"""Of Redis, inside each script, where a few jobs are all of different callers. They are most of what a job costs, and
the same on any machine. Whoever needs a further one, raises it here."""


def test_a_measured_job_is_accepted_claimed_ended_and_forgotten_once(
    valkey_url: str, redis_client: redis.Redis
) -> None:
    async def live() -> dict[str, dict[str, float]]:
        return await redis_life.life(valkey_url, jobs=5, steps=2, step_seconds=0.01, seats=4)

    spent = anyio.run(live)
    assert {phase: spent[phase]["scripts"] for phase in MOST_COMMANDS} == dict.fromkeys(MOST_COMMANDS, 5)
    commands = {phase: spent[phase]["commands"] / 5 for phase in MOST_COMMANDS}
    assert {phase: number for phase, number in commands.items() if number > MOST_COMMANDS[phase]} == {}
    assert redis_client.keys("darkroom:job:*") == []
    shown = Report("redis_cost")
    rows = {"life": [spent], "idle": [{"idle": spent["accept"]}], "waits": [(1.0, 1.0), (2.0, 1.0)]}
    options = redis_cost.options_of(["--jobs", "5"])
    lived, rested, waited = (dict.fromkeys(redis_cost.VERSIONS, rows[kind]) for kind in rows)
    redis_cost.show(shown, lived, rested, waited, options)  # type: ignore[arg-type]
    of_a_job = next(shown.figures.tables["cost"].records(what="a job of 20 steps"))
    assert (of_a_job["scripts_now"] - spent["progress"]["scripts"] / 5, of_a_job["ratio"]) == (3, 1)


@pytest.mark.parametrize("way", wake_ups.WAYS)
def test_word_of_a_job_is_heard_by_as_many_as_it_says(way: str) -> None:
    _, heard = wake_ups.measure(wake_ups.WAYS[way], listeners=3, words=4)
    assert heard == (3 if "all" in way else 1)
