"""A print has an address: links open it, Back closes it, keys, buttons and fingers walk from one to the next."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest
from playwright.sync_api import Page, expect

from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, faults_of_access, picture
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def three(opened: Page, worker: ScriptedWorker) -> Page:
    """Three prints on the wall: the newest, "third", is the first."""
    for prompt in ("first", "second", "third"):
        ask(opened, prompt)
        worker.succeed(worker.claim(), data=picture("teal"))
    expect(opened.locator("[data-status=succeeded]")).to_have_count(3)
    return opened


def jpeg(colour: str) -> str:
    return b64encode(picture(colour, kind="jpeg")).decode()


def shown(page: Page, prompt: str) -> None:
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(prompt)


def press_print(page: Page, prompt: str) -> None:
    page.locator(".sheet", has=page.get_by_text(prompt, exact=True)).locator("button.frame").click()
    shown(page, prompt)


def test_back_closes_a_print_and_forward_opens_it(three: Page, running: Running) -> None:
    frame = three.locator("button.frame").first
    press_print(three, "third")
    expect(three).to_have_url(re.compile(r"/\?job=job_[0-9a-f]{24}&picture=0$"))
    expect(three).to_have_title("third - Darkroom")
    address = three.url
    three.go_back()
    expect(three.get_by_role("dialog")).to_have_count(0)
    expect(three).to_have_url(f"{running.url}/")
    expect(frame).to_be_focused()
    three.go_forward()
    shown(three, "third")
    three.reload()
    shown(three, "third")
    assert three.url == address
    three.keyboard.press("Escape")
    expect(three.get_by_role("dialog")).to_have_count(0)
    expect(three).to_have_url(f"{running.url}/")


def test_one_back_closes_however_many_were_walked_through(three: Page, running: Running) -> None:
    press_print(three, "third")
    three.keyboard.press("ArrowRight")
    shown(three, "second")
    three.get_by_role("button", name="Next print").click()
    shown(three, "first")
    expect(three.get_by_role("button", name="Next print")).to_have_attribute("aria-disabled", "true")
    three.keyboard.press("ArrowRight")
    three.get_by_role("button", name="Previous print").click()
    shown(three, "second")
    assert faults_of_access(three) == []
    three.go_back()
    expect(three.get_by_role("dialog")).to_have_count(0)
    expect(three).to_have_url(f"{running.url}/")


def test_a_link_opens_its_print_and_closing_stays_here(three: Page, running: Running) -> None:
    press_print(three, "first")
    link = three.url
    three.goto("about:blank")
    three.goto(link)
    shown(three, "first")
    three.get_by_role("button", name="Close").click()
    expect(three.get_by_role("dialog")).to_have_count(0)
    expect(three).to_have_url(f"{running.url}/")
    expect(three.locator(".sheet")).to_have_count(3)


def test_a_link_to_nothing_says_so(opened: Page, running: Running, ear: Ear) -> None:
    ear.forgives.append("404")
    opened.goto(f"{running.url}/?job=job_{'0' * 24}&picture=0")
    expect(opened.get_by_role("status").filter(has_text="not kept here any more")).to_be_visible()
    expect(opened.get_by_role("dialog")).to_have_count(0)
    expect(opened).to_have_url(f"{running.url}/")


def test_walking_goes_on_behind_the_newest_prints(running: Running, worker: ScriptedWorker, page: Page) -> None:
    worker.announce()
    for number in range(25):
        job = running.client.post("/v1/jobs", json={"prompt": f"number {number}"}).json()
        running.client.post(job["urls"]["cancel"])
    page.goto(running.url)
    expect(page.locator(".sheet")).to_have_count(24)
    press_print(page, "number 1")
    page.keyboard.press("ArrowRight")
    shown(page, "number 0")
    old = page.url
    page.reload()
    shown(page, "number 0")
    assert page.url == old


def test_a_picture_is_large_while_it_emerges(opened: Page, worker: ScriptedWorker) -> None:
    ask(opened, "a slow one")
    claim = worker.claim()
    press_print(opened, "a slow one")
    worker.progress(claim, 4)
    dialog = opened.get_by_role("dialog")
    expect(dialog).to_contain_text("Step 4 of 20")
    worker.ownership.preview(claim, 0, 4, 20, jpeg("gray"))
    expect(dialog.get_by_role("img", name="Estimate at step 4")).to_be_visible()
    assert faults_of_access(opened) == []
    worker.succeed(claim, data=picture("teal"))
    expect(dialog.get_by_role("img", name="a slow one")).to_be_visible()
    opened.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opened.locator("button.frame")).to_be_focused()


@pytest.mark.parametrize("context_options", [PHONE])
def test_fingers_walk_on_a_phone(three: Page) -> None:
    press_print(three, "third")
    stroke(three, 300, 60)
    shown(three, "second")
    stroke(three, 60, 300)
    shown(three, "third")
    stroke(three, 200, 190)
    stroke(three, 200, 150, down=200)
    shown(three, "third")
    three.go_back()
    expect(three.get_by_role("dialog")).to_have_count(0)


def stroke(page: Page, start: float, end: float, *, down: float = 0) -> None:
    """One finger over the open picture, from one x to another."""
    browser = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": start, "y": 200}]),
        ("touchMove", [{"x": end, "y": 200 + down}]),
        ("touchEnd", []),
    ):
        browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    browser.detach()


def test_every_running_job_emerges_over_one_stream(opened: Page, worker: ScriptedWorker) -> None:
    """The newest as well as the oldest: more at once than a browser opens connections to one host."""
    streams: list[str] = []
    opened.on("requestfinished", lambda request: streams.remove(request.url) if request.url in streams else None)
    opened.on("requestfailed", lambda request: streams.remove(request.url) if request.url in streams else None)
    opened.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
    claims = []
    for number in range(worker.card.seats * 2):
        ask(opened, f"number {number}")
        expect(opened.locator(".sheet")).to_have_count(number + 1)
        claims.append(worker.claim())
    sheets = opened.locator(".sheet[data-status=running]")
    expect(sheets).to_have_count(len(claims))
    expect(sheets.get_by_role("progressbar")).to_have_count(len(claims))
    for step in (3, 6):
        estimates = [jpeg(f"rgb({20 * number}, {20 * step}, 0)") for number in range(len(claims))]
        for claim, estimate in zip(claims, estimates, strict=True):
            worker.progress(claim, step)
            worker.ownership.preview(claim, 0, step, 20, estimate)
        for estimate in estimates:
            expect(opened.locator(f'.sheet img.glimpse[src="data:image/jpeg;base64,{estimate}"]')).to_have_count(1)
    until(opened, lambda: len(streams) == 1)
    for claim in claims:
        worker.succeed(claim, data=picture("teal"))
    expect(opened.locator(".sheet[data-status=succeeded]")).to_have_count(len(claims))
