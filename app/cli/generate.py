"""`darkroom generate`: requests sent like any client's, all at once, followed on bars, saved to files.

Knows how a batch ends: well, in part, or called off. Refuses to know HTTP and what a file is called.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from app.cli.calling_off import call_off
from app.cli.client import CommandError, Job, Refused, Service, complain, converse
from app.cli.exits import FAILED, INTERRUPTED, OK, REFUSED, UNREACHABLE
from app.cli.following import follow
from app.cli.naming import Names
from app.cli.pictures_in import STDIN, NamedPictures
from app.cli.plain import plain
from app.cli.screen import Bars, say
from app.cli.spoken import spoken
from app.cli.terminal_pictures import Painter
from app.cli.wording import explained

FOLLOWED = 16
"""Jobs followed at once, a connection each: the first ones sent are drawn first."""

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """What happens with the pictures beside being saved, and which command says it."""

    command: str = "generate"
    as_json: bool = False
    show: bool = False
    preview: bool | None = None
    """True: in the terminal, somehow. None: if it shows pictures by itself. False: not."""


def read_prompts(prompts: Sequence[str], file: str | None) -> list[str]:
    """The prompts given, then those of the file: one a line, without blank lines and #. Raises CommandError."""
    found = list(prompts)
    if file is not None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CommandError(f"--file {file} cannot be read: {reason}", REFUSED) from None
        lines = (line.strip() for line in text.splitlines())
        found += [line for line in lines if line and not line.startswith("#")]
    for prompt in found:
        require_text(prompt)
    if not found:
        where = "" if file is None else f"; {file} holds none"
        raise CommandError(f"give a prompt, or a file of prompts with --file{where}", REFUSED)
    return found


def warn_of_missing_quotes(command: str, prompts: Sequence[str]) -> None:
    """Says on stderr what a shell has made of words that stood in no quotes: a prompt of each."""
    if len(prompts) > 1 and not any(" " in prompt for prompt in prompts):
        together = plain(" ".join(prompts), 60)
        said = f'{len(prompts)} prompts, each a picture of its own; in quotes it is one: "{together}"'
        print(f"darkroom {command}: warning: {said}", file=sys.stderr)


