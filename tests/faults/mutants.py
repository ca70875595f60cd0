"""The service with one mistake in it, each of which the checker must find. Applied in each process as it begins."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.contract.objects import folder as folders
from app.contract.objects import names
from app.contract.redis import outbox, ownership, scripts, store
from app.contract.redis.store import JobStore, NewJob, Reaped, Submission
from tests.faults.checker import Findings
from worker import reporter
from worker.finisher import Finisher
from worker.reporter import Reporter

NAMES = (
    "no token check",
    "no reaper",
    "aof off",
    "finish before upload",
    "non-atomic submit",
    "outbox popped before send",
    "write in place",
    "key before record",
    "submit not recognised",
    "claim not recognised",
)

OF_REPLIES = frozenset({"submit not recognised", "claim not recognised"})
"""Harmless until a reply is lost."""


UNTIDY = frozenset({"a file of nobody", "left in redis"})
"""Found as well where a run did not come to rest in its time: no proof of a mistake."""


def convicts(findings: Findings) -> bool:
    """Is a mistake proved?"""
    return bool(set(findings.violations) - (set() if findings.figures["rested"] else UNTIDY))


def apply(name: str) -> None:
    """KeyError for a name that is none. "aof off" is the harness's to do."""
    {"none": _nothing, "aof off": _nothing, **_MUTATIONS}[name]()


def _nothing() -> None:
    return


def _rewrite(script: str, old: str, new: str) -> None:
    """Replace text of one script, which must be there: a mutant that changes nothing would count as survived."""
    original = scripts.source
    assert old in _lua(script), f"{script}.lua has no {old!r}"

    def source(name: str, *shared: str) -> str:
        text = original(name, *shared)
        return text.replace(old, new) if script in (name, *scripts.OF_ALL, *shared) else text

    scripts.source = source  # type: ignore[assignment]
    store.source = ownership.source = source  # type: ignore[attr-defined]


def _lua(script: str) -> str:
    return (Path(scripts.__file__).parent / f"{script}.lua").read_text()


def _no_token_check() -> None:
    _rewrite("prelude", "return r[1] == 'running' and r[2] == token", "return r[1] ~= false")


def _submit_not_recognised() -> None:
    _rewrite("submit", "if redis.call('EXISTS', JOB .. id) == 1 then return {'created', id, seen(id)} end", "")


def _claim_not_recognised() -> None:
    _rewrite("claim", "if before then return owns(before, token) and told(before) or nil end", "")


def _no_reaper() -> None:
    async def reap(self: JobStore, *, limit: int = 100) -> Reaped:
        return Reaped(0, 0, 0, 0)

    JobStore.reap = reap  # type: ignore[method-assign]


def _finish_before_upload() -> None:
    """The record learns of pictures that are stored a moment later."""

    def store(self: Any, attempt: Any, finished: Any) -> Any:
        late: list[Callable[[], Any]] = attempt_uploads.setdefault(attempt.claim.token, [])
        put = self._store.put

        class Later:
            def put(self, key: str, data: bytes, content_type: str, **options: Any) -> Any:
                import hashlib

                from worker.storage import Stored

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

    import threading

    uploading = threading.Lock()
    attempt_uploads: dict[str, list[Callable[[], Any]]] = {}
    original, original_put_away = Finisher.store, Reporter._put_away
    Finisher.store = store  # type: ignore[method-assign]
    Reporter._put_away = put_away  # type: ignore[method-assign]


def _perhaps_die() -> None:
    if random.random() < 0.1:
        os.kill(os.getpid(), signal.SIGKILL)


def _in_two_steps(first: str, second: str) -> None:
    """submit.lua cut in two, with a gateway that may die in between."""
    original = JobStore.submit

    async def submit(self: Any, job: NewJob, **options: Any) -> Submission:
        random.seed()
        client, real = self._redis, self._scripts["submit"]

        async def both(*, keys: list[str], args: list[Any]) -> Any:
            answer = await client.register_script(whole(first))(keys=keys, args=args)
            if answer[0] != "created":
                return answer
            _perhaps_die()
            return await client.register_script(whole(second))(keys=keys, args=args)

        self._scripts["submit"] = both
        try:
            return await original(self, job, **options)
        finally:
            self._scripts["submit"] = real

    def whole(body: str) -> str:
        return scripts.source("submit").replace(_lua("submit"), body)

    JobStore.submit = submit  # type: ignore[method-assign]


_HEAD = """
local id, tenant, model, body = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local n = tonumber(ARGV[11])
if KEYS[1] then
  local before = redis.call('GET', KEYS[1])
  if before then
    local old_id, old_body = string.match(before, '^(%S+) (%S+)$')
    return {old_body == body and 'replayed' or 'conflict', old_id, seen(old_id)}
  end
end
"""
_TELL_KEY = "if KEYS[1] then redis.call('SET', KEYS[1], id .. ' ' .. body, 'EX', IDEMPOTENCY_SECONDS) end\n"
_ARGUMENTS = """
local id, tenant, model, body = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local n = tonumber(ARGV[11])
"""
_WRITE_RQ = "redis.call('HSET', RQ_JOB .. id, unpack(ARGV, 12 + n))\n"
_ACCEPT = "accept(id, tenant, model, tonumber(ARGV[4]), unpack(ARGV, 12, 11 + n))\n"
_CREATED = "return {'created', id, now(), 0}\n"


def _non_atomic_submit() -> None:
    """The record is written, and the id queued in a second call."""
    record = (
        "redis.call('HSET', JOB .. id, 'id', id, 'tenant', tenant, 'model', model, 'status', 'queued', 'attempt', 0, "
        "'failures', 0, 'step', 0, 'created_ms', now(), 'v', RECORD_VERSION, unpack(ARGV, 12, 11 + n))\n"
    )
    _in_two_steps(_HEAD + _WRITE_RQ + record + _TELL_KEY + _CREATED, _ARGUMENTS + _ACCEPT + _CREATED)


def _key_before_record() -> None:
    _in_two_steps(_HEAD + _TELL_KEY + _CREATED, _ARGUMENTS + _WRITE_RQ + _ACCEPT + _CREATED)


def _outbox_popped_before_send() -> None:
    original = scripts.source

    def source(name: str, *shared: str) -> str:
        text = original(name, *shared)
        old = "redis.call('ZADD', OUTBOX, 'XX', at + DELIVERY_LEASE_MS, entry)"
        return text.replace(old, "redis.call('ZREM', OUTBOX, entry)") if name == "outbox_take" else text

    outbox.source = source  # type: ignore[attr-defined]


def _write_in_place() -> None:
    """One name for all attempts, and nobody waits until the file is whole."""

    def key(job_id: str, token: str, index: int, output_format: str) -> str:
        return names.image_key(job_id, "0" * 32, index, output_format)

    def write(folder: int, name: str, data: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            folders.os.fsync(file.fileno())  # type: ignore[attr-defined]
            file.write(data[len(data) // 2 :])

    reporter.image_key = key  # type: ignore[attr-defined]
    folders._write_whole = write


_MUTATIONS: dict[str, Callable[[], None]] = {
    "no token check": _no_token_check,
    "no reaper": _no_reaper,
    "finish before upload": _finish_before_upload,
    "non-atomic submit": _non_atomic_submit,
    "outbox popped before send": _outbox_popped_before_send,
    "write in place": _write_in_place,
    "key before record": _key_before_record,
    "submit not recognised": _submit_not_recognised,
    "claim not recognised": _claim_not_recognised,
}
