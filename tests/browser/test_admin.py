"""The operator's page: what it shows of two models and three callers, what its buttons do, who sees nothing of it."""

from __future__ import annotations

import asyncio
import csv
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
import redis.asyncio
from playwright.sync_api import APIResponse, Locator, Page, Route, expect

from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from app.edge.keyring import Keyring
from tests.app.conftest import OPERATOR_TOKEN, Running, ScriptedWorker
from tests.app.test_usage import on_redis, put
from tests.browser.conftest import Ear, faults_of_access, look
from tests.browser.waiting import until

pytestmark = pytest.mark.browser

Made = Callable[..., str]

WATCH_BUTTONS = """() => {
    const models = document.querySelector("table[aria-label=Models]");
    const look = () => (window.pausable ||= models.innerText.includes("Pause"));
    window.pausable = false;
    new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true });
}"""
"""Whether a model that is paused was shown as one that is not, for however short a time."""

SHOTS = os.environ.get("DARKROOM_TEST_SHOTS")
"""A folder for pictures of the page, where somebody wants to look at it."""


@pytest.fixture
def gateway_options() -> dict[str, Any]:
    return {"require_keys": True}


@pytest.fixture
def made(running: Running) -> Made:
    """A new key."""

    async def create(tenant: str, **options: Any) -> str:
        url = running.app.state.settings.redis_url.get_secret_value()
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
            return (await Keyring(client).create(tenant, **options))[0]

    def make(tenant: str, **options: Any) -> str:
        # Playwright's event loop counts as running in this thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, create(tenant, **options)).result()

    return make


@pytest.fixture
def busy(
    running: Running, worker: ScriptedWorker, made: Made, redis_client: redis.Redis, card: ModelCard
) -> dict[str, str]:
    """Two models, three workers, three callers with jobs, one that died, and a month of use. The callers' keys."""
    callers = {name: made(name) for name in ("acme", "bluebird", "zoo")}
    ownership = Ownership(redis_client)
    xl = card.model_copy(update={"name": "studio-xl", "seats": 8, "sha256": "1" * 64})
    for name, model, free, rows in (("gpu-1.4711", card, 1, 118.4), ("gpu-2.4712", xl, 0, 61.0)):
        note = WorkerNote(
            version="0.1.0", device="cuda:0 (H100)", seats=model.seats, free_seats=free, jobs=model.seats - free,
            rows_per_second=rows, activity="denoise", uptime_seconds=86_400,
        )  # fmt: skip
        ownership.announce(model, name, note=note)
    ownership.starting("gpu-3.4713", "measures how large a step should be")
    # Before the others come: no other job of the model is there to be claimed.
    lose(running, ownership, callers["zoo"])
    wanted = {("acme", "starter"): 3, ("acme", "studio-xl"): 2, ("bluebird", "starter"): 2, ("zoo", "studio-xl"): 1}
    for tenant, model in (each for each, jobs in wanted.items() for _ in range(jobs)):
        body = {"prompt": "a red fox", "model": model, "num_images": 2}
        running.client.post("/v1/jobs", json=body, headers=bearer(callers[tenant])).raise_for_status()
    assert ownership.claim("starter", "gpu-1.4711")
    assert ownership.claim("studio-xl", "gpu-2.4712")
    for days in range(1, 28):
        for tenant, scale in (("acme", 9), ("bluebird", 4), ("zoo", 1)):
            jobs = scale * (days % 7 + 1)
            each = (2 * jobs, 60 * jobs, 120 * jobs, 1_950_000 * jobs, 2_400_000 * jobs, 9_000 * days)
            counts = " ".join(map(str, (jobs, days % 3, scale % 4, *each)))
            put(redis_client, on_redis(redis_client) - timedelta(days=days), tenant, counts)
    return callers


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def lose(running: Running, ownership: Ownership, key: str) -> None:
    """A job that has ended every worker which drew it."""
    xl = {"prompt": "a zebra", "model": "studio-xl", "width": 256, "height": 256}
    job = running.client.post("/v1/jobs", json=xl, headers=bearer(key)).json()
    for attempt in range(keys.MAX_ATTEMPTS):
        claim = ownership.claim("studio-xl", f"lost-{attempt}")
        assert claim is not None
        assert claim.id == job["id"]
        ownership.worker_lost(f"lost-{attempt}", "the device was lost.")


