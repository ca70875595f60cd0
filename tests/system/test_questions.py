"""Scores and vectors from the bundled scorer, over the whole service: equal to transformers', by official clients."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from app.cli.embedded import EmbeddedValkey
from app.contract.messages.kept_spec import asked_again
from app.contract.messages.model_name import BUNDLED_SCORER
from app.contract.messages.picture_record import read_record
from tests.system.conftest import COMMAND, Installation, drawn
from tests.waiting import until

TEXTS = ["a red circle on a blue background", "a yellow star", "a blue square", "a panda"]
AS_TENSORS = {"return_tensors": "pt", "padding": "max_length", "truncation": True}
PARAMETERS = {"prompt": TEXTS[0], "seed": 7, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def pictures(installation: Installation) -> list[dict[str, object]]:
    """One that was drawn, two that came in: of another shape, and transparent."""
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        references: list[dict[str, object]] = [{"job": job["id"], "index": 0}]
        for picture in sent():
            file = io.BytesIO()
            picture.save(file, "PNG")
            answer = client.post("/v1/inputs", files={"file": ("a.png", file.getvalue())})
            references.append({"input": answer.raise_for_status().json()["id"]})
    return references


def sent() -> list[Image.Image]:
    levels = np.random.default_rng(3).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    glass = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    glass.paste((220, 40, 40, 255), (10, 10, 30, 30))
    return [Image.fromarray(levels).resize((300, 200)), glass]


@pytest.fixture(scope="module")
def theirs() -> tuple[CLIPModel, CLIPProcessor]:
    model = CLIPModel.from_pretrained(BUNDLED_SCORER, dtype=torch.float32).eval().requires_grad_(False)
    return model, CLIPProcessor.from_pretrained(BUNDLED_SCORER)


def test_scores_are_those_of_clip(
    installation: Installation, pictures: list[dict[str, object]], theirs: tuple[CLIPModel, CLIPProcessor]
) -> None:
    """CLIPProcessor and CLIPModel's forward, of the same files: also of a large one and of one with transparency."""
    model, processor = theirs
    with installation.client() as client:
        ours = client.post("/v1/score", json={"images": pictures, "texts": TEXTS}).raise_for_status().json()
        job = pictures[0]["job"]
        first = Image.open(io.BytesIO(client.get(f"/v1/jobs/{job}/images/0").content)).convert("RGB")
    wide, glass = sent()
    white = Image.alpha_composite(Image.new("RGBA", glass.size, "white"), glass).convert("RGB")
    prepared = processor(
        text=TEXTS, images=[first, wide, white], return_tensors="pt", padding="max_length", truncation=True
    )
    logits = model(**prepared).logits_per_image
    cosine = logits / model.logit_scale.exp()
    assert np.abs(np.array(ours["cosine"]) - cosine.numpy()).max() <= 1e-5
    assert np.abs(np.array(ours["probability"]) - logits.softmax(dim=1).numpy()).max() <= 1e-3
    assert ours["logit_scale"] == pytest.approx(float(model.logit_scale.exp()))
    assert ours["cosine"][0][0] == max(ours["cosine"][0])


