"""The wall while others change it: programs, other tabs, outages; and what its buttons could not do."""

from __future__ import annotations

import itertools
import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, failed, look, picture
from tests.browser.waiting import until

pytestmark = pytest.mark.browser


def test_a_print_that_was_closed_stays_closed(opened: Page, running: Running, worker: ScriptedWorker) -> None:
    for number in range(26):
        running.client.post("/v1/jobs", json={"prompt": f"picture {number}"}).raise_for_status()
    opened.reload()
    opened.locator("button.frame").last.click()
    dialog = opened.get_by_role("dialog")
    expect(dialog).to_be_visible()
    held: list[Route] = []
    opened.route("**/v1/jobs?*cursor*", lambda route: held.append(route))
    opened.keyboard.press("ArrowRight")
    until(opened, lambda: held)
    opened.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    held[0].continue_()
    expect(opened.locator(".sheet")).to_have_count(26)
    expect(dialog).to_have_count(0)


BROKEN = {"status": 500, "title": "Internal error", "detail": "It broke.", "type": "/problems/internal-error"}


def test_what_a_button_could_not_do_is_said(opened: Page, worker: ScriptedWorker, ear: Ear) -> None:
    """On the wall and beside an open print, which stays open."""
    ear.forgives.append("500")
    failed(opened, worker, "a black hole")
    opened.route("**/v1/jobs/job_*", lambda route: route.fulfill(status=500, json=BROKEN))
    alert = opened.locator(".prints").get_by_role("alert")
    opened.get_by_role("button", name="Remove").click()
    expect(alert).to_contain_text("Internal error")
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_have_count(0)
    opened.locator("button.frame").click()
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("button", name="Delete for good?").click()
    expect(opened.get_by_role("dialog").get_by_role("alert")).to_contain_text("Internal error")
    opened.unroute("**/v1/jobs/job_*")
    opened.get_by_role("button", name="Delete for good?").click()
    expect(opened.get_by_role("dialog")).to_have_count(0)
    expect(opened.locator(".sheet")).to_have_count(0)


def test_what_a_program_sent_at_once_is_all_on_the_wall(opened: Page, running: Running, worker: ScriptedWorker) -> None:
    """Only the newest page was; and every unfinished one was asked for each second."""
    asked: list[str] = []
    ask(opened, "the first")
    expect(opened.locator(".sheet")).to_have_count(1)
    for number in range(59):
        running.client.post("/v1/jobs", json={"prompt": f"picture {number}"}).raise_for_status()
    look(opened)
    expect(opened.locator(".sheet")).to_have_count(60)
    opened.on("request", lambda request: asked.append(re.sub("job_.*|[?].*", "", request.url)))
    lists, single = f"{running.url}/v1/jobs", f"{running.url}/v1/jobs/"
    until(opened, lambda: asked.count(lists) >= 4)
    # Two lists may have been on their way before.
    assert asked.count(single) <= 8 * (asked.count(lists) + 2)


def test_the_wall_shows_so_many_until_older_ones_are_asked_for(
    opened: Page, running: Running, worker: ScriptedWorker
) -> None:
    ask(opened, "a red circle")
    expect(opened.locator(".sheet")).to_have_count(1)
    job = running.client.get("/v1/jobs").json()["data"][0] | {"status": "canceled"}
    jobs = [job | {"id": f"job_{number:024x}"} for number in range(130)]
    opened.route("**/v1/jobs?*", lambda route: route.fulfill(json={"data": jobs, "next_cursor": None}))
    look(opened)
    expect(opened.locator(".sheet")).to_have_count(120)
    opened.get_by_role("button", name="Older prints").click()
    expect(opened.get_by_role("button", name="Older prints")).to_have_count(0)
    expect(opened.locator(".sheet")).to_have_count(131)


def test_a_job_that_is_deleted_elsewhere_goes(opened: Page, running: Running, worker: ScriptedWorker, ear: Ear) -> None:
    ear.forgives.append("404")
    claims = []
    for prompt in ("first", "second"):
        ask(opened, prompt)
        claims.append(worker.claim())
        worker.succeed(claims[-1], data=picture("teal"))
    expect(opened.locator("[data-status=succeeded]")).to_have_count(2)
    opened.locator("button.frame").first.click()
    expect(opened.get_by_role("dialog")).to_be_visible()
    running.client.delete(f"/v1/jobs/{claims[1].id}").raise_for_status()
    look(opened)
    expect(opened.get_by_role("dialog")).to_have_count(0)
    expect(opened.locator(".sheet")).to_have_count(1)


