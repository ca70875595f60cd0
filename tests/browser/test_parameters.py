"""The form is made from the declared parameters: one that the page was never told of is shown, kept and sent."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, Request, Route, expect

from app.contract.messages.card import ModelCard
from app.routes.page_parameters import parameters_module
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import faults_of_access
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

PLAIN = {"part": "picture", "about": "Of tomorrow", "choices": [], "least": None, "most": None, "by_model": False}
OF_TOMORROW = [
    PLAIN | {"name": "tile_overlap", "type": "integer", "default": 0, "least": 0, "most": 12},
    PLAIN | {"name": "sharpness", "type": "number", "default": 0, "least": 0, "most": 1},
    PLAIN | {"name": "tiling", "type": "boolean", "default": False},
    PLAIN | {"name": "style_preset", "type": "string", "default": None, "choices": ["film", "ink"]},
    PLAIN | {"name": "second_prompt", "type": "string", "default": ""},
]


def parameters_of_tomorrow(route: Route) -> None:
    body = parameters_module() + "".join(f"PARAMETERS.push({json.dumps(each)});\n" for each in OF_TOMORROW)
    route.fulfill(body=body, content_type="text/javascript")


def test_a_parameter_that_the_page_does_not_know_is_in_the_form_and_in_the_request(
    running: Running, worker: ScriptedWorker, page: Page
) -> None:
    page.route("**/static/parameters.js", parameters_of_tomorrow)
    sent: list[dict[str, object]] = []

    def take(route: Route, request: Request) -> None:
        if request.method != "POST":
            return route.continue_()
        sent.append(json.loads(request.post_data or ""))
        job = {"prompt": "a red circle", "seed": 7}
        return route.continue_(post_data=json.dumps(job))

    page.route("**/v1/jobs", take)
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Tile overlap").fill("2")
    page.get_by_label("Sharpness").fill("0.7")
    page.get_by_label("Tiling").check()
    page.get_by_label("Style preset").select_option("ink")
    page.get_by_label("Second prompt").fill("in the rain")
    assert faults_of_access(page) == []
    page.fill("#prompt", "a red circle")
    page.press("#prompt", "Enter")
    until(page, lambda: sent)
    shown = {"tile_overlap": 2, "sharpness": 0.7, "tiling": True, "style_preset": "ink"}
    assert sent[0].items() >= (shown | {"second_prompt": "in the rain", "prompt": "a red circle"}).items()
    assert worker.claim().spec.prompt == "a red circle"


def test_what_stands_as_it_was_is_not_sent_where_it_says_nothing(
    running: Running, worker: ScriptedWorker, page: Page
) -> None:
    sent: list[dict[str, object]] = []
    page.on("request", lambda each: each.method == "POST" and sent.append(json.loads(each.post_data or "")))
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    page.fill("#prompt", "a red circle")
    page.press("#prompt", "Enter")
    until(page, lambda: sent)
    card = worker.card
    by_model = {name: getattr(card, name) for name in ("width", "height", "num_inference_steps", "scheduler")}
    assert sent[0] == by_model | {
        "prompt": "a red circle",
        "model": card.name,
        "guidance_scale": card.guidance_scale,
        "guidance_rescale": 0,
        "num_images": 1,
        "output_format": "png",
        "preview_every": 2,
        "keep_previews": True,
    }


def test_what_the_model_has_none_of_is_said_and_not_offered(
    running: Running, worker: ScriptedWorker, card: ModelCard, page: Page
) -> None:
    """Such as a latent consistency model, with a text encoder of three layers."""
    worker.card = card.model_copy(update={"classifier_free_guidance": False, "max_clip_skip": 3})
    worker.announce()
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    page.get_by_text("More", exact=True).click()
    expect(page.get_by_label("Clip skip")).to_have_attribute("max", "3")
    page.get_by_label("Not in the picture").fill("a dog")
    expect(page.get_by_text("Without effect: this model draws without one.")).to_be_visible()
