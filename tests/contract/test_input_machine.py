"""Thousands of interleavings of what happens to a picture that comes in: sent, dropped, swept, needed by jobs, removed.

Any answer may come late: the script has run, others have their turn, and the call is made again, with that answer. No
record is ever without its object, no object that is being removed is being stored, and in the end nothing is left.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.contract.messages.card import ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.inputs import InputStore, Orphan, StoredInput
from app.contract.redis.store import JobStore, NewJob
from tests.contract.interleavings import play

T = TypeVar("T")
A_DAY_MS = 86_400_000
PICTURE = InputPicture(sha256="a" * 64, width=64, height=48, content_type="image/png")
ORPHAN = Orphan.of("ann", PICTURE.sha256)
FACTS: dict[str, str | int] = {"bytes": 9, "width": 64, "height": 48, "content_type": "image/png"}
WHAT = (
    *["send", "drop", "sweep"] * 3,
    *["upload", "remove", "drop again"] * 4,
    "time",
    "job",
    "end",
    "give up",
    "rest",
)
"""How often of so many times."""
WHO = st.integers(0, 5)
STEPS = st.integers(1, 3)


@dataclass(eq=False)
class Caller:
    """One who sends, drops or removes the picture, and where he stands. `asked`: he has not heard an answer yet."""

    token: str
    stage: str = "asks"
    asked: bool = False
    meant: StoredInput | None = None

    @property
    def is_storing(self) -> bool:
        """From when he may until he has told, though he may not know that he was heard."""
        return self.stage == "stores" or (self.stage == "tells" and not self.asked)


class Life(RuleBasedStateMachine):
    """`client`, `url`, `loop` and `card` are set by the test. `is_stored`: the object is in the store."""

    client: redis.Redis
    url: str
    loop: asyncio.AbstractEventLoop
    card: ModelCard

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.async_client = redis.asyncio.Redis.from_url(self.url, decode_responses=True)
        self.inputs, self.store = InputStore(self.async_client), JobStore(self.async_client)
        self.tokens = itertools.count()
        self.is_stored = False
        self.uploads: list[Caller] = []
        self.drops: list[Caller] = []
        self.removals: list[Caller] = []
        self.jobs: list[str] = []

    def run(self, call: Awaitable[T]) -> T:
        return self.loop.run_until_complete(call)

    @property
    def record(self) -> StoredInput | None:
        return self.run(self.inputs.get(ORPHAN.id, "ann"))

    def said(self, caller: Caller, call: Coroutine[Any, Any, T], *, is_lost: bool) -> tuple[T] | None:
        """The answer, or None where it was lost: each is lost once at most."""
        answer = self.run(call)
        caller.asked = is_lost and not caller.asked
        return None if caller.asked else (answer,)

    @rule(what=st.sampled_from(WHAT), who=WHO, is_lost=st.booleans(), steps=STEPS)
    def anything_happens(self, what: str, who: int, is_lost: bool, steps: int) -> None:
        """One rule, since Hypothesis leaves some of many out of each example: then hardly two callers meet."""
        match what:
            case "send":
                self.somebody_sends(is_lost=is_lost, steps=steps)
            case "drop":
                self.somebody_drops(is_lost=is_lost, steps=steps)
            case "sweep":
                self.the_sweeper_comes_by(is_lost=is_lost, steps=steps)
            case "time":
                self.its_time_is_over()
            case "job":
                self.a_job_comes_in()
            case "rest":
                self.all_comes_to_rest()
            case "end" if self.jobs:
                self.a_job_ends()
            case "upload" if self.uploads:
                self._upload(self.uploads[who % len(self.uploads)], steps, is_lost=is_lost)
            case "give up" if self.uploads:
                self.an_upload_is_given_up(who % len(self.uploads))
            case "drop again" if self.drops:
                self._drop(self.drops[who % len(self.drops)], steps, is_lost=False)
            case "remove" if self.removals:
                self._remove(self.removals[who % len(self.removals)], steps, is_lost=is_lost, fails=who == 0)

    # Who sends it.

    def somebody_sends(self, is_lost: bool, steps: int) -> None:
        upload = Caller(f"upload{next(self.tokens)}")
        self.uploads.append(upload)
        self._upload(upload, steps, is_lost=is_lost)

    def _upload(self, upload: Caller, steps: int, *, is_lost: bool) -> None:
        """The last of these steps may have no answer."""
        for step in range(steps):
            is_last = is_lost and step == steps - 1
            if upload.stage == "asks":
                if self.said(upload, self.inputs.begin(ORPHAN, upload.token), is_lost=is_last) == (True,):
                    upload.stage = "stores"
            elif upload.stage == "stores":
                assert all(removal.stage != "removes" for removal in self.removals), "it would go with the other"
                self.is_stored, upload.stage = True, "tells"
            elif upload.stage == "tells":
                add = self.inputs.add(ORPHAN, upload.token, FACTS, retention_ms=A_DAY_MS)
                if said := self.said(upload, add, is_lost=is_last):
                    assert said[0] is None or self.record is not None, "its sender was told that it is there"
                    self.uploads.remove(upload)
                    upload.stage = "over"

    def an_upload_is_given_up(self, who: int) -> None:
        """Its sender has gone, and its time is over."""
        upload = self.uploads.pop(who)
        self.client.zadd(keys.INPUT_UPLOADS + ORPHAN.name, {upload.token: 1}, xx=True)

    # Who drops it.

    def somebody_drops(self, is_lost: bool, steps: int) -> None:
        if meant := self.record:
            drop = Caller(f"drop{next(self.tokens)}", meant=meant)
            self.drops.append(drop)
            self._drop(drop, steps, is_lost=is_lost)

    def _drop(self, drop: Caller, steps: int, *, is_lost: bool) -> None:
        before, meant = self.record, drop.meant
        assert meant is not None
        is_meant = before is not None and before.token == meant.token
        said = self.said(drop, self.inputs.drop(meant), is_lost=is_lost)
        assert self.record == (None if is_meant and not self.jobs else before)
        if said:
            self.drops.remove(drop)
            [(outcome, _)] = said
            assert outcome == (("in-use" if self.jobs else "dropped") if is_meant else "missing")
            if outcome == "dropped":
                self._somebody_removes(steps, is_lost=False)

    # Who removes the object.

    def the_sweeper_comes_by(self, is_lost: bool, steps: int) -> None:
        for _ in self.run(self.inputs.orphans()):
            self._somebody_removes(steps, is_lost=is_lost)

    def _somebody_removes(self, steps: int, *, is_lost: bool) -> None:
        removal = Caller(f"removal{next(self.tokens)}")
        self.removals.append(removal)
        self._remove(removal, steps, is_lost=is_lost)

    def _remove(self, removal: Caller, steps: int, *, is_lost: bool, fails: bool = False) -> None:
        for step in range(steps):
            is_last = is_lost and step == steps - 1
            if removal.stage == "asks":
                said = self.said(removal, self.inputs.may_remove(ORPHAN, removal.token), is_lost=is_last)
                removal.stage = "asks" if said is None else "removes" if said[0] else "over"
            elif removal.stage == "removes":
                self._is_alone(removal)
                self.is_stored, removal.stage = self.is_stored and fails, "failed" if fails else "gone"
            elif removal.stage in ("gone", "failed"):
                say = self.inputs.removed if removal.stage == "gone" else self.inputs.not_removed
                if self.said(removal, say(ORPHAN, removal.token), is_lost=is_last):
                    removal.stage = "over"
        if removal.stage == "over" and removal in self.removals:
            self.removals.remove(removal)

    def _is_alone(self, removal: Caller) -> None:
        assert self.record is None
        assert not any(upload.is_storing for upload in self.uploads), "what is stored now would go"
        assert all(each.stage != "removes" for each in self.removals if each is not removal)

    def its_time_is_over(self) -> None:
        """Of the record, unless a job needs it, and of an object that may be nobody's."""
        self.client.zadd(keys.INPUT_ORPHANS, {ORPHAN.name: 1}, xx=True)
        if self.client.zadd(keys.INPUT_EXPIRY, {ORPHAN.id: 1}, xx=True, ch=True):
            self.run(self.inputs.drop_expired(ORPHAN.id))
            assert (self.record is not None) == bool(self.jobs)

    # Jobs that need it.

    def a_job_comes_in(self) -> None:
        spec = resolve(JobRequest(prompt="a circle", seed=1), self.card).model_copy(update={"image": PICTURE})
        job = NewJob(new_job_id(), "ann", spec, retention_ms=A_DAY_MS, metadata={})
        is_there = self.record is not None
        answer = self.run(self.store.submit(job, queue_limit=100, tenant_limit=100))
        assert answer.outcome == ("created" if is_there else "input-gone")
        self.jobs += [job.id] * is_there

    def a_job_ends(self) -> None:
        assert self.run(self.store.cancel(self.jobs.pop(), "ann")) == "canceled"

    @invariant()
    def no_record_is_without_its_object(self) -> None:
        if self.record is not None:
            assert self.is_stored
        elif self.is_stored:
            assert self.client.zscore(keys.INPUT_ORPHANS, ORPHAN.name) is not None, "it would be nobody's for ever"
        assert self.record is not None or not self.jobs

    def all_comes_to_rest(self) -> None:
        """Everybody ends what he is at, and then the picture is nobody's."""
        while self.uploads:
            self.an_upload_is_given_up(0)
        while self.jobs:
            self.a_job_ends()
        for _ in range(2):
            while self.removals:
                self._remove(self.removals[0], 3, is_lost=False)
            self.its_time_is_over()
            self.the_sweeper_comes_by(is_lost=False, steps=3)
        left = [key for key in self.client.scan_iter("*input*") if not key.startswith(keys.INPUT_UPLOADS)]
        assert (self.is_stored, left) == (False, [])

    def teardown(self) -> None:
        self.run(self.async_client.aclose())


@pytest.fixture
def machine(redis_client: redis.Redis, valkey_url: str, card: ModelCard) -> Iterator[Callable[[], Life]]:
    loop = asyncio.new_event_loop()
    yield type("Machine", (Life,), {"client": redis_client, "url": valkey_url, "loop": loop, "card": card})
    loop.close()


def test_no_interleaving_loses_the_picture(machine: Callable[[], Life]) -> None:
    play(machine, examples=120)
