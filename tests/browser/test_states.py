"""The page in states that are rare in life: no model, a key, a failure, refusals, waiting. The worker is scripted."""

from __future__ import annotations

import io
import os
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from PIL import Image
from playwright.sync_api import Page, Route, expect

from app.contract.messages.card import ModelCard
from app.contract.redis import keys
from app.settings import Settings
from benchmarks.ports import free_port
from tests import waiting
from tests.app.conftest import Running, ScriptedWorker, settings_for
from tests.browser.conftest import Ear, ask, faults_of_access, find_chromium, picture
from tests.browser.waiting import until
from tests.system.conftest import COMMAND
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.browser

KEY = "k" * 32

NOTHING_PAINTED = """
const later = setTimeout;
window.requestAnimationFrame = () => 0;
window.setTimeout = (work, milliseconds, ...more) => milliseconds > 200 ? later(work, milliseconds, ...more) : 0;
"""
"""What Preact does after a frame is never done, as in a tab that was opened behind others, or on a busy machine: an
answer may come before it."""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_step_of_a_picture(opened: Page, worker: ScriptedWorker, scheme: Any) -> None:
    opened.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    ask(opened, "a red circle")
    sheet = opened.locator(".sheet")
    expect(sheet).to_contain_text("Next in line")
    claim = worker.claim()
    expect(sheet).to_contain_text("Starting")
    steps = claim.spec.num_inference_steps
    sources = []
    for step, colour in ((4, "gray"), (8, "pink")):
        worker.progress(claim, step)
        jpeg = b64encode(picture(colour, kind="jpeg")).decode()
        worker.ownership.preview(claim, 0, step, steps, jpeg)
        expect(sheet).to_contain_text(f"Step {step} of {steps}")
        expect(sheet.locator("img.glimpse")).to_have_attribute("src", f"data:image/jpeg;base64,{jpeg}")
        sources.append(jpeg)
    assert faults_of_access(opened) == []
    worker.succeed(claim, data=picture("red"))
    expect(sheet).to_have_attribute("data-status", "succeeded")
    expect(opened.get_by_role("status").filter(has_text="1 picture finished: a red circle")).to_have_count(1)
    sheet.get_by_role("button").click()
    opened.get_by_label("How it emerged").fill("0")
    expect(opened.locator(".easel img")).to_have_attribute("src", f"data:image/jpeg;base64,{sources[0]}")
    assert faults_of_access(opened) == []


def test_the_checks_see_faults(opened: Page, ear: Ear) -> None:
    """The two nets themselves: a field without a name, and a script that the policy stops."""
    opened.evaluate("document.body.append(document.createElement('input'))")
    assert any(fault.startswith("label:") for fault in faults_of_access(opened))
    opened.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'true'}))")
    # A round trip to the browser is when its messages are delivered.
    until(opened, lambda: any("CSP script-src" in each for each in ear.complaints))
    ear.forgives.append(".")


def test_waiting_in_line(opened: Page, worker: ScriptedWorker) -> None:
    for number in range(3):
        ask(opened, f"picture {number}")
        expect(opened.locator(".sheet")).to_have_count(number + 1)
    expect(opened.locator(".sheet").first).to_contain_text("Waiting, 2 jobs before it")
    worker.claim()
    expect(opened.locator(".sheet").first).to_contain_text("Waiting, 1 job before it")


def test_what_was_sent_is_seen_from_far_down_the_wall(running: Running, opened: Page) -> None:
    for number in range(24):
        assert running.client.post("/v1/jobs", json={"prompt": f"picture {number}"}).status_code == 202
    opened.reload()
    expect(opened.locator(".sheet")).to_have_count(24)
    opened.locator(".sheet").last.scroll_into_view_if_needed()
    expect(opened.locator(".sheet").first).not_to_be_in_viewport()
    ask(opened, "a new one")
    expect(opened.locator(".sheet").first).to_contain_text("a new one")
    expect(opened.locator(".sheet").first).to_be_in_viewport(ratio=0.9)


