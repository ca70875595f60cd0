"""How far the caller's newest job of this API is, as the web UI's clients poll it; and calling such jobs off.

Knows records and previews. Refuses to know how a picture is drawn.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, Field

from app.a1111.translation import marks
from app.contract.messages.events import Status
from app.contract.messages.job import Record
from app.edge.auth import Caller
from app.services import Services

BEGUN: Final = 0.01
"""What the web UI says of a job of which nothing is done yet: 0 is nobody's."""


class Progress(BaseModel):
    """Theirs; what is not known here is as it is there before anything happens."""

    progress: float = Field(description="0 to 1; 0: there is no job")
    eta_relative: float = Field(description="Seconds until it is over, guessed; 0: nobody knows")
    state: dict[str, Any]
    current_image: str | None = Field(description="A JPEG of at most 256 pixels in base64, if there is one already")
    textinfo: str | None = None


async def progress(services: Services, caller: Caller, *, with_picture: bool) -> Progress:
    """Of the caller's newest job that is not over."""
    newest = await open_jobs(services, caller, limit=1)
    if not newest:
        return Progress(progress=0, eta_relative=0, state=_state(None), current_image=None)
    [record] = newest
    await services.watching.looked_at(record)
    return Progress(
        progress=min(1.0, BEGUN + _part(record)),
        eta_relative=await _seconds_left(services, record),
        state=_state(record),
        current_image=await services.webui.newest_preview(record.id) if with_picture else None,
        textinfo="Waiting" if record.status is Status.QUEUED else record.stage or None,
    )


async def open_jobs(services: Services, caller: Caller, *, limit: int | None = None) -> list[Record]:
    """The caller's jobs of this API that are not over, newest first."""
    most = limit or services.settings.tenant_limit
    return await services.jobs.open_jobs(caller.tenant, limit=most, metadata=marks(caller))


async def call_off(services: Services, caller: Caller, records: list[Record]) -> None:
    """Those who wait for these jobs get an answer without pictures, which is no error."""
    # Those that wait go first: a worker that lets go of a running one would take the next of them.
    ids = [each.id for each in sorted(records, key=lambda record: record.status is Status.RUNNING)]
    if ids:
        await services.webui.note_interrupted(ids)
        await services.jobs.cancel_all(ids, caller.tenant)


def drawn_now(records: list[Record]) -> list[Record]:
    """Of open jobs, newest first, the one that a worker has had for the longest time."""
    return [record for record in records if record.status is Status.RUNNING][-1:]


def _part(record: Record) -> float:
    return record.step / record.steps if record.steps else 0.0


async def _seconds_left(services: Services, record: Record) -> float:
    part = _part(record)
    if part and record.started_ms:
        return round(max(0.0, time.time() - record.started_ms / 1000) * (1 - part) / part, 3)
    model = (await services.registry.models()).get(record.model)
    return round((model and model.eta_seconds(record.position or 0)) or 0.0, 3)


def _state(record: Record | None) -> dict[str, Any]:
    if record is None:
        job, begun, step, steps = "", "0", 0, 0
    else:
        job = "scripts_img2img" if record.spec.image else "scripts_txt2img"
        begun = datetime.fromtimestamp(record.created_ms / 1000, UTC).strftime("%Y%m%d%H%M%S")
        step, steps = record.step, record.steps or record.spec.num_inference_steps
    return {
        "skipped": False,
        "interrupted": bool(record and record.cancel),
        "stopping_generation": False,
        "job": job,
        "job_count": int(record is not None),
        "job_timestamp": begun,
        "job_no": 0,
        "sampling_step": step,
        "sampling_steps": steps,
    }
