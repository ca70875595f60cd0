"""Jobs that begin with pictures: however one is named, the record knows its hash; and all the ways to name none."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.from_pictures import fitted
from app.contract.messages.inputs import InputPicture
from app.contract.redis import keys
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_inputs import ANN, BOB, upload
from tests.app.test_refusals import problem
from tests.pictures import file_of, noise, picture_in
from tests.waiting import until

TAKES = ("image", "mask_image", "strength", "mask_blur", "control")
TASKS = ("text-to-image", "image-to-image", "inpainting")


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    """A model that takes all of it."""
    return card.model_copy(
        update={"takes": TAKES, "tasks": TASKS, "controls": (Adapter(name="canny"),), "max_controls": 1}
    )


def send(client: httpx2.Client, headers: dict[str, str] | None = None, **parameters: Any) -> httpx2.Response:
    return client.post("/v1/jobs", json={"prompt": "a red circle", "seed": 7, **parameters}, headers=headers)


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def large() -> bytes:
    """A picture whose base64 is longer than the bodies of other routes may be."""
    data = file_of(noise(300, 300))
    assert len(data) > 65_536
    return data


@pytest.fixture
def drawn(client: httpx2.Client, worker: ScriptedWorker) -> dict[str, Any]:
    """A job with two pictures."""
    job = send(client, num_images=2).json()
    worker.succeed(worker.claim(), data=file_of(noise(128, 128)))
    return dict(client.get(job["urls"]["self"]).json())


@pytest.mark.parametrize("way", ["input", "sha256", "b64", "data URL", "large b64", "job", "job and index"])
def test_every_way_to_name_a_picture(
    client: httpx2.Client,
    worker: ScriptedWorker,
    redis_client: redis.Redis,
    picture_folder: Path,
    drawn: dict[str, Any],
    way: str,
) -> None:
    file = large()
    told = upload(client, file).json() if way in ("input", "sha256") else {}
    reference = {
        "input": {"input": told.get("id")},
        "sha256": {"sha256": told.get("sha256"), "width": 1, "height": 1, "content_type": "image/png"},
        "b64": {"b64": in_base64(file_of(noise(16, 16)))},
        "data URL": {"b64": f"data:image/png;base64,{in_base64(file_of(noise(16, 16)))}"},
        "large b64": {"b64": in_base64(file)},
        "job": {"job": drawn["id"]},
        "job and index": {"job": drawn["id"], "index": 1},
    }[way]
    job = send(client, image=reference, strength=0.5)
    assert job.status_code == 202, job.text
    seen = job.json()["input"]["image"]
    claim = worker.claim()
    assert claim.spec.image is not None
    assert claim.spec.image.model_dump() == seen
    kept = (picture_folder / "inputs" / "default" / seen["sha256"]).read_bytes()
    assert picture_in(kept).size == (seen["width"], seen["height"])
    if way in ("input", "sha256"):
        assert seen == {name: told[name] for name in ("sha256", "width", "height", "content_type")}
    if way == "large b64":
        assert picture_in(kept).tobytes() == picture_in(file).tobytes()
    record = redis_client.hgetall(keys.JOB + job.json()["id"])
    assert len(json.dumps(record)) < 3_000, "a record holds no bytes"


def test_a_mask_and_a_control_are_named_like_a_picture(client: httpx2.Client, worker: ScriptedWorker) -> None:
    told = upload(client, large()).json()
    job = send(
        client,
        image={"input": told["id"]},
        mask_image={"b64": in_base64(file_of(noise(300, 300, "L")))},
        control=[{"model": "canny", "image": {"sha256": told["sha256"]}, "scale": 0.5}],
    )
    assert job.status_code == 202, job.text
    spec = worker.claim().spec
    assert spec.mask_image is not None
    assert spec.image == spec.control[0].image
    assert (spec.image, spec.mask_image.width) != (spec.mask_image, 16)
    assert spec.strength == 1.0, "with a mask, all of it is repainted"
    assert send(client, image={"input": told["id"]}).json()["input"]["strength"] == 0.8
    assert send(client).json()["input"]["strength"] is None


PNG = file_of(noise(64, 64))
SMALL = {"b64": in_base64(PNG)}
NOTHING = "0" * 24

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an input of nobody": ({"image": {"input": f"in_{NOTHING}"}}, "/image/input", "input_not_found"),
    "a hash of nobody": ({"image": {"sha256": "0" * 64}}, "/image/sha256", "input_not_found"),
    "a job of nobody": ({"image": {"job": f"job_{NOTHING}"}}, "/image/job", "job_not_found"),
    "an id that is none": ({"image": {"input": "zanzibar"}}, "/image/input", "string_pattern_mismatch"),
    "two names": ({"image": {"input": f"in_{NOTHING}", **SMALL}}, "/image", "not_one_picture"),
    "no name": ({"image": {}}, "/image", "not_one_picture"),
    "no base64": ({"image": {"b64": "zanzibar!"}}, "/image/b64", "not_base64"),
    "base64 with line breaks": ({"image": {"b64": in_base64(PNG)[:76] + "\n"}}, "/image/b64", "not_base64"),
    "base64 with padding inside": ({"image": {"b64": "AAA=" * 40_000}}, "/image/b64", "not_base64"),
    "base64 of URLs": ({"image": {"b64": "_-_-"}}, "/image/b64", "not_base64"),
    "base64 without padding": ({"image": {"b64": "AAAAA"}}, "/image/b64", "not_base64"),
    "base64 that is not ASCII": ({"image": {"b64": "ÄÖÜß"}}, "/image/b64", "not_base64"),
    "a stand-in for what was not taken out": ({"image": {"b64": f"sha256:{'0' * 64}"}}, "/image/b64", "not_base64"),
    "base64 of text": ({"image": {"b64": in_base64(b"zanzibar")}}, "/image/b64", "not_a_picture"),
    "a data: URL that is text": ({"image": {"b64": "data:text/plain,zanzibar"}}, "/image/b64", "not_base64"),
    "a URL, which nobody fetches": ({"image": {"url": "https://example.org/zanzibar"}}, "/image/url", "not_fetched"),
    "a mask without a picture": ({"mask_image": SMALL}, "/mask_image", "needs_image"),
    "a strength without a picture": ({"strength": 0.5}, "/strength", "needs_image"),
    "a blur without a mask": ({"image": SMALL, "mask_blur": 4}, "/mask_blur", "needs_mask_image"),
    "a mask of another shape": (
        {"image": SMALL, "mask_image": {"b64": in_base64(file_of(noise(64, 96)))}},
        "/mask_image",
        "another_shape",
    ),
    "a control without its picture": ({"control": [{"model": "canny"}]}, "/control/0/image", "missing"),
    "a control with a picture of nobody": (
        {"control": [{"model": "canny", "image": {"input": f"in_{NOTHING}"}}]},
        "/control/0/image/input",
        "input_not_found",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_names_no_picture(client: httpx2.Client, redis_client: redis.Redis, case: str) -> None:
    parameters, pointer, code = REFUSED[case]
    answer = send(client, **parameters)
    assert problem(answer) == (422, "invalid-request")
    assert (pointer, code) in [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert redis_client.keys("darkroom:job:*") == []


def test_everything_that_is_wrong_is_said_at_once(client: httpx2.Client) -> None:
    answer = send(client, image={"input": f"in_{NOTHING}"}, mask_image={"b64": "!"})
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/image/input", "/mask_image/b64"]


def test_a_large_picture_that_is_none(client: httpx2.Client) -> None:
    answer = send(client, image={"b64": "A" * 80_000})
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["code"] == "not_a_picture"
    answer = send(client, image={"b64": "!" * 80_000})
    assert answer.json()["errors"][0]["code"] == "not_base64"


def test_jobs_that_have_no_such_picture(client: httpx2.Client, worker: ScriptedWorker, drawn: dict[str, Any]) -> None:
    waiting, failed = send(client).json(), send(client).json()
    worker.claim()
    worker.fail(worker.claim())
    for reference, pointer, code in (
        ({"job": waiting["id"]}, "/image/job", "job_not_over"),
        ({"job": failed["id"]}, "/image/job", "no_pictures"),
        ({"job": drawn["id"], "index": 2}, "/image/index", "no_such_picture"),
    ):
        [error] = send(client, image=reference).json()["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)


def test_a_model_that_takes_none(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    """Refused before anybody looks at the picture."""
    worker.card = worker.card.model_copy(update={"takes": (), "tasks": ("text-to-image",)})
    worker.announce()
    until(lambda: problem(send(client, image={"b64": "zanzibar!"})) == (422, "invalid-request"))
    [error] = send(client, image=SMALL).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/image", "not_taken")
    assert redis_client.keys("darkroom:input:*") == []


@pytest.mark.parametrize(
    ("tasks", "parameters", "pointer", "remedy"),
    [
        (("inpainting",), {}, "/image", "give image and mask_image"),
        (("inpainting",), {"image": SMALL}, "/image", "give image and mask_image"),
        (TASKS[:2], {"image": SMALL, "mask_image": SMALL}, "/mask_image", "give image without mask_image"),
    ],
)
def test_a_model_that_does_something_else(
    running: Running, worker: ScriptedWorker, tasks: tuple[str, ...], parameters: Any, pointer: str, remedy: str
) -> None:
    worker.card = worker.card.model_copy(update={"tasks": tasks})
    worker.announce()
    answer = send(running.client, **parameters)
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, "not_taken")
    assert remedy in error["detail"]


@pytest.mark.parametrize(
    ("sides", "asked", "drawn_at"),
    [
        ((128, 128), {}, (128, 128)),
        ((200, 100), {}, (200, 96)),
        ((4000, 3000), {}, (256, 192)),
        ((3000, 4000), {}, (192, 256)),
        ((20, 40), {}, (64, 128)),
        ((2000, 100), {}, (256, 64)),
        ((200, 100), {"width": 128}, (128, 64)),
        ((200, 100), {"height": 128}, (256, 128)),
        ((200, 100), {"width": 128, "height": 128}, (128, 128)),
        ((4000, 4000), {"num_images": 4, "num_inference_steps": 100}, (176, 176)),
    ],
)
def test_sides_are_the_pictures(card: ModelCard, sides: tuple[int, int], asked: Any, drawn_at: tuple[int, int]) -> None:
    image = InputPicture(sha256="0" * 64, width=sides[0], height=sides[1], content_type="image/png")
    work = asked.get("num_images", 1) * asked.get("num_inference_steps", card.num_inference_steps)
    found = fitted(image, card, width=asked.get("width"), height=asked.get("height"), work=work)
    assert found == drawn_at
    assert found[0] * found[1] * work <= card.max_work


def test_the_answer_says_how_a_picture_was_fitted(client: httpx2.Client) -> None:
    picture = {"b64": in_base64(file_of(noise(400, 300)))}
    fitted_, stretched = send(client, image=picture).json(), send(client, image=picture, width=64, height=256).json()
    assert (fitted_["input"]["width"], fitted_["input"]["height"]) == (256, 192)
    assert fitted_["warnings"] == ["The picture of 400 x 300 pixels is drawn at 256 x 192."]
    assert stretched["warnings"] == ["The picture of 400 x 300 pixels is stretched to 64 x 256."]
    as_it_is = {"b64": in_base64(file_of(noise(128, 128)))}
    assert send(client, image=as_it_is).json()["warnings"] == []
    assert send(client, image=picture, aspect_ratio="1:1").json()["input"]["width"] == 128


def test_the_same_body_is_the_same_job(client: httpx2.Client) -> None:
    """Also if its picture is inside, be it small or taken out."""
    for file, other in ((PNG, file_of(noise(64, 64))), (large(), large())):
        key = {"Idempotency-Key": f"k{len(file)}"}
        first = send(client, key, image={"b64": in_base64(file)})
        again = send(client, key, image={"b64": in_base64(file)})
        assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
        assert again.json()["id"] == first.json()["id"]
        assert problem(send(client, key, image={"b64": in_base64(other)})) == (422, "idempotency-key-reused")


def test_a_known_key_gets_its_job_when_its_picture_is_gone(client: httpx2.Client, worker: ScriptedWorker) -> None:
    told, key = upload(client, PNG).json(), {"Idempotency-Key": "k"}
    first = send(client, key, image={"input": told["id"]}).json()
    assert problem(client.delete(f"/v1/inputs/{told['id']}")) == (409, "input-in-use")
    worker.fail(worker.claim())
    assert client.delete(f"/v1/inputs/{told['id']}").status_code == 204
    assert send(client, key, image={"input": told["id"]}).json()["id"] == first["id"]
    assert problem(send(client, image={"input": told["id"]})) == (422, "invalid-request")
    assert problem(client.post(f"{first['urls']['self']}/retry")) == (409, "job-not-retryable")


def test_a_picture_that_goes_in_this_moment(
    client: httpx2.Client, running: Running, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found, and deleted before the job is in."""
    gone = InputPicture(sha256="0" * 64, width=64, height=64, content_type="image/png")

    async def find(*_: object) -> dict[str, InputPicture]:
        return {"/image": gone}

    monkeypatch.setattr(running.app.state.services.references, "find", find)
    [error] = send(client, image=SMALL).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/image", "input_not_found")
    assert redis_client.keys("darkroom:job:*") == []


