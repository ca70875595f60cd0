"""One worker, several models: each has its queue, its room and its road, and a claim goes where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.questions import EmbedSpec, no_picture
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from worker.attempts import Attempts
from worker.intake import Intake
from worker.rq_queues import enter_queues


class Road:
    def __init__(self, seats: int) -> None:
        self.free_seats = self.seats_for_interactive = seats
        self.begun: list[Claim] = []
        self.canceled: list[str] = []
        self.parked: list[str] = []
        self.went_on = 0

    def begin(self, claim: Claim, /) -> None:
        self.begun.append(claim)

    def go_on(self) -> None:
        self.went_on += 1

    def cancel(self, token: str, /) -> None:
        self.canceled.append(token)

    def park(self, token: str, /) -> None:
        self.parked.append(token)


class Giving(Ownership):
    """Gives what the test says, and notes whose queue was asked for it."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.asked: list[tuple[str, int]] = []
        self.next: list[Claim] = []

    def claim(self, model: str, worker: str, *, holding: int = 0, interactive_only: bool = False) -> Claim | None:
        self.asked.append((model, holding))
        return self.next.pop() if self.next else None


def claim_of(model: str, *, failures: int = 0) -> Claim:
    question = EmbedSpec(model=model, input=("a frog",))
    return Claim("job_1", f"token of {model}", no_picture(question), 1, failures, "", question=question)


@pytest.fixture
def books(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, socket_timeout=5) as client:
        yield client


def intake_of(
    books: redis.Redis, ownership: Ownership, card: ModelCard, roads: dict[str, Road], **heard: Any
) -> Intake:
    served: Any = [(card.model_copy(update={"name": name}), road) for name, road in roads.items()]
    return Intake(
        served=served, name="w1", connection=books, ownership=ownership, leasing=ownership, attempts=Attempts(),
        may_claim=lambda: True, **heard,
    )  # fmt: skip


