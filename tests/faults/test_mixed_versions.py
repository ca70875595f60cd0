"""Workers of two versions at one queue: what the older one does not understand is left to the newer one."""

from __future__ import annotations

import json

from app.contract.redis import keys, rq_names
from tests.faults.conftest import Scene
from tests.faults.installation import is_alive


def test_a_job_from_the_future_waits_and_its_queue_goes_on(scene: Scene) -> None:
    """A real process with real intake: it draws nothing that it does not understand, fails nothing and goes on."""
    scene.redis.set(rq_names.RQ_SUSPENDED, 1)
    future, present = scene.send(seed=1), scene.send(seed=2)
    record = keys.JOB + future["id"]
    spec = json.loads(str(scene.redis.hget(record, "spec"))) | {"of_tomorrow": 0.7}
    scene.redis.hset(record, mapping={"v": keys.RECORD_VERSION + 1, "spec": json.dumps(spec)})
    pid = scene.worker()
    scene.redis.delete(rq_names.RQ_SUSPENDED)
    assert scene.ended(present)["status"] == "succeeded"
    later = scene.send(seed=3)
    assert scene.ended(later)["status"] == "succeeded"
    waiting = scene.look(future)
    assert (waiting["status"], waiting["attempts"], waiting["error"]) == ("queued", 0, None)
    assert scene.events(future) == ["job.queued"]
    assert is_alive(pid)
    # A worker that knows this version: nothing else was in the job's way.
    scene.redis.hset(record, "v", keys.RECORD_VERSION)
    assert scene.ended(future)["status"] == "succeeded"
    assert is_alive(pid)