def test_a_model_without_a_worker_says_so(opened: Page, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    redis_client.delete(keys.ALIVE + worker.card.name)
    opened.reload()
    expect(opened.locator(".head")).to_contain_text("No worker is awake")
    expect(opened.get_by_text("No worker serves starter now")).to_be_visible()
    assert faults_of_access(opened) == []
    ask(opened, "a patient one")
    sheet = opened.locator(".sheet")
    expect(sheet).to_contain_text("Waiting for a worker of starter")
    expect(sheet.get_by_text(re.compile("^Warning: "))).to_be_visible()
    worker.announce()
    expect(opened.get_by_text("No worker serves starter now")).to_have_count(0)
    expect(sheet).to_contain_text("Next in line")


def test_a_failure_says_why(opened: Page, worker: ScriptedWorker) -> None:
    ask(opened, "a black hole")
    worker.fail(worker.claim())
    sheet = opened.locator(".sheet")
    expect(sheet).to_contain_text("Values overflowed.")
    expect(sheet.get_by_role("link")).to_have_attribute("href", "/problems/numerical-error")
    assert faults_of_access(opened) == []
    sheet.get_by_role("button", name="Draw again").click()
    expect(opened.locator(".sheet")).to_have_count(2)


def test_flagged_pictures_are_blurred_or_not_shown(opened: Page, worker: ScriptedWorker) -> None:
    """Blurred until somebody opens one; what is not shown leaves the others their numbers, and another seed to try."""
    ask(opened, "a red circle")
    worker.succeed(worker.claim(), data=picture("red"), nsfw=True, warnings=())
    flagged = opened.get_by_role("button", name=re.compile("flagged by the safety checker: details"))
    expect(flagged.locator("img.picture")).to_have_css("filter", re.compile("blur"))
    flagged.click()
    expect(opened.locator(".easel img.picture")).to_have_css("filter", "none")
    expect(opened.locator("dialog dl")).to_contain_text("flagged this picture")
    opened.keyboard.press("Escape")
    ask(opened, "a blue circle")
    claim = worker.claim()
    worker.block(claim)
    sheet = opened.locator('.sheet[data-status="failed"]')
    expect(sheet).to_contain_text("Not shown")
    expect(sheet).to_contain_text("NSFW content detected")
    sheet.get_by_role("button", name="Try another seed").click()
    again = worker.claim()
    assert (again.spec.prompt, again.spec.seed != claim.spec.seed) == ("a blue circle", True)
    worker.succeed(again, data=picture("blue"), warnings=())


def test_of_several_pictures_some_may_not_be_shown(running: Running, opened: Page, worker: ScriptedWorker) -> None:
    asked = {"prompt": "three circles", "seed": 7, "num_images": 3}
    job = running.client.post("/v1/jobs", json=asked).json()
    worker.succeed(worker.claim(), data=picture("red"), blocked=[0], warnings=("Not shown: picture 0.",))
    sheet = opened.locator(".sheet").filter(has_text="three circles")
    expect(sheet.locator("img.picture")).to_have_count(2)
    expect(sheet).to_contain_text("Not shown: picture 0.")
    sheet.get_by_role("button", name="three circles, seed 9: details").click()
    expect(opened.locator("dialog dl")).to_contain_text("9")
    expect(opened.get_by_role("link", name="Download")).to_have_attribute("download", f"{job['id']}-2.png")


def test_a_model_that_blocks_is_asked_for_no_previews(
    running: Running, worker: ScriptedWorker, card: ModelCard, page: Page
) -> None:
    """Every job would have a warning that there are none."""
    worker.card = card.model_copy(update={"safety": "block"})
    worker.announce()
    page.goto(running.url)
    ask(page, "a red circle")
    claim = worker.claim()
    assert (claim.spec.preview_every, claim.spec.keep_previews) == (0, False)
    worker.succeed(claim, data=picture("red"), warnings=())


def test_a_refusal_says_what_to_change(opened: Page, ear: Ear) -> None:
    ear.forgives.append("422")
    ask(opened, "\u200b\u200b\u200b")
    expect(opened.get_by_role("alert")).to_contain_text("Prompt must contain a visible character")
    expect(opened.locator(".sheet")).to_have_count(0)


def test_too_much_is_said_before_it_is_sent(opened: Page, card: ModelCard) -> None:
    opened.get_by_label("Size").select_option("Other")
    for name in ("Width", "Height"):
        opened.get_by_label(f"{name}, pixels").fill(str(card.max_side))
    opened.get_by_label("Steps", exact=True).fill(str(card.max_steps))
    opened.get_by_label("Pictures", exact=True).fill(str(card.max_images))
    expect(opened.get_by_role("alert")).to_contain_text("200 %")
    expect(opened.get_by_role("button", name="Generate")).to_be_disabled()


def test_a_seed_beyond_doubles_stays_exact(opened: Page, worker: ScriptedWorker) -> None:
    seed = 2**63 - 5
    opened.get_by_label("Seed").fill(str(seed))
    ask(opened, "a precise circle")
    claim = worker.claim()
    assert claim.spec.seed == seed
    worker.succeed(claim, data=picture("blue"))
    opened.locator("button.frame").click()
    expect(opened.get_by_role("dialog").locator("dd").first).to_have_text(str(seed))
    opened.get_by_role("button", name="Same again").click()
    assert worker.claim().spec.seed == seed


def test_settings_of_a_picture_go_back_into_the_form(opened: Page, worker: ScriptedWorker) -> None:
    opened.get_by_label("Seed", exact=True).fill("11")
    opened.get_by_label("Steps", exact=True).fill("7")
    ask(opened, "a red circle")
    worker.succeed(worker.claim(), data=picture("red"))
    opened.get_by_label("Seed", exact=True).fill("")
    opened.get_by_label("Steps", exact=True).fill("9")
    opened.fill("#prompt", "something else")
    opened.locator("button.frame").click()
    opened.get_by_role("button", name="Use these settings").click()
    expect(opened.get_by_label("What should the picture show?")).to_have_value("a red circle")
    expect(opened.get_by_label("Seed", exact=True)).to_have_value("11")
    expect(opened.get_by_label("Steps", exact=True)).to_have_value("7")
    opened.get_by_role("button", name="Generate").click()
    spec = worker.claim().spec
    assert (spec.prompt, spec.seed, spec.num_inference_steps) == ("a red circle", 11, 7)


def test_no_model_yet(running: Running, redis_client: redis.Redis, card: ModelCard, page: Page) -> None:
    page.goto(running.url)
    expect(page.get_by_role("heading", name="No model is loaded yet")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    assert faults_of_access(page) == []
    ScriptedWorker(redis_client, card, running.app.state.settings).announce()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


@pytest.mark.parametrize("gateway_options", [{"api_keys": f"me:{KEY}"}])
def test_a_service_with_keys(running: Running, worker: ScriptedWorker, page: Page, ear: Ear) -> None:
    ear.forgives.append("401")
    page.goto(running.url)
    for key in ("w" * 32, KEY):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Open").click()
        if key != KEY:
            expect(page.get_by_text("The service does not know that key.")).to_be_visible()
            assert faults_of_access(page) == []
            page.get_by_role("button", name="Go on without a key").click()
            expect(page.get_by_text("Whoever runs the service can give you one.")).to_be_visible()
    expect(page.get_by_label("API key")).to_have_count(0)
    ask(page, "a locked door")
    claim = worker.claim()
    worker.progress(claim, 3)
    expect(page.locator(".sheet")).to_contain_text("Step 3 of")
    worker.succeed(claim, data=picture("green"))
    image = page.get_by_role("img", name="a locked door")
    assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 128
    kept = page.evaluate("JSON.stringify([Object.entries(localStorage), document.cookie])")
    assert KEY not in kept
    page.reload()
    expect(page.get_by_role("img", name="a locked door")).to_be_visible()


@pytest.mark.parametrize("gateway_options", [{"api_keys": f"me:{KEY}"}])
@pytest.mark.parametrize("path", ["/", "/admin"])
def test_a_key_is_asked_for_before_anything_is_painted(running: Running, page: Page, ear: Ear, path: str) -> None:
    ear.forgives.append("401")
    page.add_init_script(NOTHING_PAINTED)
    page.goto(running.url + path)
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_file_dropped_before_anything_is_painted_does_not_leave_the_page(running: Running, page: Page) -> None:
    page.add_init_script(NOTHING_PAINTED)
    page.route("**/v1/**", lambda route: None)
    page.goto(running.url)
    expect(page.get_by_role("button", name="Generate")).to_be_attached()
    assert page.evaluate("""() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["a picture"], "a.png", { type: "image/png" }));
        return !dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
    }""")


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 360, "height": 740}, "is_mobile": True}])
def test_on_a_phone(opened: Page, worker: ScriptedWorker) -> None:
    ask(opened, "a-very-long-word-" * 12)
    worker.succeed(worker.claim(), data=picture("orange"))
    expect(opened.locator("button.frame")).to_be_visible()
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    opened.locator("button.frame").click()
    expect(opened.get_by_role("dialog")).to_be_visible()
    assert opened.evaluate("document.querySelector('dialog').scrollWidth") <= 360
    assert faults_of_access(opened) == []


