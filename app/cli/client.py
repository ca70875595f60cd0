"""What commands say to a service, as any client does: ask, submit, fetch. Every error is a sentence and an exit code.

Knows HTTP and problem details, and that what is ours, the key and the prompts, goes to the service's own origin only.
Refuses to know what a command does with the answers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from app.cli.answers import CANCELLATION, JOBS, MODELS, fits, is_job
from app.cli.exits import FAILED, INTERRUPTED, REFUSED, UNREACHABLE
from app.cli.plain import plain
from app.cli.spoken import spoken
from app.contract.common.environment import PREFIX
from app.contract.messages.picture_record import MAX_FILE_BYTES
from app.edge.cells import read_cells

Job = dict[str, Any]
"""A job as GET /v1/jobs/{id} shows it."""

ANSWER_SECONDS = 30.0
"""Longer than a long poll waits."""

LONGEST_PAUSE = 10.0
"""Seconds between two tries, whatever Retry-After says: somebody looks at the screen."""

MOST_REDIRECTS = 5
LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes, unpacked. A hundred jobs with the longest prompts and metadata are below two million."""

PORTS = {"http": 80, "https": 443}

HERE = ("localhost", "127.0.0.1", "::1")
"""No proxy is asked for these, whatever HTTP_PROXY says: to it they are itself. Go's programs do the same."""


