"""The API of AUTOMATIC1111's web UI: the public `webuiapi` client, unchanged, against a real gateway."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
import pytest
import redis
import webuiapi
from PIL import Image

from app.a1111.samplers import scheduler_of
from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.params import ParamsRejected
from app.contract.redis.ownership import Claim
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY
from tests.app.webui import TITLE, basic, draw, public, until_waiting
from tests.waiting import WAIT_SECONDS, until

SIZE = {"width": 128, "height": 64}
Drawing = Callable[[], "Future[Claim]"]


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def api(running: Running, worker: ScriptedWorker) -> Iterator[webuiapi.WebUIApi]:
    worker.announce()
    with public(running) as client:
        yield client


@pytest.fixture
def drawing(worker: ScriptedWorker) -> Iterator[Drawing]:
    """Draws the next job while the test waits in its client."""
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(draw, worker)


def test_pictures_and_what_is_known_of_them(api: webuiapi.WebUIApi, drawing: Drawing) -> None:
    job = drawing()
    answer = api.txt2img(
        prompt="a red circle", negative_prompt="blue", seed=7, steps=9, cfg_scale=3.5, batch_size=2, n_iter=2, **SIZE
    )
    spec = job.result(WAIT_SECONDS).spec
    assert (spec.scheduler, spec.num_inference_steps, spec.guidance_scale) == ("euler_a", 9, 3.5)
    assert (spec.num_images, spec.negative_prompt, spec.output_format) == (4, "blue", "png")
    assert [image.size for image in answer.images] == [(128, 64)] * 4
    info = answer.info
    assert (info["all_seeds"], info["all_prompts"]) == ([7, 8, 9, 10], ["a red circle"] * 4)
    assert (info["sd_model_name"], info["sd_model_hash"]) == ("starter", "0" * 10)
    assert (info["sampler_name"], info["steps"], info["cfg_scale"]) == ("Euler a", 9, 3.5)
    assert info["infotexts"][0] == answer.images[0].text["parameters"]
    assert info["infotexts"][0].startswith("a red circle\nNegative prompt: blue\nSteps: 9, Sampler: Euler a")
    assert (info["unused"], info["warnings"], info["interrupted"]) == ([], ["cut"], False)
    assert (answer.parameters["batch_size"], answer.parameters["n_iter"]) == (2, 2)


def test_what_is_left_out_is_the_models_own(client: httpx2.Client, drawing: Drawing) -> None:
    job = drawing()
    assert client.post("/sdapi/v1/txt2img", json={"prompt": "a", "seed": -1, "sampler_name": ""}).status_code == 200
    spec = job.result(WAIT_SECONDS).spec
    assert (spec.scheduler, spec.num_inference_steps, spec.guidance_scale) == ("dpmpp_2m", 20, 4.0)
    assert (spec.width, spec.height, spec.num_images, spec.prompt_syntax) == (128, 128, 1, "plain")
    assert not spec.negative_prompt


def test_numbers_may_be_texts_and_sides_any(client: httpx2.Client, drawing: Drawing) -> None:
    """As JavaScript writes a field of a form, and as a drawing program sends what was selected."""
    job = drawing()
    body = {"prompt": "a", "seed": "7", "steps": "9", "cfg_scale": "3", "width": 133, "height": 71.0, "n_iter": None}
    info = client.post("/sdapi/v1/txt2img", json=body).raise_for_status().json()["info"]
    spec = job.result(WAIT_SECONDS).spec
    assert (spec.seed, spec.num_inference_steps, spec.guidance_scale, spec.width, spec.height) == (7, 9, 3.0, 128, 64)
    assert "The width is 128: sides are multiples of 8." in info


def test_the_prompt_is_in_their_syntax_where_the_model_reads_it(
    client: httpx2.Client, worker: ScriptedWorker, drawing: Drawing
) -> None:
    worker.card = worker.card.model_copy(update={"takes": ("prompt_syntax",)})
    worker.announce()
    client.get("/v1/models")
    job = drawing()

    def sent() -> bool:
        return client.post("/sdapi/v1/txt2img", json={"prompt": "(a cat:1.3)"}).status_code == 200

    assert sent()
    assert job.result(WAIT_SECONDS).spec.prompt_syntax == "a1111"


def test_settings_of_one_request(client: httpx2.Client, drawing: Drawing) -> None:
    job = drawing()
    settings = {
        "sd_model_checkpoint": f"{TITLE}",
        "CLIP_stop_at_last_layers": 2,
        "samples_format": "jpg",
        "jpeg_quality": 80,
        "sd_vae": "Automatic",
    }
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", "override_settings": settings}).json()
    spec = job.result(WAIT_SECONDS).spec
    assert (spec.clip_skip, spec.output_format, spec.output_quality) == (1, "jpeg", 80)
    assert Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).format == "JPEG"
    assert '"unused": []' in answer["info"]
    assert '"infotexts": ["a\\nSteps: 20' in answer["info"]


def test_what_has_no_effect_is_named(api: webuiapi.WebUIApi, drawing: Drawing) -> None:
    drawing()
    answer = api.txt2img(
        prompt="a",
        enable_hr=True,
        restore_faces=True,
        tiling=True,
        styles=["Photo"],
        subseed_strength=0.3,
        override_settings={"eta_noise_seed_delta": 31337, "sd_vae": "vae-ft-mse"},
        alwayson_scripts={"dynamic thresholding": {"args": [True, 7]}, "soft inpainting": {"args": [False]}},
        adetailer=[webuiapi.ADetailer(ad_model="face_yolov8n.pt")],
        **SIZE,
    )
    assert sorted(answer.info["unused"]) == [
        "alwayson_scripts/ADetailer",
        "alwayson_scripts/dynamic thresholding",
        "enable_hr",
        "override_settings/eta_noise_seed_delta",
        "override_settings/sd_vae",
        "restore_faces",
        "styles",
        "subseed_strength",
        "tiling",
    ]


def test_names_of_unknown_fields_come_back_only_if_they_are_names(client: httpx2.Client, drawing: Drawing) -> None:
    drawing()
    strange = {"<script>": 1, "zanzibar\n": 1, "x" * 100: 1, "hires": "zanzibar"} | {f"f{n}": 1 for n in range(60)}
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", **strange}).json()
    assert '"unused": ["hires", "f0", ' in answer["info"]
    assert '"24 more"]' in answer["info"]
    assert "zanzibar" not in str(answer)


def test_without_images_the_job_keeps_them(client: httpx2.Client, drawing: Drawing) -> None:
    drawing()
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", "send_images": False}).json()
    assert answer["images"] == []
    [job] = client.get("/v1/jobs").json()["data"]
    assert (len(job["images"]), job["metadata"]) == (1, {"dialect": "a1111", "key": "none"})


@pytest.mark.parametrize(
    ("sampler", "schedule", "eta", "ours"),
    [
        ("Euler a", None, None, "euler_a"),
        ("k_euler_a", "Automatic", 1.0, "euler_a"),
        ("Euler", "uniform", None, "euler"),
        ("Euler", "Karras", None, "euler_karras"),
        ("DPM++ 2M", "karras", None, "dpmpp_2m_karras"),
        ("DPM++ 2M", "Uniform", None, "dpmpp_2m"),
        # Theirs draws this sampler with Karras' sigmas unless something else is said.
        ("DPM++ 2M", "Automatic", None, "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", None, None, "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Karras", None, "dpmpp_2m_karras"),
        ("DPM++ 2M SDE Karras", "automatic", None, "dpmpp_sde_karras"),
        ("DDIM", None, 0.0, "ddim"),
        ("DDIM", "automatic", 1.0, "ddim_eta1"),
        (None, "automatic", None, None),
        (None, "Karras", None, "dpmpp_2m_karras"),
        ("DDIM CFG++", None, None, "DDIM CFG++"),
        ("EulerDiscreteScheduler", None, None, "EulerDiscreteScheduler"),
    ],
)
def test_two_words_are_one_scheduler(
    card: ModelCard, sampler: str | None, schedule: str | None, eta: float | None, ours: str | None
) -> None:
    card = card.model_copy(update={"schedulers": (*card.schedulers, "dpmpp_2m_karras")})
    assert scheduler_of(sampler, schedule, eta, card) == ours


def test_automatic_is_plain_where_karras_is_not_offered(card: ModelCard) -> None:
    assert scheduler_of("DPM++ 2M", "Automatic", None, card) == "dpmpp_2m"


def test_a_schedule_needs_a_sampler_that_has_some(card: ModelCard) -> None:
    card = card.model_copy(update={"scheduler": "EulerDiscreteScheduler"})
    assert scheduler_of(None, "automatic", None, card) is None
    with pytest.raises(ParamsRejected, match="goes with one of the samplers"):
        scheduler_of(None, "Karras", None, card)


@pytest.mark.parametrize(
    ("sampler", "schedule"), [("Euler a", "Karras"), ("Euler", "sgm_uniform"), ("LCM", "zanzibar")]
)
def test_a_schedule_that_does_not_go_with_the_sampler(card: ModelCard, sampler: str, schedule: str) -> None:
    with pytest.raises(ParamsRejected, match="automatic") as caught:
        scheduler_of(sampler, schedule, None, card)
    assert schedule not in str(caught.value)


def test_what_clients_ask_before_they_draw(api: webuiapi.WebUIApi) -> None:
    assert api.util_get_model_names() == [TITLE]
    assert api.util_get_current_model() == TITLE
    assert api.util_get_sampler_names() == ["DDIM", "DPM++ 2M", "Euler", "Euler a"]
    assert api.util_get_scheduler_names() == ["automatic", "uniform"]
    [model] = api.get_sd_models()
    assert (model["model_name"], model["hash"], model["sha256"]) == ("starter", "0" * 10, "0" * 64)
    assert [each["name"] for each in api.get_upscalers()] == ["None"]
    assert (api.get_scripts(), api.get_embeddings()["loaded"]) == ({"txt2img": [], "img2img": []}, {})
    for nothing in (
        api.get_hypernetworks,
        api.get_face_restorers,
        api.get_realesrgan_models,
        api.get_prompt_styles,
        api.get_latent_upscale_modes,
        api.get_sd_vae,
        api.get_loras,
        api.controlnet_model_list,
        api.get_cmd_flags,
    ):
        assert not nothing()
    assert (api.get_memory(), api.controlnet_module_list()) == ({"ram": {}, "cuda": {}}, ["none"])
    assert api.refresh_checkpoints() is None
    api.util_wait_for_ready()


def test_before_the_first_model(running: Running, redis_client: redis.Redis) -> None:
    assert running.client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == ""
    assert running.client.get("/sdapi/v1/samplers").json() == running.client.get("/sdapi/v1/sd-models").json() == []
    refused = running.client.post("/sdapi/v1/txt2img", json={"prompt": "a"})
    assert (refused.status_code, refused.json()["error"]) == (503, "no-model-yet")


def test_adapters_of_the_model_are_listed(running: Running, worker: ScriptedWorker) -> None:
    worker.card = worker.card.model_copy(
        update={"loras": (Adapter(name="ink"),), "controls": (Adapter(name="canny"),), "embeddings": ("<ash>",)}
    )
    worker.announce()
    with public(running) as api:
        assert [each["name"] for each in api.get_loras()] == ["ink"]
        assert (api.controlnet_model_list(), api.has_controlnet) == (["canny"], True)
        assert list(api.get_embeddings()["loaded"]) == ["<ash>"]


def test_a_control_picture(running: Running, worker: ScriptedWorker) -> None:
    """The request as the client makes it; that the gateway takes the picture is another test's."""
    card = worker.card.model_copy(update={"controls": (Adapter(name="canny"),), "takes": ()})
    worker.card = card
    worker.announce()
    unit = webuiapi.ControlNetUnit(image=Image.new("RGB", (8, 8)), model="canny [d14c016b]", weight=0.5)
    off = webuiapi.ControlNetUnit(model="None")
    with public(running) as api, pytest.raises(RuntimeError, match="does not take") as caught:
        # Said, because the client keeps what it adds to its own default.
        api.txt2img(prompt="a", controlnet_units=[off, unit], alwayson_scripts={}, **SIZE)
    status, text = caught.value.args
    assert status == 422
    assert "alwayson_scripts is something that" in text