def require_text(text: str) -> None:
    """Raises CommandError for bytes of a command line that are no text in any encoding we know of."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CommandError(f"{plain(text, 40)!r} is not UTF-8 text", REFUSED) from None


def requests_of(prompts: Sequence[str], seeds: Sequence[int], parameters: Parameters) -> list[Parameters]:
    """A request for every prompt with every seed. An empty negative prompt is none: it comes of an empty variable."""
    given = {name: value for name, value in parameters.items() if value not in (None, [])}
    if not given.get("negative_prompt"):
        given.pop("negative_prompt", None)
    return [
        given | {"prompt": prompt} | ({} if seed is None else {"seed": seed})
        for prompt in prompts
        for seed in (seeds or (None,))
    ]


def without_prompt(requests: Sequence[Parameters], shared: Parameters) -> list[Parameters]:
    """Requests of a picture that is varied, whose prompt is its own: drawn from its embedding, they say none.

    Raises CommandError where one is needed and the picture has none."""
    if "image_embedding" in shared:
        return [{name: value for name, value in each.items() if name != "prompt"} for each in requests]
    if not all(each["prompt"] for each in requests):
        raise CommandError("the picture carries no darkroom record: give a prompt", REFUSED)
    return list(requests)


def draw(
    prompts: Sequence[str], file: str | None, seeds: Sequence[int], parameters: Parameters, *,
    output: str, overwrite: bool, url: str, api_key: str | None, display: Display, pictures: NamedPictures,
) -> int:  # fmt: skip
    """Send the pictures in, submit, follow, save. Returns the exit code."""
    try:
        # Not where asyncio runs: there a Ctrl-C does not end the reading of a terminal.
        if file == STDIN == pictures.image:
            raise CommandError("prompts and a picture cannot both come from stdin", REFUSED)
        given = pictures.read()
        own = given.origin if not prompts and file is None else None
        asked = own.prompts or [""] if own else read_prompts(prompts, file)
        requests = requests_of(asked, seeds, parameters)
        for value in (output, *parameters.values()):
            require_text(str(value))
        images = parameters.get("num_images") or 1
        names = Names(output, pictures=len(requests) * images, overwrite=overwrite)
    except CommandError as error:
        return complain(display.command, error)
    painter = Painter.for_terminal(display.preview)

    async def work(service: Service) -> int:
        shared = await given.send(service, parameters)
        wanted = requests if own is None else without_prompt(requests, shared)
        if "aspect_ratio" in parameters:
            shared = {name: value for name, value in shared.items() if name not in ("width", "height")}
        written = {"output_format": names.output_format}
        with Bars(jobs=len(requests)) as bars:
            batch = Batch(service, names, bars, painter, display)
            code = await batch.draw([shared | request | written for request in wanted])
        for path in batch.saved if display.show else []:
            typer.launch(str(path))
        return code

    return converse(display.command, url, api_key, work)


class Batch:
    """Jobs that were asked for together."""

    def __init__(self, service: Service, names: Names, bars: Bars, painter: Painter, display: Display) -> None:
        self.saved: list[Path] = []
        self._service = service
        self._names = names
        self._bars = bars
        self._painter = painter
        self._as_json = display.as_json
        self._command = display.command
        self._under_way: dict[str, Job] = {}
        self._submissions: set[asyncio.Task[Job]] = set()
        self._codes: list[int] = []
        self._warned: set[tuple[str, str]] = set()
        self._turns = asyncio.Semaphore(FOLLOWED)

    async def draw(self, requests: Sequence[Parameters]) -> int:
        """All of them. Returns the exit code. Cancelled by a Ctrl-C, it calls off what it began."""
        try:
            async with asyncio.TaskGroup() as followers:
                await self._send_all(requests, followers)
        except asyncio.CancelledError:
            await self._call_off()
            return INTERRUPTED
        if UNREACHABLE in self._codes:
            return UNREACHABLE
        drew_nothing = not self.saved and all(code == REFUSED for code in self._codes)
        return OK if not self._codes else REFUSED if drew_nothing else FAILED

    async def _send_all(self, requests: Sequence[Parameters], followers: asyncio.TaskGroup) -> None:
        first_picture = 0
        for sent, request in enumerate(requests):
            try:
                job = await self._send(request)
            except CommandError as error:
                self._bars.end(None)
                self._complain(
                    f"{await explained(self._service, error, request)}{_whose(request, requests)}", error.code
                )
                if not _is_about_the_prompt(error):
                    if left := len(requests) - sent - 1:
                        self._complain(f"{left} more were not sent", error.code)
                    return
            else:
                followers.create_task(self._follow(job, first_picture))
            first_picture += request.get("num_images") or 1

    async def _send(self, request: Parameters) -> Job:
        """The accepted job. Where there is no room, waits as long as jobs of ours will make some."""
        while True:
            submission = asyncio.create_task(self._service.submit(request))
            self._submissions.add(submission)
            try:
                # Shielded: whatever was accepted has to be known, to be called off. Also at the moment of a Ctrl-C.
                job = await asyncio.shield(submission)
            except CommandError as error:
                self._submissions.discard(submission)
                if not isinstance(error, Refused) or not error.has_no_room or not self._under_way:
                    raise
                await asyncio.sleep(error.retry_after)
            else:
                self._submissions.discard(submission)
                self._under_way[job["id"]] = job
                self._bars.show(job)
                self._warn(job)
                return job

    async def _follow(self, job: Job, first_picture: int) -> None:
        try:
            async with self._turns:
                ended = await follow(self._service, job, handle=self._bars.show)
                await self._take(ended, first_picture)
        except CommandError as error:
            self._complain(str(error), error.code)
        self._bars.end(job["id"])
        self._under_way.pop(job["id"], None)

    async def _take(self, job: Job, first_picture: int) -> None:
        """What a job has come to. Raises CommandError."""
        if job["status"] == "failed":
            raise CommandError(f"{job['id']} failed: {plain(job['error']['detail'])}", FAILED)
        if job["status"] == "canceled":
            raise CommandError(f"{job['id']} was canceled", FAILED)
        # Of pictures that were chosen from more, the best is the first.
        ranks = {each["index"]: rank for rank, each in enumerate(job["images"])} if job.get("selection") else {}
        for picture in job["images"]:
            data = await self._service.download(picture["url"])
            path = self._names.write(
                data, job, picture, number=first_picture + ranks.get(picture["index"], picture["index"])
            )
            self.saved.append(path)
            picture["file"] = str(path)
            with self._bars.aside():
                self._painter.paint(data)
                if not self._as_json:
                    say(f"{path}  seed {picture['seed']}  {picture['width']}x{picture['height']}{_score(picture)}")
        with self._bars.aside():
            if self._as_json:
                say(json.dumps(job))
        self._warn(job)
        if job.get("deadline_met") is False:
            with self._bars.aside():
                print(f"darkroom {self._command}: warning: {job['id']} ended after its deadline", file=sys.stderr)
        if blocked := job.get("blocked"):
            self._complain(f"{job['id']}: {len(blocked)} of {job['input']['num_images']} pictures not shown", FAILED)

    def _warn(self, job: Job) -> None:
        """What the service warns of: as it takes the job, that nobody is there to draw it; at the end, of the rest."""
        with self._bars.aside():
            for warning in job["warnings"]:
                if (job["id"], warning) in self._warned:
                    continue
                self._warned.add((job["id"], warning))
                print(f"darkroom {self._command}: warning: {spoken(warning)}", file=sys.stderr)

    def _complain(self, message: str, code: int) -> None:
        self._codes.append(code)
        with self._bars.aside():
            print(f"darkroom {self._command}: {message}", file=sys.stderr)

    async def _call_off(self) -> None:
        """Cancel every job that was begun here and has not ended, and say so."""
        for line in await call_off(self._service, self._submissions, self._under_way):
            self._complain(line, INTERRUPTED)


def _score(picture: Mapping[str, Any]) -> str:
    score = picture.get("score")
    return "" if score is None else f"  score {score:.3f}"


def _whose(request: Parameters, requests: Sequence[Parameters]) -> str:
    return f" (the prompt {plain(request['prompt'], 40)!r})" if len(requests) > 1 else ""


def _is_about_the_prompt(error: CommandError) -> bool:
    """Would another prompt have been taken?"""
    pointers = error.pointers if isinstance(error, Refused) else []
    return bool(pointers) and set(pointers) <= {"/prompt"}
