"""What is drawn from in the place of a prompt: variations, ways, differences of texts; pictures chosen by a judge."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from app.contract.messages.card import ModelCard
from app.contract.messages.job import Candidate, Selection
from app.contract.messages.series import most_drawn
from tests.app.conftest import Running, ScriptedWorker
from tests.browser.conftest import ask, faults_of_access, picture
from tests.browser.edits import Door, a_png, bring, choose

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
POINTS = ("image_embedding", "prior", "noise_level", "start")
JUDGED = ("best_of", "expect", "min_probability")


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    """An unCLIP model, served beside a scorer."""
    return card.model_copy(
        update={
            "takes": (*POINTS, *JUDGED),
            "tasks": ("text-to-image", "image-variation", "embed"),
            "prior_num_inference_steps": 25,
            "prior_guidance_scale": 4.0,
            "max_noise_level": 999,
            "embedding_dimensions": 32,
            "scorer": "tiny-scorer",
        }
    )


def group(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def drawn(running: Running, worker: ScriptedWorker, **request: Any) -> str:
    """The id of a job that has its picture."""
    job = running.client.post("/v1/jobs", json={"prompt": "a red circle", **request}).json()["id"]
    worker.succeed(worker.claim(), data=picture("teal"))
    return str(job)


def generate(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()


def test_a_print_is_varied_by_its_embedding(opened: Page, running: Running, worker: ScriptedWorker, door: Door) -> None:
    """Its own choice among several does not go along: all that are drawn are wanted."""
    job = drawn(running, worker, negative_prompt="a dog", best_of=2, min_probability=0.2)
    opened.goto(f"{running.url}/?job={job}")
    opened.get_by_role("button", name="Vary this").click()
    expect(opened.get_by_label("Draw from")).to_have_value("of")
    expect(group(opened, "Picture").locator("img")).to_be_visible()
    expect(opened.get_by_label("Pictures", exact=True)).to_have_value(str(min(4, worker.card.max_images)))
    opened.get_by_text("More", exact=True).click()
    best = opened.get_by_label("Draw so many, keep the best")
    expect(best).to_have_value("")
    expect(opened.get_by_label("Draw again below a probability of")).to_have_value("")
    opened.get_by_label("Pictures", exact=True).fill("2")
    best.fill("3")
    opened.get_by_label("Pictures", exact=True).fill("3")
    expect(best).to_have_value("3")
    opened.get_by_label("Pictures", exact=True).fill("4")
    expect(best).to_have_value("")
    opened.get_by_label("Pictures", exact=True).fill("2")
    opened.get_by_label("Noise on the embedding").fill("40")
    said = opened.get_by_text("These words are drawn from too")
    opened.fill("#prompt", "a red square")
    expect(said).to_be_visible()
    opened.fill("#prompt", "")
    expect(said).to_have_count(0)
    # What is wrong in a part that is closed is shown.
    best.fill("1")
    opened.get_by_text("More", exact=True).click()
    expect(best).to_be_hidden()
    generate(opened)
    expect(best).to_be_focused()
    best.fill("")
    generate(opened)
    asked = worker.claim().spec
    assert asked.image_embedding is not None
    assert asked.image_embedding.of is not None
    assert (asked.num_images, asked.noise_level, asked.prompt) == (2, 40, "")
    [sent] = door.sent
    assert sent["image_embedding"] == {"of": {"job": job, "index": 0}}
    assert not sent.keys() & {"start", "prior", "image", "best_of", "min_probability"}


@pytest.mark.parametrize(
    "context_options", [{"viewport": {"width": 1200, "height": 850}}, PHONE], ids=["desk", "phone"]
)
def test_a_way_between_a_picture_and_a_text(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    opened.get_by_label("Draw from").select_option("slerp")
    expect(opened.get_by_text("Choose a picture for each end of the way.")).to_be_visible()
    expect(opened.get_by_role("button", name="Generate")).to_be_disabled()
    choose(opened, a_png(96, 64), label="First point: choose a picture")
    expect(group(opened, "First point").locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    opened.get_by_label("Second point", exact=True).last.select_option("text")
    expect(opened.get_by_text("Write the text to draw from.")).to_be_visible()
    opened.get_by_label("Second point: text").fill("a blue star")
    opened.get_by_label("Pictures on the way").fill("3")
    expect(opened.get_by_label("Pictures", exact=True)).to_have_count(0)
    assert faults_of_access(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.reload()
    expect(opened.get_by_label("Second point: text")).to_have_value("a blue star")
    expect(group(opened, "First point").locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    if opened.viewport_size == PHONE["viewport"]:
        opened.get_by_text("Settings", exact=True).click()
    opened.get_by_text("More", exact=True).click()
    opened.get_by_label("Steps of the prior").fill("7")
    generate(opened)
    assert worker.claim().spec.num_images == 3
    [sent], (name,) = door.sent, door.files
    ends = [{"of": {"input": name}}, {"text": "a blue star"}]
    assert sent["image_embedding"] == {"slerp": ends, "at": [0, 0.5, 1]}
    assert sent["prior"] == {"num_inference_steps": 7}
    assert "num_images" not in sent or sent["num_images"] == 3


def test_a_picture_that_is_dropped_is_varied_or_fills_the_open_end_of_a_way(
    opened: Page, worker: ScriptedWorker, door: Door
) -> None:
    bring(opened, "drop", a_png(96, 64))
    expect(opened.get_by_label("Draw from")).to_have_value("of")
    expect(group(opened, "Picture")).to_contain_text("Picture, 96 \u00d7 64")
    opened.get_by_label("Draw from").select_option("slerp")
    bring(opened, "paste", a_png(64, 96, "gold"))
    expect(group(opened, "Second point")).to_contain_text("Second point, 64 \u00d7 96")
    expect(group(opened, "First point")).to_contain_text("First point, 96 \u00d7 64")
    generate(opened)
    worker.claim()
    [sent] = door.sent
    assert sent["image_embedding"]["slerp"] == [{"of": {"input": name}} for name in door.files]


def test_two_prints_are_mixed(opened: Page, running: Running, worker: ScriptedWorker, door: Door) -> None:
    jobs = [drawn(running, worker, seed=seed) for seed in (1, 2)]
    for job in jobs:
        opened.goto(f"{running.url}/?job={job}")
        opened.get_by_role("button", name="Mix this").click()
        expect(opened.get_by_label("Draw from")).to_have_value("slerp")
    generate(opened)
    worker.claim()
    [sent] = door.sent
    assert sent["image_embedding"]["slerp"] == [{"of": {"job": job, "index": 0}} for job in jobs]
    opened.goto(f"{running.url}/?job={running.client.get('/v1/jobs').json()['data'][0]['id']}")
    origins = opened.get_by_role("list", name="Made from").get_by_role("listitem")
    expect(origins).to_have_text(["Embedding of a picture", "Embedding of a picture"])


def test_a_picture_is_changed_by_words_and_the_rest_is_kept(
    opened: Page, running: Running, worker: ScriptedWorker, door: Door
) -> None:
    job = drawn(running, worker)
    opened.goto(f"{running.url}/?job={job}")
    opened.get_by_role("button", name="Vary this").click()
    opened.get_by_label("Draw from").select_option("diff")
    expect(group(opened, "Begin with").locator("img")).to_be_visible()
    expect(opened.get_by_text("Write what is in the picture, and what it should become.")).to_be_visible()
    opened.get_by_label("From: what is there now").fill("a red circle")
    opened.get_by_label("To: what it should become").fill("a blue circle")
    opened.get_by_label("How far it goes").fill("0.8")
    opened.get_by_label("Keep what is not changed").check()
    assert faults_of_access(opened) == []
    generate(opened)
    asked = worker.claim().spec
    assert (asked.start, asked.scheduler, asked.num_images) == ("inverted", "ddim", 3)
    [sent] = door.sent
    diff = {"from": "a red circle", "to": "a blue circle"}
    assert sent["image_embedding"] == {"of": {"job": job, "index": 0}, "diff": diff, "at": [0, 0.4, 0.8]}
    # Asked for again, a part of it: what a record holds is sent as a request has it.
    again = running.client.get("/v1/jobs").json()["data"][0]["id"]
    opened.goto(f"{running.url}/?job={again}")
    opened.get_by_role("button", name="Same again").click()
    assert worker.claim().spec.image_embedding == asked.image_embedding


WOULD_SEND = """async (model) => {
    const { along, between, missingPoint } = await import("/static/pointed.js");
    const { fitted } = await import("/static/request.js");
    const inverted = { start: "inverted", scheduler: "euler" };
    const diff = { from: "a", to: "b" };
    const chosen = [["", 2], [1, 2], [3, 2], [9, 2]];
    return {
        alone: [between(1), along(1, 1), along(1, 0.5)],
        several: [between(3), along(3, 0.5)],
        hidden: missingPoint({ ...inverted, image_embedding: { text: "a star", diff } }),
        shown: missingPoint({ ...inverted, image_embedding: { of: { job: "j", index: 0 }, diff } }),
        fitted: chosen.map(([best_of, num_images]) => fitted({ best_of, num_images }, model).best_of),
    };
}"""

TOO_MUCH = """async ({ model, requests }) => {
    const { tooMuch } = await import("/static/request.js");
    const size = { width: 100, height: 1, num_inference_steps: 1 };
    return requests.map((request) => tooMuch({ ...size, ...request }, model));
}"""


def test_what_the_form_holds_can_be_sent_and_is_counted_as_the_service_counts(opened: Page) -> None:
    model = opened.evaluate("fetch('/v1/models').then((answer) => answer.json()).then(({ data }) => data[0])")
    assert opened.evaluate(WOULD_SEND, model) == {
        "alone": [[0.5], [1], [0.5]],
        "several": [[0, 0.5, 1], [0, 0.25, 0.5]],
        "hidden": None,
        "shown": "To begin from the picture itself, choose the scheduler ddim.",
        "fitted": ["", "", 3, model["max_images"]],
    }
    series = [(2, None, None), (2, 5, None), (2, None, 0.0), (2, 5, 0.5)]
    requests = [
        {"num_images": wanted, "best_of": best or "", "min_probability": "" if least is None else least}
        for wanted, best, least in series
    ]
    way = {"num_images": 1, "best_of": 40, "min_probability": 0.5, "image_embedding": {"slerp": [], "at": [0, 0.5, 1]}}
    said = opened.evaluate(TOO_MUCH, {"model": {"max_images": 50, "max_work": 1}, "requests": [*requests, way]})
    counted = [*(most_drawn(*each) for each in series), 3]
    assert [sentence.split()[0] for sentence in said] == [str(100 * 100 * each) for each in counted]
    said = opened.evaluate(TOO_MUCH, {"model": {"max_images": 5, "max_work": 10_000}, "requests": requests})
    assert [bool(sentence) for sentence in said] == [False, False, True, True]
    assert said[2] == "Up to 6 pictures may be drawn for this, and a job draws 5 at most."


def chosen(indices: Collection[int]) -> Selection:
    return Selection(
        scorer="tiny-scorer",
        scorer_sha256="1" * 64,
        texts=("a red circle",),
        candidates=tuple(
            Candidate(
                index=at, seed=7 + at, score=0.3 - 0.1 * at, probability=0.9, estimated_score=0.2,
                pruned_at=None if at < 2 else 6, kept=at in indices,
            )
            for at in range(3)
        ),
    )  # fmt: skip


def test_the_best_of_several_are_asked_for_and_say_how_well_they_fit(
    opened: Page, running: Running, worker: ScriptedWorker, door: Door
) -> None:
    opened.get_by_text("More", exact=True).click()
    opened.get_by_label("Draw so many, keep the best").fill("2")
    opened.get_by_label("Draw again below a probability of").fill("0.5")
    opened.get_by_label("Expect in the picture").fill("a red circle\n\nround")
    assert faults_of_access(opened) == []
    ask(opened, "a red circle")
    claim = worker.claim()
    [sent] = door.sent
    assert (sent["best_of"], sent["min_probability"], sent["expect"]) == (2, 0.5, ["a red circle", "round"])
    [stored] = [worker._put(claim, 0, picture("teal")).model_copy(update={"score": 0.3, "probability": 0.9})]
    facts: dict[str, Any] = {"timings": {}, "warnings": [], "steps": claim.spec.num_inference_steps}
    assert worker.ownership.succeed(claim, [stored], selection=chosen([0]), blocked=[], **facts)
    opened.get_by_role("button", name=re.compile("a red circle, seed")).click()
    dialog = opened.get_by_role("dialog")
    expect(dialog).to_contain_text("score 0.300, probability 90.0 %")
    dialog.get_by_text("3 pictures drawn, 1 kept").click()
    expect(dialog.locator(".candidates li")).to_have_text(
        [
            "Seed 7: score 0.300, probability 90.0 %, kept",
            "Seed 8: score 0.200, probability 90.0 %, not kept",
            "Seed 9: score 0.100, probability 90.0 %, given up after step 6",
        ]
    )
    assert faults_of_access(opened) == []


def test_only_models_that_take_it_are_asked_for_it(opened: Page, worker: ScriptedWorker, door: Door) -> None:
    """Another model has a prior alone; a third draws from pictures alone."""
    plain = {"sha256": "1" * 64, "max_noise_level": 0}
    karlo = worker.card.model_copy(update=plain | {"name": "karlo", "takes": ("prior",), "tasks": ("text-to-image",)})
    none = {"tasks": ("image-variation",), "takes": ("image_embedding",), "prior_num_inference_steps": None}
    variation = worker.card.model_copy(update=plain | none | {"name": "variation"})
    worker.ownership.announce(karlo, "w2")
    worker.ownership.announce(variation, "w3")
    opened.reload()
    opened.get_by_label("Model").select_option("karlo")
    expect(opened.get_by_label("Draw from")).to_have_count(0)
    opened.get_by_text("More", exact=True).click()
    expect(opened.get_by_label("Steps of the prior")).to_have_attribute("placeholder", "25")
    expect(opened.get_by_label("Expect in the picture")).to_have_count(0)
    opened.get_by_label("Model").select_option("variation")
    expect(opened.get_by_label("Draw from").get_by_role("option")).to_have_text(
        ["A picture: variations of it", "A way between two"]
    )
    expect(opened.get_by_label("Steps of the prior")).to_have_count(0)
    expect(opened.get_by_text("Choose the picture to draw from.")).to_be_visible()
