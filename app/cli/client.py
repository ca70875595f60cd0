"""What commands say to a service, as any client does: ask, submit, fetch. Every error is a sentence and an exit code.

Knows HTTP and problem details. Refuses to know what a command does with the answers.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from app.cli.exits import FAILED, INTERRUPTED, REFUSED, UNREACHABLE

Job = dict[str, Any]
"""A job as GET /v1/jobs/{id} shows it."""

ANSWER_SECONDS = 30.0
"""Longer than a long poll waits."""

LONGEST_PAUSE = 10.0
"""Seconds between two tries, whatever Retry-After says: somebody looks at the screen."""


class CommandError(Exception):
    """What ended the command early: a sentence and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Refused(CommandError):
    """The service said no. `pointers` are the members of the body that it names."""

    def __init__(self, answer: httpx2.Response, body: dict[str, Any]) -> None:
        errors = body.get("errors") or []
        reasons = [f"{error.get('pointer') or error.get('parameter') or ''} {error['detail']}" for error in errors]
        message = "; ".join(reason.strip() for reason in reasons) or str(body.get("detail", body))
        if answer.status_code == 401:
            message += " Give it with --api-key or DARKROOM_API_KEY."
        self.status = answer.status_code
        self.pointers = [str(error.get("pointer", "")) for error in errors]
        self.retry_after = _seconds(answer.headers.get("retry-after", ""))
        super().__init__(message, UNREACHABLE if self.has_no_room or self.status >= 500 else REFUSED)

    @property
    def has_no_room(self) -> bool:
        return self.status == 429


def over(job: Job) -> bool:
    return job["status"] not in ("queued", "running")


class Service:
    """A service at a URL. `async with` it; its methods raise CommandError."""

    def __init__(self, url: str, api_key: str | None) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise CommandError("the API key has characters that no key has; copy it again", REFUSED)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if not _is_an_address(url):
            raise CommandError(f"{url!r} is no URL; --url looks like http://127.0.0.1:8000", REFUSED)
        try:
            self.http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_SECONDS, follow_redirects=True)
        except httpx2.InvalidURL:
            raise CommandError(f"{url!r} is no URL; --url looks like http://127.0.0.1:8000", REFUSED) from None

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The body of the answer."""
        return understood(await self.answer(method, path, **options))

    async def answer(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The answer itself, whatever its status. Raises CommandError when there is none."""
        try:
            return await self.http.request(method, path, **options)
        except httpx2.InvalidURL:
            raise CommandError(f"{self.http.base_url} is no URL of a service", REFUSED) from None
        except httpx2.RequestError as error:
            raise CommandError(self.absence(error), UNREACHABLE) from None

    async def submit(self, wish: dict[str, Any]) -> Job:
        """The accepted job. Repeated once after a broken connection: the name makes one job of both."""
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        try:
            return understood(await self.http.post("/v1/jobs", json=wish, headers=headers))
        except httpx2.ConnectError as error:
            raise CommandError(self.absence(error), UNREACHABLE) from None
        except (httpx2.InvalidURL, httpx2.RequestError):
            return await self.ask("POST", "/v1/jobs", json=wish, headers=headers)

    async def job(self, job_id: str) -> Job:
        return await self.ask("GET", f"/v1/jobs/{job_id}")

    async def jobs(self, **query: Any) -> dict[str, Any]:
        """A page of the caller's jobs, newest first."""
        return await self.ask("GET", "/v1/jobs", params={name: value for name, value in query.items() if value})

    async def models(self) -> list[dict[str, Any]]:
        """What is served."""
        return list((await self.ask("GET", "/v1/models"))["data"])

    async def download(self, url: str) -> bytes:
        """The bytes at a link of the job."""
        try:
            answer = await self.http.get(url)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise CommandError(f"the picture could not be fetched: {error}", UNREACHABLE) from None
        if answer.status_code != 200:
            raise CommandError(f"the picture could not be fetched: HTTP {answer.status_code}", FAILED)
        return answer.content

    def absence(self, error: Exception) -> str:
        """Why there is no answer, and what helps."""
        reason = str(error) or type(error).__name__
        return f"no service at {self.http.base_url} ({reason}); start it with `darkroom up`, or name another with --url"


def _is_an_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def understood(answer: httpx2.Response) -> dict[str, Any]:
    """The body, or the service's own words as an error."""
    try:
        body = answer.json()
    except ValueError:
        message = f"{answer.url.host} is no darkroom: HTTP {answer.status_code}; name the service with --url"
        raise CommandError(message, UNREACHABLE) from None
    if not isinstance(body, dict):
        raise CommandError(f"{answer.url.host} is no darkroom; name the service with --url", UNREACHABLE)
    if answer.status_code >= 400:
        raise Refused(answer, body)
    return body


def _seconds(header: str) -> float:
    return min(LONGEST_PAUSE, float(header)) if header.isdigit() else 1.0


def complain(command: str, error: CommandError) -> int:
    """Say what is wrong in one line. Returns the exit code."""
    print(f"darkroom {command}: {error}", file=sys.stderr)
    return error.code


async def _end_others() -> None:
    """What a command has begun ends before its connections do."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def converse(command: str, url: str, api_key: str | None, work: Callable[[Service], Awaitable[int]]) -> int:
    """Do a command's work with a service, and say what went wrong in one line. Returns the exit code."""

    async def conversation() -> int:
        async with Service(url, api_key) as service:
            try:
                return await work(service)
            finally:
                await _end_others()

    try:
        return asyncio.run(conversation())
    except CommandError as error:
        return complain(command, error)
    except KeyboardInterrupt:
        return INTERRUPTED
