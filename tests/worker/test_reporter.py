"""What the engine says reaches the record, and never holds the engine up."""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.picture_record import read_record
from app.contract.messages.trajectory import Trajectory
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership, StepsDone
from tests.waiting import WAIT_SECONDS, until
from worker.attempts import Attempts
from worker.engine.events import DrawnImage, Finished, Preview, Progress, Timings
from worker.engine.recording import Moment, Recording, Recordings
from worker.provenance import Provenance
from worker.reporter import MOST_ENDING, Reporter
from worker.storage import ObjectStore

PROVENANCE = Provenance("f" * 64, "1.2.3", "2.13.0", "0.42.1", "cpu, x86_64", "float16", 2)
PIXELS = np.full((16, 16, 3), 200, np.uint8)


class Recorder(Ownership):
    """Notes what it is told, and by which thread. Hangs while `answers` is unset, as a Redis that is stuck does."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        self.told: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()
        self.facts: dict[str, Any] = {}

    def steps_done(self, news: Sequence[StepsDone]) -> list[int]:
        return [60_000 * self._note("progress", each.step) for each in news]

    def preview(self, claim: Claim, index: int, step: int, steps: int, jpeg: str) -> bool:
        return self._note("preview", index, step, jpeg)

    def succeed(self, claim: Claim, pictures: Any, **facts: Any) -> bool:
        self.facts = facts
        return self._note("succeed", pictures)

    def fail(self, claim: Claim, error: Any, **facts: Any) -> bool:
        return self._note("fail", error.slug)

    def _note(self, *fact: Any) -> bool:
        self.threads.add(threading.current_thread().name)
        self.is_asked.set()
        self.answers.wait()
        self.told.append(fact)
        return True


def drawn(*pixels: np.ndarray, rescued: Sequence[int] = ()) -> list[DrawnImage]:
    """From seed 7 on."""
    return [DrawnImage(each, seed=7 + k, index=k, is_rescued=k in rescued) for k, each in enumerate(pixels)]


@pytest.fixture
def ownership(redis_client: redis.Redis) -> Recorder:
    return Recorder(redis_client)


@pytest.fixture
def hanging(ownership: Recorder) -> Iterator[Recorder]:
    ownership.answers.clear()
    yield ownership
    ownership.answers.set()


@pytest.fixture
def claim(card: ModelCard) -> Claim:
    parameters = JobRequest(prompt="a red circle", seed=7, preview_every=3, reproducible=True, num_images=2)
    return Claim(new_job_id(), "a" * 32, resolve(parameters, card), attempt=1, failures=0, traceparent="")


@pytest.fixture
def pictures(tmp_path: Path) -> ObjectStore:
    return ObjectStore.from_url((tmp_path / "pictures").as_uri())


@pytest.fixture
def reporter(ownership: Recorder, claim: Claim, pictures: ObjectStore) -> Iterator[Reporter]:
    attempts = Attempts()
    attempts.open(claim)
    reporter = Reporter(ownership, pictures, attempts, {"starter": PROVENANCE})
    yield reporter
    ownership.answers.set()
    attempts.close(claim.token)
    reporter.close(seconds=WAIT_SECONDS)


def test_a_redis_that_hangs_holds_up_no_step(hanging: Recorder, reporter: Reporter, claim: Claim) -> None:
    """`hear` is all that the engine's thread does for a listener."""
    reporter.handle(Progress(claim.token, 1, 1_000))
    assert hanging.is_asked.wait(WAIT_SECONDS)
    for step in range(2, 1_001):
        reporter.handle(Progress(claim.token, step, 1_000))
        reporter.handle(Preview(claim.token, 0, step, 1_000, PIXELS))
    assert hanging.told == [], "redis has not answered once in the meantime"
    hanging.answers.set()
    until(lambda: hanging.told[-1:] and hanging.told[-1][0] == "preview")
    assert [fact[1] for fact in hanging.told if fact[0] == "progress"] == [1, 1_000], "only the newest is worth telling"
    assert [fact[1:3] for fact in hanging.told if fact[0] == "preview"] == [(0, 1_000)]
    assert threading.current_thread().name not in hanging.threads


