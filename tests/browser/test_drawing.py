"""A user draws pictures: the page, the real service and the bundled model. And every step of one: asked for, played,
scrubbed, stepped through and saved."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from safetensors.numpy import load

from tests.browser.conftest import faults_of_access
from tests.browser.waiting import until
from tests.system.conftest import Installation
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(page: Page, installation: Installation) -> Page:
    page.goto(installation.url)
    expect(page.locator("#size")).to_be_visible()
    return page


@pytest.fixture
def quick(opened: Page) -> Page:
    """The form, asked for fewer steps: what is drawn does not matter."""
    opened.get_by_label("Steps", exact=True).fill("4")
    return opened


def ask(page: Page, prompt: str) -> Locator:
    """Send a prompt with Enter; its sheet on the wall."""
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")
    return sheet(page, prompt)


def sheet(page: Page, prompt: str) -> Locator:
    return page.locator(".sheet", has=page.get_by_text(prompt, exact=True)).first


def finished(sheet: Locator) -> Locator:
    expect(sheet).to_have_attribute("data-status", "succeeded")
    return sheet


def test_the_model_says_what_may_be_asked(opened: Page, installation: Installation) -> None:
    with installation.client() as client:
        model = client.get("/v1/models").json()["data"][0]
    steps = opened.get_by_label("Steps", exact=True)
    expect(steps).to_have_attribute("max", str(model["max_steps"]))
    expect(steps).to_have_value(str(model["num_inference_steps"]))
    expect(opened.get_by_label("Guidance", exact=True)).to_have_attribute("max", f"{model['max_guidance_scale']:g}")
    expect(opened.get_by_label("Size")).to_contain_text(f"{model['width']} \u00d7 {model['height']}")
    opened.get_by_text("More", exact=True).click()
    expect(opened.get_by_label("Scheduler")).to_have_value(model["scheduler"])
    assert faults_of_access(opened) == []


def test_how_a_picture_emerged_is_kept(opened: Page) -> None:
    """A browser may be too late to see it emerge: in test_states.py and test_addresses.py the worker waits for it."""
    drawn = ask(opened, "a panda on a pink background")
    picture = finished(drawn).get_by_role("img", name="a panda on a pink background")
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 128
    drawn.get_by_role("button").click()
    scrub(opened, "a panda on a pink background")
    opened.reload()
    seen = scrub(opened, "a panda on a pink background")
    assert len(seen) > 5, "about a dozen were kept, and none of them in this tab"
    assert len(set(seen.values())) == len(seen), "each is another picture"
    assert faults_of_access(opened) == []


# What stands under a step's name the moment that it is named: a frame drawn later would show the step before.
READ_WHEN_NAMED = """
(dialog) => {
  window.seenSteps = {};
  const read = () => {
    const canvas = dialog.querySelector("canvas[data-step]");
    if (canvas?.dataset.step) (window.seenSteps[canvas.dataset.step] ??= new Set()).add(canvas.toDataURL());
  };
  new MutationObserver(read).observe(dialog, { subtree: true, childList: true, attributeFilter: ["data-step"] });
}
"""


def scrub(page: Page, prompt: str) -> dict[str, str]:
    """Move the slider over every estimate and back: pixels by step. Ends at the finished picture."""
    shown = page.get_by_role("dialog")
    shown.evaluate(READ_WHEN_NAMED)
    slider = shown.get_by_label("How it emerged")
    slider.focus()
    estimate = shown.get_by_role("img", name=re.compile("Estimate at step"))
    for start, onward in (("Home", "ArrowRight"), ("End", "ArrowLeft")):
        page.keyboard.press(start)
        for _ in range(int(slider.get_attribute("max") or 0)):
            page.keyboard.press(onward)
            expect(estimate.or_(shown.get_by_role("img", name=prompt))).to_be_visible()
        expect(slider).to_have_value(slider.get_attribute("max" if onward == "ArrowRight" else "min") or "")
    expect(estimate).to_have_attribute("data-step", re.compile("[0-9]+"))
    page.keyboard.press("End")
    expect(shown.get_by_role("img", name=prompt)).to_be_visible()
    seen = page.evaluate("Object.entries(window.seenSteps).map(([step, pixels]) => [step, [...pixels]])")
    assert all(len(pixels) == 1 for _, pixels in seen), "under one step's name is one picture, from either side"
    return {step: pixels for step, [pixels] in seen}


def test_cancel(opened: Page, installation: Installation) -> None:
    opened.get_by_label("Steps", exact=True).fill("100")
    opened.get_by_label("Pictures", exact=True).fill("4")
    running = ask(opened, "a frog that is called off")
    expect(running).to_have_attribute("data-status", "running")
    with installation.client() as client:
        [job] = client.get("/v1/jobs", params={"limit": 1}).json()["data"]
    worker = installation.put_worker_to_sleep(job["id"])
    running.get_by_role("button", name="Cancel: a frog that is called off").click()
    os.kill(worker, signal.SIGCONT)
    expect(running).to_have_attribute("data-status", "canceled")
    running.get_by_role("button", name="Remove").click()
    expect(running).to_have_count(0)


def test_the_gallery_outlives_a_reload(quick: Page) -> None:
    finished(ask(quick, "a yellow star on a purple background"))
    quick.reload()
    again = finished(sheet(quick, "a yellow star on a purple background"))
    assert again.get_by_role("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 128


def test_a_prompt_full_of_html_is_text(quick: Page) -> None:
    prompt = '<img src=x onerror="document.title=1"> <b>bold</b> {{7*7}} \u202egnp.exe'
    drawn = finished(ask(quick, prompt))
    expect(drawn.locator(".prompt")).to_have_text(prompt)
    assert drawn.locator(".prompt *").count() == 0
    drawn.get_by_role("button").click()
    heading = quick.get_by_role("dialog").get_by_role("heading")
    expect(heading).to_have_text(prompt)
    assert heading.locator("*").count() == 0


def test_enter_and_the_other_keys(opened: Page) -> None:
    prompt = opened.get_by_label("What should the picture show?")
    expect(prompt).to_be_focused()
    opened.keyboard.type("a red circle")
    opened.keyboard.press("Shift+Enter")
    opened.keyboard.type("on a blue background")
    expect(prompt).to_have_value("a red circle\non a blue background")
    opened.get_by_label("Pictures", exact=True).fill("2")
    opened.get_by_label("Steps", exact=True).fill("4")
    prompt.focus()
    opened.keyboard.press("Enter")
    frames = opened.locator(".sheet").first.locator("button.frame")
    expect(frames).to_have_count(2)
    frames.first.focus()
    opened.keyboard.press("Enter")
    shown = opened.get_by_role("dialog")
    seed = shown.locator("dd").first
    before = seed.inner_text()
    opened.keyboard.press("ArrowRight")
    expect(seed).to_have_text(str(int(before) + 1))
    opened.keyboard.press("Escape")
    expect(shown).to_have_count(0)
    expect(frames.first).to_be_focused()


def test_the_same_again_and_more_like_it(quick: Page) -> None:
    prompt = "a lion on a green background"
    finished(ask(quick, prompt)).get_by_role("button").click()
    # Not its slider, which would take the arrow keys.
    expect(quick.get_by_role("dialog")).to_be_focused()
    seed = quick.get_by_role("dialog").locator("dd").first.inner_text()
    quick.get_by_role("button", name="Same again").click()
    expect(quick.get_by_text(prompt, exact=True)).to_have_count(2)
    finished(sheet(quick, prompt)).get_by_role("button").click()
    expect(quick.get_by_role("dialog").locator("dd").first).to_have_text(seed)
    expect(quick.locator(".verdict")).to_have_text(re.compile("identical|at most [12] of 255"))
    quick.get_by_role("button", name="More like this").click()
    expect(quick.get_by_text(prompt, exact=True)).to_have_count(3)
    finished(sheet(quick, prompt)).get_by_role("button").click()
    expect(quick.get_by_role("dialog").locator("dd").first).not_to_have_text(seed)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash")
def test_the_curl_recipe_draws_the_picture(quick: Page, installation: Installation) -> None:
    prompt = 'it\'s a "blue" circle $HOME `id`'
    finished(ask(quick, prompt)).get_by_role("button").click()
    quick.get_by_role("button", name="curl").click()
    recipe = quick.locator(".copies pre").inner_text()
    done = subprocess.run(["bash", "-c", recipe], capture_output=True, text=True, timeout=WAIT_SECONDS)
    seed = quick.get_by_role("dialog").locator("dd").first.inner_text()
    assert '"status":"succeeded"' in done.stdout, done
    with installation.client() as client:
        newest = client.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert (newest["input"]["prompt"], newest["input"]["seed"]) == (prompt, int(seed))


def test_a_part_of_a_print_is_painted_over_and_drawn_anew(quick: Page) -> None:
    """From words to a print, from the print to a mask, from the mask to another print."""
    quick.get_by_label("Seed", exact=True).fill("7")
    first = finished(ask(quick, "a big red circle on a blue background"))
    first.get_by_role("button").click()
    quick.get_by_role("button", name="Edit this").click()
    quick.get_by_role("button", name="Paint a mask").click()
    canvas = quick.get_by_role("application", name="Mask")
    expect(canvas).to_be_focused()
    place = canvas.bounding_box()
    assert place is not None
    quick.mouse.move(place["x"] + place["width"] / 8, place["y"] + place["height"] / 8)
    quick.mouse.down()
    for row in range(1, 8):
        across = 7 if row % 2 else 1
        quick.mouse.move(place["x"] + across * place["width"] / 8, place["y"] + row * place["height"] / 8, steps=4)
    quick.mouse.up()
    quick.get_by_role("button", name="Done").click()
    again = finished(ask(quick, "a big green square on a blue background"))
    again.get_by_role("button").click()
    origins = quick.get_by_role("list", name="Made from")
    expect(origins.locator("img")).to_have_count(2)
    assert faults_of_access(quick) == []


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
