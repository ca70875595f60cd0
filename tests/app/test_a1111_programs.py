"""Requests as programs send them that speak the web UI's API, and what is refused.

Order and bodies are those of each program's public source, which a comment names.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis

from app.contract.redis.ownership import Claim
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY
from tests.app.test_odd_pictures import commented, png_of
from tests.app.webui import TITLE, basic, draw, until_waiting
from tests.waiting import WAIT_SECONDS

PNG = b"\x89PNG"
JSON = {"Content-Type": "application/json"}
Drawing = Callable[[], "Future[Claim]"]


@pytest.fixture
def drawing(worker: ScriptedWorker) -> Iterator[Drawing]:
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(draw, worker)


@pytest.fixture
def keyed(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[Running]:
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY}") as running:
        running.client.headers.update(basic(KEY))
        yield running


def test_open_webui(keyed: Running, drawing: Drawing, worker: ScriptedWorker) -> None:
    """open-webui/open-webui, backend/open_webui/routers/images.py: it sets the model by writing all options back."""
    client = keyed.client
    other = worker.card.model_copy(update={"name": "dreams", "sha256": "d" * 64})
    worker.ownership.announce(other, "w2")
    keyed.app.state.services.registry._asked_at = -1e9
    models = client.get("/sdapi/v1/sd-models").json()
    assert {each["title"]: each["model_name"] for each in models} == {"dreams [dddddddddd]": "dreams", TITLE: "starter"}
    options = client.get("/sdapi/v1/options").json() | {"sd_model_checkpoint": TITLE}
    assert client.post("/sdapi/v1/options", json=options).status_code == 200
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == TITLE
    job = drawing()
    body = {"prompt": "a red circle", "batch_size": 2, "width": 128, "height": 128, "steps": 12, "negative_prompt": "b"}
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    assert [base64.b64decode(image)[:4] for image in answer["images"]] == [PNG, PNG]
    assert isinstance(answer["info"], str)
    assert job.result(WAIT_SECONDS).spec.model == "starter"


SILLY_TAVERN: dict[str, Any] = {
    "url": "http://127.0.0.1:8000",
    "auth": f"user:{KEY}",
    "prompt": "a red circle",
    "negative_prompt": "",
    "sampler_name": "DDIM",
    "scheduler": "automatic",
    "steps": 20,
    "cfg_scale": 7,
    "width": 128,
    "height": 128,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "seed": None,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
    "override_settings_restore_afterwards": True,
    "clip_skip": None,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}
"""SillyTavern/SillyTavern, public/scripts/extensions/stable-diffusion/index.js; its own server adds nothing."""


def test_silly_tavern(keyed: Running, drawing: Drawing) -> None:
    """src/endpoints/stable-diffusion.js: ping, lists, a model, then wait until nothing is drawn, then draw."""
    client = keyed.client
    assert client.get("/sdapi/v1/options").status_code == 200
    upscalers = [each["name"] for each in client.get("/sdapi/v1/upscalers").json()]
    assert upscalers + [each["name"] for each in client.get("/sdapi/v1/latent-upscale-modes").json()] == ["None"]
    for path, key in (("sd-vae", "model_name"), ("samplers", "name"), ("schedulers", "name"), ("sd-models", "title")):
        assert all(isinstance(each[key], str) for each in client.get(f"/sdapi/v1/{path}").json())
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": TITLE}).status_code == 200
    told = client.get("/sdapi/v1/progress").json()
    assert (told["progress"], told["state"]["job_count"]) == (0, 0)
    assert "forge_preset" not in client.get("/sdapi/v1/options").json()
    job = drawing()
    answer = client.post(
        "/sdapi/v1/txt2img", content=json.dumps(SILLY_TAVERN), headers={"Content-Type": "application/json"}
    )
    assert base64.b64decode(answer.json()["images"][0])[:4] == PNG
    assert json.loads(answer.json()["info"])["unused"] == []
    assert (job.result(WAIT_SECONDS).spec.scheduler, job.result(WAIT_SECONDS).spec.clip_skip) == ("ddim", None)
    # It passes on the key that it was told, and that must not come back.
    assert KEY not in answer.text


def test_silly_tavern_gives_up(keyed: Running, redis_client: redis.Redis) -> None:
    """When its page is closed, it interrupts without a body, and hangs up."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(keyed.client.post, "/sdapi/v1/txt2img", json=SILLY_TAVERN)
        until_waiting(keyed)
        assert keyed.client.post("/sdapi/v1/interrupt").json() == {}
        assert waiting.result(WAIT_SECONDS).json()["images"] == []