def test_a_preview_is_told_as_a_jpeg(ownership: Recorder, reporter: Reporter, claim: Claim) -> None:
    reporter.handle(Preview(claim.token, 0, 3, 20, PIXELS))
    reporter.handle(Preview(claim.token, 1, 3, 20, PIXELS // 2))
    until(lambda: len(ownership.told) == 2)
    for (_, index, step, jpeg), shade in zip(sorted(ownership.told), (200, 100), strict=True):
        assert (index, step) == (shade < 200, 3)
        with Image.open(io.BytesIO(base64.b64decode(jpeg))) as image:
            assert (image.format, image.size) == ("JPEG", (16, 16))
            assert np.abs(np.asarray(image).astype(int) - shade).max() <= 2


def test_the_largest_preview_fits(ownership: Recorder, reporter: Reporter, claim: Claim) -> None:
    """Noise is the worst that JPEG can meet."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    reporter.handle(Preview(claim.token, 0, 3, 20, noise))
    until(lambda: ownership.told)
    assert len(ownership.told[0][-1]) <= keys.MAX_PREVIEW


def test_a_preview_that_cannot_be_made_does_not_end_the_news(
    ownership: Recorder, reporter: Reporter, claim: Claim
) -> None:
    reporter.handle(Preview(claim.token, 0, 3, 20, np.zeros((0, 0, 3), np.uint8)))
    reporter.handle(Preview(claim.token, 1, 3, 20, PIXELS))
    until(lambda: ownership.told)
    assert [fact[1] for fact in ownership.told] == [1]


def test_what_kept_steps_raise_stays_with_them(
    ownership: Recorder, reporter: Reporter, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a finished picture is put away: it is worth more than how it came to be."""

    def no_memory(*args: Any, **options: Any) -> Any:
        raise MemoryError("no")

    monkeypatch.setattr("worker.finisher.encode_sheet", no_memory)
    monkeypatch.setattr("worker.finisher.files_of", no_memory)
    asking = dataclasses.replace(claim, spec=claim.spec.model_copy(update={"trajectory": Trajectory()}))
    reporter._attempts.open(asking)
    moments = [Moment(3, 1.0, None)]
    kept = Recording.empty(moments, (4, 2, 2), ["estimate"], asked=1, is_decoded=False)
    kept.linear = torch.zeros(5, 12)
    kept.keep("estimate", 0, np.zeros((4, 2, 2), np.float16))
    images = [dataclasses.replace(each, recordings=Recordings(kept, kept)) for each in drawn(PIXELS, PIXELS)]
    reporter.handle(Finished(claim.token, images, 20, Timings(0, 0, 0, 0), []))
    [told] = until(lambda: [fact for fact in ownership.told if fact[0] == "succeed"])
    assert [(picture.previews, picture.trajectory) for picture in told[1]] == [(None, None)] * 2


def test_a_picture_has_the_quality_that_was_asked_for(
    ownership: Recorder, reporter: Reporter, claim: Claim, tmp_path: Path
) -> None:
    """It stands in the record, and without it nothing does: an older record draws the same file again."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    timings = Timings(encode=0.1, denoise=0.2, decode=0.3, wall=0.6)
    for quality in (None, 10):
        spec = claim.spec.model_copy(update={"output_format": "jpeg", "output_quality": quality})
        asking = dataclasses.replace(claim, token="0" * 32 if quality is None else "b" * 32, spec=spec)
        reporter._attempts.open(asking)
        reporter.handle(Finished(asking.token, drawn(noise), 20, timings, []))
    pictures = until(lambda: [fact[1][0] for fact in ownership.told if len(ownership.told) == 2])
    large, small = sorted(pictures, key=lambda picture: -picture.bytes)
    assert small.bytes < large.bytes / 2
    records = [read_record((tmp_path / "pictures" / picture.key).read_bytes()) for picture in (large, small)]
    assert [record.get("output_quality", "none") for record in records] == ["none", 10]


def test_every_picture_says_what_drew_it(
    ownership: Recorder, reporter: Reporter, claim: Claim, pictures: ObjectStore, tmp_path: Path
) -> None:
    timings = Timings(encode=0.1, denoise=0.2, decode=0.3, wall=0.6)
    solver = {"class": "DPMSolverMultistepScheduler", "solver_order": 2}
    reporter.handle(Finished(claim.token, drawn(PIXELS, PIXELS, rescued=[1]), 20, timings, [], solver))
    ((_, stored),) = until(lambda: ownership.told)
    records = [read_record((tmp_path / "pictures" / picture.key).read_bytes()) for picture in stored]
    assert [record["seed"] for record in records] == [7, 8]
    first = records[0]
    assert first == {
        "model": "starter", "prompt": "a red circle", "negative_prompt": "", "width": 128, "height": 128,
        "num_inference_steps": 20, "guidance_scale": 4.0, "guidance_rescale": 0.0, "scheduler": "dpmpp_2m", "seed": 7,
        "output_format": "png", "guidance_end": 1.0,
        "reproducible": True, "prompt_syntax": "plain", "mask_blur": 0.0, "noise_level": 0, "start": "noise",
        "job_id": claim.id, "index": 0, "model_hash": "f" * 64, "version": "1.2.3",
        "torch": "2.13.0", "diffusers": "0.42.1", "device": "cpu, x86_64", "dtype": "float16", "bucket": 2,
        "solver": solver,
    }  # fmt: skip
    assert {name: records[1][name] for name in ("dtype", "rescued")} == {"dtype": "float32", "rescued": True}


def test_a_rescued_picture_was_drawn_by_the_network_as_it_is(
    ownership: Recorder, pictures: ObjectStore, claim: Claim, tmp_path: Path
) -> None:
    own = Reporter(ownership, pictures, Attempts(), {"starter": dataclasses.replace(PROVENANCE, compiled=True)})
    spec = claim.spec.model_copy(update={"reproducible": False})
    asking = dataclasses.replace(claim, token="c" * 32, spec=spec)
    own._attempts.open(asking)
    timings = Timings(encode=0.1, denoise=0.2, decode=0.3, wall=0.6)
    own.handle(Finished(asking.token, drawn(PIXELS, PIXELS, rescued=[1]), 20, timings, []))
    [(_, stored)] = until(lambda: ownership.told)
    own.close(seconds=WAIT_SECONDS)
    records = [read_record((tmp_path / "pictures" / picture.key).read_bytes()) for picture in stored]
    assert [record.get("compiled") for record in records] == [True, None]


def test_who_has_much_to_put_away_claims_no_more(hanging: Recorder, reporter: Reporter, claim: Claim) -> None:
    """What is drawn and not yet stored lies in memory."""
    assert reporter.has_room
    for _ in range(MOST_ENDING):
        reporter.refuse(claim, "It cannot be drawn.")
    assert not reporter.has_room
    hanging.answers.set()
    until(lambda: reporter.has_room)


def test_a_job_whose_flags_cannot_be_read_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, ownership: Recorder, reporter: Reporter, claim: Claim
) -> None:
    """Nothing is shown of it, and its attempt does not stay open for ever."""

    def breaks(*given: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    failed: list[str] = []
    monkeypatch.setattr("worker.reporter.judged", breaks)
    monkeypatch.setattr(ownership, "fail", lambda claim, error, work: failed.append(error.slug) or True)
    finished = Finished(claim.token, drawn(PIXELS), 20, Timings(0, 0, 0, 0), [])
    reporter.handle(finished)
    until(lambda: not reporter._attempts.claims())
    assert failed == ["internal"]
    assert ownership.told == []