def come_in(page: Page, running: Running, key: str) -> None:
    page.goto(f"{running.url}/admin")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def table(page: Page, name: str) -> Locator:
    return page.get_by_role("table", name=name, exact=True)


def test_what_an_operator_sees(page: Page, running: Running, busy: dict[str, str], made: Made, ear: Ear) -> None:
    """In the dark and in the light, on a desk and on a phone; and it goes on by itself."""
    ear.forgives.append("401")
    come_in(page, running, made("ops", admin=True))
    queue = table(page, "Queue by caller").get_by_role("row")
    expect(queue).to_have_count(5)
    for tenant, model in (("acme", "starter"), ("acme", "studio-xl"), ("bluebird", "starter"), ("zoo", "studio-xl")):
        expect(queue.filter(has_text=tenant).filter(has_text=model)).to_have_count(1)
    expect(page.get_by_role("list", name="At one look")).to_contain_text("1 dead job")
    workers = table(page, "Workers").get_by_role("row")
    expect(workers.filter(has_text="gpu-2.4712")).to_contain_text("0 of 8")
    expect(workers.filter(has_text="gpu-3.4713")).to_contain_text("measures how large a step should be")
    expect(table(page, "Dead jobs")).to_contain_text("the device was lost.")
    used = table(page, "Used by caller").get_by_role("row")
    expect(used.nth(1)).to_contain_text("acme")
    schemes: tuple[Literal["dark", "light"], ...] = ("dark", "light")
    for scheme, (width, height) in itertools.product(schemes, ((1200, 850), (390, 844))):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
        assert faults_of_access(page) == []
        shoot(page, f"admin-{scheme}-{width}")
    another = {"prompt": "a red fox", "model": "studio-xl"}
    running.client.post("/v1/jobs", json=another, headers=bearer(busy["bluebird"])).raise_for_status()
    expect(queue.filter(has_text="bluebird").filter(has_text="studio-xl")).to_have_count(1)


def test_what_the_buttons_do(
    page: Page, running: Running, busy: dict[str, str], made: Made, redis_client: redis.Redis, ear: Ear
) -> None:
    """Each says what it will do, and does nothing until that is said yes to."""
    ear.forgives.append("401")
    key = made("ops", admin=True)
    come_in(page, running, key)
    models, dialog = table(page, "Models").get_by_role("row"), page.get_by_role("dialog")
    page.get_by_role("button", name="Pause starter").click()
    expect(dialog).to_contain_text("Jobs that run go on to their end")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    assert faults_of_access(page) == []
    shoot(page, "admin-pause")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(models.filter(has_text="starter")).to_contain_text("ready")
    page.get_by_role("button", name="Pause starter").click()
    dialog.get_by_label("Reason").fill("a new driver")
    dialog.get_by_label("Refuse new jobs").check()
    dialog.get_by_role("button", name="Pause it").click()
    expect(page.get_by_role("status")).to_contain_text("starter is paused")
    expect(models.filter(has_text="starter")).to_contain_text("refuses jobs, a new driver")
    page.get_by_role("button", name="Resume starter").click()
    expect(models.filter(has_text="starter")).to_contain_text("ready")

    page.get_by_role("button", name="Cancel the jobs of acme").first.click()
    expect(dialog).to_contain_text("Whoever sent them sees them as canceled")
    shoot(page, "admin-cancel")
    dialog.get_by_role("button", name="Cancel them").click()
    expect(page.get_by_role("status")).to_contain_text("Of acme,")
    assert redis_client.smembers(keys.OPEN + "bluebird"), "others' jobs go on"
    waiting = [redis_client.hget(keys.JOB + job, "status") for job in redis_client.smembers(keys.OPEN + "acme")]
    assert "queued" not in waiting

    page.get_by_role("button", name="Run again job_").click()
    expect(page.get_by_role("status")).to_contain_text("runs again as job_")
    expect(page.get_by_text("No job has used up its attempts.")).to_be_visible()
    page.get_by_role("button", name="Drain gpu-2.4712").click()
    expect(dialog).to_contain_text("No other worker serves studio-xl")
    dialog.get_by_role("button", name="Leave it").click()
    page.get_by_role("button", name="Drain gpu-1.4711").click()
    dialog.get_by_role("button", name="Drain it").click()
    expect(table(page, "Workers").get_by_role("row").filter(has_text="gpu-1.4711")).to_contain_text("draining")
    page.get_by_role("button", name="Undrain gpu-1.4711").click()
    expect(page.get_by_role("status")).to_contain_text("gpu-1.4711 takes jobs again")
    expect(table(page, "Workers").get_by_role("row").filter(has_text="gpu-1.4711")).to_contain_text("serving")
    page.get_by_role("button", name="Drain gpu-1.4711").click()
    dialog.get_by_role("button", name="Drain it").click()
    expect(page.get_by_role("button", name="Undrain gpu-1.4711")).to_be_visible()
    audit = table(page, "What operators have changed").get_by_role("row")
    for text in ("pause starter", "resume starter", "cancel acme", "undrain gpu-1.4711"):
        expect(audit.filter(has_text=text)).to_contain_text("ops, key")
    assert faults_of_access(page) == []
    shoot(page, "admin-changed")
    assert key not in page.url
    stored = page.evaluate("[JSON.stringify(localStorage), document.cookie, JSON.stringify(sessionStorage)]")
    assert [key in each for each in stored] == [False, False, True], "in this tab alone"