class CommandError(Exception):
    """What ended the command early: a sentence, harmless whoever wrote its words, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(plain(message))
        self.code = code


class Refused(CommandError):
    """The service said no. `pointers` are the members of the body that it names."""

    def __init__(self, answer: httpx2.Response, body: dict[str, Any]) -> None:
        errors = body["errors"] if fits(body.get("errors"), [{"detail": str}]) else []
        reasons = [f"{_name_in(error)} {error['detail']}" for error in errors]
        said = body["error"]["message"] if fits(body.get("error"), {"message": str}) else body.get("detail", body)
        message = "; ".join(reason.strip() for reason in reasons) or str(said)
        if answer.status_code == 401:
            message += " Give it with --api-key or DARKROOM_API_KEY; `darkroom keys create` makes one on its machine."
        if answer.status_code == 421 and _is_an_address(location := str(body.get("location"))):
            where = urlsplit(location)
            message += f" Name {where.scheme}://{where.netloc} with --url, or list it in DARKROOM_CELLS."
        self.status = answer.status_code
        self.slug = str(body.get("type", "")).rpartition("/")[2]
        self.errors: list[dict[str, Any]] = errors
        self.pointers = [str(error.get("pointer", "")) for error in errors]
        self.retry_after = _seconds(answer.headers.get("retry-after", ""))
        super().__init__(spoken(message), UNREACHABLE if self.has_no_room or self.status >= 500 else REFUSED)

    @property
    def has_no_room(self) -> bool:
        return self.status == 429


def _name_in(error: dict[str, Any]) -> str:
    """What an error is about: a member of the body as it is written, `webhook.url`, or an option of the query."""
    if pointer := error.get("pointer"):
        return str(pointer).strip("/").replace("/", ".")
    return f"--{error['parameter']}" if error.get("parameter") else ""


def is_terminal(job: Job) -> bool:
    return job["status"] not in ("queued", "running")


def _client(url: str) -> httpx2.AsyncClient:
    mounts = {f"all://{f'[{host}]' if ':' in host else host}": None for host in HERE}
    host = httpx2.URL(url).host
    try:
        return httpx2.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, mounts=mounts)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:  # of SOCKS it knows only with a package more
        if host in HERE:
            return httpx2.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, trust_env=False)
        raise CommandError(f"ALL_PROXY or {url.split(':')[0].upper()}_PROXY cannot be used: {error}", REFUSED) from None


class Service:
    """A service at a URL. `async with` it; its methods raise CommandError."""

    def __init__(self, url: str, api_key: str | None, *, cells: Iterable[str] = ()) -> None:
        """`cells` are addresses that belong to the same service, by its user's word: what is in another of its cells is
        asked for there, with the key. Nobody else's word sends a key anywhere."""
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise CommandError("the API key has characters that no key has; copy it again", REFUSED)
        self._authorization = f"Bearer {api_key}" if api_key else None
        if not _is_an_address(url):
            raise CommandError(f"{url!r} is no URL; --url looks like http://127.0.0.1:8000", REFUSED)
        try:
            self.http = _client(url)
        except httpx2.InvalidURL:
            raise CommandError(f"{url!r} is no URL; --url looks like http://127.0.0.1:8000", REFUSED) from None
        self._own = {_origin(self.http.base_url), *(_origin(httpx2.URL(cell)) for cell in cells)}

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
            return await self._whole(method, path, largest=LARGEST_ANSWER, **options)
        except httpx2.InvalidURL:
            raise CommandError(f"{self.http.base_url} is no URL of a service", REFUSED) from None
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise CommandError(self.absence(error), UNREACHABLE) from None

    async def submit(self, request: dict[str, Any]) -> Job:
        """The accepted job. Repeated once after a broken connection: the name makes one job of both."""
        options: dict[str, Any] = {"json": request, "headers": {"Idempotency-Key": secrets.token_hex(16)}}
        try:
            answer = await self._whole("POST", "/v1/jobs", largest=LARGEST_ANSWER, **options)
        except httpx2.ConnectError as error:
            raise CommandError(self.absence(error), UNREACHABLE) from None
        except (httpx2.InvalidURL, httpx2.RequestError, httpx2.StreamError):
            answer = await self.answer("POST", "/v1/jobs", **options)
        return self.job_of(understood(answer))

    async def send_picture(self, data: bytes) -> str:
        """The id of a picture that was sent in. The same picture has the same: it may be sent again."""
        found = await self.ask("POST", "/v1/inputs", files={"file": ("picture", data)})
        return str(self._require(fits(found, {"id": str}), found)["id"])

    async def job(self, job_id: str) -> Job:
        return self.job_of(await self.ask("GET", f"/v1/jobs/{job_id}"))

    async def cancel(self, job_id: str) -> Job:
        """The job, which has been called off or ends soon."""
        return self.job_of(await self.ask("POST", f"/v1/jobs/{job_id}/cancel"))

    async def cancel_all(self, status: str | None) -> dict[str, Any]:
        """What became of all of the caller's jobs that were not over, or of those in this state; of so many at once."""
        found = await self.ask("POST", "/v1/jobs/cancel", json={"status": status})
        return self._require(fits(found, CANCELLATION), found)

    async def delete(self, path: str) -> None:
        """What is there is gone."""
        answer = await self.answer("DELETE", path)
        if answer.status_code != 204:
            understood(answer)

    async def jobs(self, **query: Any) -> dict[str, Any]:
        """A page of the caller's jobs, newest first."""
        page = await self.ask("GET", "/v1/jobs", params={name: value for name, value in query.items() if value})
        return self._require(fits(page, JOBS) and all(map(is_job, page["data"])), page)

    async def models(self) -> list[dict[str, Any]]:
        """What is served."""
        served = await self.ask("GET", "/v1/models")
        return list(self._require(fits(served, MODELS), served)["data"])

    async def report(self, path: str, shape: dict[str, Any], **query: Any) -> dict[str, Any]:
        """What is there to read, if it has that shape (app/cli/answers.py)."""
        found = await self.ask("GET", path, params={name: value for name, value in query.items() if value})
        return self._require(fits(found, shape), found)

    async def download(self, url: str) -> bytes:
        """The bytes at a link of the job. A link to another origin, a bucket's, is its own proof: no key goes there."""
        try:
            answer = await self._whole("GET", url, largest=MAX_FILE_BYTES, roams=True)
        except (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise CommandError(f"the picture could not be fetched: {error}", UNREACHABLE) from None
        if answer.status_code != 200:
            raise CommandError(f"the picture could not be fetched: HTTP {answer.status_code}", FAILED)
        return answer.content

    @asynccontextmanager
    async def opened(
        self, method: str, url: str, *, roams: bool = False, **options: Any
    ) -> AsyncIterator[httpx2.Response]:
        """An answer, after redirects, whose body is still to be read: by `bounded`. What `roams` may leave our origin.

        Raises CommandError for a way that leads elsewhere or nowhere, and what httpx2 raises.
        """
        request = self.http.build_request(method, url, **options)
        for _ in range(MOST_REDIRECTS):
            self._give_key(request, roams=roams)
            answer = await self.http.send(request, stream=True)
            onward = answer.next_request or self._in_other_cell(answer, method, **options)
            if onward is None:
                break
            await answer.aclose()
            request = onward
        else:
            raise CommandError(f"{request.url} redirects without an end; name the service with --url", UNREACHABLE)
        try:
            yield answer
        finally:
            await answer.aclose()

    def job_of(self, body: dict[str, Any]) -> Job:
        """The body, if it is a job."""
        return self._require(is_job(body), body)

    def _in_other_cell(self, answer: httpx2.Response, method: str, **options: Any) -> httpx2.Request | None:
        """The same request where the answer says that it belongs, if that is an address of ours."""
        location = answer.headers.get("location", "")
        if answer.status_code != 421 or not _is_an_address(location) or _origin(httpx2.URL(location)) not in self._own:
            return None
        return self.http.build_request(method, location, **options)

    def _give_key(self, request: httpx2.Request, *, roams: bool) -> None:
        """To our own origins, by scheme, host and port, alone. httpx2 would keep it on the way from http to https."""
        if _origin(request.url) in self._own:
            if self._authorization:
                request.headers["Authorization"] = self._authorization
            return
        request.headers.pop("Authorization", None)
        if not roams:
            elsewhere = f"{self.http.base_url} sends us on to {request.url.copy_with(query=None)}"
            raise CommandError(f"{elsewhere}; if that is your service, name it with --url", UNREACHABLE)

    async def _whole(self, method: str, url: str, *, largest: int, **options: Any) -> httpx2.Response:
        async with self.opened(method, url, **options) as answer:
            body = b"".join([chunk async for chunk in bounded(answer, largest)])
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() not in _OF_THE_WAY]
        return httpx2.Response(answer.status_code, headers=headers, content=body, request=answer.request)

    def _require(self, is_right: bool, body: dict[str, Any]) -> dict[str, Any]:
        if not is_right:
            message = f"{self.http.base_url} answers what no darkroom of this version does; name another with --url"
            raise CommandError(message, UNREACHABLE)
        return body

    def absence(self, error: Exception) -> str:
        """Why there is no answer, and what helps."""
        reason = str(error) or type(error).__name__
        return f"no service at {self.http.base_url} ({reason}); start it with `darkroom up`, or name another with --url"


