"""Pictures that come in by the web UI's API: to begin with, to repaint within a mask, and to be controlled by."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
import webuiapi
from PIL import Image

from app.a1111.body import ImageToImage
from app.a1111.translation import translate
from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.redis.ownership import Claim
from tests.app.conftest import Running, ScriptedWorker
from tests.app.webui import TITLE, draw, public
from tests.waiting import WAIT_SECONDS

SIZE = {"width": 128, "height": 64}
NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (192, 384, 3), np.uint8))
"""As a file 220 kB: more than a body has that holds no pictures."""


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def painter(running: Running, worker: ScriptedWorker) -> ScriptedWorker:
    """A worker whose model draws from pictures."""
    pictures = ("image", "strength", "mask_image", "mask_blur", "control")
    worker.card = worker.card.model_copy(
        update={
            "takes": pictures,
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "controls": (Adapter(name="canny"), Adapter(name="control_v11p_sd15_depth")),
            "max_controls": 2,
        }
    )
    worker.announce()
    return worker


@pytest.fixture
def api(running: Running, painter: ScriptedWorker) -> Iterator[webuiapi.WebUIApi]:
    with public(running) as client:
        yield client


def drawing(painter: ScriptedWorker, ask: Any) -> tuple[Any, Claim]:
    """What `ask` answers while the worker draws its job, and the job."""
    with ThreadPoolExecutor() as pool:
        job = pool.submit(draw, painter)
        answer = ask()
        return answer, job.result(WAIT_SECONDS)


def stored(folder: Path, picture: InputPicture | None) -> Image.Image:
    """The file that the worker would read."""
    assert picture is not None
    return Image.open(folder / "inputs" / "default" / picture.sha256)


def as_base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_image_to_image(api: webuiapi.WebUIApi, painter: ScriptedWorker, picture_folder: Path) -> None:
    answer, job = drawing(
        painter, lambda: api.img2img(images=[NOISE], prompt="a", denoising_strength=0.5, alwayson_scripts={}, **SIZE)
    )
    spec = job.spec
    assert (spec.strength, spec.mask_image, spec.mask_blur, spec.width, spec.height) == (0.5, None, 0, 128, 64)
    assert np.array_equal(np.asarray(stored(picture_folder, spec.image)), np.asarray(NOISE))
    assert answer.images[0].size == (128, 64)
    assert (answer.info["denoising_strength"], answer.info["unused"]) == (0.5, [])
    assert (answer.parameters["init_images"], answer.parameters["mask"]) == (None, None)


def test_without_sides_it_is_as_large_as_the_picture(client: httpx2.Client, painter: ScriptedWorker) -> None:
    body = {"prompt": "a", "init_images": ["data:image/png;base64," + as_base64(NOISE.resize((96, 72)))]}
    answer, job = drawing(painter, lambda: client.post("/sdapi/v1/img2img", json=body))
    assert answer.status_code == 200
    assert (job.spec.width, job.spec.height, job.spec.strength) == (96, 72, 0.75)


@pytest.mark.parametrize(
    ("mask", "inverted", "painted"),
    [
        (Image.new("L", (128, 64), 255), False, 255),
        (Image.new("RGB", (128, 64), "black"), False, 0),
        (Image.new("RGB", (128, 64), "black"), True, 255),
        # Of a drawing program's layer, what is drawn is meant, in whatever colour.
        (Image.new("RGBA", (128, 64), (0, 0, 0, 0)), False, 0),
        (Image.new("RGBA", (128, 64), (0, 0, 0, 200)), False, 200),
        (Image.new("RGBA", (128, 64), (0, 0, 0, 200)), True, 55),
        # Without anything transparent it is a picture in black and white again.
        (Image.new("RGBA", (128, 64), (0, 0, 0, 255)), False, 0),
    ],
)
def test_a_mask_means_what_it_means_there(
    api: webuiapi.WebUIApi,
    painter: ScriptedWorker,
    picture_folder: Path,
    mask: Image.Image,
    inverted: bool,
    painted: int,
) -> None:
    answer, job = drawing(
        painter,
        lambda: api.img2img(
            images=[NOISE.resize((128, 64))],
            mask_image=mask,
            mask_blur=2,
            inpainting_mask_invert=int(inverted),
            prompt="a",
            alwayson_scripts={},
            **SIZE,
        ),
    )
    assert stored(picture_folder, job.spec.mask_image).convert("L").getextrema() == (painted, painted)
    assert (job.spec.strength, job.spec.mask_blur) == (0.75, 2)
    # The client's own defaults: only the masked part in full size, begun with the colours around it.
    assert answer.info["unused"] == ["inpaint_full_res", "inpainting_fill"]


def test_krita(client: httpx2.Client, painter: ScriptedWorker, picture_folder: Path) -> None:
    """DrCyanide/cyanic-sd-krita, cyanic/widgets/mask.py and sdapi_v1.py: a layer as mask, over the picture below."""
    layer = Image.new("RGBA", (128, 64))
    layer.paste((255, 0, 0, 255), (0, 0, 64, 64))
    body = {
        **SIZE,
        "mask_blur": 4,
        "inpainting_mask_invert": 0,
        "inpainting_fill": 1,
        "inpaint_full_res": 0,
        "inpaint_full_res_padding": 32,
        "denoising_strength": 0.6,
        "prompt": "a red circle",
        "negative_prompt": "",
        "sampler_name": "Euler a",
        "steps": 20,
        "seed": -1,
        "batch_size": 1,
        "n_iter": 1,
        "alwayson_scripts": {"controlnet": {"args": []}},
        "override_settings": {"sd_model_checkpoint": TITLE, "sd_vae": "None", "img2img_color_correction": False},
        "override_settings_restore_afterwards": False,
        "init_images": [as_base64(NOISE.resize((128, 64)))],
        "mask": as_base64(layer),
    }
    answer, job = drawing(painter, lambda: client.post("/sdapi/v1/img2img", json=body))
    assert json.loads(answer.json()["info"])["unused"] == []
    mask = np.asarray(stored(picture_folder, job.spec.mask_image).convert("L"))
    assert (mask[:, :64].min(), mask[:, 64:].max()) == (255, 0)


@pytest.mark.parametrize(
    ("mode", "size", "named"),
    [(1, (256, 128), []), (2, (96, 96), ["resize_mode"]), (3, (256, 128), ["resize_mode"]), (0, (96, 96), [])],
)
def test_a_resize_mode_that_makes_a_difference_is_named(
    api: webuiapi.WebUIApi, painter: ScriptedWorker, mode: int, size: tuple[int, int], named: list[str]
) -> None:
    answer, _ = drawing(
        painter,
        lambda: api.img2img(images=[NOISE.resize(size)], prompt="a", resize_mode=mode, alwayson_scripts={}, **SIZE),
    )
    assert answer.info["unused"] == named


def test_control_pictures(api: webuiapi.WebUIApi, painter: ScriptedWorker, picture_folder: Path) -> None:
    assert api.controlnet_model_list() == ["canny", "control_v11p_sd15_depth"]
    off = webuiapi.ControlNetUnit(image=NOISE, model="canny", enabled=False)
    edges = webuiapi.ControlNetUnit(image=NOISE, model="canny", weight=0.5, guidance_end=0.8)
    depth = webuiapi.ControlNetUnit(image=NOISE.resize((64, 64)), model="control_v11p_sd15_depth [cfd03158]")
    answer, job = drawing(
        painter,
        lambda: api.txt2img(prompt="a", controlnet_units=[off, edges, depth], alwayson_scripts={}, **SIZE),
    )
    first, second = job.spec.control
    assert (first.model, first.scale, first.start, first.end) == ("canny", 0.5, 0.0, 0.8)
    assert (second.model, second.image.width) == ("control_v11p_sd15_depth", 64)
    assert np.array_equal(np.asarray(stored(picture_folder, first.image)), np.asarray(NOISE))
    assert answer.info["unused"] == []


def test_a_photo_is_made_no_control_picture(api: webuiapi.WebUIApi) -> None:
    unit = webuiapi.ControlNetUnit(image=NOISE, model="canny", module="canny")
    with pytest.raises(RuntimeError, match="send the control picture itself, with module none"):
        api.txt2img(prompt="a", controlnet_units=[unit], alwayson_scripts={}, **SIZE)


def test_a_control_picture_that_is_none_is_named_by_its_place(client: httpx2.Client, painter: ScriptedWorker) -> None:
    units = [{"enabled": False}, {"model": "canny", "image": {"image": "zanzibar!", "mask": None}}]
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", "alwayson_scripts": {"ControlNet": {"args": units}}})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("alwayson_scripts/ControlNet/args/1/image is no base64")


GOOD = as_base64(NOISE.resize((64, 64)))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"init_images": []}, "init_images "),
    "none at all": ({"init_images": None}, "init_images "),
    "two pictures": ({"init_images": [GOOD, GOOD]}, "init_images "),
    "no base64": ({"init_images": ["zanzibar!"]}, "init_images/0 is no base64"),
    "no picture in it": ({"init_images": [base64.b64encode(b"zanzibar").decode()]}, "init_images/0 is no PNG"),
    "half of it": ({"init_images": [GOOD[:2_000]]}, "init_images/0 is "),
    "a large one of nothing": ({"init_images": ["zanz" * 30_000]}, "init_images/0 is no PNG"),
    "a link": ({"init_images": ["https://example.org/zanzibar.png"]}, "init_images/0 is not fetched"),
    "a mask of nothing": ({"mask": "zanzibar!"}, "mask is no base64"),
    "a mask that is no picture": ({"mask": base64.b64encode(b"zanzibar").decode()}, "mask is no PNG"),
    "a mask of another shape": ({"mask": as_base64(Image.new("L", (64, 32)))}, "mask must have the shape"),
    "strength": ({"denoising_strength": 1.1}, "denoising_strength "),
    "blur": ({"mask_blur": -1}, "mask_blur "),
    "resize": ({"resize_mode": 9}, "resize_mode "),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(client: httpx2.Client, painter: ScriptedWorker, redis_client: redis.Redis, case: str) -> None:
    body, said = REFUSED[case]
    answer = client.post("/sdapi/v1/img2img", json={"prompt": "zanzibar", "init_images": [GOOD]} | body)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid-request")
    assert answer.json()["detail"].startswith(said)
    assert "zanz" not in answer.text
    assert redis_client.keys("darkroom:job:*") == []


def test_a_model_that_draws_from_words_only(client: httpx2.Client) -> None:
    answer = client.post("/sdapi/v1/img2img", json={"prompt": "a", "init_images": [GOOD], "mask": GOOD})
    assert answer.status_code == 422
    assert "init_images/0 is something that starter does not take" in answer.json()["detail"]
    assert "mask is something that starter does not take" in answer.json()["detail"]


def test_others_cannot_use_it(client: httpx2.Client, painter: ScriptedWorker) -> None:
    """A body is as large as pictures need it, and no larger for the rest."""
    words = client.post("/sdapi/v1/img2img", json={"prompt": "a", "init_images": [GOOD], "note": "x" * 70_000})
    assert (words.status_code, words.json()["error"]) == (413, "body-too-large")
    elsewhere = client.post("/sdapi/v1/options", json={"init_images": ["x" * 70_000]})
    assert (elsewhere.status_code, elsewhere.json()["error"]) == (413, "body-too-large")


def test_what_a_mask_becomes_is_the_callers_alone(card: ModelCard) -> None:
    body = ImageToImage(prompt="a", init_images=["aGFsbG8="], mask="aGFsbG8=")
    asked = translate(body, card, mask="0" * 64).wording.parameters()
    assert asked.mask_image.sha256 == "0" * 64


def test_settings_of_a_large_picture(api: webuiapi.WebUIApi) -> None:
    assert api.png_info(NOISE).info == ""