@pytest.fixture
def two_models(worker: ScriptedWorker, card: ModelCard) -> None:
    worker.announce()
    other = card.model_copy(update={"name": "dreams", "sha256": "d" * 64, "scheduler": "ddim"})
    worker.ownership.announce(other, "w2")


@pytest.mark.usefixtures("two_models")
def test_each_key_has_a_model_of_its_own(gateway_with: OneGateway, redis_client: redis.Redis) -> None:
    with (
        gateway_with(api_keys=f"ann:{KEY},ann:{OTHER_KEY}", default_model="starter") as running,
        public(running, username="ann", password=KEY) as ann,
        public(running, username="ann", password=OTHER_KEY) as other,
    ):
        ann.util_set_model("dreams.safetensors")
        assert (ann.util_get_current_model(), other.util_get_current_model()) == ("dreams [dddddddddd]", TITLE)
        ann.set_options({"CLIP_stop_at_last_layers": 2})
        assert ann.get_options()["CLIP_stop_at_last_layers"] == 1
        ann.set_options({"sd_model_checkpoint": None})
        assert ann.util_get_current_model() == TITLE
        refused = ann.set_options({"sd_model_checkpoint": "sd_xl_base_1.0.safetensors [31e35c80fc]"})
        assert refused["detail"].startswith("sd_model_checkpoint is not served here; the models are: dreams, st")
    assert redis_client.keys("darkroom:checkpoint:*") == []