def test_a_picture_is_there_after_an_outage(opened: Page, worker: ScriptedWorker, ear: Ear) -> None:
    ear.forgives.append("ERR_FAILED")
    missed: list[str] = []
    opened.route("**/pictures/**", lambda route: (missed.append(route.request.url), route.abort()))
    ask(opened, "first")
    worker.succeed(worker.claim(), data=picture("teal"))
    until(opened, lambda: missed)
    opened.unroute("**/pictures/**")
    shown = opened.locator("img.picture")
    until(opened, lambda: shown.evaluate("(image) => image.naturalWidth") == 128)


def test_a_picture_is_asked_for_by_one_link_while_that_works(
    opened: Page, running: Running, worker: ScriptedWorker, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket signs another for every answer: each was the picture once more, and one that is lost was a loop."""
    ear.forgives.append("404")
    viewer, answers, asked = running.app.state.services.viewer, itertools.count(), list[str]()
    monkeypatch.setattr(viewer, "_link_age_start", lambda: int(viewer.now()) - next(answers))
    opened.on("request", lambda request: asked.append(request.url) if "/pictures/" in request.url else None)
    ask(opened, "kept")
    worker.succeed(worker.claim(), data=picture("teal"))
    until(opened, lambda: asked)
    look_often(opened)
    assert len(asked) == 1
    opened.route("**/pictures/**", lambda route: route.fulfill(status=404))
    ask(opened, "lost")
    worker.succeed(worker.claim(), data=picture("teal"))
    expect(opened.get_by_text("This picture cannot be loaded")).to_be_visible()
    look_often(opened)
    # One by the first link, and then each after twice as long, until it is left.
    assert len(asked) <= 1 + 8


def test_a_print_that_moves_up_brings_no_older_ones_along(
    opened: Page, running: Running, worker: ScriptedWorker
) -> None:
    for number in range(30):
        running.client.post("/v1/jobs", json={"prompt": f"picture {number}"}).raise_for_status()
    running.client.post("/v1/jobs/cancel", json={}).raise_for_status()
    opened.reload()
    sheets = opened.locator(".sheet")
    expect(sheets).to_have_count(24)
    sheets.first.get_by_role("button", name="Remove").click()
    expect(opened.get_by_text("picture 29", exact=True)).to_have_count(0)
    look_often(opened)
    expect(sheets).to_have_count(24)
    opened.get_by_role("button", name="Older prints").click()
    expect(sheets).to_have_count(29)


def look_often(page: Page) -> None:
    """What follows from an answer is done before the next one comes."""
    for _ in range(10):
        with page.expect_response("**/v1/jobs?*"):
            look(page)


def test_a_first_one_that_cannot_be_asked_for_is_not_said_to_be_gone(
    opened: Page, worker: ScriptedWorker, ear: Ear
) -> None:
    ear.forgives.append("ERR_FAILED")
    ask(opened, "first")
    claim = worker.claim()
    worker.succeed(claim, data=picture("teal"))
    opened.locator("button.frame").click()
    opened.get_by_role("button", name="Same again").click()
    worker.succeed(worker.claim(), data=picture("teal"))
    expect(opened.locator("[data-status=succeeded]")).to_have_count(2)
    opened.route(f"**/v1/jobs/{claim.id}", lambda route: route.abort())
    opened.locator("button.frame").first.click()
    expect(opened.locator(".verdict")).to_have_text("Drawn as the same as one that could not be asked for now.")


READS = """async () => {
    const { Darkroom } = await import("/static/darkroom.js");
    const darkroom = new Darkroom();
    let reads = 0;
    const job = (number) => ({
        id: `job_${number}`, status: "running", attempts: 1, images: [], progress: { step: 0 }, input: { prompt: "" },
        get created_at() { reads += 1; return `${number}`; },
    });
    for (const number of [2, 1, 4, 3]) darkroom.take(job(number));
    const before = darkroom.prints.map(({ id }) => id);
    reads = 0;
    darkroom.patch("job_1", { progress: { step: 1 } });
    const steps = darkroom.unfinished.map(({ progress }) => progress.step);
    const read = reads;
    darkroom.take(job(5));
    return { before, steps, read, newest: darkroom.prints[0].id };
}"""


def test_a_step_of_one_job_does_not_sort_them_all(opened: Page) -> None:
    """Of ten thousand that was a tenth of a second, five times a step."""
    order = ["job_4", "job_3", "job_2", "job_1"]
    found = opened.evaluate(READS)
    assert found == {"before": order, "steps": [0, 0, 0, 1], "read": 1, "newest": "job_5"}
