"""What a stream has to do behind a proxy, whichever it is."""

from __future__ import annotations

import httpx2

from tests.app.conftest import ScriptedWorker
from tests.app.test_jobs import PARAMETERS


def require_events_while_a_job_runs(client: httpx2.Client, url: str, worker: ScriptedWorker) -> None:
    """Each one is read before the next one is made: a proxy that held them back would never let this end."""
    job = client.post(f"{url}/v1/jobs", json=PARAMETERS).json()
    with client.stream("GET", job["urls"]["events"]) as stream:
        names = (line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: "))
        assert next(names) == "job"
        claim = worker.claim()
        assert next(names) == "job.started"
        for step in (5, 10):
            worker.progress(claim, step)
            assert next(names) == "job.progress"
        worker.succeed(claim)
        assert next(names) == "job.succeeded"
