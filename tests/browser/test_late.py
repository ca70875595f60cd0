"""Answers that come late, out of order or never, and what is changed while they are on their way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask
from tests.browser.edits import Door, a_png, choose, editing
from tests.browser.waiting import until

pytestmark = pytest.mark.browser


@pytest.fixture
def editor(running: Running, worker: ScriptedWorker, card: ModelCard) -> ScriptedWorker:
    """A worker whose model takes pictures."""
    worker.card = editing(card)
    worker.announce()
    return worker


def failed(page: Page, worker: ScriptedWorker, *prompts: str) -> None:
    for prompt in prompts:
        ask(page, prompt)
        worker.fail(worker.claim())
    expect(page.locator("[data-status=failed]")).to_have_count(len(prompts))


def test_what_failed_is_tried_again_and_not_what_was_sent_after_it(
    opened: Page, worker: ScriptedWorker, ear: Ear
) -> None:
    ear.forgives.append("ERR_FAILED")
    failed(opened, worker, "first", "second")
    held: list[Route] = []
    opened.route("**/v1/jobs", lambda route: held.append(route))
    for prompt in ("first", "second"):
        opened.locator(".sheet", has_text=prompt).get_by_role("button", name="Draw again").click()
    until(opened, lambda: len(held) == 2)
    held[1].continue_()
    assert worker.claim().spec.prompt == "second"
    expect(opened.locator(".sheet")).to_have_count(3)
    held[0].abort()
    again = opened.locator(".prints .trouble").get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    opened.unroute("**/v1/jobs")
    again.click()
    assert worker.claim().spec.prompt == "first"


def test_a_picture_that_comes_when_another_model_is_chosen_is_fitted_to_that_one(
    running: Running, worker: ScriptedWorker, card: ModelCard, page: Page, door: Door
) -> None:
    """It got a size beyond that model's limits; and one that takes no pictures got one, which nobody saw."""
    takes = {"takes": ("image", "strength"), "tasks": ("text-to-image", "image-to-image")}
    for number, change in enumerate((takes, {"name": "small", "max_side": 128, **takes}, {"name": "wordy"})):
        worker.ownership.announce(card.model_copy(update=change), f"w{number}")
    page.goto(running.url)
    choice = page.get_by_label("Model")
    door.is_shut = True
    for name in ("small", "wordy"):
        choice.select_option("starter")
        choose(page, a_png(192, 192))
        door.wait_for(1)
        choice.select_option(name)
        door.held.pop().continue_()
        ask(page, f"by {name}")
        worker.card = worker.card.model_copy(update={"name": name})
        spec = worker.claim().spec
        assert (spec.width, spec.image is None) == (128, name == "wordy")
        if name == "small":
            page.get_by_role("button", name="Remove").click()


def test_a_folder_that_is_dropped_is_no_outage(
    running: Running, editor: ScriptedWorker, page: Page, tmp_path: Path
) -> None:
    page.goto(running.url)
    place = page.get_by_role("group", name="Begin with a picture")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    at: dict[str, Any] = {"x": box["x"] + 5, "y": box["y"] + 5}
    dropped = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
    debugger = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        debugger.send("Input.dispatchDragEvent", {"type": kind, "data": dropped, **at})
    expect(place.get_by_role("alert")).to_contain_text("The file cannot be read")
    expect(page.locator(".head [role=alert]")).to_have_count(0)


def test_why_a_mask_is_refused_is_said_where_it_was_chosen(
    running: Running, editor: ScriptedWorker, page: Page, ear: Ear
) -> None:
    """Behind the painter nobody saw it."""
    ear.forgives.append("422")
    page.goto(running.url)
    choose(page, a_png(64, 64))
    page.get_by_role("button", name="Paint a mask").click()
    choose(page, b"<svg/>", label="Use a file as the mask")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("The picture cannot be used")
    page.get_by_role("button", name="Done").click()
    expect(page.locator(".starting").get_by_role("alert")).to_contain_text("The picture cannot be used")
