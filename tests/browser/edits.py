"""What tests of pictures that come in share: a model that takes them, the door they come in by, ways to bring one."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

from PIL import Image
from playwright.sync_api import Page, Request, Route

from app.contract.messages.card import Adapter, ModelCard
from app.contract.redis.ownership import Claim
from tests.app.conftest import ScriptedWorker
from tests.waiting import until

EDITS = ("image", "strength", "mask_image", "mask_blur", "loras", "control")


def editing(card: ModelCard) -> ModelCard:
    """The same model, able to do everything."""
    return card.model_copy(
        update={
            "takes": EDITS,
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "loras": (Adapter(name="ink", words=("ink wash", "brush")), Adapter(name="film")),
            "controls": (Adapter(name="canny"), Adapter(name="depth")),
        }
    )


class Door:
    """`POST /v1/inputs` and what refers to it, as the page meets them; `sent` are the bodies of jobs."""

    def __init__(self, page: Page) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.sent: list[dict[str, Any]] = []
        self.refusal: dict[str, Any] | None = None
        self.held: list[Route] | None = None
        page.route("**/v1/inputs", self.take)
        page.route("**/v1/inputs/**", self._give)
        page.route("**/v1/jobs", self._job)

    def take(self, route: Route, request: Request) -> None:
        if self.held is not None:
            self.held.append(route)
            return
        self.answer(route)

    def answer(self, route: Route) -> None:
        if self.refusal:
            route.fulfill(status=self.refusal["status"], json=self.refusal, content_type="application/problem+json")
            return
        data = route.request.post_data_buffer or b""
        digest = hashlib.sha256(data).hexdigest()
        name = f"in_{digest[:24]}"
        self.files[name] = (route.request.headers["content-type"], data)
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
        route.fulfill(
            status=201,
            json={
                "id": name,
                "object": "input",
                "sha256": digest,
                "bytes": len(data),
                "width": width,
                "height": height,
            },
        )

    def _give(self, route: Route, request: Request) -> None:
        name = request.url.split("/")[-2]
        if name not in self.files:
            route.fulfill(
                status=404, json={"status": 404, "title": "There is no such input", "type": "/problems/input-not-found"}
            )
            return
        content_type, data = self.files[name]
        route.fulfill(body=data, content_type=content_type)

    def _job(self, route: Route, request: Request) -> None:
        if request.method != "POST":
            return route.continue_()
        body = json.loads(request.post_data or "")
        self.sent.append(body)
        plain = {name: value for name, value in body.items() if name not in EDITS}
        return route.continue_(post_data=json.dumps(plain))


def a_png(width: int, height: int, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "png")
    return file.getvalue()


def claimed(page: Page, worker: ScriptedWorker) -> Claim:
    """The next job. The routes of the door are served only while the browser is spoken to."""
    return until(lambda: page.evaluate("0") == 0 and worker.ownership.claim(worker.card.name, "w1"))


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
