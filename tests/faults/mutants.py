"""The service with one mistake in it, each of which the checker must find. Applied in each process as it begins."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import redis

from app.contract.objects import names
from app.contract.objects.folder import Folder
from app.contract.redis import scripts
from app.contract.redis.store import JobStore, Reaped
from tests.faults.evidence import Findings
from tests.faults.scripted import ASLEEP
from worker import finisher
from worker.finisher import Finisher
from worker.intake import Intake
from worker.parking import Parking
from worker.reporter import Reporter
from worker.storage import Stored
from worker.swapping import Swapper


@dataclass(frozen=True)
class Mutant:
    """One mistake. `breaks`: violations of which at least one has to be found, any other is no proof of this mistake.
    `of_replies`: it is harmless until a reply is lost, or hides among deaths, and shows where nothing dies.
    `of_folders`: it is made by workers that have several models. `fate`: what shows it happens to workers more often
    than to others."""

    make: Callable[[], None]
    breaks: frozenset[str]
    of_replies: bool = False
    of_folders: bool = False
    fate: Mapping[str, float] = field(default_factory=dict)


def convicts(name: str, findings: Findings) -> bool:
    """Is this mistake proved?"""
    return bool(MUTANTS[name].breaks & findings.violations.keys())


def fate_of(name: str) -> Mapping[str, float]:
    """Chances of workers that differ from everybody's."""
    return MUTANTS[name].fate if name != "none" else {}


def apply(name: str) -> None:
    """KeyError for a name that is none, AssertionError where the service has no such part any more: a mutant that
    changes nothing would count as survived."""
    if name != "none":
        MUTANTS[name].make()


def _by_the_harness() -> None:
    """Redis is started otherwise."""


