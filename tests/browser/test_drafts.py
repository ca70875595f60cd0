"""What stands in the form stays there, and an error stays as long as its cause, and no longer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import OPERATOR, Running, ScriptedWorker
from tests.browser.conftest import Ear, ask, faults_of_access, picture
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

KEY = "k" * 32
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
FIELDS = {"Steps": "7", "Guidance": "3.5", "Pictures": "2", "Seed": "12"}


def fill(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    for label, value in FIELDS.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Not in the picture").fill("a frame")
    page.get_by_label("Scheduler").select_option("euler")
    page.get_by_label("File").select_option("webp")
    page.get_by_label("Repeatable").check()


def is_filled(page: Page, prompt: str) -> None:
    expect(page.get_by_label("What should the picture show?")).to_have_value(prompt)
    for label, value in FIELDS.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_label("Not in the picture")).to_have_value("a frame")
    expect(page.get_by_label("Scheduler")).to_have_value("euler")
    expect(page.get_by_label("File")).to_have_value("webp")
    expect(page.get_by_label("Repeatable")).to_be_checked()


def alert(page: Page) -> Locator:
    return page.locator(".controls").get_by_role("alert")


def test_the_draft_outlives_a_reload_and_a_page_in_between(opened: Page, running: Running) -> None:
    fill(opened, "a half-written")
    opened.reload()
    is_filled(opened, "a half-written")
    opened.goto(f"{running.url}/problems/")
    opened.go_back()
    is_filled(opened, "a half-written")
    opened.get_by_text("More", exact=True).click()
    opened.get_by_role("button", name="Back to the model's defaults").click()
    opened.reload()
    expect(opened.get_by_label("Steps", exact=True)).to_have_value("20")
    expect(opened.get_by_label("What should the picture show?")).to_have_value("a half-written")


def test_a_draft_that_is_older_than_its_model_fits_it(
    opened: Page, running: Running, worker: ScriptedWorker, card: ModelCard
) -> None:
    opened.get_by_label("Steps", exact=True).fill("100")
    opened.fill("#prompt", "a long one")
    worker.card = card.model_copy(update={"max_steps": 50})
    worker.announce()
    until(opened, lambda: running.client.get("/v1/models").json()["data"][0]["max_steps"] == 50)
    opened.reload()
    expect(opened.get_by_label("Steps", exact=True)).to_have_attribute("max", "50")
    expect(opened.get_by_label("Steps", exact=True)).to_have_value("50")
    ask(opened, "a long one")
    assert worker.claim().spec.num_inference_steps == 50


@pytest.mark.parametrize("gateway_options", [{"api_keys": f"me:{KEY}"}])
def test_the_draft_outlives_a_key_that_is_refused(
    running: Running, worker: ScriptedWorker, page: Page, ear: Ear
) -> None:
    ear.forgives.append("401")
    page.goto(running.url)
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#size")).to_be_visible()
    fill(page, "a locked door")
    page.evaluate("sessionStorage.setItem('darkroom-key', 'w'.repeat(32))")
    page.press("#prompt", "Enter")
    expect(page.get_by_text("The service does not know that key.")).to_be_visible()
    is_filled(page, "a locked door")
    page.reload()
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Open").click()
    is_filled(page, "a locked door")
    page.get_by_role("button", name="Generate").click()
    assert worker.claim().spec.prompt == "a locked door"
    assert KEY not in page.evaluate("JSON.stringify([Object.entries(localStorage), document.cookie])")


@pytest.mark.parametrize("gateway_options", [{"tenant_limit": 1}])
def test_a_refusal_for_now_counts_down_and_keeps_the_draft(opened: Page, worker: ScriptedWorker, ear: Ear) -> None:
    ear.forgives.append("429")
    opened.clock.install()
    ask(opened, "the first")
    expect(opened.locator(".sheet")).to_have_count(1)
    fill(opened, "the second")
    opened.get_by_role("button", name="Generate").click()
    expect(alert(opened)).to_contain_text("Too many of your jobs are unfinished")
    again = opened.get_by_role("button", name="Try again")
    expect(again).to_be_disabled()
    expect(opened.get_by_role("timer")).to_have_text(re.compile(r"^possible in \d+ s$"))
    assert faults_of_access(opened) == []
    worker.succeed(worker.claim(), data=picture("teal"))
    opened.clock.fast_forward(120_000)
    expect(again).to_be_enabled()
    expect(opened.get_by_role("timer")).to_have_count(0)
    expect(alert(opened)).to_have_count(0)
    is_filled(opened, "the second")
    again.click()
    assert worker.claim().spec.prompt == "the second"
    expect(again).to_have_count(0)


def test_an_error_goes_when_its_field_is_changed(opened: Page, ear: Ear) -> None:
    ear.forgives.append("422")
    ask(opened, "\u200b\u200b")
    expect(alert(opened)).to_contain_text("Prompt must contain a visible character")
    opened.get_by_label("Steps", exact=True).fill("7")
    expect(alert(opened)).to_have_count(1)
    opened.fill("#prompt", "something")
    expect(alert(opened)).to_have_count(0)


def test_what_an_error_means_is_told_beside_the_draft(opened: Page, ear: Ear) -> None:
    ear.forgives.append("422")
    ask(opened, "\u200b\u200b")
    with opened.expect_popup() as told:
        opened.get_by_role("link", name="What this means").click()
    expect(told.value.get_by_role("heading", name="invalid-request")).to_be_visible()
    told.value.close()
    expect(opened.get_by_label("What should the picture show?")).to_have_value("\u200b\u200b")
    expect(alert(opened)).to_be_visible()


def test_enter_while_the_one_before_is_still_on_its_way(opened: Page, worker: ScriptedWorker) -> None:
    """What was typed meanwhile goes after it; the same Enter twice is one picture."""
    held: list[Route] = []
    opened.route("**/v1/jobs", lambda route: held.append(route))
    ask(opened, "first")
    expect(opened.get_by_role("button", name="Sending")).to_be_visible()
    opened.press("#prompt", "Enter")
    ask(opened, "second")
    until(opened, lambda: held)
    opened.route("**/v1/jobs", lambda route: route.continue_())
    held[0].continue_()
    expect(opened.locator(".sheet")).to_have_count(2)
    assert [worker.claim().spec.prompt, worker.claim().spec.prompt] == ["first", "second"]


def test_what_was_typed_while_a_refused_one_was_on_its_way_waits(
    opened: Page, worker: ScriptedWorker, ear: Ear
) -> None:
    ear.forgives += ["ERR_FAILED"]
    held: list[Route] = []
    opened.route(
        "**/v1/jobs", lambda route: held.append(route) if route.request.method == "POST" else route.continue_()
    )
    ask(opened, "first")
    expect(opened.get_by_role("button", name="Sending")).to_be_visible()
    ask(opened, "second")
    until(opened, lambda: held)
    held[0].abort()
    expect(alert(opened)).to_be_visible()
    expect(opened.get_by_role("button", name="Generate")).to_be_enabled()
    assert len(held) == 1
    opened.unroute("**/v1/jobs")
    opened.press("#prompt", "Enter")
    assert worker.claim().spec.prompt == "second"


def test_drawing_again_says_what_is_wrong_and_can_be_dismissed(opened: Page, worker: ScriptedWorker, ear: Ear) -> None:
    ear.forgives += ["ERR_FAILED", "503"]
    ask(opened, "a black hole")
    worker.fail(worker.claim())
    opened.route("**/v1/jobs", lambda route: route.abort())
    opened.get_by_role("button", name="Draw again").click()
    trouble = opened.locator(".prints .trouble")
    trouble.get_by_role("button", name="Dismiss").click()
    expect(trouble).to_have_count(0)
    opened.get_by_role("button", name="Draw again").click()
    expect(trouble.get_by_role("button", name="Try again")).to_be_visible()
    opened.unroute("**/v1/jobs")
    trouble.get_by_role("button", name="Try again").click()
    expect(trouble).to_have_count(0)
    assert worker.claim().spec.prompt == "a black hole"


def test_nothing_moves_while_a_dial_is_turned(opened: Page, card: ModelCard) -> None:
    steps = opened.get_by_label("Steps", exact=True)
    opened.get_by_label("Size").select_option("Other")
    for name in ("Width", "Height"):
        opened.get_by_label(f"{name}, pixels").fill(str(card.max_side))
    opened.get_by_label("Pictures", exact=True).fill(str(card.max_images))
    before = steps.bounding_box()
    steps.fill(str(card.max_steps))
    expect(alert(opened)).to_contain_text("200 %")
    assert steps.bounding_box() == before


def test_a_long_warning_takes_one_line(opened: Page, worker: ScriptedWorker) -> None:
    unread = "Only the first 30 tokens of the prompt were read; not read: '" + "very " * 300 + "long'."
    for warnings in (("short",), (unread,)):
        ask(opened, "a picture")
        worker.succeed(worker.claim(), data=picture("teal"), warnings=warnings)
        expect(opened.locator(".sheet").first.get_by_text(re.compile("^Warning: "))).to_be_visible()
    heights = [box["height"] for each in opened.locator(".sheet").all() if (box := each.bounding_box())]
    assert abs(heights[0] - heights[1]) < 1
    wide = opened.viewport_size
    assert wide is not None
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390, "its line is cut, and the page no wider"
    opened.set_viewport_size(wide)
    opened.locator("button.frame").first.click()
    dialog = opened.get_by_role("dialog")
    dialog.get_by_text(re.compile("^Warning: ")).click()
    expect(dialog.get_by_text(unread, exact=True)).to_be_visible()
    assert faults_of_access(opened) == []


@pytest.fixture
def two_models(running: Running, worker: ScriptedWorker, card: ModelCard, page: Page) -> Page:
    worker.ownership.announce(card.model_copy(update={"name": "other", "max_steps": 40}), "w2")
    page.goto(running.url)
    expect(page.get_by_label("Model")).to_be_attached()
    return page


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 1200, "height": 700}}, PHONE])
def test_of_two_models_one_is_chosen_without_scrolling(two_models: Page, worker: ScriptedWorker) -> None:
    choice = two_models.get_by_label("Model")
    expect(choice).to_be_in_viewport(ratio=1)
    for name in ("starter", "other"):
        choice.select_option(name)
        ask(two_models, f"by {name}")
        worker.card = worker.card.model_copy(update={"name": name})
        claim = worker.claim()
        assert claim.spec.prompt == f"by {name}"
        worker.succeed(claim, data=picture("teal"))
        expect(two_models.locator(".sheet").first.locator(".quiet")).to_contain_text(f" · {name}")
    two_models.reload()
    expect(choice).to_have_value("other")
    assert faults_of_access(two_models) == []


def test_a_picture_stays_with_a_model_that_takes_it(two_models: Page, worker: ScriptedWorker, card: ModelCard) -> None:
    """Looked at another that takes none: neither the picture nor its size is meant there, and both come back."""
    takes = card.model_copy(update={"takes": ("image", "strength"), "tasks": ("text-to-image", "image-to-image")})
    worker.ownership.announce(takes, "w1")
    two_models.reload()
    choice, group = two_models.get_by_label("Model"), two_models.get_by_role("group", name="Begin with a picture")
    choice.select_option("starter")
    shown = picture("teal")
    two_models.set_input_files("input[type=file]", [{"name": "a.png", "mimeType": "image/png", "buffer": shown}])
    expect(group.get_by_role("status")).to_have_text(re.compile("Picture, 128"))
    size = two_models.get_by_label("Size", exact=True)
    size.select_option(index=2)
    chosen = size.input_value()
    choice.select_option("other")
    expect(group).to_have_count(0)
    expect(size.locator("option:checked")).to_have_text(re.compile("Square"))
    choice.select_option("starter")
    expect(group.get_by_role("button", name="Remove")).to_be_visible()
    expect(size).to_have_value(chosen)


def test_a_size_that_is_chosen_while_a_picture_is_on_its_way_stays(
    page: Page, running: Running, worker: ScriptedWorker, card: ModelCard
) -> None:
    """The picture that came had the drawing be as large as it is."""
    takes = card.model_copy(update={"takes": ("image", "strength"), "tasks": ("text-to-image", "image-to-image")})
    worker.ownership.announce(takes, "w1")
    page.goto(running.url)
    group, size = page.get_by_role("group", name="Begin with a picture"), page.get_by_label("Size", exact=True)
    held: list[Route] = []
    page.route("**/v1/inputs", lambda route: held.append(route))
    shown = {"name": "a.png", "mimeType": "image/png", "buffer": picture("teal")}
    page.set_input_files("input[type=file]", [shown])
    expect(group.get_by_role("status")).to_have_text("Sending the picture")
    size.select_option(label=next(each for each in size.locator("option").all_inner_texts() if "Wide" in each))
    until(page, lambda: held)
    held[0].continue_()
    expect(group.get_by_role("status")).to_have_text(re.compile("Picture, 128"))
    expect(size.locator("option:checked")).to_have_text(re.compile("Wide"))
    group.get_by_role("button", name="Remove").click()
    page.unroute("**/v1/inputs")
    page.set_input_files("input[type=file]", [shown])
    expect(size.locator("option:checked")).to_have_text(re.compile("Like the picture"))


AT_ONCE = """new MutationObserver((_, observer) => {
    const choice = document.querySelector("#model");
    if (choice?.value !== "other") return;
    observer.disconnect();
    choice.value = "starter";
    choice.dispatchEvent(new Event("change", { bubbles: true }));
}).observe(document, { subtree: true, childList: true })"""


def test_what_is_chosen_at_once_has_its_own_limits(two_models: Page) -> None:
    """Those of the model that was there before were still to be applied."""
    choice, steps = two_models.get_by_label("Model"), two_models.get_by_label("Steps", exact=True)
    choice.select_option("starter")
    steps.fill("50")
    choice.select_option("other")
    expect(steps).to_have_attribute("max", "40")
    two_models.add_init_script(AT_ONCE)
    two_models.reload()
    expect(choice).to_have_value("starter")
    expect(steps).to_have_attribute("max", "100")
    # Whatever was to be done after a frame is done.
    two_models.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    expect(steps).to_have_value("50")


def test_whoever_looks_at_another_model_finds_what_was_set(
    two_models: Page, worker: ScriptedWorker, running: Running
) -> None:
    choice, steps = two_models.get_by_label("Model"), two_models.get_by_label("Steps", exact=True)
    choice.select_option("starter")
    fill(two_models, "a lighthouse by several")
    steps.fill("50")
    choice.select_option("other")
    expect(steps).to_have_value("20")
    expect(steps).to_have_attribute("max", "40")
    expect(two_models.get_by_label("Pictures", exact=True)).to_have_value("1")
    expect(two_models.get_by_label("Seed", exact=True)).to_have_value("12")
    steps.fill("31")
    two_models.reload()
    choice.select_option("starter")
    expect(steps).to_have_value("50")
    steps.fill("7")
    is_filled(two_models, "a lighthouse by several")
    choice.select_option("other")
    expect(steps).to_have_value("31")
    worker.ownership.leave("other", "w2")
    two_models.reload()
    expect(choice.locator("option[value=other]")).to_have_text("other (away)")
    expect(two_models.locator("#prompt-notes")).to_contain_text("No worker serves other now")
    reason = {"reason": "new weights"}
    running.client.post("/v1/admin/models/starter/pause", json=reason, headers=OPERATOR).raise_for_status()
    two_models.reload()
    expect(choice.locator("option[value=starter]")).to_have_text("starter (paused)")
    choice.select_option("starter")
    said = "The operator has paused starter (new weights): a picture would wait until that is over."
    expect(two_models.locator("#prompt-notes")).to_have_text(said)
    running.client.post("/v1/admin/models/starter/resume", json={}, headers=OPERATOR).raise_for_status()


@pytest.mark.parametrize("context_options", [PHONE])
def test_the_first_screen_of_a_phone_belongs_to_the_pictures(
    two_models: Page, worker: ScriptedWorker, ear: Ear
) -> None:
    ear.forgives.append("ERR_FAILED")
    ask(two_models, "a red circle")
    expect(two_models.locator(".sheet")).to_be_visible()
    wall, heading = two_models.locator(".wall"), two_models.get_by_role("heading", name="Darkroom")
    top, name = wall.bounding_box(), heading.bounding_box()
    assert top is not None
    assert top["y"] < 844 / 4
    two_models.route("**/v1/**", lambda route: route.abort())
    expect(two_models.locator(".head [role=alert]")).to_be_visible()
    assert heading.bounding_box() == name, "the notice stands below it"
    assert two_models.evaluate("document.documentElement.scrollWidth") <= 390
    assert faults_of_access(two_models) == []
