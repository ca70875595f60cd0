"""What tests of pictures that come in share: a model that takes them, the door they come in by, ways to bring one."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image
from playwright.sync_api import Page, Request, Route

from app.contract.messages.card import Adapter, ModelCard
from tests.browser.waiting import until

EDITS = ("image", "strength", "mask_image", "mask_blur", "loras", "control")


def editing(card: ModelCard) -> ModelCard:
    """The same model, able to do everything."""
    return card.model_copy(
        update={
            "takes": EDITS,
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "loras": (Adapter(name="ink", words=("ink wash", "brush")), Adapter(name="film")),
            "controls": (Adapter(name="canny"), Adapter(name="depth")),
            "max_controls": 1,
        }
    )


class Door:
    """What comes in by the page: pictures, and in `sent` the bodies of jobs. While it `is_shut`, uploads wait in
    `held`."""

    def __init__(self, page: Page) -> None:
        self.held: list[Route] = []
        self.is_shut = False
        self._sent: list[dict[str, Any]] = []
        self._uploads: list[tuple[Request, bytes]] = []
        self._page = page
        # Not by listening: a file that is sent is told to who stands in its way only.
        page.route("**/v1/inputs", self._upload)
        page.on("request", self._job)

    @property
    def sent(self) -> list[dict[str, Any]]:
        # Only to let Playwright hand out what has come in: of a job that a worker has by now it may not have told yet.
        self._page.evaluate("0")
        return self._sent

    @property
    def files(self) -> dict[str, tuple[str, bytes]]:
        """What was taken in, by the ids that the service gave: type and bytes as they were sent."""
        answers = [(upload, data, upload.response()) for upload, data in self._uploads]
        return {
            answer.headers["location"].rpartition("/")[2]: (upload.headers["content-type"], data)
            for upload, data, answer in answers
            if answer is not None and answer.ok
        }

    def wait_for(self, uploads: int) -> None:
        """Until so many are held."""
        until(self._page, lambda: len(self.held) == uploads)

    def _upload(self, route: Route, request: Request) -> None:
        self._uploads.append((request, request.post_data_buffer or b""))
        if self.is_shut:
            self.held.append(route)
        else:
            route.continue_()

    def _job(self, request: Request) -> None:
        if request.method == "POST" and request.url.endswith("/v1/jobs"):
            self._sent.append(json.loads(request.post_data or ""))


def a_png(width: int, height: int, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "png")
    return file.getvalue()


def shown(width: int, height: int) -> str:
    return f"Picture, {width} \u00d7 {height}"


def choose(
    page: Page, data: bytes, name: str = "photo.png", kind: str = "image/png", *, label: str = "Begin with a picture"
) -> None:
    page.get_by_label(label).last.set_input_files({"name": name, "mimeType": kind, "buffer": data})


def bring(page: Page, event: str, data: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
    """A file that is dropped ("drop") onto the page, or pasted ("paste")."""
    page.evaluate(
        """([event, name, kind, base64]) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], name, { type: kind }));
            const target = document.querySelector("main");
            const options = { bubbles: true, cancelable: true };
            target.dispatchEvent(event === "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: files })
                : new ClipboardEvent("paste", { ...options, clipboardData: files }));
        }""",
        [event, name, kind, base64.b64encode(data).decode()],
    )
