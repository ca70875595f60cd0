"""`darkroom generate`: one wish, sent like any client's, followed on a progress bar, saved to a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from app.cli.client import REFUSED, CommandError, connect, download, follow, submit


def draw(
    wish: dict[str, Any], *, output: Path, url: str, api_key: str | None, as_json: bool = False, show: bool = False
) -> int:
    """Submit, follow, save. `as_json` prints the job with its files, `show` opens them. Returns the exit code."""
    screen = Console(stderr=True)
    try:
        if not output.absolute().parent.is_dir():
            raise CommandError(f"the folder of {output} does not exist; create it or choose another -o", REFUSED)
        wish["output_format"] = _format_of(output)
        with connect(url, api_key) as client:
            job = follow(client, submit(client, wish), screen)
            paths = _paths(output, len(job["images"]))
            for path, picture in zip(paths, job["images"], strict=True):
                path.write_bytes(download(client, picture["url"]))
                picture["file"] = str(path)
        _tell(job, as_json=as_json)
        for path in paths if show else []:
            typer.launch(str(path))
        for warning in job["warnings"]:
            screen.print(f"warning: {warning}", style="yellow", markup=False)
    except CommandError as error:
        print(f"darkroom generate: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"darkroom generate: {output} cannot be written: {error.strerror}", file=sys.stderr)
        return REFUSED
    return 0


def _tell(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value for name, value in job.items() if name != "etag"}, indent=2))
        return
    for picture in job["images"]:
        print(f"{picture['file']}  seed {picture['seed']}  {picture['width']}x{picture['height']}")


def _format_of(output: Path) -> str:
    formats = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    try:
        return formats[output.suffix.lower()]
    except KeyError:
        raise CommandError(f"{output} must end in {', '.join(formats)}", REFUSED) from None


def _paths(output: Path, count: int) -> list[Path]:
    """out.png, or out-0.png, out-1.png, … for several pictures."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{index}") for index in range(count)]