_OF_THE_WAY = (b"content-encoding", b"content-length", b"transfer-encoding")
"""Headers of a body as it travelled."""


async def bounded(answer: httpx2.Response, largest: int) -> AsyncIterator[bytes]:
    """The body, unpacked, in pieces. Raises StreamError when it is larger: nobody fills this machine's memory."""
    size = 0
    async for chunk in answer.aiter_bytes():
        size += len(chunk)
        if size > largest:
            raise httpx2.StreamError(f"the answer is larger than {largest} bytes")
        yield chunk


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or PORTS.get(url.scheme)


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
    except (ValueError, RecursionError):
        message = f"{answer.url.host} is no darkroom: HTTP {answer.status_code}; name the service with --url"
        raise CommandError(message, UNREACHABLE) from None
    if not isinstance(body, dict):
        raise CommandError(f"{answer.url.host} is no darkroom; name the service with --url", UNREACHABLE)
    if answer.status_code >= 400:
        raise Refused(answer, body)
    return body


def _seconds(header: str) -> float:
    return min(LONGEST_PAUSE, float(header)) if header.isascii() and header.isdigit() else 1.0


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


def _known_cells() -> Iterable[str]:
    """The addresses that the user has listed. Raises CommandError."""
    try:
        return list(read_cells(os.environ.get(f"{PREFIX}CELLS", "")).values())
    except ValueError as error:
        raise CommandError(f"DARKROOM_CELLS: {error}", REFUSED) from None


def converse(command: str, url: str, api_key: str | None, work: Callable[[Service], Awaitable[int]]) -> int:
    """Do a command's work with a service, and say what went wrong in one line. Returns the exit code."""

    async def conversation() -> int:
        async with Service(url, api_key, cells=_known_cells()) as service:
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
