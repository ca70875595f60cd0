"""LoRAs and controls are chosen by name, with weights, words and pictures, and are part of draft, request and print."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, faults_of_access, picture
from tests.browser.edits import Door, a_png, choose, editing
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return editing(card)


def group(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def upload(running: Running, data: bytes) -> str:
    answer = running.client.post("/v1/inputs", content=data, headers={"Content-Type": "image/png"})
    return str(answer.json()["id"])


def test_loras_are_chosen_weighed_and_named_in_the_prompt(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    opened.get_by_label("Add a LoRA").select_option("ink")
    opened.get_by_label("Add a LoRA").select_option("film")
    expect(opened.get_by_label("Add a LoRA")).to_have_count(0)
    group(opened, "LoRA ink").get_by_role("slider").fill("0.8")
    opened.fill("#prompt", "a lighthouse")
    opened.get_by_role("button", name="Write into the prompt: ink wash").click()
    expect(opened.get_by_label("What should the picture show?")).to_have_value("a lighthouse ink wash")
    assert faults_of_access(opened) == []
    opened.reload()
    expect(group(opened, "LoRA ink").get_by_role("slider")).to_have_value("0.8")
    opened.get_by_role("button", name="Remove: LoRA film").click()
    opened.press("#prompt", "Enter")
    worker.claim()
    assert door.sent[0]["loras"] == [{"name": "ink", "weight": 0.8}]
    opened.get_by_role("button", name="Remove: LoRA ink").click()
    ask(opened, "a lighthouse")
    worker.claim()
    assert "loras" not in door.sent[1]


def test_a_picture_on_its_way_stays_with_its_control(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    """It came into whichever control was at that place by then."""
    for _ in range(2):
        opened.get_by_label("Add a control").select_option("canny")
    controls = group(opened, "Control canny")
    door.is_shut = True
    for number, side in enumerate((64, 72)):
        file = {"name": "a.png", "mimeType": "image/png", "buffer": a_png(side, 64)}
        controls.nth(number).locator("input[type=file]").set_input_files(file)
        door.wait_for(number + 1)
    controls.first.get_by_role("button", name="Remove: control canny").click()
    for route in door.held:
        route.continue_()
    expect(controls).to_have_count(1)
    expect(controls).to_contain_text("Picture for canny, 72 \u00d7 64")


def test_a_picture_on_its_way_does_not_come_into_settings_that_were_loaded_since(
    opened: Page, running: Running, worker: ScriptedWorker, door: Door
) -> None:
    kept = {"input": upload(running, a_png(64, 64))}
    asked = {"prompt": "a lighthouse", "control": [{"model": "canny", "image": kept}]}
    running.client.post("/v1/jobs", json=asked).raise_for_status()
    worker.succeed(worker.claim(), data=picture("teal"))
    opened.reload()
    opened.get_by_label("Add a control").select_option("canny")
    door.is_shut = True
    choose(opened, a_png(72, 64), label="Picture for canny")
    door.wait_for(1)
    opened.locator("button.frame").click()
    opened.get_by_role("button", name="Use these settings").click()
    door.held[0].continue_()
    ask(opened, "a lighthouse again")
    assert worker.claim().spec.prompt == "a lighthouse again"
    (control,) = door.sent[-1]["control"]
    assert control["image"] not in [{"input": name} for name in door.files]


class TestThumbnails:
    @pytest.fixture
    def card(self, card: ModelCard, tmp_path: Path) -> ModelCard:
        """There is something to see of a LoRA, and of the other the thumbnail is gone."""
        data, folder = a_png(64, 64), tmp_path / "pictures" / "thumbnails"
        sha256 = hashlib.sha256(data).hexdigest()
        folder.mkdir(parents=True)
        (folder / f"{sha256}.jpg").write_bytes(data)
        ink, film = card.loras
        seen = (ink.model_copy(update={"thumbnail": sha256}), film.model_copy(update={"thumbnail": "0" * 64}))
        return card.model_copy(update={"loras": seen})

    def test_a_lora_is_chosen_by_what_it_does(self, opened: Page, worker: ScriptedWorker, door: Door, ear: Ear) -> None:
        ear.forgives.append("404")
        ink = opened.get_by_role("button", name="Add LoRA ink", exact=True)
        until(opened, lambda: ink.locator("img").evaluate("image => image.complete && image.naturalWidth") == 64)
        expect(opened.get_by_role("button", name="Add LoRA film", exact=True)).to_have_text("film")
        assert faults_of_access(opened) == []
        ink.click()
        expect(group(opened, "LoRA ink").locator("img")).to_be_visible()
        expect(ink).to_have_count(0)
        ask(opened, "a lighthouse by its thumbnail")
        worker.claim()
        assert door.sent[0]["loras"] == [{"name": "ink", "weight": 1}]


@pytest.mark.parametrize(
    "context_options", [{"viewport": {"width": 1200, "height": 850}}, PHONE], ids=["desk", "phone"]
)
def test_a_control_has_a_picture_a_scale_and_a_part_of_the_steps(
    opened: Page, worker: ScriptedWorker, door: Door
) -> None:
    opened.get_by_label("Add a control").select_option("canny")
    canny = group(opened, "Control canny")
    opened.fill("#prompt", "a lighthouse")
    expect(opened.get_by_text("Choose a picture for canny, or remove it.")).to_be_visible()
    expect(opened.get_by_role("button", name="Generate")).to_be_disabled()
    choose(opened, a_png(96, 64), label="Picture for canny")
    expect(canny.locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    canny.get_by_role("slider", name="Control canny").fill("0.7")
    canny.get_by_label("From").fill("0.5")
    canny.get_by_label("To").fill("0.4")
    expect(canny.get_by_label("From")).to_have_value("0.35")
    opened.screenshot(path=f"/tmp/page/control-{opened.viewport_size['width']}.png", full_page=True)
    assert faults_of_access(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # It is shown before it has been sent in, and what is under way does not outlive the page.
    expect(opened.get_by_role("button", name="Generate")).to_be_enabled()
    opened.reload()
    expect(canny.locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    opened.press("#prompt", "Enter")
    worker.claim()
    (name,) = door.files
    sent = {"model": "canny", "image": {"input": name}, "scale": 0.7, "start": 0.35, "end": 0.4}
    assert door.sent[0]["control"] == [sent]
    assert (door.sent[0]["width"], door.sent[0]["height"]) == (128, 128), "as large as it was to be"


def test_two_pictures_for_one_control_and_no_more_controls_than_the_model_uses(opened: Page, door: Door) -> None:
    add = opened.get_by_label("Add a control")
    expect(add.get_by_role("option", name="depth")).to_be_attached()
    for _ in range(4):
        add.select_option("canny")
        expect(add.get_by_role("option", name="depth")).to_have_count(0)
    expect(add).to_have_count(0)
    opened.get_by_role("button", name="Remove: control canny").first.click()
    expect(add).to_be_visible()


def test_a_picture_that_is_gone_leaves_its_control_empty(opened: Page, running: Running, door: Door, ear: Ear) -> None:
    opened.get_by_label("Add a control").select_option("canny")
    choose(opened, a_png(96, 64), label="Picture for canny")
    # The picture is seen while it is still on its way.
    expect(group(opened, "Control canny")).to_contain_text("Picture for canny, 96 \u00d7 64")
    (name,) = door.files
    running.client.delete(f"/v1/inputs/{name}")
    ear.forgives.append("404")
    opened.reload()
    expect(group(opened, "Control canny")).to_contain_text("The picture that was here is not kept any more.")


def test_another_model_has_other_adapters(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    other = worker.card.model_copy(update={"name": "other", "sha256": "1" * 64, "loras": (), "takes": ("image",)})
    worker.ownership.announce(other, "w2")
    opened.get_by_label("Add a LoRA").select_option("ink")
    choose(opened, a_png(96, 64))
    expect(opened.get_by_role("group", name="Begin with a picture")).to_contain_text("Picture, 96 \u00d7 64")
    opened.reload()
    opened.get_by_label("Model").select_option("other")
    expect(opened.get_by_label("LoRA")).to_have_count(0)
    expect(opened.get_by_role("group", name="Begin with a picture")).to_contain_text("Picture, 96 \u00d7 64")
    expect(opened.get_by_label("Strength")).to_have_count(0)
    expect(opened.get_by_role("button", name="Paint a mask")).to_have_count(0)


def test_a_print_tells_what_it_was_made_from(opened: Page, running: Running, worker: ScriptedWorker) -> None:
    names = [upload(running, a_png(96, 64, colour)) for colour in ("teal", "gold", "navy")]
    image, mask, edges = ({"input": name} for name in names)
    request = {
        "prompt": "a lighthouse",
        "image": image,
        "mask_image": mask,
        "strength": 0.7,
        "control": [{"model": "canny", "image": edges, "scale": 0.5, "end": 0.8}],
        "loras": [{"name": "ink", "weight": 0.8}],
    }
    job = running.client.post("/v1/jobs", json=request).json()["id"]
    worker.succeed(worker.claim(), data=picture("teal"))
    opened.goto(f"{running.url}/?job={job}")
    origins = opened.get_by_role("list", name="Made from")
    expect(origins.get_by_role("listitem")).to_have_text(
        [
            "Picture, strength 0.7",
            "Mask: white was repainted",
            "Control canny \u00d7 0.5, 0 to 80 % of the steps",
            "LoRA ink \u00d7 0.8",
        ]
    )
    expect(origins.locator("img")).to_have_count(3)
    assert faults_of_access(opened) == []
    opened.get_by_role("button", name="Use these settings").click()
    expect(opened.get_by_role("button", name="Change the mask")).to_be_visible()
    expect(group(opened, "Control canny").locator("img")).to_be_visible()
    opened.press("#prompt", "Enter")
    spec = worker.claim().spec
    assert spec.image is not None
    assert spec.mask_image is not None
    assert (spec.strength, spec.control[0].end, spec.loras[0].name) == (0.7, 0.8, "ink")