@pytest.mark.usefixtures("two_models")
@pytest.mark.parametrize("name", ["dreams", "dreams [dddddddddd]", "dreams.ckpt", "dreams.safetensors [abc]", "d" * 10])
def test_a_model_by_any_of_its_names(running: Running, worker: ScriptedWorker, name: str) -> None:
    body = {"prompt": "a", "override_settings": {"sd_model_checkpoint": name}}
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(running.client.post, "/sdapi/v1/txt2img", json=body)
        claim = until(lambda: worker.ownership.claim("dreams", "w2"))
        worker.succeed(claim)
        assert '"sd_model_name": "dreams"' in waiting.result(WAIT_SECONDS).json()["info"]


def test_a_model_that_is_gone_is_forgotten(client: httpx2.Client, running: Running, redis_client: redis.Redis) -> None:
    redis_client.set("darkroom:checkpoint:default:", "gone")
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == TITLE


def test_how_far_it_is(api: webuiapi.WebUIApi, running: Running, worker: ScriptedWorker) -> None:
    assert (api.get_progress()["progress"], api.get_progress()["state"]["job_count"]) == (0, 0)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(api.txt2img, prompt="a", steps=20, **SIZE)
        with public(running) as watcher:
            waiting = until(lambda: (said := watcher.get_progress())["state"]["job_count"] and said)
            assert (waiting["progress"], waiting["textinfo"], waiting["current_image"]) == (0.01, "Waiting", None)
            claim = worker.claim()
            assert claim.spec.preview_every == 4
            worker.progress(claim, 10)
            assert worker.ownership.preview(claim, 0, 8, 20, "aGFsZg==")
            half = watcher.get_progress()
            assert (half["progress"], half["current_image"]) == (0.51, "aGFsZg==")
            state = half["state"]
            assert (state["sampling_step"], state["sampling_steps"], state["job"]) == (10, 20, "scripts_txt2img")
            assert half["eta_relative"] >= 0
            assert half["textinfo"] is None
            worker.progress(claim, 11, "decoder")
            assert watcher.get_progress()["textinfo"] == "decoder"
            bare = running.client.get("/sdapi/v1/progress", params={"skip_current_image": "true"}).json()
            assert bare["current_image"] is None
            worker.succeed(claim)
            assert watcher.get_progress()["progress"] == 0
        with pytest.raises(Exception, match="cannot identify"):
            answer.result(WAIT_SECONDS)


