"""Every step of a picture on the page: asked for, played, scrubbed, stepped through and saved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from safetensors.numpy import load

from tests.browser.conftest import faults_of_access
from tests.browser.test_drawing import ask, finished, opened, sheet
from tests.browser.waiting import until
from tests.system.conftest import Installation

__all__ = ["opened"]
pytestmark = pytest.mark.browser

PROMPT = "a green frog on a white background"


@pytest.fixture(scope="module")
def looked_at(installation: Installation) -> str:
    """The one picture of this file whose steps are kept: its job."""
    asked = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 12, "trajectory": {"every": 1}}
    with installation.client() as client:
        return str(client.post("/v1/jobs", json=asked).json()["id"])


@pytest.fixture
def player(page: Page, installation: Installation, looked_at: str) -> Locator:
    """Of that picture, opened."""
    with installation.client() as client:
        until(page, lambda: client.get(f"/v1/jobs/{looked_at}").json()["status"] == "succeeded")
    page.goto(installation.url)
    finished(sheet(page, PROMPT)).get_by_role("button").first.click()
    return page.get_by_role("group", name="Steps of the picture")


def test_the_form_asks_for_every_step(opened: Page, installation: Installation) -> None:
    opened.get_by_text("More", exact=True).click()
    opened.get_by_label("Keep every step, to play them and to save their latents").check()
    opened.get_by_label("Steps", exact=True).fill("3")
    prompt = "a red circle whose steps are kept"
    finished(ask(opened, prompt)).get_by_role("button").first.click()
    group = opened.get_by_role("group", name="Steps of the picture")
    expect(slider(group)).to_have_attribute("max", "4")
    with installation.client() as client:
        [job] = [each for each in client.get("/v1/jobs").json()["data"] if each["input"]["prompt"] == prompt]
    assert job["input"]["trajectory"]["every"] == 1


def slider(player: Locator) -> Locator:
    return player.get_by_label("How it emerged")


def shown(page: Page, name: str) -> str:
    """The pixels of the frame of that name, once it is drawn."""
    frame = page.get_by_role("dialog").get_by_role("img", name=re.compile(f"^{name}$"))
    expect(frame).to_have_attribute("data-step", re.compile("[0-9]+"))
    return str(frame.evaluate("(canvas) => canvas.toDataURL()"))


def test_scrub_and_step_through_what_was_kept(page: Page, player: Locator) -> None:
    expect(slider(player)).to_have_attribute("max", "13")
    expect(player).to_contain_text("Finished picture")
    slider(player).fill("3")
    expect(player).to_contain_text(re.compile(r"Estimate at step 3, timestep \d+, sigma [\d.]+"))
    seen = {shown(page, "Estimate at step 3")}
    player.get_by_role("button", name="Step forward").click()
    seen.add(shown(page, "Estimate at step 4"))
    player.get_by_role("button", name="Noisy").click()
    expect(player.get_by_role("button", name="Noisy")).to_have_attribute("aria-pressed", "true")
    seen.add(shown(page, "Noisy at step 4"))
    slider(player).focus()
    page.keyboard.press("Home")
    seen.add(shown(page, "Noisy at step 0"))
    assert len(seen) == 4, "each is another picture"
    player.get_by_role("button", name="Estimate").click()
    assert shown(page, "Noisy at step 0"), "before the first evaluation there is no estimate"
    expect(player).to_contain_text("Noisy at step 0, timestep 999, sigma 14.6")
    assert faults_of_access(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_steps_without_frames_are_passed_over(page: Page, player: Locator) -> None:
    """Such as have lost their frames to full memory."""

    def lose(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["steps"][3]["boxes"] = {}
        route.fulfill(response=answer, json=told)

    expect(slider(player)).to_have_attribute("max", "13")
    page.route("**/trajectory.json", lose)
    # The address still names the picture, whose player opens by itself.
    page.reload()
    expect(slider(player)).to_have_attribute("max", "12")
    slider(player).fill("3")
    expect(player).to_contain_text("Estimate at step 4")


def test_play_pause_and_the_picture_at_the_end(page: Page, player: Locator) -> None:
    page.clock.install()
    player.get_by_role("button", name="Play").click()
    expect(slider(player)).to_have_value("0")
    page.clock.run_for(400)
    expect(slider(player)).not_to_have_value("0")
    player.get_by_role("button", name="Pause").click()
    stands = slider(player).input_value()
    page.clock.run_for(5_000)
    expect(slider(player)).to_have_value(stands)
    player.get_by_role("button", name="Play").click()
    for _ in range(13):
        page.clock.run_for(400)
    expect(slider(player)).to_have_value("13")
    expect(player.get_by_role("button", name="Play")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_role("img", name=PROMPT)).to_be_visible()


def test_who_wants_less_motion_gets_two_frames_a_second(opened: Page) -> None:
    frames = "import('/static/trajectory.js').then(({ pace }) => [pace(12, false), pace(12, true), pace(100, false)])"
    assert opened.evaluate(frames) == [pytest.approx(333.3, abs=1), 500, 60]


def test_film_and_numbers_are_saved(page: Page, player: Locator, tmp_path: Path) -> None:
    for label, suffix in (("Save film", "webp"), ("Save numbers", "safetensors")):
        with page.expect_download() as download:
            player.get_by_role("link", name=label).click()
        assert re.fullmatch(rf"job_[0-9a-z]{{24}}-0-trajectory\.{suffix}", download.value.suggested_filename)
        download.value.save_as(tmp_path / f"saved.{suffix}")
    assert load((tmp_path / "saved.safetensors").read_bytes())["noisy"].shape[0] == 13
    assert (tmp_path / "saved.webp").read_bytes()[8:12] == b"WEBP"


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}])
def test_on_a_phone(page: Page, player: Locator) -> None:
    """Nothing is wider than the screen, and what is pressed is as high as a finger."""
    player.get_by_role("button", name="Step back").tap()
    shown(page, "Estimate at step 12")
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= innerWidth")
    for button in player.get_by_role("button").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    assert faults_of_access(page) == []
