"""A picture comes in: chosen, dropped or pasted, seen, sent with the request, kept in the draft, and refused aloud."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, faults_of_access, picture
from tests.browser.edits import EDITS, Door, a_png, bring, choose, editing, shown
from worker.images import encode

pytestmark = pytest.mark.browser


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return editing(card)


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_to_begin_with(opened: Page, worker: ScriptedWorker, door: Door, way: str) -> None:
    data = a_png(200, 120)
    if way == "choose":
        choose(opened, data)
    else:
        bring(opened, way, data)
    place = opened.get_by_role("group", name="Begin with a picture")
    expect(place).to_contain_text(shown(200, 120))
    expect(place.locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    expect(opened.get_by_label("Size")).to_contain_text(f"Like the p{shown(200, 120)[1:]}")
    assert faults_of_access(opened) == []
    ask(opened, "a lighthouse")
    assert worker.claim().spec.prompt == "a lighthouse"
    (name,) = door.files
    assert door.files[name] == ("image/png", data)
    assert door.sent[0].items() >= {"image": {"input": name}, "width": 200, "height": 120}.items()
    assert not {"strength", "mask_image", "mask_blur", "control", "loras"} & set(door.sent[0])


def test_how_much_is_drawn_anew_and_the_picture_taken_out(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    strength = opened.get_by_label("Strength")
    expect(strength).to_have_count(0)
    choose(opened, a_png(400, 100))
    expect(strength).to_have_value("0.8")
    strength.fill("0.35")
    ask(opened, "a lighthouse")
    assert worker.claim().spec.prompt == "a lighthouse"
    assert door.sent[0].items() >= {"strength": 0.35, "width": 256, "height": 64}.items(), "as large as may be"
    opened.get_by_role("button", name="Remove: Picture").click()
    expect(strength).to_have_count(0)
    ask(opened, "a lighthouse without")
    assert worker.claim().spec.prompt == "a lighthouse without"
    assert not {"image", "strength"} & set(door.sent[1])


def test_what_is_sent_while_the_picture_is_on_its_way_waits_for_it(
    opened: Page, worker: ScriptedWorker, door: Door
) -> None:
    door.is_shut = True
    choose(opened, a_png(64, 64))
    expect(opened.get_by_text("Sending the picture")).to_be_visible()
    ask(opened, "a lighthouse")
    door.wait_for(1)
    assert door.sent == []
    door.held[0].continue_()
    assert worker.claim().spec.prompt == "a lighthouse"
    assert set(door.sent[0]["image"]) == {"input"}


def test_a_newer_picture_takes_the_place_of_one_on_its_way(opened: Page, door: Door, ear: Ear) -> None:
    door.is_shut = True
    choose(opened, a_png(64, 64))
    door.wait_for(1)
    bring(opened, "drop", a_png(72, 64))
    door.wait_for(2)
    door.held[1].continue_()
    expect(opened.get_by_role("group", name="Begin with a picture")).to_contain_text(shown(72, 64))


def test_a_larger_picture_than_the_service_takes_is_sent_smaller(opened: Page, door: Door) -> None:
    choose(opened, a_png(8000, 3000))
    place = opened.get_by_role("group", name="Begin with a picture")
    expect(place).to_contain_text(re.compile(r"Picture, 6\d{3} \u00d7 2\d{3}"))
    ((_, data),) = door.files.values()
    with Image.open(io.BytesIO(data)) as image:
        assert image.width * image.height <= 16 * 2**20
        assert abs(image.width / image.height - 8 / 3) < 0.01


def frames(kind: str) -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.new("RGB", (64, 64), colour) for colour in ("teal", "gold"))
    first.save(file, kind, save_all=True, append_images=rest)
    return file.getvalue()


@pytest.mark.parametrize("gateway_options", [{"input_bytes": 4096}])
@pytest.mark.parametrize(
    ("status", "kind", "data", "said"),
    [
        (413, "image/png", b"\x89PNG" + bytes(8192), "The body is too large"),
        (415, "image/gif", frames("gif"), "A picture is a PNG, a JPEG or a WebP."),
        (422, "image/png", frames("png"), "The picture is animated: send one frame"),
        (422, "image/png", a_png(64, 64)[:100], "The picture cannot be used"),
        (422, "image/png", b"<svg/>", "The picture cannot be used"),
    ],
    ids=["too large", "gif", "animated", "cut off", "no picture"],
)
def test_why_a_picture_is_refused_is_said_where_it_was_to_stand(
    opened: Page, door: Door, ear: Ear, status: int, kind: str, data: bytes, said: str
) -> None:
    ear.forgives.append(str(status))
    opened.fill("#prompt", "a lighthouse")
    choose(opened, data, "photo", kind)
    alert = opened.get_by_role("group", name="Begin with a picture").get_by_role("alert")
    expect(alert).to_contain_text(said)
    assert faults_of_access(opened) == []
    choose(opened, a_png(64, 64))
    expect(alert).to_have_count(0)
    expect(opened.get_by_label("What should the picture show?")).to_have_value("a lighthouse")


def test_a_picture_that_could_not_be_sent_is_sent_again(opened: Page, door: Door, ear: Ear) -> None:
    ear.forgives.append("ERR_FAILED")
    opened.route("**/v1/inputs", lambda route: route.abort())
    choose(opened, a_png(64, 64))
    place = opened.get_by_role("group", name="Begin with a picture")
    expect(place.get_by_role("alert")).to_contain_text("The service does not answer")
    opened.unroute("**/v1/inputs")
    place.get_by_role("button", name="Try again").click()
    expect(place).to_contain_text(shown(64, 64))


def test_the_draft_keeps_the_picture_and_tells_when_it_is_gone(
    opened: Page, running: Running, door: Door, ear: Ear
) -> None:
    choose(opened, a_png(200, 120))
    place = opened.get_by_role("group", name="Begin with a picture")
    expect(place).to_contain_text(shown(200, 120))
    opened.get_by_label("Strength").fill("0.4")
    opened.reload()
    expect(place.locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    expect(opened.get_by_label("Strength")).to_have_value("0.4")
    ear.forgives.append("404")
    (name,) = door.files
    assert running.client.delete(f"/v1/inputs/{name}").status_code == 204
    opened.reload()
    expect(opened.get_by_text("The picture that was here is not kept any more.")).to_be_visible()
    expect(place.locator("img")).to_have_count(0)
    expect(opened.get_by_label("Strength")).to_have_count(0)


def drawn(page: Page, worker: ScriptedWorker, prompt: str = "a lighthouse") -> str:
    """A finished print; its job's id."""
    ask(page, prompt)
    claim = worker.claim()
    worker.succeed(claim, data=picture("teal"))
    expect(page.locator(".sheet").first).to_have_attribute("data-status", "succeeded")
    return claim.id


