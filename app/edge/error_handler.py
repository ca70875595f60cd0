"""The one handler: whatever is raised below becomes a problem of errors.py.

Knows the exceptions of FastAPI, Redis and storage. What it does not know goes on to the guard, which answers 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import redis
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.contract.messages.params import ParamsRejected
from app.contract.messages.patterns import said_of
from app.contract.redis import lost_jobs
from app.contract.redis.store import QueueLost
from app.edge.errors import (
    InternalError,
    InvalidRequest,
    JobLost,
    LinkExpired,
    LinkInvalid,
    MalformedJson,
    MethodNotAllowed,
    NotFound,
    PictureNotFound,
    PicturesUnavailable,
    QueueStorageFull,
    QueueUnavailable,
    RangeNotSatisfiable,
)
from app.edge.problem import Problem
from app.edge.refusals import Refusals
from app.edge.versions import with_one_version
from app.pictures import errors as storage

log = structlog.get_logger()

MOST_ERRORS = 8
"""Wrong fields named in one answer: enough to repair a form, and the answer stays short whatever came in."""

_FIELD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}", re.ASCII)


def install(app: FastAPI, refusals: Refusals) -> None:
    """Make one handler answer everything that is raised. What is unforeseen goes on to the guard."""
    app.state.refusals = refusals

    async def handler(request: Request, error: Exception) -> Response:
        return answer_to(error, request)

    kinds = (
        Problem,
        RequestValidationError,
        ParamsRejected,
        HTTPException,
        redis.RedisError,
        storage.PictureStoreError,
    )
    for kind in kinds:
        app.add_exception_handler(kind, handler)


def answer_to(error: Exception, request: Request) -> Response:
    """What the one who sent the request is told of an exception."""
    refusals: Refusals = request.app.state.refusals
    request_id = getattr(request.state, "request_id", "unknown")
    return refusals.write(problem_for(error, request), request_id, request.url.path, request.headers)


def problem_for(error: Exception, request: Request) -> Problem:
    """What an exception means to the caller."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid([_validation_error(item) for item in error.errors()])
    if isinstance(error, ParamsRejected):
        return _invalid([{"pointer": e.pointer, "code": e.code, "detail": e.detail} for e in error.errors])
    if isinstance(error, HTTPException):
        return _http_problem(error, request)
    if isinstance(error, lost_jobs.JobLost):
        return JobLost("The job was accepted and then lost in a failure of the queue: send the request again.")
    if isinstance(error, redis.RedisError):
        return redis_problem(error)
    if isinstance(error, storage.PictureStoreError):
        return _storage_problem(error)
    return InternalError("The request failed here. The log has it under the request id.")


def _invalid(errors: list[dict[str, str]]) -> InvalidRequest:
    shown = errors[:MOST_ERRORS]
    more = f", {len(errors) - len(shown)} more" if len(errors) > len(shown) else ""
    return InvalidRequest(f"{len(errors)} thing(s) to correct, see `errors`{more}.", errors=shown)


def _validation_error(item: Any) -> dict[str, str]:
    source, *path = item["loc"]
    code, detail = str(item["type"]), said_of(item)
    if source != "body":
        return {"parameter": str(path[0]) if path else str(source), "code": code, "detail": detail}
    if not path and code == "missing":
        detail = "a JSON body is needed"
    return {"pointer": _pointer(path), "code": code, "detail": detail}


def _pointer(path: Sequence[str | int]) -> str:
    # Names of fields come from the caller where the field is unknown: only plain short ones are given back.
    parts: list[str] = []
    for part in path:
        if part == "[key]" or not _FIELD.fullmatch(str(part)):
            break
        parts.append(str(part))
    return "".join(f"/{part}" for part in parts)


def _http_problem(error: HTTPException, request: Request) -> Problem:
    if error.status_code == 404:
        return NotFound(_nothing_here(request))
    if error.status_code == 405:
        allowed = ", ".join(sorted(_allowed(request)))
        return MethodNotAllowed(f"This path takes {allowed}.", headers={"Allow": allowed})
    if error.status_code == 400:
        return MalformedJson("The body could not be read.")
    log.error("unforeseen http error", status=error.status_code)
    return InternalError("The request failed here. The log has it under the request id.")


def _nothing_here(request: Request) -> str:
    path: str = request.scope["path"]
    meant = {**request.scope, "path": with_one_version(path)}
    if meant["path"] == path or not any(_fits(route, meant) for route in _flat(request.app.router.routes)):
        return "Nothing is served at this path."
    than = "with one /v1 less" if len(path) > len(meant["path"]) else "with /v1 before it"
    return f"Nothing is served at this path, but {than} there is: the base URL that your client was given is not right."


def _fits(route: BaseRoute, scope: Scope) -> bool:
    return route.matches(scope)[0] is not Match.NONE


def _allowed(request: Request) -> set[str]:
    # Starlette names the methods of the first route that fits; a path may have several routes. One that names the path
    # letter by letter stands before those that take its last part for an id: /v1/jobs/cancel is no job.
    fit = [route for route in _flat(request.app.router.routes) if _fits(route, request.scope)]
    own = [route for route in fit if "{" not in getattr(route, "path", "")]
    methods = set[str]().union(*(getattr(route, "methods", None) or () for route in own or fit))
    # A mount rewrites the scope, so nothing fits any more; what is mounted here are files.
    methods = methods or {"GET"}
    return methods | {"HEAD"} if "GET" in methods else methods


def _flat(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        # FastAPI keeps an included router as one route, which does not say what it holds.
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from _flat(inner.routes)


def redis_problem(error: redis.RedisError) -> Problem:
    """What a failure of Redis means to the caller, at the door as behind it."""
    log.warning("redis failed", error=type(error).__name__, reason=str(error)[:200])
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in str(error):
        return QueueStorageFull("The queue has no memory left for new jobs.", retry_after=30)
    if isinstance(error, QueueLost):
        return QueueUnavailable("The queue has lost what it knew; until its operator decides, GET /readyz says more.")
    if isinstance(error, redis.ResponseError) and not isinstance(error, redis.exceptions.NoScriptError):
        # A full disk, a replica that was no primary any more, a right that is missing: GET /readyz knows which.
        return QueueUnavailable("The queue refuses this for now: GET /readyz says why. What was accepted is safe.")
    return QueueUnavailable("The queue does not answer at the moment. What was accepted before is safe.")


def _storage_problem(error: storage.PictureStoreError) -> Problem:
    if isinstance(error, storage.PictureMissing):
        return PictureNotFound("There is no such picture. It may have been deleted.")
    if isinstance(error, storage.SignatureExpired):
        return LinkExpired("The link's time is over: ask for the job again to get a new one.")
    if isinstance(error, storage.SignatureInvalid):
        return LinkInvalid("The link is not one of ours: ask for the job to get one that works.")
    if isinstance(error, storage.RangeNotSatisfiable):
        headers = {"Content-Range": f"bytes */{error.size}"}
        return RangeNotSatisfiable(f"The picture has {error.size} bytes.", headers=headers)
    if isinstance(error, storage.StoreTaken):
        return PicturesUnavailable("The picture store is another service's. It is logged, and GET /readyz says more.")
    log.warning("picture store failed", error=type(error).__name__, reason=str(error))
    return PicturesUnavailable("The picture store does not answer at the moment.", retry_after=5)