def test_what_was_used_can_be_taken_home(
    page: Page, running: Running, busy: dict[str, str], made: Made, redis_client: redis.Redis, ear: Ear, tmp_path: Path
) -> None:
    ear.forgives.append("401")
    come_in(page, running, made("ops", admin=True))
    day = on_redis(redis_client) - timedelta(days=2)
    expect(page.get_by_label("From")).not_to_have_value("")
    for label in ("From", "To"):
        page.get_by_label(label, exact=True).fill(f"{day}")
    page.get_by_role("button", name="Show", exact=True).click()
    used = table(page, "Used by caller").get_by_role("row")
    expect(used.filter(has_text="zoo")).to_contain_text("5.85 s")
    page.get_by_text("By day, in UTC").click()
    expect(table(page, "Used by day").get_by_role("row")).to_have_count(2)
    with page.expect_download() as downloaded:
        page.get_by_role("button", name="Download CSV").click()
    assert downloaded.value.suggested_filename == f"usage-{day}-{day}.csv"
    downloaded.value.save_as(tmp_path / "usage.csv")
    rows = list(csv.DictReader((tmp_path / "usage.csv").read_text().splitlines()))
    assert [(row["date"], row["tenant"]) for row in rows] == [(f"{day}", name) for name in ("acme", "bluebird", "zoo")]
    page.get_by_label("To", exact=True).fill(f"{day - timedelta(days=1)}")
    ear.forgives.append("422")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("To is before the first day")


