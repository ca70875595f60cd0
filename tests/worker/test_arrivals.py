"""Jobs that name pictures: from a real store into the engine, or to their end without it."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import redis
from PIL import Image

from app.contract.messages.card import ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import JobError, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.urgency import Urgency
from app.contract.messages.usage import Work
from app.contract.objects.names import input_key
from app.contract.redis.ownership import Claim, Ownership
from tests.waiting import WAIT_SECONDS, until
from worker.arrivals import Arrivals
from worker.attempts import Attempts, Stop
from worker.engine.events import Parked
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.errors import InputMissing, StorageDenied, StorageUnavailable, WorkerError
from worker.fetching import Fetching
from worker.inputs import Inputs, pixels
from worker.parking import Parking
from worker.provenance import Provenance
from worker.reporter import Reporter
from worker.storage import ObjectStore

PROVENANCE = Provenance("f" * 64, "1.2.3", "2.13.0", "0.42.1", "cpu, x86_64", "float16", 2)
COLOURS = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)


def file_of(colours: np.ndarray, **options: Any) -> tuple[bytes, InputPicture]:
    """A picture as the gateway stores it, and what a record says of it."""
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG", **options)
    data = buffer.getvalue()
    height, width = colours.shape[:2]
    sha256 = hashlib.sha256(data).hexdigest()
    return data, InputPicture(sha256=sha256, width=width, height=height, content_type="image/png")


class Listening(Ownership):
    """Notes how attempts end."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.ends: list[tuple[str, str]] = []
        self.works: list[Work] = []

    def fail(self, claim: Claim, error: JobError, **facts: Any) -> bool:
        self.works.append(facts["work"])
        self.ends.append((claim.token, error.slug))
        return True

    def give_back(self, claim: Claim, reason: str, **facts: Any) -> bool:
        self.ends.append((claim.token, reason))
        return True

    def canceled(self, claim: Claim, **facts: Any) -> bool:
        self.ends.append((claim.token, "canceled"))
        return True


class Seats:
    """Of an engine: takes requests, and draws nothing."""

    free_seats, missing_seats = 5, 0

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.snapshots: dict[str, Snapshot | None] = {}
        self.parked: list[str] = []
        self.canceled: list[str] = []

    def submit(self, request: Request, snapshot: Snapshot | None = None) -> None:
        # A test that sees the request may look for the snapshot at once.
        self.snapshots[request.id] = snapshot
        self.requests[request.id] = request

    def park(self, request_id: str) -> None:
        self.parked.append(request_id)

    def seats_of(self, request_id: str) -> int:
        return self.requests[request_id].num_images if request_id in self.requests else 0

    def cancel(self, request_id: str) -> None:
        if request_id in self.requests:
            self.canceled.append(request_id)


