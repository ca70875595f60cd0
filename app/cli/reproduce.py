"""`darkroom reproduce`: draws a picture again from the record inside it, and says whether it is the same."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.calling_off import call_off
from app.cli.client import CommandError, Job, Refused, Service, converse
from app.cli.decoding import decoded
from app.cli.exits import DIFFERENT, FAILED, INTERRUPTED, OK, REFUSED
from app.cli.following import follow
from app.cli.naming import refuse_taken
from app.cli.plain import plain
from app.cli.records import bytes_of, record_of, same_weights
from app.cli.screen import Bars
from app.cli.wording import explained
from app.contract.messages.kept_spec import asked_again
from app.contract.messages.picture_record import PictureError

if TYPE_CHECKING:
    from PIL import Image

CIRCUMSTANCES = ("model_hash", "version", "torch", "diffusers", "device", "dtype", "bucket", "compiled")
"""What else the pixels depend on. Where one differs, a difference is no surprise."""

FILES_BESIDE = {"controlnets": "ControlNet", "lora_files": "LoRA", "embedding_files": "textual inversion"}
"""So do they on these: in a record, by name, the sha256 of each file that was drawn with beside the model."""


def reproduce(
    picture: Path, *, output: Path | None, overwrite: bool, as_json: bool, url: str, api_key: str | None
) -> int:
    """Read, draw again, compare, and save the new picture if `output` is given. Returns the exit code."""

    async def work(service: Service) -> int:
        if output is not None and not overwrite:
            refuse_taken(output)
        data = bytes_of(picture)
        record, before = record_of(picture, data), _decoded(picture.name, data)
        served = await service.models()
        for remark in _remarks(record, served):
            print(f"darkroom reproduce: {plain(remark)}", file=sys.stderr)
        job = await _drawn(service, _request(record, served))
        again = await service.download(job["images"][0]["url"])
        if output is not None:
            _save(output, again)
        verdict = Verdict.of(record, record_of(output or picture, again), before, _decoded("the new picture", again))
        print(json.dumps(asdict(verdict) | {"job": job}) if as_json else verdict)
        return OK if verdict.identical else DIFFERENT

    return converse("reproduce", url, api_key, work)


async def _drawn(service: Service, request: dict[str, Any]) -> Job:
    submission = asyncio.create_task(service.submit(request))
    with Bars() as bars:
        try:
            job = await follow(service, await _accepted(service, submission, request), handle=bars.show)
        except asyncio.CancelledError:
            raise CommandError("; ".join(await call_off(service, [submission], [])), INTERRUPTED) from None
    if job["status"] == "failed":
        raise CommandError(f"{job['id']} failed: {plain(job['error']['detail'])}", FAILED)
    if job["status"] == "canceled":
        raise CommandError(f"{job['id']} was canceled", FAILED)
    return job


async def _accepted(service: Service, submission: asyncio.Task[Job], request: dict[str, Any]) -> Job:
    try:
        # Shielded: whatever was accepted has to be known, to be called off.
        return await asyncio.shield(submission)
    except Refused as refusal:
        said = await explained(service, refusal, request, {})
        if any(error.get("code") == "input_not_found" for error in refusal.errors):
            said = f"it was drawn from a picture that is not kept here any more: {said}"
        raise CommandError(said, refusal.code) from None


def _save(output: Path, data: bytes) -> None:
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}", REFUSED) from None


def _decoded(name: str, data: bytes) -> Image.Image:
    try:
        return decoded(data)
    except PictureError as error:
        raise CommandError(f"{name} cannot be decoded: {error}", REFUSED) from None


def _request(record: dict[str, Any], served: list[dict[str, Any]]) -> dict[str, Any]:
    given = asked_again(record)
    return given | {"model": same_weights(record, served) or given.get("model")}


def _remarks(record: dict[str, Any], served: list[dict[str, Any]]) -> Iterator[str]:
    """What to know before it is drawn."""
    name, same = record.get("model"), same_weights(record, served)
    here = next((model["sha256"] for model in served if model["id"] == name), None)
    if same is None and here is not None:
        theirs = str(record.get("model_hash"))[:10]
        yield f"another model: the picture is from {theirs}, {name} here is {here[:10]}; expect another picture"
    elif same is not None and same != name:
        yield f"the picture's model {name} is served as {same} here"
    served_as = same or name
    yield from _other_files(record, next((model for model in served if model["id"] == served_as), {}))
    if not record.get("reproducible"):
        yield "the picture was not drawn as reproducible: rounding depends on what was drawn beside it"


def _other_files(record: dict[str, Any], model: dict[str, Any]) -> Iterator[str]:
    """Files beside the model that are others here. Of some a worker may not know the hash yet."""
    here: dict[str, dict[str, str | None]] = {
        "controlnets": {each["name"]: each.get("sha256") for each in model.get("controls", ())},
        "lora_files": {each["name"]: each.get("sha256") for each in model.get("loras", ())},
        "embedding_files": dict.fromkeys(model.get("embeddings", ())) | model.get("embedding_files", {}),
    }
    for kind, what in FILES_BESIDE.items():
        files = record.get(kind)
        for name, sha256 in files.items() if isinstance(files, dict) else ():
            found = here[kind].get(name)
            if name not in here[kind]:
                yield f"the {what} {name} is not here"
            elif found is not None and found != sha256:
                then, now = str(sha256)[:10], found[:10]
                yield f"another {what} {name}: the picture is from {then}, here it is {now}; expect another picture"


def _circumstances(record: dict[str, Any]) -> dict[str, Any]:
    """By name; each file beside the model is one."""
    found = {name: record.get(name) for name in CIRCUMSTANCES}
    for kind in FILES_BESIDE:
        files = record.get(kind)
        found |= {f"{kind}/{name}": sha256 for name, sha256 in files.items()} if isinstance(files, dict) else {}
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far two pictures are apart, 0 to 255, and what of CIRCUMSTANCES was another: {name: [then, now]}."""

    identical: bool
    mean: float | None
    largest: int | None
    sizes: list[list[int]]
    circumstances: dict[str, list[Any]]

    @classmethod
    def of(cls, old: dict[str, Any], new: dict[str, Any], before: Image.Image, after: Image.Image) -> Verdict:
        """`mean` and `largest` are None where the sizes differ."""
        from PIL import ImageChops, ImageStat

        sizes = [list(before.size), list(after.size)]
        then, now = _circumstances(old), _circumstances(new)
        changed = {name: [then.get(name), now.get(name)] for name in {**then, **now} if then.get(name) != now.get(name)}
        if before.size != after.size:
            return cls(False, None, None, sizes, changed)
        difference = ImageChops.difference(before, after)
        mean = sum(ImageStat.Stat(difference).mean) / 3
        largest = max(high for _, high in difference.getextrema())
        return cls(difference.getbbox() is None, mean, largest, sizes, changed)

    def __str__(self) -> str:
        if self.identical:
            return "identical: every pixel"
        if self.largest is None:
            (width, height), (now_width, now_height) = self.sizes
            return f"different: {width}x{height} then, {now_width}x{now_height} now"
        lines = [f"different: {self.mean:.3g} of 255 on average, {self.largest} at most"]
        for name, (then, now) in self.circumstances.items():
            lines.append(f"  {name}: {'not recorded' if then is None else plain(then)} then, {plain(now)} now")
        return "\n".join(lines)