@pytest.mark.parametrize("other", ["ann", "bob"])
def test_interrupt_ends_the_callers_own(gateway_with: OneGateway, worker: ScriptedWorker, other: str) -> None:
    """Not those of another key, be it of the same tenant or not, and not those that came in by another API."""
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY},{other}:{OTHER_KEY}") as running, ThreadPoolExecutor() as pool:
        running.client.post("/v1/jobs", json={"prompt": "native"}, headers=basic(KEY)).raise_for_status()
        sent = [
            pool.submit(running.client.post, "/sdapi/v1/txt2img", json={"prompt": prompt}, headers=basic(key))
            for prompt, key in (("a", KEY), ("b", KEY), ("a", OTHER_KEY))
        ]
        until_waiting(running, 3)
        with public(running, username="ann", password=KEY) as ann:
            assert ann.interrupt() == {}
            for answer in sent[:2]:
                said = answer.result(WAIT_SECONDS)
                assert (said.status_code, said.json()["images"]) == (200, [])
                assert '"interrupted": true' in said.json()["info"]
            assert ann.get_progress()["progress"] == 0
        for key, owner in ((KEY, "ann"), (OTHER_KEY, other)):
            left = running.client.get("/v1/jobs", params={"status": "queued"}, headers=basic(key)).json()["data"]
            own = {"native"} if key == KEY or owner == "ann" else set()
            assert {job["input"]["prompt"] for job in left} - {"a"} == own
        assert not sent[2].done()
        running.client.post("/v1/jobs/cancel", json={}, headers=basic(OTHER_KEY)).raise_for_status()
        # Called off in another way, it is an error: only 200 is success.
        last = sent[2].result(WAIT_SECONDS)
        assert (last.status_code, last.json()["error"]) == (409, "job-was-canceled")