def test_krita(client: httpx2.Client, drawing: Drawing) -> None:
    """DrCyanide/cyanic-sd-krita, cyanic/sdapi_v1.py: it sends no key, and asks for all lists first."""
    assert client.get("/queue/status").json() is not None
    names = "sd-models sd-vae samplers upscalers face-restorers prompt-styles scripts loras embeddings hypernetworks"
    found = {name: client.get(f"/sdapi/v1/{name}").raise_for_status().json() for name in (*names.split(), "options")}
    assert [each["model_name"] for each in found["sd-models"]] == ["starter"]
    assert list(found["embeddings"]["loaded"]) == []
    assert found["options"]["sd_model_checkpoint"] in [each["title"] for each in found["sd-models"]]
    body = {
        "width": 131,
        "height": 128,
        "override_settings": {"sd_model_checkpoint": TITLE, "sd_vae": "", "img2img_color_correction": True},
        "override_settings_restore_afterwards": False,
        "sampler_name": "Euler a",
        "steps": 20,
        "prompt": "a red circle",
        "negative_prompt": "",
        "styles": [],
        "cfg_scale": 7.0,
        "seed": -1,
        "subseed": -1,
        "subseed_strength": 0.0,
        "seed_resize_from_h": 0,
        "batch_size": 1,
        "n_iter": 2,
        "restore_faces": False,
        "tiling": False,
        "alwayson_scripts": {},
    }
    drawing()
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    assert answer["parameters"]["batch_size"] * answer["parameters"]["n_iter"] == len(answer["images"]) == 2
    assert answer["parameters"]["save_images"] is False
    assert json.loads(answer["info"])["unused"] == ["override_settings/img2img_color_correction"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prompt missing": ({}, "prompt must contain a visible character"),
    "prompt a list": ({"prompt": ["a"]}, "prompt "),
    "prompt with NUL": ({"prompt": "a\x00"}, "prompt must not contain a NUL"),
    "prompt beyond all": ({"prompt": "a" * 32_001}, "prompt "),
    "steps zero": ({"steps": 0}, "steps "),
    "steps over the card": ({"steps": 101}, "steps must be 1 to 100"),
    "steps words": ({"steps": "many"}, "steps "),
    "guidance": ({"cfg_scale": 21}, "cfg_scale must be 0 to 20"),
    "a side": ({"width": 512}, "width must be 64 to 256 pixels"),
    "a side beyond all": ({"height": 10**9}, "height "),
    "batch": ({"batch_size": 5}, "batch_size must be 1 to 4"),
    "batches": ({"batch_size": 2, "n_iter": 3}, "n_iter must be 1 to 4"),
    "batches beyond all": ({"batch_size": 10**6, "n_iter": 10**6}, "n_iter "),
    "seed": ({"seed": -2}, "seed "),
    "seed beyond all": ({"seed": 2**63}, "seed "),
    "sampler": ({"sampler_name": "zanzibar"}, "sampler_name is unknown"),
    "sampler by its old word": ({"sampler_index": "DPM++ SDE"}, "sampler_name is unknown"),
    "schedule": ({"sampler_name": "Euler", "scheduler": "zanzibar"}, "scheduler does not go with this sampler"),
    "model": (
        {"override_settings": {"sd_model_checkpoint": "zanzibar.safetensors"}},
        "override_settings/sd_model_checkpoint is not served here; the models are: starter",
    ),
    "model a number": ({"override_settings": {"sd_model_checkpoint": 7}}, "override_settings/sd_model_checkpoint "),
    "clip skip": (
        {"override_settings": {"CLIP_stop_at_last_layers": 99}},
        "override_settings/CLIP_stop_at_last_layers must be 1 to 32",
    ),
    "clip skip words": (
        {"override_settings": {"CLIP_stop_at_last_layers": {}}},
        "override_settings/CLIP_stop_at_last_layers must be a whole number",
    ),
    "format": ({"override_settings": {"samples_format": "zanzibar"}}, "override_settings/samples_format is one of png"),
    "settings a list": ({"override_settings": []}, "override_settings "),
    "a control weight": (
        {"alwayson_scripts": {"ControlNet": {"args": [{"model": "canny", "weight": 7}]}}},
        "alwayson_scripts/ControlNet/args/0/weight ",
    ),
    "an unknown control": (
        {"alwayson_scripts": {"controlnet": {"args": [{"model": "zanzibar"}]}}},
        "alwayson_scripts/controlnet/args/0/model is no ControlNet here; there are: none",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(client: httpx2.Client, redis_client: redis.Redis, case: str) -> None:
    body, said = REFUSED[case]
    body = body if "missing" in case else {"prompt": "zanzibar"} | body
    answer = client.post("/sdapi/v1/txt2img", json=body)
    error = answer.json()
    assert answer.status_code == 422
    assert error.keys() == {"error", "detail", "errors", "body"}
    assert error["error"] == "invalid-request"
    assert error["detail"].startswith(said)
    assert "zanzibar" not in answer.text
    assert redis_client.keys("darkroom:job:*") == []


def test_other_refusals_have_the_same_form(running: Running, worker: ScriptedWorker) -> None:
    client = running.client
    worker.announce()
    in_parts = base64.b64encode(commented()).decode()
    for answer, status, slug in (
        (client.post("/sdapi/v1/txt2img", content=b"{"), 415, "unsupported-media-type"),
        (
            client.post("/sdapi/v1/txt2img", content=b"{", headers=JSON),
            400,
            "malformed-json",
        ),
        (client.get("/sdapi/v1/txt2img"), 405, "method-not-allowed"),
        (client.get("/sdapi/v1/zanzibar"), 404, "not-found"),
        (client.get("/controlnet/zanzibar"), 404, "not-found"),
        (client.post("/sdapi/v1/extra-single-image", json={"image": "zanzibar"}), 501, "not-served-here"),
        (client.post("/sdapi/v1/interrogate", json={}), 501, "not-served-here"),
        (client.post("/sdapi/v1/options", json=[]), 422, "invalid-request"),
        (client.post("/sdapi/v1/png-info", json={"image": "zanzibar!"}), 422, "invalid-request"),
        (client.post("/sdapi/v1/png-info", json={"image": "aGFsbG8="}), 422, "invalid-request"),
        (client.post("/sdapi/v1/png-info", json={"image": in_parts}), 422, "invalid-request"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (status, slug)
        assert "zanzibar" not in answer.text


def test_a_picture_is_read_for_its_notes_and_not_decoded(running: Running) -> None:
    """One of 169 megapixels, of which there are none, as the decoder would find."""
    picture = base64.b64encode(png_of(13_000, 13_000)).decode()
    answer = running.client.post("/sdapi/v1/png-info", json={"image": picture})
    assert (answer.status_code, answer.json()["info"]) == (200, "")


def test_a_full_queue(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(queue_limit=1) as running:
        running.client.post("/v1/jobs", json={"prompt": "first"})
        answer = running.client.post("/sdapi/v1/txt2img", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]) == (429, "queue-full")
    assert int(answer.headers["retry-after"]) >= 1