def test_openais_client_gets_clips_vectors(
    installation: Installation, pictures: list[dict[str, object]], theirs: tuple[CLIPModel, CLIPProcessor]
) -> None:
    model, processor = theirs
    tokens = processor(text=TEXTS, **AS_TENSORS)
    expected = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=1).numpy()
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key="any") as client:
        by_itself = client.embeddings.create(model="starter-scorer", input=TEXTS)
        as_floats = client.embeddings.create(model="starter-scorer", input=TEXTS, encoding_format="float")
        as_base64 = client.embeddings.create(model="starter-scorer", input=TEXTS[0], encoding_format="base64")
        mixed = client.embeddings.create(model="starter-scorer", input=[TEXTS[0], {"image": pictures[0]}])  # type: ignore[list-item]
        with pytest.raises(openai.BadRequestError, match="must be text: token ids"):
            client.embeddings.create(model="starter-scorer", input=[1, 2, 3])
        with pytest.raises(openai.BadRequestError, match="must be 128, as starter-scorer has it"):
            client.embeddings.create(model="starter-scorer", input="a frog", dimensions=64)
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="text-embedding-3-small", input="a frog")
    for found in (by_itself, as_floats):
        assert np.abs(np.array([each.embedding for each in found.data]) - expected).max() <= 1e-5
    packed = base64.b64decode(str(as_base64.data[0].embedding))
    assert np.abs(np.array(struct.unpack("<128f", packed)) - expected[0]).max() <= 1e-5
    assert by_itself.usage.prompt_tokens == int(tokens.attention_mask.sum())
    text, image = (np.array(each.embedding) for each in mixed.data)
    assert float(text @ image) > 0.5


def test_hugging_faces_client_classifies(installation: Installation, pictures: list[dict[str, object]]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), (222, 41, 41)).save(file, "PNG")
    url = f"{installation.url}/v1/zero-shot-image-classification"
    found = InferenceClient().zero_shot_image_classification(
        file.getvalue(), candidate_labels=["a panda", "a red background"], hypothesis_template="{}", model=url
    )
    assert [label.label for label in found] == ["a red background", "a panda"]
    assert sum(label.score for label in found) == pytest.approx(1, abs=1e-5)


def test_questions_and_drawings_hold_each_other_up_by_no_more_than_a_turn(
    installation: Installation, pictures: list[dict[str, object]]
) -> None:
    """Many of both at once: all end well, and the answers to equal questions are equal."""
    asked = {"images": pictures, "texts": TEXTS}

    def score(client: httpx2.Client) -> list[list[float]]:
        return client.post("/v1/score", json=asked, headers={"Prefer": "wait=60"}).raise_for_status().json()["cosine"]  # type: ignore[no-any-return]

    with installation.client() as client, ThreadPoolExecutor(8) as pool:
        drawings = [pool.submit(drawn, client, PARAMETERS | {"seed": seed}) for seed in range(3)]
        scores = [pool.submit(score, client) for _ in range(5)]
        assert [each.result()["status"] for each in drawings] == ["succeeded"] * 3
        cosines = [each.result() for each in scores]
    assert np.ptp(np.array(cosines), axis=0).max() <= 1e-5