def test_sliders_and_progress_are_seen_in_colours_that_somebody_chose_for_everything(
    opened: Page, worker: ScriptedWorker
) -> None:
    opened.emulate_media(forced_colors="active")
    ask(opened, "a red circle")
    worker.progress(worker.claim(), 8)
    expect(opened.locator(".sheet")).to_contain_text("Step 8 of")
    for shown in (opened.get_by_label("Steps", exact=True), opened.locator(".sheet progress")):
        with Image.open(io.BytesIO(shown.screenshot())) as image:
            assert len(image.convert("RGB").getcolors(2**16) or "many") > 2


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 320, "height": 640}}])
def test_in_a_narrow_window_a_prompt_runs_its_own_way(opened: Page, worker: ScriptedWorker, card: ModelCard) -> None:
    worker.ownership.announce(card.model_copy(update={"name": "a-model-with-a-rather-long-name-v2.1-fp16"}), "w2")
    opened.reload()
    ask(opened, "שלום עולם, a red circle")
    worker.succeed(worker.claim(), data=picture("teal"))
    for shown in (opened.locator("#prompt"), opened.locator(".sheet .prompt")):
        expect(shown).to_have_css("direction", "rtl")
    label = opened.get_by_text("Model", exact=True)
    assert label.evaluate(
        "(label) => label.getClientRects()[0].height < 2 * parseFloat(getComputedStyle(label).fontSize)"
    )
    opened.locator("button.frame").click()
    expect(opened.get_by_role("dialog").get_by_role("heading")).to_have_css("direction", "rtl")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 320