class Slow(ObjectStore):
    """A store that reads when it is told to."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.place, pause=lambda seconds: None)
        self.may_read = threading.Event()
        self.is_asked = threading.Event()

    def get(self, key: str, **options: Any) -> bytes | None:
        self.is_asked.set()
        assert self.may_read.wait(WAIT_SECONDS)
        return super().get(key, **options)


class House:
    """The parts of a worker between a claim and the engine."""

    def __init__(self, client: redis.Redis, store: ObjectStore) -> None:
        self.ownership, self.attempts, self.engine = Listening(client), Attempts(), Seats()
        self.store = Slow(store)
        self.reporter = Reporter(self.ownership, self.store, self.attempts, {"starter": PROVENANCE})
        self.fetching = fetching = Fetching(Inputs(self.store), self.reporter)
        self.arrivals = Arrivals(self.engine, fetching, self.attempts, self.reporter)

    def begin(self, claim: Claim) -> None:
        self.attempts.open(claim)
        self.arrivals.begin(claim)

    def end(self) -> tuple[str, str]:
        """How the only attempt ended."""
        until(lambda: bool(self.ownership.ends) and not self.attempts.claims())
        [end] = self.ownership.ends
        return end


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.from_url((tmp_path / "pictures").as_uri())


@pytest.fixture
def house(redis_client: redis.Redis, store: ObjectStore) -> Iterator[House]:
    house = House(redis_client, store)
    yield house
    house.store.may_read.set()
    for claim in house.attempts.claims():
        house.attempts.close(claim.token)
    house.reporter.close(seconds=WAIT_SECONDS)
    house.fetching.close()


@pytest.fixture
def claim_of(card: ModelCard) -> Callable[..., Claim]:
    def claim_of(image: InputPicture | None = None, mask: InputPicture | None = None, *, num_images: int = 1) -> Claim:
        spec = resolve(JobRequest(prompt="a red circle", num_images=num_images), card)
        named = {"image": image, "mask_image": mask, "strength": image and 0.5}
        spec = spec.model_copy(update=named)
        token = hashlib.sha256(repr(named).encode()).hexdigest()[:32]
        return Claim(new_job_id(), token, spec, attempt=1, failures=0, traceparent="", tenant="local")

    return claim_of


def test_pixels_come_with_the_request_and_a_job_without_any_waits_for_nobody(
    house: House, claim_of: Callable[..., Claim]
) -> None:
    clear = np.dstack([COLOURS, np.full((24, 16), 7, np.uint8)])
    (data, image), (mask_data, mask) = file_of(COLOURS), file_of(clear)
    for each, sha256 in ((data, image.sha256), (mask_data, mask.sha256)):
        house.store.place.put(input_key("local", sha256), each, "image/png")
    edit, plain = claim_of(image, mask, num_images=3), claim_of()
    house.begin(edit)
    assert house.store.is_asked.wait(WAIT_SECONDS)
    assert house.arrivals.free_seats == 2, "three of five are for those under way"
    house.begin(plain)
    assert list(house.engine.requests) == [plain.token]
    house.store.may_read.set()
    until(lambda: edit.token in house.engine.requests and house.arrivals.free_seats == 5)
    request = house.engine.requests[edit.token]
    assert (request.image, request.mask_image, request.strength) == (image, mask, 0.5)
    assert np.array_equal(request.pictures[image.sha256], COLOURS)
    assert np.array_equal(request.pictures[mask.sha256], clear)


def test_a_picture_that_is_gone_ends_its_job(house: House, claim_of: Callable[..., Claim]) -> None:
    claim = claim_of(file_of(COLOURS)[1])
    house.store.may_read.set()
    house.begin(claim)
    assert house.end() == (claim.token, "input-missing")
    assert not house.engine.requests
    until(lambda: house.arrivals.free_seats == 5)


def test_a_store_that_is_away_gives_the_job_back_and_claiming_pauses(
    house: House, store: ObjectStore, claim_of: Callable[..., Claim], tmp_path: Path
) -> None:
    """Nothing is missing where there is no place to look for it."""
    data, image = file_of(COLOURS)
    store.place.put(input_key("local", image.sha256), data, "image/png")
    (tmp_path / "pictures").rename(tmp_path / "away")
    claim = claim_of(image)
    house.store.may_read.set()
    house.store._clock = iter(range(0, 10_000, 50)).__next__
    house.begin(claim)
    assert house.end() == (claim.token, "storage-unavailable")
    assert not house.reporter.storage_is_well()
    (tmp_path / "away").rename(tmp_path / "pictures")
    assert house.reporter.storage_is_well()


@pytest.mark.parametrize(("error", "ends"), [(StorageUnavailable, False), (StorageDenied, True), (InputMissing, True)])
def test_who_waits_for_pictures_hears_of_a_job_that_ends_without_them(
    house: House, claim_of: Callable[..., Claim], error: type[WorkerError], ends: bool
) -> None:
    """And of none that is given back: it comes again."""

    class Failing(Inputs):
        def fetch(self, *_: Any, **__: Any) -> Any:
            raise error("They cannot be had.")

    heard, over = list[str](), threading.Event()
    claim = claim_of()
    house.attempts.open(claim)
    attempt = house.attempts.get(claim.token)
    assert attempt is not None
    fetching = Fetching(Failing(house.store), house.reporter)
    fetching.bring(attempt, lambda *_: None, missed=lambda: heard.append("missed"), over=over.set)
    assert over.wait(WAIT_SECONDS)
    fetching.close()
    assert bool(heard) is ends


@pytest.mark.parametrize(
    ("reason", "word"), [(Stop.CANCELED, "canceled"), (Stop.GIVEN_BACK, "worker-stopped"), (Stop.LOST, None)]
)
def test_an_attempt_that_is_stopped_on_its_way_never_draws(
    house: House, claim_of: Callable[..., Claim], reason: Stop, word: str | None
) -> None:
    """Before its pictures are asked for, which nobody sees, or while they are read."""
    claim = claim_of(file_of(COLOURS)[1])
    house.begin(claim)
    assert house.store.is_asked.wait(WAIT_SECONDS)
    house.attempts.stop(claim.token, reason)
    house.arrivals.cancel(claim.token)
    house.store.may_read.set()
    until(lambda: not house.attempts.claims())
    assert house.ownership.ends == ([] if word is None else [(claim.token, word)])
    assert not house.engine.requests


def test_a_stop_that_comes_with_the_last_picture_reaches_the_engine(
    house: House, claim_of: Callable[..., Claim]
) -> None:
    data, image = file_of(COLOURS)
    house.store.place.put(input_key("local", image.sha256), data, "image/png")
    claim = claim_of(image)
    read = house.store.place.read

    class Stopping:
        label = "a folder"

        def read(self, key: str) -> bytes:
            house.attempts.stop(claim.token, Stop.CANCELED)
            house.arrivals.cancel(claim.token)
            return read(key)

    house.store.place = Stopping()  # type: ignore[assignment]
    house.store.may_read.set()
    house.begin(claim)
    until(lambda: house.engine.canceled == [claim.token])


def test_a_job_that_was_put_aside_brings_its_pictures_again(house: House, claim_of: Callable[..., Claim]) -> None:
    """It keeps none of them meanwhile. What it took before is counted also where it cannot go on."""
    data, image = file_of(COLOURS)
    house.store.place.put(input_key("local", image.sha256), data, "image/png")
    house.store.may_read.set()
    parking = Parking(house.engine, house.attempts, longest=60.0)
    road = Arrivals(house.engine, house.fetching, house.attempts, house.reporter, parking=parking)
    claim = replace(claim_of(image), urgency=Urgency("batch"))
    snapshot = Snapshot(request="", passes=[], drawn_with={}, samples=[], wanted=1)

    def goes_aside() -> None:
        until(lambda: claim.token in house.engine.requests)
        assert list(house.engine.requests.pop(claim.token).pictures) == [image.sha256]
        assert road.hear([Parked(claim.token, snapshot, Work(5, 10, 0.5))]) == []

    house.attempts.open(claim)
    road.begin(claim)
    goes_aside()
    road.go_on()
    goes_aside()
    assert house.engine.snapshots[claim.token] is snapshot
    house.store.place.delete(input_key("local", image.sha256))
    road.go_on()
    assert house.end() == (claim.token, "input-missing")
    assert house.ownership.works == [Work(10, 20, 1.0)]


def on_its_way_back(house: House, claim: Claim) -> tuple[Arrivals, Snapshot, list[Any]]:
    """A batch job was put aside, and its pictures are being read again. The road, what it goes on from, and what will
    be kept of it: by which way, of which claim."""
    kept = list[Any]()
    ways = {way: lambda *given, way=way: kept.append((way, *given)) for way in ("keep_at_last", "keep_or_not")}
    house.reporter._snapshots = cast(Any, SimpleNamespace(**ways))
    parking = Parking(house.engine, house.attempts, longest=60.0)
    road = Arrivals(house.engine, house.fetching, house.attempts, house.reporter, parking=parking)
    snapshot = Snapshot(request="", passes=[], drawn_with={}, samples=[], wanted=1)
    house.attempts.open(claim)
    parking.seated(claim.token, 1)
    assert road.hear([Parked(claim.token, snapshot)]) == []
    road.go_on()
    assert house.store.is_asked.wait(WAIT_SECONDS)
    return road, snapshot, kept


def test_a_job_that_is_handed_back_while_its_pictures_are_read_again_takes_along_how_far_it_had_come(
    house: House, claim_of: Callable[..., Claim]
) -> None:
    claim = replace(claim_of(file_of(COLOURS)[1]), urgency=Urgency("batch"))
    road, snapshot, kept = on_its_way_back(house, claim)
    house.attempts.stop(claim.token, Stop.GIVEN_BACK)
    road.park(claim.token)
    house.store.may_read.set()
    assert house.end() == (claim.token, "worker-stopped")
    assert kept == [("keep_at_last", claim, snapshot)]


def test_a_job_whose_pictures_the_store_does_not_give_again_takes_along_how_far_it_had_come(
    house: House, claim_of: Callable[..., Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: Any, **options: Any) -> bytes:
        raise StorageUnavailable("nobody answers")

    monkeypatch.setattr(ObjectStore, "get", away)
    claim = replace(claim_of(file_of(COLOURS)[1]), urgency=Urgency("batch"))
    _, snapshot, kept = on_its_way_back(house, claim)
    house.store.may_read.set()
    assert house.end() == (claim.token, "storage-unavailable")
    assert kept == [("keep_or_not", claim, snapshot)], "by a worker that goes on"


def test_a_job_that_is_back_before_its_first_way_is_over_holds_its_seats_for_both(
    house: House, claim_of: Callable[..., Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, image = file_of(COLOURS)
    claim = claim_of(image, num_images=2)
    ends: list[Callable[[], None]] = []
    monkeypatch.setattr(house.fetching, "bring", lambda attempt, enter, *, over: ends.append(over))
    seats = house.arrivals.free_seats
    for _ in range(2):
        house.begin(claim)
    for end in ends:
        assert house.arrivals.free_seats < seats
        end()
    assert house.arrivals.free_seats == seats


def test_only_the_file_that_was_stored_is_decoded() -> None:
    data, picture = file_of(COLOURS)
    assert np.array_equal(pixels(data, picture), COLOURS)
    with pytest.raises(ValueError, match="hash"):
        pixels(data + b"\0", picture)
    with pytest.raises(ValueError, match="16 x 24"):
        pixels(data, picture.model_copy(update={"width": 8}))
    half = data[: len(data) // 2]
    with pytest.raises(OSError, match="truncated"):
        pixels(half, picture.model_copy(update={"sha256": hashlib.sha256(half).hexdigest()}))


def test_a_file_that_was_changed_in_the_store_ends_its_job(house: House, claim_of: Callable[..., Claim]) -> None:
    data, image = file_of(COLOURS)
    house.store.place.put(input_key("local", image.sha256), data[:-1], "image/png")
    house.store.may_read.set()
    house.begin(claim_of(image))
    assert house.end()[1] == "input-missing"


def test_a_store_tells_what_is_gone_from_what_cannot_be_read(tmp_path: Path) -> None:
    store = ObjectStore.from_url((tmp_path / "pictures").as_uri())
    key = input_key("local", "a" * 64)
    assert store.get(key) is None
    store.place.put(key, b"1", "image/png")
    assert store.get(key) == b"1"
    (tmp_path / "pictures").rename(tmp_path / "away")
    with pytest.raises(StorageUnavailable):
        store.get(key, deadline=0)
    with pytest.raises(ValueError, match="not an input"):
        store.get("images/../secrets")
    assert InputMissing.slug == "input-missing"


def test_questions_of_the_model_that_draws_are_bounded_too(house: House) -> None:
    """Nobody knows beforehand of which kind the next job is."""
    waiting = SimpleNamespace(free_seats=0, begin=lambda claim: None)
    arrivals = Arrivals(house.engine, house.fetching, house.attempts, house.reporter, questions=waiting)  # type: ignore[arg-type]
    assert arrivals.free_seats == 0
    waiting.free_seats = 1
    assert arrivals.free_seats == house.engine.free_seats > 0
