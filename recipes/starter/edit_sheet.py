"""What the bundled model makes of pictures that come in: each picture, its mask, and four edits, on one sheet.

Speaks to a running service by its API. Judges nothing: the sheet is for people.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image, ImageDraw

from recipes.starter.sheet import Picture, save_sheet

SIDE = 128
EDITS = 4
SEED = 40
"""Of the first edit; the others have the ones behind it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A picture drawn from `prompt` and `seed`, and what is to be in `box` (left, top, right, bottom) instead; `words`
    say what was done."""

    words: str
    prompt: str
    seed: int
    box: tuple[int, int, int, int]
    edit: str

    def mask(self) -> Image.Image:
        """White where it is repainted."""
        mask = Image.new("RGB", (SIDE, SIDE))
        ImageDraw.Draw(mask).rectangle(self.box, fill="white")
        return mask


CASES = (
    Case(
        "recoloured", "a red circle on a blue background", 7, (8, 8, 120, 120), "a green circle on a blue background"
    ),
    Case(
        "added", "a small red circle on the left on a blue background", 3, (66, 8, 122, 120),
        "a red circle and a yellow star on a blue background",
    ),
    Case(
        "replaced", "a red circle and a blue star on a white background", 3, (66, 0, 128, 128),
        "a red circle and a yellow heart on a white background",
    ),
    Case(
        "removed", "a red circle and a blue star on a white background", 3, (64, 0, 128, 128),
        "a red circle on the left on a white background",
    ),
    Case("another animal", "a cat on a yellow background", 5, (12, 10, 116, 120), "a dog on a yellow background"),
)  # fmt: skip


def rows(client: httpx2.Client, cases: Sequence[Case] = CASES) -> tuple[list[Picture], list[str]]:
    """Pictures [H, W, 3] uint8 and their words, EDITS + 2 of each case. Raises httpx2.HTTPError and RuntimeError."""
    pictures, words = [], []
    for case in cases:
        job = _drawn(client, {"prompt": case.prompt, "seed": case.seed, "width": SIDE, "height": SIDE})
        edit = {
            "prompt": case.edit,
            "seed": SEED,
            "num_images": EDITS,
            "image": {"job": job["id"]},
            "mask_image": {"input": _uploaded(client, case.mask())},
        }
        edited = _drawn(client, edit)
        pictures += [*_pixels(client, job), np.asarray(case.mask()), *_pixels(client, edited)]
        words += [case.prompt, case.words, *[case.edit] * EDITS]
    return pictures, words


def _drawn(client: httpx2.Client, body: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = client.post("/v1/jobs", json=body).raise_for_status().json()
    while job["status"] in ("queued", "running"):
        time.sleep(0.2)
        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
    if job["status"] != "succeeded":
        raise RuntimeError(f"{job['id']} ended as {job['status']}: {job['error']}")
    return job


def _uploaded(client: httpx2.Client, picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    answer = client.post("/v1/inputs", content=file.getvalue(), headers={"Content-Type": "image/png"})
    return str(answer.raise_for_status().json()["id"])


def _pixels(client: httpx2.Client, job: dict[str, Any]) -> list[Picture]:
    files = [client.get(image["url"]).raise_for_status().content for image in job["images"]]
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description="A sheet of edits, drawn by a running service with the bundled model")
    parser.add_argument("path", type=Path, help="where the sheet is written, such as edits.webp")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    options = parser.parse_args()
    with httpx2.Client(base_url=options.url, timeout=120) as client:
        pictures, words = rows(client)
    save_sheet(pictures, words, options.path, columns=EDITS + 2)


if __name__ == "__main__":
    main()