class LoneGateway:
    """`darkroom gateway` as a process that a test may stop and start, always at one address."""

    def __init__(self, settings: Settings) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
        self.environment = inherited | {
            "DARKROOM_PORT": str(self.port),
            "DARKROOM_REDIS_URL": settings.redis_url.get_secret_value(),
            "DARKROOM_STORAGE_URL": settings.storage_url,
            "DARKROOM_STORAGE_RESERVE_BYTES": "0",
            "DARKROOM_SIGNING_KEY": "s" * 32,
        }

    def start(self) -> None:
        self.process = subprocess.Popen([COMMAND, "gateway"], env=self.environment, stdout=subprocess.DEVNULL)
        with httpx2.Client(trust_env=False, timeout=WAIT_SECONDS) as client:
            waiting.until(lambda: answers(client, self.url))

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(WAIT_SECONDS)


def answers(client: httpx2.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/healthz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def mortal_gateway(valkey_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[LoneGateway]:
    find_chromium()
    gateway = LoneGateway(settings_for(valkey_url, tmp_path))
    gateway.start()
    yield gateway
    gateway.stop()


def test_an_enter_before_the_models_are_known_is_sent_with_their_sizes(
    running: Running, worker: ScriptedWorker, page: Page
) -> None:
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(running.url)
    ask(page, "a red circle")
    expect(page.get_by_role("button", name="Sending")).to_be_visible()
    expect(page.locator(".sheet")).to_have_count(0)
    for route in held:
        route.continue_()
    page.unroute("**/v1/models")
    expect(page.locator(".sheet")).to_have_count(1)
    spec = worker.claim().spec
    assert (spec.prompt, spec.width, spec.height) == ("a red circle", worker.card.width, worker.card.height)


def test_an_enter_without_any_model_sends_nothing(running: Running, page: Page) -> None:
    page.goto(running.url)
    expect(page.locator(".head")).to_contain_text("Waiting for a model")
    ask(page, "a red circle")
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    expect(page.locator(".sheet")).to_have_count(0)


def test_the_service_goes_away_and_comes_back(
    mortal_gateway: LoneGateway,
    redis_client: redis.Redis,
    valkey_url: str,
    card: ModelCard,
    tmp_path: Path,
    page: Page,
    ear: Ear,
) -> None:
    ear.forgives += ["ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE", "503"]
    worker = ScriptedWorker(redis_client, card, settings_for(valkey_url, tmp_path))
    worker.announce()
    page.goto(mortal_gateway.url)
    ask(page, "a purple triangle")
    claim = worker.claim()
    expect(page.locator(".sheet")).to_have_attribute("data-status", "running")
    mortal_gateway.stop()
    ask(page, "a green square")
    expect(page.locator(".controls [role=alert]")).to_contain_text("does not answer")
    expect(page.locator(".head [role=alert]")).to_contain_text("does not answer")
    expect(page.get_by_label("What should the picture show?")).to_have_value("a green square")
    expect(page.get_by_text("a purple triangle", exact=True)).to_be_visible()
    assert faults_of_access(page) == []
    worker.succeed(claim, data=picture("purple"))
    mortal_gateway.start()
    expect(page.locator(".head [role=alert]")).to_have_count(0)
    expect(page.locator(".sheet")).to_have_attribute("data-status", "succeeded")
    expect(page.locator(".controls [role=alert]")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".sheet")).to_have_count(2)
    assert worker.claim().spec.prompt == "a green square"


SHOWS = """async (inputs) => {
    const { shows } = await import("/static/words.js");
    return inputs.map(shows);
}"""


def test_a_job_without_a_prompt_is_called_by_what_it_draws_from(opened: Page) -> None:
    points = [{"of": {}}, {"slerp": [{}, {}]}, {"of": {}, "diff": {"from": "a", "to": "b"}}, {"text": "c"}, {}]
    asked = [{"prompt": "", "image_embedding": each} for each in points]
    said = ["Variation of a picture", "Between two points", "From “a” to “b”", "c", "From a vector"]
    assert opened.evaluate(SHOWS, [*asked, {"prompt": "a frog", "image_embedding": {"of": {}}}]) == [*said, "a frog"]
