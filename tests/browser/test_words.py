"""Words that a model has not learned are said while they are typed, and what it has learned is there to be picked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import ask, faults_of_access, picture

pytestmark = pytest.mark.browser

SHARED = json.loads((Path(__file__).parents[1] / "contract" / "vocabulary_cases.json").read_text(encoding="utf-8"))
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LISTED = {"vocabulary": ("a red fox", "elephant", "in the snow", "ice cream"), "examples": ("a red fox", "an elephant")}

JUDGE = """async ({vocabulary, cases}) => {
    const {Vocabulary} = await import("/static/vocabulary.js");
    const known = new Vocabulary(vocabulary);
    return cases.map(({text}) => known.unknown(text).map(({word, near}) => [word, near]));
}"""


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(update=LISTED)


def note(page: Page) -> Locator:
    return page.locator("#prompt-notes").get_by_role("status")


def prompt(page: Page) -> Locator:
    return page.get_by_label("What should the picture show?")


def stop_the_clock(page: Page) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1_000_000)


def test_the_page_says_what_the_worker_says(opened: Page) -> None:
    assert opened.evaluate(JUDGE, SHARED) == [case["unknown"] for case in SHARED["cases"]]


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 1200, "height": 850}}, PHONE])
def test_unknown_words_are_said_in_room_that_is_there(opened: Page) -> None:
    def places() -> list[Any]:
        return [
            opened.locator(each).bounding_box() for each in ("#prompt", ".request > .primary", ".settings", ".learned")
        ]

    stop_the_clock(opened)
    prompt(opened).fill("a Elefant, 3 trees, riding astronauts")
    before = places()
    opened.clock.run_for(5_000)
    expect(note(opened)).to_have_text("starter has not learned: elefant (elephant?), 3, trees and 2 more")
    assert places() == before
    opened.clock.resume()
    assert faults_of_access(opened) == []
    prompt(opened).fill("a Elefant")
    expect(note(opened)).to_have_text("starter has not learned: elefant (elephant?)")
    opened.get_by_role("button", name="Write elephant instead of elefant").click()
    expect(prompt(opened)).to_have_value("a elephant")
    expect(note(opened)).to_have_count(0)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_half_a_word_is_no_mistake(opened: Page) -> None:
    stop_the_clock(opened)
    prompt(opened).press_sequentially("a eleph")
    opened.clock.run_for(100)
    expect(note(opened)).to_have_count(0)
    prompt(opened).press_sequentially("ant")
    opened.clock.run_for(5_000)
    expect(note(opened)).to_have_count(0)
    prompt(opened).press_sequentially(" rides")
    opened.clock.run_for(5_000)
    expect(note(opened)).to_have_text("starter has not learned: rides")


def test_words_to_leave_out_are_judged_while_they_count(opened: Page) -> None:
    opened.get_by_text("More", exact=True).click()
    opened.get_by_label("Not in the picture").fill("blurry snow")
    said = opened.locator(".more").get_by_role("status")
    expect(said).to_have_text("starter has not learned: blurry")
    opened.get_by_label("Guidance", exact=True).fill("1")
    expect(said).to_have_count(0)


def test_examples_and_words_are_there_to_be_picked(opened: Page, worker: ScriptedWorker) -> None:
    empty = opened.locator(".empty")
    expect(empty.get_by_role("button")).to_have_text(["a red fox", "an elephant"])
    opened.get_by_text("Examples and words").click()
    words = opened.get_by_role("list", name="Words that starter has learned")
    expect(words.get_by_role("button")).to_have_text(list(LISTED["vocabulary"]))
    for word in ("elephant", "in the snow"):
        words.get_by_role("button", name=word, exact=True).click()
    expect(prompt(opened)).to_have_value("elephant in the snow")
    assert faults_of_access(opened) == []
    opened.get_by_role("list", name="Prompts that starter draws well").get_by_role("button", name="a red fox").click()
    expect(prompt(opened)).to_have_value("a red fox")
    opened.keyboard.press("Control+z")
    expect(prompt(opened)).to_have_value("elephant in the snow")
    opened.keyboard.press("Enter")
    assert worker.claim().spec.prompt == "elephant in the snow"


@pytest.mark.parametrize("context_options", [PHONE])
def test_on_a_phone_the_first_screen_still_belongs_to_the_pictures(opened: Page, worker: ScriptedWorker) -> None:
    ask(opened, "a red fox")
    worker.succeed(worker.claim(), data=picture("red"))
    expect(opened.locator(".sheet")).to_be_visible()
    top = opened.locator(".wall").bounding_box()
    assert top is not None
    assert top["y"] < 844 / 4
    opened.get_by_text("Examples and words").click()
    expect(opened.get_by_role("button", name="ice cream")).to_be_in_viewport()
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_model_that_lists_nothing_judges_nothing(running: Running, worker: ScriptedWorker, page: Page) -> None:
    worker.card = worker.card.model_copy(update={"vocabulary": (), "examples": ()})
    worker.announce()
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    expect(page.locator(".empty")).to_contain_text("Describe a picture and press Enter.")
    stop_the_clock(page)
    prompt(page).fill("qwertz")
    page.clock.run_for(5_000)
    expect(page.locator(".keys")).to_be_visible()
    expect(note(page)).to_have_count(0)
    expect(page.locator(".learned")).to_have_count(0)
