"""What the commands that draw say to a service: submit, follow on a progress bar, fetch. Errors are sentences.

Knows the API as any client does. Refuses to know what a command does with a picture.
"""

from __future__ import annotations

import time
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

FAILED, REFUSED, UNREACHABLE = 1, 2, 3
"""Exit codes: the job failed, the service refused the wish, the service is not there."""

POLL_SECONDS = 10
PATIENCE_SECONDS = 30.0
"""How long a service that was there may be away before we give up on it."""


class CommandError(Exception):
    """What ended the command early: a sentence and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def connect(url: str, api_key: str | None) -> httpx2.Client:
    """A client of the service at `url`. Close it."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx2.Client(base_url=url, headers=headers, timeout=POLL_SECONDS + 20, follow_redirects=True)


def submit(client: httpx2.Client, wish: dict[str, Any]) -> dict[str, Any]:
    """The accepted job. Raises CommandError."""
    return _ask(client, "POST", "/v1/jobs", json=wish)


def models(client: httpx2.Client) -> list[dict[str, Any]]:
    """What is served. Raises CommandError."""
    return list(_ask(client, "GET", "/v1/models")["data"])


def _ask(client: httpx2.Client, method: str, path: str, **options: Any) -> dict[str, Any]:
    try:
        answer = client.request(method, path, **options)
    except httpx2.InvalidURL:
        raise CommandError(f"{client.base_url} is no URL of a service", UNREACHABLE) from None
    except httpx2.RequestError as error:
        raise CommandError(_unreachable(client, error), UNREACHABLE) from None
    return _json(answer)


def follow(client: httpx2.Client, job: dict[str, Any], screen: Console) -> dict[str, Any]:
    """Poll until the job is over, drawing its progress. Raises CommandError unless it succeeded."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("queued", total=None)
        while job["status"] in ("queued", "running"):
            steps = job["progress"]["steps"] or None
            progress.update(task, description=job["status"], completed=job["progress"]["step"], total=steps)
            job = _poll(client, job)
    if job["status"] == "failed":
        raise CommandError(f"{job['id']} failed: {job['error']['detail']}", FAILED)
    if job["status"] == "canceled":
        raise CommandError(f"{job['id']} was canceled", FAILED)
    return job


def _poll(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job after its next change. Outlives a restart of the service."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = client.get(
                f"/v1/jobs/{job['id']}", params={"wait": POLL_SECONDS}, headers={"If-None-Match": job.get("etag", "")}
            )
        except httpx2.RequestError as error:
            if time.monotonic() > ends:
                message = f"{_unreachable(client, error)}; the job goes on as {job['id']}"
                raise CommandError(message, UNREACHABLE) from None
        else:
            if answer.status_code == 304:
                return job
            if answer.status_code < 500:
                return _json(answer) | {"etag": answer.headers.get("etag", "")}
            if time.monotonic() > ends:
                _json(answer)
        time.sleep(0.5)


def download(client: httpx2.Client, url: str) -> bytes:
    """The picture at a link of the job. Raises CommandError."""
    try:
        answer = client.get(url)
    except httpx2.RequestError as error:
        raise CommandError(f"the picture could not be fetched: {error}", UNREACHABLE) from None
    if answer.status_code != 200:
        raise CommandError(f"the picture could not be fetched: HTTP {answer.status_code}", FAILED)
    return answer.content


def _json(answer: httpx2.Response) -> dict[str, Any]:
    """The body, or the service's own words as an error."""
    try:
        body = answer.json()
    except ValueError:
        raise CommandError(f"{answer.url.host} is no darkroom: HTTP {answer.status_code}", UNREACHABLE) from None
    if answer.status_code < 400:
        return dict(body)
    reasons = [f"{error['pointer']} {error['detail']}".strip() for error in body.get("errors", [])]
    raise CommandError("; ".join(reasons) or str(body.get("detail", body)), REFUSED)


def _unreachable(client: httpx2.Client, error: Exception) -> str:
    return f"no service at {client.base_url} ({error}); start it with `darkroom up`, or name another with --url"
