"""A mask is painted over a picture, by mouse, finger and keys, and arrives as a PNG: white is repainted."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import ScriptedWorker
from tests.browser.conftest import Ear, ask, faults_of_access
from tests.browser.edits import Door, a_png, bring, choose, editing, shown

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
WIDTH, HEIGHT = 200, 120


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return editing(card)


@pytest.fixture
def painting(opened: Page, door: Door) -> Page:
    """The dialog, open over a picture of WIDTH x HEIGHT."""
    choose(opened, a_png(WIDTH, HEIGHT))
    opened.get_by_role("button", name="Paint a mask").click()
    expect(canvas(opened)).to_be_focused()
    return opened


def canvas(page: Page) -> Locator:
    return page.get_by_role("application", name="Mask")


def box(page: Page) -> FloatRect:
    found = canvas(page).bounding_box()
    assert found is not None
    return found


def drag(page: Page, *places: tuple[float, float]) -> None:
    """A stroke of the mouse through places in the picture's pixels."""
    frame = box(page)
    on_screen = [
        (frame["x"] + x * frame["width"] / WIDTH, frame["y"] + y * frame["height"] / HEIGHT) for x, y in places
    ]
    page.mouse.move(*on_screen[0])
    page.mouse.down()
    for place in on_screen[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def press(page: Page, name: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()


def sent_mask(page: Page, worker: ScriptedWorker, door: Door) -> npt.NDArray[np.bool_]:
    """The mask of the request that is sent now: where it is white. [HEIGHT, WIDTH]"""
    if page.get_by_role("dialog").count():
        press(page, "Done")
    ask(page, f"a lighthouse {len(door.sent)}")
    worker.claim()
    content_type, data = door.files[door.sent[-1]["mask_image"]["input"]]
    with Image.open(io.BytesIO(data)) as image:
        assert (content_type, image.format, image.size) == ("image/png", "PNG", (WIDTH, HEIGHT))
        pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all(), "nothing is transparent: programs differ in what that means"
    assert (pixels[..., :1] == pixels[..., :3]).all(), "black, white and the grey between"
    return pixels[..., 0] > 127


def test_a_hand_that_rests_beside_a_stroke_does_not_paint(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    frame = box(painting)
    places = [(frame["x"] + x * frame["width"] / WIDTH, frame["y"] + frame["height"] / 2) for x in (40, 160)]
    painting.mouse.move(*places[0])
    painting.mouse.down()
    debugger = painting.context.new_cdp_session(painting)
    hand = [{"x": frame["x"] + frame["width"] / 2, "y": frame["y"] + 4}]
    debugger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": hand})
    painting.mouse.move(*places[1], steps=6)
    debugger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    painting.mouse.up()
    white = sent_mask(painting, worker, door)
    assert white[60, 40:160].all()
    assert not white[:40].any()


def test_a_mask_that_is_on_its_way_is_not_another_pictures(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    door.is_shut = True
    choose(painting, a_png(WIDTH, HEIGHT, "white"), label="Use a file as the mask")
    door.wait_for(1)
    press(painting, "Done")
    door.is_shut = False
    painting.get_by_role("button", name="Remove: Picture").click()
    choose(painting, a_png(64, 64))
    expect(painting.get_by_text(shown(64, 64), exact=True)).to_be_visible()
    door.held[0].continue_()
    ask(painting, "a lighthouse")
    worker.claim()
    assert "mask_image" not in door.sent[0]


def test_paint_erase_undo_redo_invert_clear(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    drag(painting, (40, 60), (160, 60))
    assert faults_of_access(painting) == []
    white = sent_mask(painting, worker, door)
    assert white[60, 40:160].all(), "a line of the brush's width, along the way of the mouse"
    assert white[50, 100]
    assert not np.concatenate([white[:40], white[80:]]).any()
    assert not white[:, :20].any()
    painting.get_by_role("button", name="Change the mask").click()
    press(painting, "Eraser")
    drag(painting, (100, 20), (100, 100))
    erased = sent_mask(painting, worker, door)
    assert not erased[:, 95:105].any()
    assert (erased <= white).all()
    assert erased[60, [50, 150]].all()
    painting.get_by_role("button", name="Change the mask").click()
    press(painting, "Undo")
    assert (sent_mask(painting, worker, door) == white).all(), "also after the dialog was closed"
    painting.get_by_role("button", name="Change the mask").click()
    press(painting, "Redo")
    press(painting, "Invert")
    inverted = sent_mask(painting, worker, door)
    assert (inverted != erased).mean() > 0.99, "but for the soft pixels of an edge"
    painting.get_by_role("button", name="Change the mask").click()
    press(painting, "Clear")
    press(painting, "Undo")
    assert (sent_mask(painting, worker, door) == inverted).all()
    assert "strength" not in door.sent[-1]
    expect(painting.get_by_label("Strength")).to_have_value("1")


@pytest.mark.parametrize("context_options", [PHONE])
def test_a_finger_paints_and_does_not_scroll(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    frame = box(painting)
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 390
    client = painting.context.new_cdp_session(painting)
    places = [(frame["x"] + part * frame["width"], frame["y"] + frame["height"] / 2) for part in (0.25, 0.5, 0.75)]
    for kind, points in (
        ("touchStart", places[:1]),
        ("touchMove", places[1:2]),
        ("touchMove", places[2:]),
        ("touchEnd", []),
    ):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    assert faults_of_access(painting) == []
    white = sent_mask(painting, worker, door)
    assert white[60, 50:150].all()
    assert not white[[5, -5]].any()


def test_keys_paint(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    canvas(painting).focus()
    painting.keyboard.press("Space")
    for _ in range(4):
        painting.keyboard.press("ArrowRight")
    painting.keyboard.press("Shift+ArrowRight")
    painting.keyboard.press("Control+z")
    painting.keyboard.press("Control+Shift+z")
    painting.keyboard.press("[")
    painting.keyboard.press("Escape")
    white = sent_mask(painting, worker, door)
    assert white[60, [100, 150, 160]].all()
    assert not white[60, [75, 125, 185]].any()
    assert not white[:40].any()


def test_a_mask_without_paint_is_none(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    drag(painting, (40, 60), (60, 60))
    press(painting, "Undo")
    press(painting, "Done")
    expect(painting.get_by_role("button", name="Paint a mask")).to_be_visible()
    ask(painting, "a lighthouse")
    worker.claim()
    assert "mask_image" not in door.sent[0]
    assert list(door.files) == [door.sent[0]["image"]["input"]]


def test_a_painted_mask_is_part_of_the_draft_and_of_the_picture(
    painting: Page, worker: ScriptedWorker, door: Door
) -> None:
    drag(painting, (40, 60), (160, 60))
    painting.reload()
    over = painting.locator(".thumb canvas")
    expect(over).to_be_visible()
    painting.get_by_label("Soft edge of the mask").fill("4")
    assert sent_mask(painting, worker, door)[60, 100]
    assert door.sent[0]["mask_blur"] == 4
    painting.get_by_role("button", name="No mask").click()
    expect(over).to_have_count(0)
    expect(painting.get_by_label("Strength")).to_have_value("0.8")
    painting.get_by_role("button", name="Paint a mask").click()
    drag(painting, (40, 60), (160, 60))
    press(painting, "Done")
    bring(painting, "drop", a_png(64, 64))
    expect(painting.get_by_text(shown(64, 64), exact=True)).to_be_visible()
    expect(over).to_have_count(0)


def test_a_file_is_the_mask_and_can_be_painted_in(painting: Page, worker: ScriptedWorker, door: Door) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:, :100] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    choose(painting, file.getvalue(), label="Use a file as the mask")
    expect(painting.get_by_role("button", name="Change the mask", include_hidden=True)).to_be_attached()
    press(painting, "Done")
    white = sent_mask(painting, worker, door)
    assert (white == (pixels > 0)).all()
    assert door.files[door.sent[0]["mask_image"]["input"]][1] == file.getvalue(), "the file itself: nothing was changed"
    painting.get_by_role("button", name="Change the mask").click()
    press(painting, "Eraser")
    drag(painting, (50, 20), (50, 100))
    more = sent_mask(painting, worker, door)
    assert not more[20:100, 47:53].any()
    assert more[:, 5:30].all()
    assert not more[:, 105:].any()


def test_nothing_is_sent_without_the_mask_that_was_on_its_way(painting: Page, door: Door, ear: Ear) -> None:
    ear.forgives.append("ERR_FAILED")
    door.is_shut = True
    choose(painting, a_png(WIDTH, HEIGHT, "white"), label="Use a file as the mask")
    door.wait_for(1)
    painting.get_by_label("Size of the brush").press("Enter")
    press(painting, "Done")
    ask(painting, "a lighthouse")
    door.held[0].abort()
    expect(painting.locator(".starting").get_by_role("alert")).to_contain_text("The service does not answer")
    expect(painting.get_by_role("button", name="Generate")).to_be_enabled()
    assert door.sent == []


def test_why_a_mask_was_not_sent_is_told_and_it_is_sent_again(
    painting: Page, worker: ScriptedWorker, door: Door, ear: Ear
) -> None:
    ear.forgives.append("ERR_FAILED")
    drag(painting, (40, 60), (160, 60))
    press(painting, "Done")
    painting.route("**/v1/inputs", lambda route: route.abort())
    ask(painting, "a lighthouse")
    alert = painting.locator(".controls").get_by_role("alert")
    expect(alert).to_contain_text("The service does not answer")
    painting.unroute("**/v1/inputs")
    painting.get_by_role("button", name="Try again").click()
    worker.claim()
    assert set(door.sent[0]["mask_image"]) == {"input"}