def _replace(owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Another function in the place of one that is there, and is called alike."""
    there = getattr(owner, name, None)
    assert callable(there), f"{owner.__name__} has no {name}"
    assert [*signature(there).parameters] == [*signature(new).parameters], f"{name} is called otherwise"
    setattr(owner, name, new)


def _rewrite(script: str, old: str, new: str) -> None:
    """Replace text in all that is made of this file of scripts/, wherever it is loaded."""
    original = scripts.source
    assert old in _lua(script), f"{script}.lua has no {old!r}"

    def source(name: str, *shared: str) -> str:
        text = original(name, *shared)
        return text.replace(old, new) if script in (name, *scripts.OF_ALL, *shared) else text

    for module in _modules_with(original):
        module.source = source


def _modules_with(source: Callable[..., str]) -> list[Any]:
    return [module for module in list(sys.modules.values()) if vars(module).get("source") is source]


def _lua(script: str) -> str:
    return (Path(scripts.__file__).parent / f"{script}.lua").read_text()


def _no_token_check() -> None:
    """Who has lost a job ends it all the same."""
    _rewrite("finish", "if job.status ~= 'running' or job.token ~= token then", "if not job.status then")


def _snapshot_of_a_lost_attempt() -> None:
    _rewrite("snapshot", "if not owns(id, token) then return 0 end", "")


def _submit_not_recognised() -> None:
    _rewrite("submit", "if redis.call('EXISTS', JOB .. id, SAID .. id) > 0 then", "if false then")


def _claim_not_recognised() -> None:
    _rewrite("claim", "if before then return owns(before, token) and told(before, claimable(before)) or nil end", "")


def _usage_counted_again() -> None:
    """By a last word that is said again because its answer was lost."""
    recognised = "return job.status == status and job.token == token and 'done' or 'stale'"
    count = "if job.status == status and job.token == token then use(job.tenant, now(), cjson.decode(ARGV[5])) end "
    _rewrite("finish", recognised, count + recognised)


def _taken_up_over_its_jobs() -> None:
    """The model in memory goes while it is drawing."""
    _replace(Swapper, "_is_put_to_rest", lambda self, folder: True)


def _asked_again_not_joined() -> None:
    """Who gave up too early and asks again has everything drawn twice."""
    _rewrite("pending_join", "return found", "return nil")


def _input_removed_under_its_job() -> None:
    _rewrite("input_drop", "if jobs > 0 then", "if false then")


def _input_told_again_without_its_file() -> None:
    """By an upload that somebody has deleted, record and file, before it is told again."""
    _rewrite("input_add", "if not until_ms or tonumber(until_ms) <= now() then return {'gone'} end", "")


def _outbox_popped_before_send() -> None:
    due = "redis.call('ZADD', OUTBOX, 'XX', at + DELIVERY_LEASE_MS, entry)"
    _rewrite("outbox_take", due, "redis.call('ZREM', OUTBOX, entry)")


def _put_aside_for_good() -> None:
    """What made room for others never gets its seats back."""
    _replace(Parking, "next", lambda self: None)


def _drained_with_its_jobs() -> None:
    """A worker that is told to leave does not wait for the end of its jobs."""

    def leaves(self: Intake) -> bool:
        try:
            self.was_drained = self.is_draining and self.leases.leave_drained()
        except redis.RedisError:
            return False
        return self.was_drained

    _replace(Intake, "_leaves_drained", leaves)


def _no_reaper() -> None:
    async def reap(self: JobStore, *, limit: int = 100) -> Reaped:
        return Reaped(0, 0, 0, 0)

    _replace(JobStore, "reap", reap)


def _finish_before_upload() -> None:
    """The record learns of pictures that are stored a moment later."""

    def store(self: Any, attempt: Any, finished: Any) -> Any:
        late: list[Callable[[], Any]] = attempt_uploads.setdefault(attempt.claim.token, [])
        put = self._store.put

        class Later:
            def put(self, key: str, data: bytes, content_type: str, **options: Any) -> Any:
                late.append(lambda: put(key, data, content_type))
                return Stored(key, hashlib.sha256(data).hexdigest(), len(data), content_type)

        self_store, self._store = self._store, Later()
        try:
            return original(self, attempt, finished)
        finally:
            self._store = self_store

    def put_away(self: Any, attempt: Any, finished: Any) -> Callable[[], bool]:
        with uploading:
            say = original_put_away(self, attempt, finished)

        def then_upload() -> bool:
            owned = say()
            for upload in attempt_uploads.pop(attempt.claim.token, []):
                upload()
            return owned

        return then_upload

    uploading = threading.Lock()
    attempt_uploads: dict[str, list[Callable[[], Any]]] = {}
    original, original_put_away = Finisher.store, Reporter._put_away
    _replace(Finisher, "store", store)
    _replace(Reporter, "_put_away", put_away)


def _perhaps_die() -> None:
    if random.random() < 0.1:
        os.kill(os.getpid(), signal.SIGKILL)


Call = Callable[[list[str], list[Any]], Awaitable[Any]]
"""Of a script: its keys and arguments, and what it answers."""


def _submit_by(make: Callable[[Call, Callable[[str], Call]], Call]) -> None:
    """Jobs come in by a call that `make` makes of the true one, and of whatever text it wants to run in Redis."""
    original = JobStore.__init__

    def init(self: Any, client: Any, *, waiting: Any = None) -> None:
        original(self, client, waiting=waiting)
        submit = make(_call(self._scripts["submit"]), lambda text: _call(client.register_script(text)))
        self._scripts["submit"] = lambda *, keys, args: submit(keys, args)

    _replace(JobStore, "__init__", init)


def _call(script: Any) -> Call:
    return lambda names, args: script(keys=names, args=args)


def _non_atomic_submit() -> None:
    """The record is written, and the id queued in a second call: the gateway may die in between."""
    queue = "local tag, place, stands = enqueue(id, tenant, model, cost, priority, due, waiting == 0)"
    whole = scripts.source("submit")
    assert queue in whole, "life.lua queues jobs in another way"
    not_queued = whole.replace(queue, "local tag, place, stands = '', '', ''")
    queue_it = _with_all("""
      local id = ARGV[1]
      local job = job_of(id)
      if job.tag ~= '' or job.status ~= 'queued' then return end
      local tag, place, stands = enqueue(id, job.tenant, job.model, tonumber(job.cost), job.priority, false,
        redis.call('ZCARD', QUEUED .. job.model) == 0)
      redis.call('HSET', JOB .. id, 'tag', tag, 'place', place, 'standing', stands)
    """)

    def in_two(_: Call, script: Callable[[str], Call]) -> Call:
        first, second = script(not_queued), script(queue_it)

        async def submit(names: list[str], args: list[Any]) -> Any:
            answer = await first(names, args)
            if answer[0] == "created":
                _perhaps_die()
                await second([], args)
            return answer

        return submit

    _submit_by(in_two)


def _key_before_record() -> None:
    """The Idempotency-Key is taken, and the job comes in by a second call: the gateway may die in between."""
    take_key = _with_all("""
      local known = replay(KEYS[1], ARGV[5])
      if known then return known end
      redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[5], 'EX', IDEMPOTENCY_SECONDS)
    """)

    def in_two(whole: Call, script: Callable[[str], Call]) -> Call:
        first = script(take_key)

        async def submit(names: list[str], args: list[Any]) -> Any:
            if names:
                if known := await first(names, args):
                    return known
                _perhaps_die()
            return await whole([], args)

        return submit

    _submit_by(in_two)


def _with_all(text: str) -> str:
    """This script, behind everything that scripts share."""
    return scripts.constants() + "".join(map(_lua, scripts.OF_ALL)) + text


def _write_in_place() -> None:
    """One name for all attempts, and nobody waits until the file is whole."""

    def key(job_id: str, token: str, index: int, output_format: str) -> str:
        return names.image_key(job_id, "0" * 32, index, output_format)

    def put(self: Folder, key: str, data: bytes, content_type: str) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            os.fsync(file.fileno())
            file.write(data[len(data) // 2 :])

    _replace(finisher, "image_key", key)
    _replace(Folder, "put", put)


def _mutant(make: Callable[[], None], *breaks: str, **how: Any) -> Mutant:
    return Mutant(make, frozenset(breaks), **how)


MUTANTS = {
    "no token check": _mutant(_no_token_check, "not exactly one end", "a picture is missing"),
    "no reaper": _mutant(_no_reaper, "never ended"),
    "aof off": _mutant(_by_the_harness, "lost", "a job or key was denied"),
    "finish before upload": _mutant(_finish_before_upload, "a picture is missing"),
    "non-atomic submit": _mutant(_non_atomic_submit, "queued nowhere"),
    "outbox popped before send": _mutant(_outbox_popped_before_send, "a webhook was forgotten"),
    "write in place": _mutant(_write_in_place, "a picture is another one", fate={ASLEEP + "upload": 0.25}),
    "key before record": _mutant(_key_before_record, "a job or key was denied", "lost"),
    "submit not recognised": _mutant(
        _submit_not_recognised, "told twice", "charged otherwise than owed", of_replies=True
    ),
    "claim not recognised": _mutant(_claim_not_recognised, "an attempt was lost", "never ended", of_replies=True),
    "snapshot of a lost attempt": _mutant(
        _snapshot_of_a_lost_attempt, "a snapshot outlived its job", fate={ASLEEP + "denoise": 0.2}
    ),
    "put aside for good": _mutant(_put_aside_for_good, "never ended", of_replies=True),
    "input removed under its job": _mutant(_input_removed_under_its_job, "an input went before its job"),
    "input told again without its file": _mutant(
        _input_told_again_without_its_file,
        "an input without its file",
        "an input went before its job",
        of_replies=True,
    ),
    "drained with its jobs": _mutant(_drained_with_its_jobs, "an attempt was lost", of_replies=True),
    "asked again, not joined": _mutant(_asked_again_not_joined, "one order, several jobs", of_replies=True),
    "taken up over its jobs": _mutant(
        _taken_up_over_its_jobs, "never ended", "an attempt was lost", of_replies=True, of_folders=True
    ),
    "usage counted again": _mutant(_usage_counted_again, "used otherwise than counted", of_replies=True),
}
