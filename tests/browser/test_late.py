"""Answers that come late, out of order or never, and what is changed while they are on their way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, failed, look, picture
from tests.browser.edits import Door, a_png, bring, choose, editing
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

MINE, OTHERS, WRONG = "k" * 32, "o" * 32, "w" * 32
KEYS = [{"api_keys": f"me:{MINE},other:{OTHERS}"}]


def give_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()


def lose_key(page: Page) -> None:
    """The tab's key is one that the service does not know any more."""
    page.evaluate("(key) => sessionStorage.setItem('darkroom-key', key)", WRONG)


@pytest.fixture
def editor(running: Running, worker: ScriptedWorker, card: ModelCard) -> ScriptedWorker:
    """A worker whose model takes pictures."""
    worker.card = editing(card)
    worker.announce()
    return worker


@pytest.mark.parametrize("gateway_options", KEYS)
def test_a_refusal_of_the_key_before_says_nothing_of_this_one(
    running: Running, editor: ScriptedWorker, page: Page, door: Door, ear: Ear
) -> None:
    ear.forgives.append("401")
    page.goto(running.url)
    give_key(page, MINE)
    expect(page.locator("#size")).to_be_attached()
    lose_key(page)
    door.is_shut = True
    choose(page, a_png(64, 64))
    door.wait_for(1)
    look(page)
    expect(page.get_by_label("API key")).to_be_visible()
    answers: list[bool] = []
    page.on("response", lambda answer: answers.append(answer.ok) if "/v1/models" in answer.url else None)
    give_key(page, MINE)
    expect(page.get_by_label("API key")).to_have_count(0)
    # Nothing that would make up for it is under way: the page looks once more after it has the key.
    until(page, lambda: answers.count(True) > 1)
    door.is_shut = False
    door.held[0].continue_()
    place = page.get_by_role("group", name="Begin with a picture")
    place.get_by_role("button", name=re.compile("again")).click()
    expect(place).to_contain_text(re.compile("Picture, 64"))
    expect(page.get_by_label("API key")).to_have_count(0)


@pytest.mark.parametrize("gateway_options", KEYS)
def test_a_key_that_is_given_while_the_service_is_away_is_tried_when_it_is_back(
    running: Running, worker: ScriptedWorker, page: Page, ear: Ear
) -> None:
    ear.forgives += ["401", "ERR_FAILED"]
    page.goto(running.url)
    expect(page.get_by_label("API key")).to_be_visible()
    page.route("**/v1/**", lambda route: route.abort())
    give_key(page, MINE)
    expect(page.locator(".head [role=alert]")).to_contain_text("does not answer")
    expect(page.get_by_text("does not know that key")).to_have_count(0)
    page.unroute("**/v1/**")
    expect(page.locator("#size")).to_be_attached()
    expect(page.get_by_label("API key")).to_have_count(0)