def test_edit_this_puts_the_print_into_the_form(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    opened.get_by_label("Seed", exact=True).fill("12")
    job = drawn(opened, worker)
    opened.locator(".sheet button.frame").click()
    opened.get_by_role("button", name="Edit this").click()
    place = opened.get_by_role("group", name="Begin with a picture")
    expect(place).to_contain_text(shown(128, 128))
    expect(place.locator("img")).to_have_attribute("src", re.compile("/pictures/images/"))
    expect(opened.get_by_label("What should the picture show?")).to_have_value("a lighthouse")
    expect(opened.get_by_label("Seed", exact=True)).to_have_value("")
    opened.reload()
    expect(place.locator("img")).to_have_attribute("src", re.compile("/pictures/images/"))
    ask(opened, "a lighthouse in snow")
    worker.claim()
    assert door.sent[-1].items() >= {"image": {"job": job, "index": 0}, "prompt": "a lighthouse in snow"}.items()


def test_vary_this_draws_from_the_print_at_once(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    opened.get_by_label("Seed", exact=True).fill("12")
    job = drawn(opened, worker)
    opened.locator(".sheet button.frame").click()
    opened.get_by_role("button", name="Vary this").click()
    assert worker.claim().spec.prompt == "a lighthouse"
    assert door.sent[-1].items() >= {"image": {"job": job, "index": 0}, "strength": 0.6}.items()
    assert "seed" not in door.sent[-1]
    expect(opened.get_by_role("dialog")).to_have_count(0)


def a_print(kind: str, **record: object) -> bytes:
    """A picture as a worker writes it."""
    asked = {"prompt": "a yacht <b>&amp; \U0001f6e5", "seed": 2**60 + 1, "model": "starter", "width": 96, "height": 64}
    return encode(np.zeros((64, 96, 3), np.uint8), output_format=kind, record=asked | {"model_hash": "0" * 64} | record)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_drawn_here_brings_its_settings(opened: Page, worker: ScriptedWorker, door: Door, kind: str) -> None:
    bring(opened, "drop", a_print(kind, num_inference_steps=7, scheduler="euler"), f"print.{kind}", f"image/{kind}")
    question = opened.get_by_role("group", name="What the picture is for")
    expect(question).to_contain_text("a yacht <b>&amp;")
    assert faults_of_access(opened) == []
    opened.get_by_role("button", name="Load its settings").click()
    expect(question).to_have_count(0)
    expect(opened.get_by_label("Steps", exact=True)).to_have_value("7")
    expect(opened.get_by_label("Seed", exact=True)).to_have_value(str(2**60 + 1))
    opened.keyboard.press("Enter")
    spec = worker.claim().spec
    assert (spec.prompt, spec.seed, spec.width, spec.height) == ("a yacht <b>&amp; \U0001f6e5", 2**60 + 1, 96, 64)
    assert (spec.num_inference_steps, spec.scheduler) == (7, "euler")
    assert door.files == {}


def test_a_picture_drawn_here_is_drawn_from_if_that_is_meant(opened: Page, door: Door) -> None:
    opened.fill("#prompt", "mine")
    bring(opened, "drop", a_print("png"))
    opened.get_by_role("button", name="Draw from this picture").click()
    expect(opened.get_by_role("group", name="Begin with a picture")).to_contain_text(shown(96, 64))
    expect(opened.get_by_label("What should the picture show?")).to_have_value("mine")


@pytest.mark.parametrize(
    "record",
    [
        {"width": "wide", "num_inference_steps": None, "scheduler": {"a": 1}, "image": {"sha256": "../../x"}},
        {"loras": "ink", "control": [None, {"model": "canny", "image": 7}], "mask_image": [], "image": []},
        {"model": "of another", "model_hash": "f" * 64, "width": 4096, "num_inference_steps": 10**9},
    ],
)
def test_an_odd_record_fills_in_what_fits(
    opened: Page, worker: ScriptedWorker, door: Door, record: dict[str, Any]
) -> None:
    bring(opened, "drop", a_print("png", **record))
    opened.get_by_role("button", name="Load its settings").click()
    expect(opened.get_by_label("Seed", exact=True)).to_have_value(str(2**60 + 1))
    opened.keyboard.press("Enter")
    assert worker.claim().spec.prompt.startswith("a yacht")
    assert not set(EDITS) & set(door.sent[0])


class TestOfWordsOnly:
    """A model that takes no pictures: nothing is offered, and a picture can still bring its settings."""

    @pytest.fixture
    def card(self, card: ModelCard) -> ModelCard:
        return card.model_copy(update={"takes": (), "tasks": ("text-to-image",), "loras": (), "controls": ()})

    def test_nothing_is_offered(self, opened: Page, worker: ScriptedWorker, door: Door) -> None:
        for label in ("Begin with a picture", "Strength", "LoRA", "Control"):
            expect(opened.get_by_label(label)).to_have_count(0)
        drawn(opened, worker)
        opened.locator(".sheet button.frame").click()
        expect(opened.get_by_role("button", name="Use these settings")).to_be_visible()
        expect(opened.get_by_role("button", name="Edit this")).to_have_count(0)
        expect(opened.get_by_role("button", name="Vary this")).to_have_count(0)

    def test_settings_are_loaded_and_other_pictures_are_refused_aloud(self, opened: Page, door: Door) -> None:
        bring(opened, "drop", a_png(64, 64))
        expect(opened.get_by_text("This picture carries no settings")).to_be_visible()
        opened.get_by_role("button", name="Dismiss").click()
        bring(opened, "drop", a_print("png"))
        expect(opened.get_by_label("Seed", exact=True)).to_have_value(str(2**60 + 1))
        assert door.files == {}
