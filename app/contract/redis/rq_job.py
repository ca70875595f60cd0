"""RQ's own hash of a queued job, which the scripts write beside the record.

Knows RQ 3.0.0's format. Refuses to know what a job draws: the payload is its id.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, cast

from rq.job import Job as RQJob
from rq.job import JobStatus as RQStatus
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat

from app.contract.messages.job import new_job_id
from app.contract.redis import keys

ENTRY_POINT = "worker.intake.run"
"""The one function an RQ payload may name. Workers never call what a payload says: they read the record."""


def rq_hash(job_id: str, model: str) -> dict[str, Any]:
    """RQ's own hash of a queued job. The payload is the id; the description shows no prompt."""
    own = {
        "created_at": utcformat(now()),
        # As rq.job.Job.data writes a call: function, instance, arguments, keyword arguments.
        "data": zlib.compress(JSONSerializer.dumps((ENTRY_POINT, None, [job_id], {}))),
        "description": f"{ENTRY_POINT}({job_id})",
    }
    return _of_any(model) | own


@cache
def _of_any(model: str) -> dict[str, Any]:
    # What is the same in every job of a queue. RQ takes longer to write it than the rest of an accept takes.
    job = RQJob.create(
        ENTRY_POINT,
        id=new_job_id(),
        connection=cast(Any, _NoConnection()),
        origin=keys.queue_name(model),
        status=RQStatus.QUEUED,
        serializer=JSONSerializer,
        timeout=-1,
    )
    return {name: value for name, value in job.to_dict(include_meta=False).items() if value is not None}


class _NoConnection:
    """RQ asks for a connection to build a hash that we write ourselves."""
