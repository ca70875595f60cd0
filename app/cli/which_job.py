"""Which job is meant: by its id, by the beginning of its id, or by a picture of it, which names its job.

Knows how jobs are named on a command line. Refuses to guess: what could mean two jobs is an error that lists them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.cli.answers import about
from app.cli.client import CommandError, Job, Refused, Service
from app.cli.exits import REFUSED
from app.cli.paging import pages
from app.cli.plain import plain
from app.cli.records import bytes_of, record_of
from app.contract.messages.job import is_job_id

T = TypeVar("T")

SHOWN = 5
"""Candidates that an error lists."""

ALIKE = 0.85
"""difflib's measure: an id with a digit or two wrong. Two ids of chance are below 0.6."""

PAGE = 100
_BEGINNING = re.compile(r"job_[0-9a-f]{4,23}(z[0-9a-z]{0,4})?")
_WHERE = "`darkroom jobs list` shows them"


@dataclass(frozen=True, slots=True)
class Meant:
    """A whole id, or the beginning of one; and the place of the picture in its job, if a picture was named."""

    id: str
    index: int | None = None

    @property
    def is_whole(self) -> bool:
        return is_job_id(self.id)


def meant(given: str) -> Meant:
    """What was written on the command line. A dot or a slash makes it a file. Raises CommandError."""
    if "." in given or "/" in given:
        return _in_picture(Path(given))
    text = given.lower() if given.lower().startswith("job_") else f"job_{given.lower()}"
    if is_job_id(text) or _BEGINNING.fullmatch(text):
        return Meant(text)
    raise CommandError(
        f"{plain(given, 60)} is not a job's id, nor four or more digits it begins with, nor a picture file; {_WHERE}",
        REFUSED,
    )


def _in_picture(picture: Path) -> Meant:
    record = record_of(picture, bytes_of(picture))
    job_id, index = record.get("job_id"), record.get("index")
    if not isinstance(job_id, str) or not is_job_id(job_id):
        raise CommandError(f"{picture} does not say which job drew it", REFUSED)
    return Meant(job_id, index if type(index) is int and index >= 0 else None)


def the_one(beginning: str, found: Sequence[tuple[str, str]]) -> str:
    """The only id of `found`, which are ids with a note for the reader. Raises CommandError."""
    if len(found) == 1:
        return found[0][0]
    if not found:
        raise CommandError(f"no job has an id that begins with {beginning}; {_WHERE}", REFUSED)
    shown = ", ".join(f"{job_id} ({plain(note, 30)})" for job_id, note in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise CommandError(f"{beginning} may be {shown}{more}; give more of it", REFUSED)


async def id_of(service: Service, given: str) -> str:
    """The id of the caller's job that is meant. Raises CommandError."""
    return await _whole(service, meant(given))


async def ids_of(service: Service, given: Sequence[str]) -> list[str]:
    """The same for several, each job once. All are found before anything is done to one."""
    return list(dict.fromkeys([await id_of(service, each) for each in given]))


async def id_and_index(service: Service, given: str) -> tuple[str, int | None]:
    """The id, and which picture of the job it is if a picture was named."""
    wanted = meant(given)
    return await _whole(service, wanted), wanted.index


async def asked(service: Service, job_id: str, answer: Awaitable[T]) -> T:
    """The answer about a job. Where there is no such job, the error names one that is called almost so."""
    try:
        return await answer
    except Refused as refusal:
        if refusal.status != 404:
            raise
        raise CommandError(f"{refusal}{await _alike(service, job_id)}", REFUSED) from None


async def _whole(service: Service, wanted: Meant) -> str:
    if wanted.is_whole:
        return wanted.id
    found: dict[str, Job] = {}
    async for page in pages(lambda cursor: service.jobs(id_prefix=wanted.id, limit=PAGE, cursor=cursor)):
        # A service of an older release does not know the question and sends every job.
        found |= {job["id"]: job for job in page["data"] if job["id"].startswith(wanted.id)}
    if not found:
        hint = await _alike(service, wanted.id)
        raise CommandError(f"no job of yours has an id that begins with {wanted.id}{hint or f'; {_WHERE}'}", REFUSED)
    return the_one(wanted.id, [(job_id, about(job)) for job_id, job in found.items()])


async def _alike(service: Service, job_id: str) -> str:
    """A question after the newest job whose id is almost this one; nothing where there is none to be had."""
    try:
        newest = [job["id"] for job in (await service.jobs(limit=PAGE))["data"]]
    except CommandError:
        return ""
    by_beginning = {each[: len(job_id)]: each for each in reversed(newest)}
    close = difflib.get_close_matches(job_id, by_beginning, n=1, cutoff=ALIKE)
    return f"; did you mean {by_beginning[close[0]]}?" if close else ""
