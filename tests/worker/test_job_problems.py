"""Every page of why a job failed can be led to, and every way to fail has its page."""

from __future__ import annotations

from app.contract.redis.scripts import source
from app.edge.problems import JOB_PROBLEMS
from worker import reporter
from worker.engine import errors
from worker.errors import InputMissing, StorageDenied

FROM_REDIS = ("attempts-exhausted",)
FROM_THE_REPORTER = ("internal", StorageDenied.slug, InputMissing.slug)
"""Of storage's the only one that ends a job: with the others it goes back to the queue. And a picture that is gone."""


def test_pages_and_ways_to_fail_are_the_same() -> None:
    of_the_engine = {kind.slug for kind in (errors.EngineError, *errors.EngineError.__subclasses__())}
    assert set(JOB_PROBLEMS) == of_the_engine | {*FROM_REDIS, *FROM_THE_REPORTER}
    assert all(f'"slug":"{slug}"' in source("reap") for slug in FROM_REDIS)
    assert reporter.StorageDenied is StorageDenied