def test_a_request_that_waits_holds_no_picture(
    gateway_with: OneGateway, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space for its body, which is all there is, is free again while the request waits."""
    monkeypatch.setattr("app.edge.bodies.SPACE", 200_000)
    worker.announce()
    body = {"prompt": "a red circle", "seed": 7, "image": {"b64": in_base64(large())}}
    with gateway_with() as running:
        heads = {"Prefer": "wait=60, heartbeat"}
        with running.client.stream("POST", "/v1/jobs", json=body, headers=heads) as waiting:
            claim = worker.claim()
            assert upload(running.client, large()).status_code == 201
            worker.succeed(claim)
            waiting.read()
            assert waiting.json()["status"] == "succeeded"


def test_pictures_are_their_senders(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(api_keys=f"ann:{ANN},bob:{BOB}") as running:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in (ANN, BOB))
        kind = {"Content-Type": "image/png"}
        told = running.client.post("/v1/inputs", content=PNG, headers=ann | kind).json()
        job = send(running.client, ann).json()
        worker.succeed(worker.claim(), data=PNG)
        for reference in ({"input": told["id"]}, {"sha256": told["sha256"]}, {"job": job["id"]}):
            assert send(running.client, ann, image=reference).status_code == 202
            assert problem(send(running.client, bob, image=reference)) == (422, "invalid-request")


def test_a_picture_in_openais_dialect(client: httpx2.Client, worker: ScriptedWorker) -> None:
    """Our parameters beside theirs, as `extra_body` sends them."""
    body = {"prompt": "a red circle", "image": {"b64": "zanzibar!"}}
    refused = client.post("/v1/images/generations", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "image.b64")


def test_where_pictures_are_fetched_private_addresses_are_not(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(fetch_inputs=True) as running:
        for url in (
            "https://127.0.0.1/a.png",
            "http://example.org/a.png",
            "https://localhost/a.png",
            "file:///etc/passwd",
        ):
            [error] = send(running.client, image={"url": url}).json()["errors"]
            assert (error["pointer"], error["code"]) == ("/image/url", "url_refused")
