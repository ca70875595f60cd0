"""What becomes of flagged pictures: nothing, a mark in the job and in the file, or nobody ever sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from app.contract.messages.card import ModelCard, Safety
from app.contract.messages.job import Record, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.picture_record import read_record
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from tests.waiting import WAIT_SECONDS, until
from tests.worker.test_reporter import PIXELS, PROVENANCE
from worker.attempts import Attempts
from worker.engine.events import DrawnImage, Failed, Finished, Preview, Timings
from worker.reporter import Reporter
from worker.safety import NO_PREVIEWS, NO_TRAJECTORY, judged, watched
from worker.storage import ObjectStore

Reporting = Callable[[Safety], Reporter]


def finished(token: str, nsfw: Sequence[bool | None], *, seed: int = 7) -> Finished:
    images = [DrawnImage(PIXELS, seed=seed + k, index=k, nsfw=each) for k, each in enumerate(nsfw)]
    return Finished(token, images, 20, Timings(0, 0, 0, 0), ["cut"])


@pytest.fixture
def asking(card: ModelCard) -> Callable[..., Claim]:
    def ask(token: str = "a" * 32, **parameters: Any) -> Claim:
        request = JobRequest(prompt="a red circle", seed=7, **parameters)
        taking = card.model_copy(update={"takes": ("trajectory",)})
        return Claim(new_job_id(), token, resolve(request, taking), attempt=1, failures=0, traceparent="")

    return ask


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def running(redis_client: redis.Redis) -> Callable[[Claim], None]:
    """A record that the claim owns."""

    def run(claim: Claim) -> None:
        fields = {"id": claim.id, "tenant": "ann", "model": "starter", "status": "running", "token": claim.token}
        fields |= {"spec": claim.spec.model_dump_json(), "attempt": "1", "created_ms": "1", "retention_ms": "1000"}
        redis_client.hset(keys.JOB + claim.id, mapping=fields | {"claimed_ms": "1"})

    return run


@pytest.fixture
def reporting(redis_client: redis.Redis, pictures: Path) -> Iterator[Reporting]:
    reporters: list[Reporter] = []

    def report(safety: Safety) -> Reporter:
        store = ObjectStore.from_url(pictures.as_uri())
        reporters.append(Reporter(Ownership(redis_client), store, Attempts(), {"starter": PROVENANCE}, safety=safety))
        return reporters[-1]

    yield report
    for reporter in reporters:
        reporter.close(seconds=WAIT_SECONDS)


def ended(redis_client: redis.Redis, claim: Claim) -> Record:
    def over() -> Record | None:
        record = Record.from_hash(redis_client.hgetall(keys.JOB + claim.id))  # type: ignore[arg-type]
        return record if record.status.is_terminal else None

    return until(over)


def files(pictures: Path) -> list[Path]:
    return sorted(file for file in pictures.rglob("*") if file.is_file())


def test_without_a_checker_everything_is_as_it_was(asking: Callable[..., Claim]) -> None:
    claim = asking(preview_every=3, keep_previews=True)
    event = finished(claim.token, [None, None])
    assert judged(event, claim.spec, "off") is event
    assert watched(claim.spec, "off") is claim.spec
    assert watched(claim.spec, "flag") is claim.spec


def test_flagged_pictures_are_marked_in_the_job_and_in_the_file(
    reporting: Reporting, asking: Callable[..., Claim], running: Callable[[Claim], None], redis_client: redis.Redis,
    pictures: Path,
) -> None:  # fmt: skip
    claim = asking(num_images=3)
    running(claim)
    reporter = reporting("flag")
    reporter._attempts.open(claim)
    reporter.handle(finished(claim.token, [True, False, True]))
    record = ended(redis_client, claim)
    assert [picture.nsfw for picture in record.images] == [True, False, True]
    assert record.warnings == ("cut", "The model's safety checker flagged pictures 0 and 2.")
    assert record.blocked == ()
    told = [read_record((pictures / picture.key).read_bytes())["nsfw"] for picture in record.images]
    assert told == [True, False, True]


def test_blocked_pictures_are_nowhere_and_the_others_are_delivered(
    reporting: Reporting, asking: Callable[..., Claim], running: Callable[[Claim], None], redis_client: redis.Redis,
    pictures: Path,
) -> None:  # fmt: skip
    claim = asking(num_images=3, preview_every=2, keep_previews=True, trajectory={"every": 2})
    running(claim)
    reporter = reporting("block")
    reporter._attempts.open(claim)
    reporter.handle(finished(claim.token, [True, False, True]))
    record = ended(redis_client, claim)
    assert record.status == "succeeded"
    assert [(picture.index, picture.seed, picture.nsfw) for picture in record.images] == [(1, 8, False)]
    assert [(each.index, each.seed) for each in record.blocked] == [(0, 7), (2, 9)]
    assert record.warnings == (
        "cut",
        "NSFW content detected, and not shown: pictures 0 and 2.",
        NO_PREVIEWS,
        NO_TRAJECTORY,
    )
    assert files(pictures) == [pictures / record.images[0].key]


@pytest.mark.parametrize(
    ("nsfw", "words"), [([True], "flagged the picture,"), ([True, None], "flagged all 2 pictures,")]
)
def test_with_none_left_the_job_fails_and_nothing_is_stored(
    reporting: Reporting, asking: Callable[..., Claim], running: Callable[[Claim], None], redis_client: redis.Redis,
    pictures: Path, nsfw: list[bool | None], words: str,
) -> None:  # fmt: skip
    """A picture that nobody has looked at is not shown either, whatever the reason."""
    claim = asking(num_images=len(nsfw))
    running(claim)
    reporter = reporting("block")
    reporter._attempts.open(claim)
    reporter.handle(finished(claim.token, nsfw))
    record = ended(redis_client, claim)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.slug == "content-blocked"
    assert words in record.error.detail
    assert "a red circle" not in record.error.detail
    assert [(each.index, each.seed) for each in record.blocked] == [(k, 7 + k) for k in range(len(nsfw))]
    assert (record.images, files(pictures)) == ((), [])


def test_where_pictures_may_be_blocked_there_are_no_previews(asking: Callable[..., Claim]) -> None:
    spec = watched(asking(preview_every=3, keep_previews=True, trajectory={}).spec, "block")
    assert (spec.preview_every, spec.keep_previews, spec.trajectory) == (0, False, None)
    harmless = judged(finished("a", [False]), asking().spec, "block")
    assert isinstance(harmless, Finished)
    assert harmless.warnings == ["cut"]


def test_other_ends_are_no_affair_of_the_checkers(asking: Callable[..., Claim]) -> None:
    preview = Preview("a", 0, 3, 20, np.zeros((8, 8, 3), np.uint8))
    assert judged(preview, asking().spec, "block") is preview
    failed = judged(finished("a", [True]), asking().spec, "block")
    assert isinstance(failed, Failed)
    assert judged(failed, asking().spec, "block") is failed
