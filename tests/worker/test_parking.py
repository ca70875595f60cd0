"""Who makes room for an interactive job, for how long, and that nobody is forgotten; the engine only counts."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.urgency import Urgency
from app.contract.messages.usage import Work
from app.contract.redis.ownership import Claim
from worker.arrivals import Arrivals
from worker.attempts import Attempts, Stop
from worker.engine.events import EngineEvent, Finished, Parked, Started, Stopped
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.parking import MOST_TIMES, Parking

SEATS = 2
LONGEST = 60.0


class Counting:
    """An engine with two seats that draws nothing: events come when a test says so."""

    def __init__(self) -> None:
        self.seats = SEATS
        self.open: dict[str, int] = {}
        self.went_on: dict[str, Snapshot | None] = {}
        self.asked: list[str] = []

    @property
    def free_seats(self) -> int:
        return max(0, self.seats - sum(self.open.values()))

    @property
    def missing_seats(self) -> int:
        return max(0, sum(seats for id, seats in self.open.items() if id not in self.asked) - self.seats)

    def seats_of(self, request_id: str) -> int:
        return self.open.get(request_id, 0)

    def submit(self, request: Request, snapshot: Snapshot | None = None) -> None:
        self.open[request.id] = request.num_images
        self.went_on[request.id] = snapshot

    def park(self, request_id: str) -> None:
        self.asked.append(request_id)

    def cancel(self, request_id: str) -> None:
        self.open.pop(request_id, None)


class Service:
    """A road of jobs, and the hours that a test turns."""

    def __init__(self, card: ModelCard, *, longest: float = LONGEST, **told: Any) -> None:
        self.card, self.now, self.ends = card, 0.0, list[EngineEvent]()
        self.engine, self.attempts = Counting(), Attempts()
        self.parking = Parking(self.engine, self.attempts, longest=longest, clock=lambda: self.now, **told)
        reporter = SimpleNamespace(handle=self.ends.append)
        self.road = Arrivals(self.engine, cast(Any, None), self.attempts, cast(Any, reporter), parking=self.parking)

    def begin(self, priority: str = "interactive", *, images: int = 1) -> str:
        """A job that has been claimed. Returns what it is called."""
        spec = resolve(JobRequest(prompt="a red circle", num_images=images), self.card)
        job_id = new_job_id()
        claim = Claim(job_id, f"token-{job_id}", spec, 1, 0, "", urgency=Urgency(cast(Any, priority)))
        self.attempts.open(claim)
        self.road.begin(claim)
        return claim.token

    def leaves(self, token: str, work: Work | None = None) -> Snapshot:
        """The engine lets it go, as it was asked. Returns what it goes on from."""
        assert self.engine.asked.pop(0) == token
        snapshot = Snapshot(request=token, passes=(), drawn_with={}, samples=(), wanted=1)
        del self.engine.open[token]
        assert self.road.hear([Parked(token, snapshot, work or Work())]) == [], "to everybody else it goes on"
        return snapshot

    def one_aside(self) -> tuple[str, str, Snapshot]:
        """Of two jobs a batch job was put aside for a third. Returns it, the third, and what it goes on from."""
        self.begin()
        batch = self.begin("batch")
        urgent = self.begin()
        return batch, urgent, self.leaves(batch)

    def ends_with(self, token: str) -> None:
        del self.engine.open[token]
        finished = Finished(token, [], 20, cast(Any, None), [])
        assert self.road.hear([finished]) == [finished]
        self.attempts.close(token)


@pytest.fixture
def service(card: ModelCard) -> Service:
    return Service(card)


def test_batch_jobs_make_room_and_go_on_where_they_stood(service: Service) -> None:
    old, late = service.begin("batch"), service.begin("batch")
    assert (service.road.free_seats, service.road.seats_for_interactive) == (0, 2)
    urgent = service.begin()
    assert service.engine.asked == [late], "the one that came last"
    snapshot = service.leaves(late)
    assert (service.road.free_seats, service.road.seats_for_interactive) == (0, 1)
    service.road.go_on()
    assert late not in service.engine.open, "no seat is free"
    service.ends_with(urgent)
    assert (service.road.free_seats, service.road.seats_for_interactive) == (0, 2), "not for other batch jobs"
    service.road.go_on()
    assert service.engine.went_on[late] is snapshot
    assert old in service.engine.open


def test_interactive_jobs_make_no_room(service: Service) -> None:
    service.begin()
    service.begin()
    assert service.road.seats_for_interactive == 0
    service.begin()
    assert service.engine.asked == []


def test_a_free_seat_is_taken_before_anybody_is_put_aside(service: Service) -> None:
    service.begin("batch")
    service.begin()
    assert service.engine.asked == []


def test_a_job_of_several_pictures_needs_and_leaves_several_seats(service: Service) -> None:
    first, second = service.begin("batch"), service.begin("batch")
    service.begin(images=2)
    assert sorted(service.engine.asked) == sorted([first, second])


def test_seats_that_somebody_is_about_to_leave_are_counted(service: Service) -> None:
    service.engine.seats = 4
    _, batch = service.begin("batch", images=2), service.begin("batch", images=2)
    service.begin()
    service.begin()
    assert service.engine.asked == [batch], "two seats for two pictures"


def test_two_that_come_at_once_do_not_count_on_the_same_seat(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first is on its way into the engine, which looks at pixels."""
    batch, submit = service.begin("batch"), service.engine.submit

    def slow(request: Request, snapshot: Snapshot | None = None) -> None:
        monkeypatch.setattr(service.engine, "submit", submit)
        service.begin()
        submit(request, snapshot)

    monkeypatch.setattr(service.engine, "submit", slow)
    service.begin()
    assert service.engine.asked == [batch]


