"""`darkroom generate`: one wish, sent like any client's, followed on a progress bar, saved to a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

FAILED, REFUSED, UNREACHABLE = 1, 2, 3
"""Exit codes: the job failed, the service refused the wish, the service is not there."""

POLL_SECONDS = 10
PATIENCE_SECONDS = 30.0
"""How long a service that was there may be away before we give up on it."""


class GenerateError(Exception):
    """What ended the command early: a sentence and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def draw(wish: dict[str, Any], *, output: Path, url: str, api_key: str | None) -> int:
    """Submit, follow, save. Returns the exit code."""
    screen = Console(stderr=True)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        if not output.absolute().parent.is_dir():
            raise GenerateError(f"the folder of {output} does not exist; create it or choose another -o", REFUSED)
        wish["output_format"] = _format_of(output)
        with httpx2.Client(base_url=url, headers=headers, timeout=POLL_SECONDS + 20, follow_redirects=True) as client:
            job = _follow(client, _submit(client, wish), screen)
            for path, picture in zip(_paths(output, len(job["images"])), job["images"], strict=True):
                path.write_bytes(_download(client, picture["url"]))
                print(f"{path}  seed {picture['seed']}  {picture['width']}x{picture['height']}")
        for warning in job["warnings"]:
            screen.print(f"warning: {warning}", style="yellow", markup=False)
    except GenerateError as error:
        print(f"darkroom generate: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"darkroom generate: {output} cannot be written: {error.strerror}", file=sys.stderr)
        return REFUSED
    return 0


def _submit(client: httpx2.Client, wish: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = client.post("/v1/jobs", json=wish)
    except httpx2.InvalidURL:
        raise GenerateError(f"{client.base_url} is no URL of a service", UNREACHABLE) from None
    except httpx2.RequestError as error:
        raise GenerateError(_unreachable(client, error), UNREACHABLE) from None
    return _json(answer)


def _follow(client: httpx2.Client, job: dict[str, Any], screen: Console) -> dict[str, Any]:
    """Poll until the job is over, drawing its progress. Raises GenerateError unless it succeeded."""
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
        raise GenerateError(f"{job['id']} failed: {job['error']['detail']}", FAILED)
    if job["status"] == "canceled":
        raise GenerateError(f"{job['id']} was canceled", FAILED)
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
                raise GenerateError(message, UNREACHABLE) from None
        else:
            if answer.status_code == 304:
                return job
            if answer.status_code < 500:
                return _json(answer) | {"etag": answer.headers.get("etag", "")}
            if time.monotonic() > ends:
                _json(answer)
        time.sleep(0.5)


def _download(client: httpx2.Client, url: str) -> bytes:
    try:
        answer = client.get(url)
    except httpx2.RequestError as error:
        raise GenerateError(f"the picture could not be fetched: {error}", UNREACHABLE) from None
    if answer.status_code != 200:
        raise GenerateError(f"the picture could not be fetched: HTTP {answer.status_code}", FAILED)
    return answer.content


def _json(answer: httpx2.Response) -> dict[str, Any]:
    """The body, or the service's own words as an error."""
    try:
        body = answer.json()
    except ValueError:
        raise GenerateError(f"{answer.url.host} is no darkroom: HTTP {answer.status_code}", UNREACHABLE) from None
    if answer.status_code < 400:
        return dict(body)
    reasons = [f"{error['pointer']} {error['detail']}".strip() for error in body.get("errors", [])]
    raise GenerateError("; ".join(reasons) or str(body.get("detail", body)), REFUSED)


def _unreachable(client: httpx2.Client, error: Exception) -> str:
    return f"no service at {client.base_url} ({error}); start it with `darkroom up`, or name another with --url"


def _format_of(output: Path) -> str:
    formats = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    try:
        return formats[output.suffix.lower()]
    except KeyError:
        raise GenerateError(f"{output} must end in {', '.join(formats)}", REFUSED) from None


def _paths(output: Path, count: int) -> list[Path]:
    """out.png, or out-0.png, out-1.png, … for several pictures."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{index}") for index in range(count)]