def test_a_claim_takes_the_road_of_its_own_model(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    """Not of the queue that was asked: where an answer was lost, what comes is what was asked for before."""
    ownership, roads = Giving(redis_client), {"starter": Road(1), "scorer": Road(1)}
    made = intake_of(books, ownership, card, roads)
    ownership.next = [claim_of("scorer")]
    assert made._claim_one("starter")
    assert ([*map(len, (roads["starter"].begun, roads["scorer"].begun))], ownership.asked) == ([0, 1], [("starter", 0)])
    made.hand_back()
    assert (roads["starter"].parked, roads["scorer"].parked) == ([], ["token of scorer"])


def test_a_full_road_holds_up_no_other(books: redis.Redis, redis_client: redis.Redis, card: ModelCard) -> None:
    ownership, roads = Giving(redis_client), {"starter": Road(0), "scorer": Road(1)}
    made = intake_of(books, ownership, card, roads)
    ownership.next = [claim_of("scorer")]
    assert [made._claim_one(model) for model in roads] == [False, True]
    assert ownership.asked == [("scorer", 0)]


def test_who_was_put_aside_goes_on_however_many_jobs_of_another_model_come(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    """And where there is no seat for another job, or none to claim."""
    ownership, roads = Giving(redis_client), {"starter": Road(0), "painter": Road(1), "scorer": Road(1)}
    made = intake_of(books, ownership, card, roads)
    ownership.next = [claim_of("scorer")]
    assert [made._claim_one(model) for model in ("starter", "scorer", "painter")] == [False, True, False]
    assert [road.went_on for road in roads.values()] == [1, 1, 0]


def test_a_job_that_runs_alone_does_so_on_all_roads(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    ownership, roads = Giving(redis_client), {"starter": Road(4), "scorer": Road(4)}
    made = intake_of(books, ownership, card, roads)
    ownership.next = [claim_of("starter", failures=keys.SUSPECT_AFTER)]
    assert made._claim_one("starter")
    assert not made._claim_one("scorer")
    assert ownership.asked == [("starter", 0)]


def test_all_models_are_announced_and_left(books: redis.Redis, redis_client: redis.Redis, card: ModelCard) -> None:
    ownership = Ownership(redis_client)
    made = intake_of(books, ownership, card, {"starter": Road(1), "scorer": Road(1)})
    made.leases.beat()
    assert (
        redis_client.zrange(keys.ALIVE + "starter", 0, -1)
        == redis_client.zrange(keys.ALIVE + "scorer", 0, -1)
        == ["w1"]
    )
    made.register_birth()
    made.leave()
    assert redis_client.exists(keys.ALIVE + "starter", keys.ALIVE + "scorer") == 0


def test_who_leaves_gives_back_what_it_never_heard_of(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim was heard, and the answer lost; see tests/contract/test_lost_answers.py."""
    ownership, gave_back = Ownership(redis_client), list[str]()
    made = intake_of(books, ownership, card, {"starter": Road(1)})
    monkeypatch.setattr(ownership, "give_back_unanswered", gave_back.append)
    made.register_birth()
    made.leave()
    assert gave_back == ["w1"]


def test_a_look_at_a_job_is_heard_as_one_of_rqs_commands(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    ownership, watched = Giving(redis_client), list[str]()
    made = intake_of(books, ownership, card, {"starter": Road(4)}, watched=lambda claim: watched.append(claim.token))
    ownership.next = [claim_of("starter")]
    assert made._claim_one("starter")
    for job_id in ("job_1", "job_of_another"):
        made.handle_payload({"data": f'{{"command":"watch","job_id":"{job_id}"}}'.encode()})
    assert watched == ["token of starter"]


def test_a_model_at_rest_is_not_claimed_and_its_jobs_can_still_be_stopped(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    ownership, road = Giving(redis_client), Road(2)
    made = intake_of(books, ownership, card, {"starter": road})
    ownership.next = [claim_of("starter"), claim_of("starter")]
    assert made._claim_one("starter")
    made.rest("starter")
    assert not made._claim_one("starter")
    made.hand_back()
    assert road.parked == ["token of starter"]
    made.resume("starter")
    assert made._claim_one("starter")
    assert ownership.asked == [("starter", 0), ("starter", 1)]


def test_another_model_is_claimed_in_the_place_of_one_that_was_closed(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    ownership, second = Giving(redis_client), Road(1)
    made = intake_of(books, ownership, card, {"first": Road(1)})
    made.rest("first")
    made.close_road("first")
    made.serve("second", second)
    ownership.next = [claim_of("second")]
    assert not made._claim_one("first")
    assert made._claim_one("second")
    assert [len(second.begun), ownership.asked] == [1, [("second", 0)]]
    made.leave()


def test_a_job_of_a_model_that_went_while_the_answer_was_lost_is_given_back(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    """Asked for before, it comes when the next model's job is asked for."""
    given_back: list[tuple[str, str]] = []

    class Noting(Giving):
        def give_back(self, claim: Claim, reason: str) -> bool:
            given_back.append((claim.spec.model, reason))
            return True

    ownership, road = Noting(redis_client), Road(1)
    made = intake_of(books, ownership, card, {"second": road})
    ownership.next = [claim_of("first")]
    assert made._claim_one("second")
    assert (given_back, road.begun) == ([("first", "model-swapped")], [])


def test_a_job_of_a_model_that_rests_is_given_back(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    """Its road may be closed the next moment, and would never step what was begun there."""
    given_back: list[str] = []

    class Noting(Giving):
        def give_back(self, claim: Claim, reason: str) -> bool:
            given_back.append(claim.spec.model)
            return True

    ownership, first = Noting(redis_client), Road(1)
    made = intake_of(books, ownership, card, {"first": first, "second": Road(1)})
    made.rest("first")
    ownership.next = [claim_of("first")]
    assert made._claim_one("second")
    assert (given_back, first.begun) == (["first"], [])


def test_rq_shows_a_worker_beside_the_queues_that_it_serves_now(
    books: redis.Redis, redis_client: redis.Redis, card: ModelCard
) -> None:
    ownership = Ownership(redis_client)
    made = intake_of(books, ownership, card, {"first": Road(1)})
    made.register_birth()
    second = card.model_copy(update={"name": "second"})
    made.leases.announce(second, ready_in=3.0)
    enter_queues(made, ["generate-second"])
    assert redis_client.hget(made.key, "queues") == "generate-second"
    assert redis_client.smembers("rq:workers:generate-second") == {made.key}
    assert redis_client.smembers("rq:workers:generate-first") == set()
    made.leave()
    assert redis_client.smembers("rq:workers:generate-second") == set()
    assert redis_client.exists(keys.ALIVE + "second") == 0