def test_nobody_is_put_aside_for_longer_than_the_bound(service: Service) -> None:
    """Then the next seat is its own, whoever waits."""
    urgent, batch = service.begin(), service.begin("batch")
    service.begin()
    service.leaves(batch)
    service.now = LONGEST - 1
    service.ends_with(urgent)
    assert service.road.seats_for_interactive == 1
    service.now = LONGEST
    assert service.road.seats_for_interactive == 0
    service.road.go_on()
    assert batch in service.engine.open


def test_nobody_is_put_aside_more_often_than_the_bound(service: Service) -> None:
    service.begin()
    batch = service.begin("batch")
    for _ in range(MOST_TIMES):
        urgent = service.begin()
        service.leaves(batch)
        service.ends_with(urgent)
        service.road.go_on()
        assert batch in service.engine.open
    assert service.road.seats_for_interactive == 0


def test_those_go_that_have_gone_the_fewest_times(service: Service) -> None:
    first, second = service.begin("batch"), service.begin("batch")
    urgent = service.begin()
    service.leaves(second)
    service.ends_with(urgent)
    service.road.go_on()
    service.begin()
    assert service.engine.asked == [first]


def test_with_no_time_at_all_nobody_is_put_aside(card: ModelCard) -> None:
    service = Service(card, longest=0)
    service.begin("batch")
    service.begin("batch")
    assert service.road.seats_for_interactive == 0


@pytest.mark.parametrize("reason", [Stop.CANCELED, Stop.LOST])
def test_a_job_that_is_stopped_while_it_is_put_aside_ends(service: Service, reason: Stop) -> None:
    batch, urgent, _ = service.one_aside()
    service.attempts.stop(batch, reason)
    service.road.cancel(batch)
    assert service.ends == [Stopped(batch)]
    service.ends_with(urgent)
    service.road.go_on()
    assert batch not in service.engine.open


def test_a_job_that_is_handed_back_while_it_is_put_aside_takes_along_how_far_it_had_come(service: Service) -> None:
    batch, urgent, snapshot = service.one_aside()
    service.attempts.stop(batch, Stop.GIVEN_BACK)
    service.road.park(batch)
    [handed_back] = service.ends
    assert isinstance(handed_back, Parked)
    assert handed_back.snapshot is snapshot
    service.ends_with(urgent)
    service.road.go_on()
    assert batch not in service.engine.open


def test_a_job_that_is_stopped_as_it_leaves_ends(service: Service) -> None:
    """Whoever stopped it spoke to an engine that had let it go."""
    service.begin()
    batch = service.begin("batch")
    service.begin()
    service.attempts.stop(batch, Stop.CANCELED)
    service.road.cancel(batch)
    parked = Parked(batch, None)
    assert service.road.hear([parked]) == [parked], "its end is for others to tell"
    assert service.road.seats_for_interactive == 0