def test_a_callers_key_shows_nothing(page: Page, running: Running, busy: dict[str, str], made: Made, ear: Ear) -> None:
    ear.forgives += ["401", "403"]
    come_in(page, running, busy["acme"])
    expect(page.get_by_role("alert")).to_contain_text("nor a key of the scope admin")
    expect(page.get_by_role("table")).to_have_count(0)
    assert faults_of_access(page) == []
    page.get_by_label("Operator token, or key of the scope admin").fill(made("ops", admin=True))
    page.get_by_role("button", name="Open").click()
    expect(table(page, "Workers")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


class TestAnOpenService:
    """Whoever may draw without a key is no operator for that."""

    @pytest.fixture
    def gateway_options(self) -> dict[str, Any]:
        return {}

    def test_opens_by_the_link_that_up_prints(self, page: Page, running: Running, ear: Ear) -> None:
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        expect(table(page, "Workers").or_(page.get_by_text("No worker was heard of"))).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        assert page.url == f"{running.url}/admin", "it is in no address that somebody copies"
        page.reload()
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_role("link", name="Draw", exact=True).click()
        page.get_by_role("link", name="Operate", exact=True).click()
        expect(table(page, "Workers").or_(page.get_by_text("No worker was heard of"))).to_be_visible()

    def test_shows_others_no_link(self, page: Page, running: Running) -> None:
        page.goto(running.url)
        expect(page.get_by_text("Waiting for a model")).to_be_visible()
        expect(page.get_by_role("link", name="Operate", exact=True)).to_have_count(0)

    def test_opens_by_the_link_also_where_the_page_is_open(self, page: Page, running: Running, ear: Ear) -> None:
        ear.forgives.append("403")
        page.goto(f"{running.url}/admin")
        expect(page.get_by_role("alert")).to_contain_text("prints a link that opens it")
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(table(page, "Workers").or_(page.get_by_text("No worker was heard of"))).to_be_visible()
        assert page.url == f"{running.url}/admin"

    def test_is_not_shut_by_a_refusal_that_comes_after_the_key(self, page: Page, running: Running, ear: Ear) -> None:
        ear.forgives.append("403")
        held: list[Route] = []
        page.route("**/v1/admin/**", lambda route: route.continue_() if len(held) > 4 else held.append(route))
        page.goto(f"{running.url}/admin")
        until(page, lambda: len(held) > 4)
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        workers = table(page, "Workers").or_(page.get_by_text("No worker was heard of"))
        expect(workers).to_be_visible()
        with page.expect_response(lambda answer: answer.status == 403):
            held[0].continue_()
        # What follows from an answer is done before the next one is asked for.
        with page.expect_response(lambda answer: answer.ok and "workers" in answer.url):
            pass
        expect(workers).to_be_visible()

    def test_shows_what_was_changed_and_not_what_was_asked_before(
        self, page: Page, running: Running, worker: ScriptedWorker
    ) -> None:
        held: list[tuple[Route, APIResponse]] = []
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        pause, resume = (page.get_by_role("button", name=f"{word} starter") for word in ("Pause", "Resume"))
        expect(pause).to_be_visible()
        page.route(
            "**/v1/admin/models", lambda route: route.continue_() if held else held.append((route, route.fetch()))
        )
        until(page, lambda: held)
        pause.click()
        page.get_by_role("dialog").get_by_role("button", name="Pause it").click()
        expect(resume).to_be_visible()
        page.evaluate(WATCH_BUTTONS)
        route, before = held[0]
        with page.expect_response("**/v1/admin/models"):
            route.fulfill(response=before)
        with page.expect_response("**/v1/admin/models"):
            pass
        expect(resume).to_be_visible()
        assert page.evaluate("window.pausable") is False

    def test_stays_shut_when_an_answer_from_before_comes(self, page: Page, running: Running, ear: Ear) -> None:
        """The form for a key went, and nothing was asked for any more."""
        ear.forgives.append("401")
        held: list[tuple[Route, APIResponse]] = []
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        workers = table(page, "Workers").or_(page.get_by_text("No worker was heard of"))
        expect(workers).to_be_visible()
        page.route(
            "**/v1/admin/models", lambda route: route.continue_() if held else held.append((route, route.fetch()))
        )
        until(page, lambda: held)
        revoked = {"status": 401, "title": "A valid key is needed"}
        page.route("**/v1/admin/**", lambda route: route.fulfill(status=401, json=revoked))
        look(page)
        expect(page.get_by_label("API key")).to_be_visible()
        route, before = held[0]
        with page.expect_response("**/v1/admin/models"):
            route.fulfill(response=before)
        page.evaluate("fetch('/healthz').then((answer) => answer.text())")
        expect(page.get_by_label("API key")).to_be_visible()

    def test_shows_the_days_that_were_asked_for_last(
        self, page: Page, running: Running, redis_client: redis.Redis
    ) -> None:
        """The page's own look, if its answer came later, brought its days back, and stayed with them."""
        held: list[tuple[Route, APIResponse]] = []
        usage = "**/v1/admin/usage?*"
        page.route(usage, lambda route: route.continue_() if held else held.append((route, route.fetch())))
        page.goto(f"{running.url}/admin#key={OPERATOR_TOKEN}")
        until(page, lambda: held)
        day = f"{on_redis(redis_client) - timedelta(days=2)}"
        for label in ("From", "To"):
            page.get_by_label(label, exact=True).fill(day)
        with page.expect_response(usage):
            page.get_by_role("button", name="Show", exact=True).click()
        route, before = held[0]
        with page.expect_response("**/v1/admin/workers?*"):
            route.fulfill(response=before)
        for label in ("From", "To"):
            expect(page.get_by_label(label, exact=True)).to_have_value(day)

    def test_says_so(self, page: Page, running: Running, ear: Ear) -> None:
        ear.forgives.append("403")
        page.goto(f"{running.url}/admin")
        expect(page.get_by_role("alert")).to_contain_text("lets you draw without a key")
        expect(page.get_by_role("alert")).to_contain_text("operator.token of its data folder. darkroom keys create")
        shoot(page, "admin-refused")
        expect(page.get_by_role("table")).to_have_count(0)