def test_skip_ends_what_is_drawn_now(api: webuiapi.WebUIApi, running: Running, worker: ScriptedWorker) -> None:
    assert api.skip() is None
    with ThreadPoolExecutor() as pool:
        first = pool.submit(running.client.post, "/sdapi/v1/txt2img", json={"prompt": "first"})
        claim = worker.claim()
        second = pool.submit(running.client.post, "/sdapi/v1/txt2img", json={"prompt": "second"})
        until_waiting(running, 2)
        assert api.skip() is None
        assert worker.ownership.beat([claim]) == ["cancel"]
        assert worker.ownership.canceled(claim)
        assert first.result(WAIT_SECONDS).json()["images"] == []
        draw(worker)
        assert len(second.result(WAIT_SECONDS).json()["images"]) == 1


def test_who_comes_again_joins_its_job(client: httpx2.Client, running: Running, worker: ScriptedWorker) -> None:
    hangs_up = socket.create_connection(("127.0.0.1", running.port))
    body = b'{"prompt": "a"}'
    head = "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    hangs_up.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    until_waiting(running)
    hangs_up.close()
    until(lambda: running.app.state.services.feed.listeners == 0)
    with ThreadPoolExecutor() as pool:
        again = pool.submit(client.post, "/sdapi/v1/txt2img", json={"prompt": "a"})
        draw(worker)
        assert again.result(WAIT_SECONDS).status_code == 200
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_a_failed_job_is_an_error(api: webuiapi.WebUIApi, worker: ScriptedWorker) -> None:
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(lambda: worker.fail(worker.claim()))
        with pytest.raises(RuntimeError, match=r"Values overflowed\.") as caught:
            api.txt2img(prompt="a", **SIZE)
        failing.result(WAIT_SECONDS)
    assert caught.value.args[0] == 500


def test_the_password_is_the_key(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY}") as running:
        get = running.client.get
        for header in (basic(KEY), basic(KEY, user=""), {"Authorization": f"Bearer {KEY}"}):
            assert get("/sdapi/v1/options", headers=header).status_code == 200
            assert get("/v1/jobs", headers=header).status_code == 200
        # A field for "user:password" into which somebody pasted the key alone.
        alone = base64.b64encode(KEY.encode()).decode()
        assert get("/sdapi/v1/options", headers={"Authorization": f"Basic {alone}"}).status_code == 200
        wrong = [basic(OTHER_KEY), basic(OTHER_KEY, user=KEY), {"Authorization": "Basic"}, {"Authorization": "Basic ="}]
        wrong += [{}, {"Authorization": "Basic !!!!"}, {"Authorization": "Basic /w=="}, basic("\u20ac")]
        for header in wrong:
            refused = get("/sdapi/v1/options", headers=header)
            assert (refused.status_code, refused.json()["error"]) == (401, "unauthenticated")
            # Basic is not asked for: browsers would open a login.
            assert refused.headers["www-authenticate"].startswith("Bearer")


def test_a_picture_tells_its_settings(api: webuiapi.WebUIApi, drawing: Drawing) -> None:
    drawing()
    image = api.txt2img(prompt="a red, round\ncircle", negative_prompt="blue", seed=7, **SIZE).image
    answer = api.png_info(image)
    assert answer.info == image.text["parameters"]
    told = answer.json["parameters"]
    assert (told["Prompt"], told["Negative prompt"], told["Seed"]) == ("a red, round\ncircle", "blue", "7")
    assert (told["Sampler"], told["Size-1"], told["Size-2"]) == ("Euler a", "128", "64")
    assert list(answer.json["items"]) == ["darkroom"]
    bare = api.png_info(Image.new("RGB", (8, 8)))
    assert (bare.info, bare.json["parameters"]) == ("", {})