def test_what_it_took_before_is_remembered_of_the_attempt(service: Service) -> None:
    """Where it ends a caller's use is counted."""
    service.begin()
    batch = service.begin("batch")
    for _ in range(2):
        urgent = service.begin()
        service.leaves(batch, Work(5, 10, 0.5))
        service.ends_with(urgent)
        service.road.go_on()
    attempt = service.attempts.get(batch)
    assert attempt is not None
    assert attempt.spent == Work(10, 20, 1.0)


def test_to_everybody_else_it_starts_once(service: Service) -> None:
    service.begin()
    batch = service.begin("batch")
    first, again = Started(batch), Started(batch, resumed_at=5, resumed=5)
    assert service.road.hear([first]) == [first]
    urgent = service.begin()
    service.leaves(batch)
    service.ends_with(urgent)
    service.road.go_on()
    assert service.road.hear([again]) == []


def test_one_that_cannot_be_kept_starts_over_once_and_is_left_alone_then(service: Service) -> None:
    service.begin()
    batch = service.begin("batch")
    urgent = service.begin()
    del service.engine.open[batch]
    assert service.road.hear([Parked(batch, None, Work(5, 10, 0.5))]) == []
    service.ends_with(urgent)
    service.road.go_on()
    assert service.engine.went_on[batch] is None
    assert service.road.seats_for_interactive == 0


def test_others_are_told_of_each_that_is_put_aside_and_of_what_it_goes_on_from(card: ModelCard) -> None:
    told = list[Any]()
    service = Service(card, put_aside=told.append, keep=lambda token, snapshot: told.append((token, snapshot)))
    batch, _, snapshot = service.one_aside()
    assert told == [batch, (batch, snapshot)]


def test_a_job_that_ends_on_its_way_back_is_forgotten(service: Service) -> None:
    """Its pictures could not be read again: the engine never hears of it."""
    service.begin()
    batch = service.begin("batch")
    urgent = service.begin()
    service.leaves(batch)
    service.ends_with(urgent)
    service.parking.next()
    service.attempts.close(batch)
    service.begin("batch")
    assert batch not in service.parking._jobs


def test_one_that_had_not_begun_goes_on_from_its_start(service: Service) -> None:
    service.begin()
    batch = service.begin("batch")
    urgent = service.begin()
    del service.engine.open[batch]
    assert service.road.hear([Parked(batch, None)]) == []
    service.ends_with(urgent)
    service.road.go_on()
    assert service.engine.went_on[batch] is None


@pytest.mark.parametrize("seed", range(5))
def test_however_many_come_few_are_put_aside_and_all_end(card: ModelCard, seed: int) -> None:
    """As worker/intake.py claims, from a queue that always has both kinds. Snapshots lie in memory: a batch job is
    taken in only where a seat is free that nobody wants who was put aside."""
    service, chance, most, images = Service(card), random.Random(seed), 0, {}
    begun = 0
    for _ in range(600):
        service.now += 1.0
        if begun < 60 and service.road.seats_for_interactive and chance.random() < 0.6:
            images[service.begin(images=chance.choice([1, 1, 2]))] = "interactive"
            begun += 1
        elif begun < 60 and service.road.free_seats:
            images[service.begin("batch", images=chance.choice([1, 2, 3]))] = "batch"
            begun += 1
        else:
            service.road.go_on()
        for token in service.engine.asked[:]:
            service.leaves(token)
        held = [token for token in images if service.attempts.get(token) is not None]
        most = max(most, sum(images[token] == "batch" for token in held))
        over = [token for token in service.engine.open if chance.random() < (0.2 if begun < 60 else 1.0)]
        for token in over:
            service.ends_with(token)
    assert most <= SEATS
    assert begun == 60
    assert not service.attempts.claims(), "none was forgotten"


def test_questions_that_wait_hold_interactive_jobs_up_as_well(card: ModelCard) -> None:
    """Nobody knows beforehand which kind the next job is."""
    service = Service(card)
    questions: Callable[..., Any] = lambda seats: SimpleNamespace(free_seats=seats, begin=None)  # noqa: E731
    service.road._questions = questions(0)
    service.begin("batch")
    assert (service.road.free_seats, service.road.seats_for_interactive) == (0, 0)
    service.road._questions = questions(1)
    assert (service.road.free_seats, service.road.seats_for_interactive) == (1, 2)
