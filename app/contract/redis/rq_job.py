"""RQ's own hash of a queued job, which the scripts write beside the record.

Knows RQ 3.0.0's format. Refuses to know what a job draws: the payload is its id.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from rq.job import Job as RQJob
from rq.job import JobStatus as RQStatus
from rq.serializers import JSONSerializer

from app.contract.messages.job import new_job_id
from app.contract.redis import rq_names

ENTRY_POINT = "worker.intake.run"
"""The one function an RQ payload may name. Workers never call what a payload says: they read the record."""


def rq_hash(job_id: str, model: str) -> dict[str, Any]:
    """RQ's own hash of a queued job. The payload is the id; the description shows no prompt.

    What is empty is left out: RQ reads what is not there as it reads what is empty.
    """
    # As rq.job.Job.data writes a call: function, instance, arguments, keyword arguments. Stored, not deflated: fifty
    # bytes would not become fewer, and making zlib's tables takes longer than all the rest here.
    call = f'["{ENTRY_POINT}", null, ["{job_id}"], {{}}]'.encode()
    created = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    own = {"created_at": f"{created}Z", "data": zlib.compress(call, 0), "description": f"{ENTRY_POINT}({job_id})"}
    return _of_any(model) | own


@cache
def _of_any(model: str) -> dict[str, Any]:
    # What is the same in every job of a queue. RQ takes longer to write it than the rest of an accept takes.
    job = RQJob.create(
        ENTRY_POINT,
        id=new_job_id(),
        connection=cast(Any, _NoConnection()),
        origin=rq_names.queue_name(model),
        status=RQStatus.QUEUED,
        serializer=JSONSerializer,
        timeout=-1,
    )
    return {name: value for name, value in job.to_dict(include_meta=False).items() if value not in (None, "")}


class _NoConnection:
    """RQ asks for a connection to build a hash that we write ourselves."""