@pytest.fixture
def scorer_alone(installation: Installation, tmp_path: Path) -> Iterator[str]:
    """A worker whose model is a scorer, at the same queue, under another name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    environment |= {
        "DARKROOM_REDIS_URL": EmbeddedValkey(installation.data).url,
        "DARKROOM_STORAGE_URL": (installation.data / "pictures").as_uri(),
        "DARKROOM_MODEL_NAME": "another-scorer",
    }
    command = [COMMAND, "worker", "--model", str(BUNDLED_SCORER)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield "another-scorer"
        finally:
            process.terminate()
            code = process.wait()
    assert code == 0, (tmp_path / "log").read_text()


def test_a_scorer_may_have_a_worker_of_its_own(installation: Installation, scorer_alone: str) -> None:
    with installation.client() as client:
        until(lambda: client.get(f"/v1/models/{scorer_alone}").status_code == 200)
        card = client.get(f"/v1/models/{scorer_alone}").json()
        assert (card["tasks"], card["family"], card["embedding_dimensions"]) == (["score", "embed"], "CLIPModel", 128)
        several = client.post("/v1/embeddings", json={"input": "a frog"})
        assert "name one of the models: another-scorer, starter-scorer" in several.json()["error"]["message"]
        own, bundled = (
            client.post("/v1/embeddings", json={"input": "a frog", "model": name}).raise_for_status().json()
            for name in (scorer_alone, "starter-scorer")
        )
        assert own["data"] == bundled["data"]
        assert client.post("/v1/jobs", json={"prompt": "a frog", "model": scorer_alone}).status_code == 422
        # Which model draws is as clear as before.
        assert [model["id"] for model in client.get("/v1/models").json()["data"] if model["default"]] == ["starter"]


def test_the_best_of_several_are_kept_with_every_score(installation: Installation) -> None:
    """Four are drawn, two give their seats away at 60 % of the steps, and the record says who and when."""
    expected = "a red circle"
    asked = PARAMETERS | {"num_inference_steps": 5, "best_of": 4, "num_images": 2, "expect": [expected]}
    with installation.client() as client:
        job = drawn(client, asked | {"reproducible": True})
        assert job["status"] == "succeeded", job
        selection, images = job["selection"], job["images"]
        assert (selection["scorer"], selection["texts"]) == ("starter-scorer", [expected])
        candidates = {each["index"]: each for each in selection["candidates"]}
        assert {index: each["seed"] for index, each in candidates.items()} == {0: 7, 1: 8, 2: 9, 3: 10}
        given_up = [each for each in candidates.values() if each["pruned_at"] is not None]
        assert [each["pruned_at"] for each in given_up] == [3, 3]
        assert [each["score"] for each in given_up] == [None, None]
        finished = [each for each in candidates.values() if each not in given_up]
        estimates = [[each["estimated_score"] for each in some] for some in (finished, given_up)]
        assert min(estimates[0]) >= max(estimates[1])
        assert all(each["kept"] for each in finished)
        # The best first, each with the score that the record has of it, and that /v1/score gives to the stored picture.
        assert [image["score"] for image in images] == sorted((each["score"] for each in finished), reverse=True)
        asked_of = [{"job": job["id"], "index": image["index"]} for image in images]
        body = {"model": "starter-scorer", "images": asked_of, "texts": [expected]}
        scored = client.post("/v1/score", json=body).raise_for_status().json()
        for image, [cosine] in zip(images, scored["cosine"], strict=True):
            assert image["score"] == candidates[image["index"]]["score"] == pytest.approx(cosine, abs=1e-4)
            assert 0 <= image["probability"] <= 1
        # Its seed alone draws the picture again, without the others.
        file = client.get(images[0]["url"]).content
        record = read_record(file)
        assert (record["score"], record["scorer"]) == (images[0]["score"], "starter-scorer")
        [again] = drawn(client, asked_again(record))["images"]
        assert (pixels_of(client.get(again["url"]).content) == pixels_of(file)).all()


def test_what_fits_too_badly_is_drawn_again_a_few_times(installation: Installation) -> None:
    asked = {"prompt": TEXTS[0], "seed": 7, "num_inference_steps": 2, "expect": ["a cat"], "min_probability": 1}
    with installation.client() as client:
        job = drawn(client, asked)
    assert job["status"] == "succeeded", job
    assert [each["seed"] for each in job["selection"]["candidates"]] == [7, 8, 9], "twice num_images at most"
    assert sum(each["kept"] for each in job["selection"]["candidates"]) == len(job["images"]) == 1
    assert any("3 were drawn, which is the most" in warning for warning in job["warnings"])


def test_what_cannot_be_judged_is_said_where_it_stands(installation: Installation) -> None:
    wrong = [
        ({"best_of": 1, "num_images": 2}, "/best_of"),
        ({"best_of": 10_000}, "/best_of"),
        ({"best_of": 0}, "/best_of"),
        ({"min_probability": 1.5}, "/min_probability"),
        ({"expect": []}, "/expect"),
        ({"expect": ["a"] * 33}, "/expect"),
        ({"expect": [" "]}, "/expect/0"),
    ]
    with installation.client() as client:
        for body, pointer in wrong:
            answer = client.post("/v1/jobs", json=PARAMETERS | body)
            assert answer.status_code == 422, (body, answer.text)
            assert pointer in [error["pointer"] for error in answer.json()["errors"]], (body, answer.text)


def pixels_of(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))