@pytest.mark.parametrize("gateway_options", KEYS)
def test_another_key_shows_another_wall(running: Running, worker: ScriptedWorker, page: Page, ear: Ear) -> None:
    ear.forgives.append("401")
    page.goto(running.url)
    page.clock.install()
    give_key(page, MINE)
    ask(page, "mine alone")
    worker.succeed(worker.claim(), data=picture("teal"))
    expect(page.locator("[data-status=succeeded]")).to_have_count(1)
    ask(page, "mine alone as well")
    expect(page.locator("[data-status=queued]")).to_have_count(1)
    lose_key(page)
    look(page)
    expect(page.get_by_text("The service does not know that key.")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(5_000)
    assert [url for url in asked if "/v1/jobs" in url] == [], "a key that is refused is not tried again each second"
    give_key(page, OTHERS)
    expect(page.get_by_text("Nothing on the wall yet")).to_be_visible()
    expect(page.get_by_text("mine alone", exact=True).and_(page.locator("p"))).to_have_count(0)


NO_STORAGE = """
Object.defineProperty(window, "sessionStorage", { get() { throw new DOMException("denied", "SecurityError"); } });
"""


@pytest.mark.parametrize("gateway_options", KEYS)
def test_without_storage_the_page_works_until_it_is_left(
    running: Running, worker: ScriptedWorker, page: Page, ear: Ear
) -> None:
    ear.forgives.append("401")
    page.add_init_script(NO_STORAGE)
    page.goto(running.url)
    give_key(page, MINE)
    ask(page, "a red circle")
    assert worker.claim().spec.prompt == "a red circle"


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


def test_what_was_deleted_is_drawn_when_it_is_asked_for_again(
    opened: Page, running: Running, worker: ScriptedWorker, ear: Ear
) -> None:
    """After an acceptance that the page had not heard of, the same request was refused until it was reloaded."""
    ear.forgives += ["ERR_FAILED", "410"]
    opened.route("**/v1/jobs", lambda route: (route.fetch(), route.abort()))
    ask(opened, "first")
    claim = worker.claim()
    worker.succeed(claim, data=picture("teal"))
    expect(opened.locator("[data-status=succeeded]")).to_have_count(1)
    opened.unroute("**/v1/jobs")
    opened.locator("button.frame").click()
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("button", name="Delete for good?").click()
    expect(opened.locator(".sheet")).to_have_count(0)
    opened.press("#prompt", "Enter")
    again = worker.claim()
    assert (again.spec.prompt, again.id != claim.id) == ("first", True)


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


def test_a_stream_that_stands_still_is_opened_again(opened: Page, worker: ScriptedWorker) -> None:
    streams: list[Route] = []
    opened.clock.install()
    opened.route("**/v1/jobs/events?*", lambda route: streams.append(route))
    ask(opened, "first")
    until(opened, lambda: streams)
    opened.clock.fast_forward(61_000)
    until(opened, lambda: len(streams) > 1)


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


def test_a_key_that_may_not_look_is_told_so(running: Running, page: Page, ear: Ear) -> None:
    """There was an empty page."""
    ear.forgives.append("403")
    refused = {"status": 403, "title": "Forbidden", "detail": "This key does not have the scope 'read'."}
    page.route("**/v1/jobs?*", lambda route: route.fulfill(status=403, json=refused))
    page.goto(running.url)
    told = page.locator(".prints").get_by_role("alert")
    expect(told).to_contain_text("does not have the scope 'read'")
    page.get_by_role("button", name="Dismiss").click()
    for _ in range(2):
        with page.expect_response("**/v1/jobs?*"):
            pass
    assert told.count() == 0, "who has dismissed it knows"


WATCH_STATUS = """() => {
    window.statuses = [];
    const look = () => window.statuses.push(document.querySelector(".sheet").dataset.status);
    new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
}"""


def test_a_job_that_has_begun_does_not_go_back_by_an_answer_from_before(opened: Page, worker: ScriptedWorker) -> None:
    ask(opened, "a red circle")
    sheet = opened.locator(".sheet")
    expect(sheet).to_have_attribute("data-status", "queued")
    held: list[tuple[Route, APIResponse]] = []
    lists = "**/v1/jobs?*"
    opened.route(lists, lambda route: route.continue_() if held else held.append((route, route.fetch())))
    until(opened, lambda: held)
    worker.claim()
    expect(sheet).to_have_attribute("data-status", "running")
    opened.evaluate(WATCH_STATUS)
    route, before = held[0]
    with opened.expect_response(lists):
        route.fulfill(response=before)
    with opened.expect_response(lists):
        pass
    expect(sheet).to_have_attribute("data-status", "running")
    assert "queued" not in opened.evaluate("window.statuses")


READ_SLOWLY = """() => {
    const read = Blob.prototype.arrayBuffer;
    File.prototype.arrayBuffer = function () {
        if (this.name !== "large.png") return read.call(this);
        return new Promise((done) => (window.goOn = () => done(read.call(this))));
    };
}"""


def test_of_two_files_that_are_dropped_the_second_counts_however_large_the_first_is(
    running: Running, editor: ScriptedWorker, page: Page, door: Door
) -> None:
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    page.evaluate(READ_SLOWLY)
    place = page.get_by_role("group", name="Begin with a picture")
    bring(page, "drop", a_png(72, 64), "large.png")
    bring(page, "drop", a_png(64, 64))
    expect(place).to_contain_text("Picture, 64 \u00d7 64")
    page.evaluate("window.goOn()")
    ask(page, "a lighthouse")
    editor.claim()
    assert len(door.files) == 1
