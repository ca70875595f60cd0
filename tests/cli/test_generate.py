"""`darkroom generate`: many prompts at once, names, partial failure, refusals, Ctrl-C."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from PIL import Image

from app.cli import calling_off
from app.cli import client as client_module
from app.cli import generate as generate_module
from app.cli.calling_off import call_off
from app.cli.client import CommandError, Service
from app.cli.generate import read_prompts, requests_of
from app.cli.naming import Names
from app.cli.parameters import as_spelled_here
from app.contract.messages.card import ModelCard
from app.jobs.schemas import JOB_EXAMPLE
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.cli.conftest import Hand, Run, begun, no_service
from tests.pictures import file_of, noise
from tests.waiting import WAIT_SECONDS, until


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_every_prompt_with_every_seed(run: Run, hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeff# a zoo\n\na panda\n  a lion  \n")
    done = run("generate", "a frog", "-f", "prompts.txt", "--seed", "1", "--seed", "2", "-n", "2", "-o", "zoo/")
    assert done.exit_code == 0, done.stderr
    names = {f"a-{animal}-{seed}.png" for animal in ("frog", "panda", "lion") for seed in (1, 2, 3)}
    aside = {f"a-{animal}-2-2.png" for animal in ("frog", "panda", "lion")}
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == names | aside, "seed 2 twice: of 1 + 1, and of 2"
    assert len(done.stdout.splitlines()) == 12
    assert "zoo/a-frog-1.png  seed 1  128x128" in done.stdout
    assert len(hand.claims) == 6
    assert opened(tmp_path / "zoo" / "a-lion-3.png").format == "PNG"


def test_any_seed_is_asked_for_as_other_programs_ask(run: Run, hand: Hand) -> None:
    assert run("generate", "a frog", "--seed", "-1", "-o", "out.png").exit_code == 0
    assert hand.claims[0].spec.seed >= 0


def test_a_missed_deadline_is_said_at_the_end(run: Run, hand: Hand, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        late = pool.submit(run, "generate", "wait", "--deadline", "0.5", "-o", "late.png")
        until(lambda: hand.claims)
        time.sleep(0.6)  # its deadline passes, however slow the machine is
        hand.go.set()
        done = late.result()
    assert done.exit_code == 0
    assert "ended after its deadline" in done.stderr


def test_prompts_from_stdin_and_a_line_of_json_for_each(run: Run, hand: Hand, tmp_path: Path) -> None:
    arguments = ("generate", "--file", "-", "--json", "-o", "{number}-{index}-{prompt}.webp", "--steps", "7")
    done = run(*arguments, input="a frog\n# no frog\na häßlicher lion\n")
    assert done.exit_code == 0, done.stderr
    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    assert {job["input"]["prompt"] for job in jobs} == {"a frog", "a häßlicher lion"}
    files = {image["file"] for job in jobs for image in job["images"]}
    assert files == {"0-0-a-frog.webp", "1-0-a-häßlicher-lion.webp"}
    assert all(opened(tmp_path / file).format == "WEBP" for file in files)
    assert {job["input"]["num_inference_steps"] for job in jobs} == {7}


def test_several_pictures_of_a_file_name_are_numbered(run: Run, hand: Hand, tmp_path: Path) -> None:
    assert run("generate", "a frog", "a lion", "-n", "2", "-o", "out.png").exit_code == 0
    assert {path.name for path in tmp_path.glob("out*")} == {f"out-{number}.png" for number in range(4)}


def test_a_ratio_and_a_quality(run: Run, hand: Hand) -> None:
    done = run("generate", "a frog", "-o", "out.jpg", "--aspect-ratio", "2:1", "--quality", "60", "--json")
    assert done.exit_code == 0, done.stderr
    drawn = json.loads(done.stdout)["input"]
    assert (drawn["width"], drawn["height"], drawn["output_quality"]) == (184, 88, 60)


def test_no_file_is_written_over(run: Run, hand: Hand, tmp_path: Path) -> None:
    kept = tmp_path / "out.png"
    kept.write_bytes(b"mine")
    refused = run("generate", "a frog", "-o", "out.png")
    assert (refused.exit_code, hand.claims) == (2, []), "refused before anything is drawn"
    assert "out.png exists; choose another -o, or --overwrite" in refused.stderr
    assert kept.read_bytes() == b"mine"
    assert run("generate", "a frog", "-o", "out.png", "--overwrite").exit_code == 0
    assert opened(kept).format == "PNG"
    for _ in range(2):
        assert run("generate", "a frog", "--seed", "5").exit_code == 0
    assert {path.name for path in tmp_path.glob("a-frog*")} == {"a-frog-5.png", "a-frog-5-2.png"}


def test_what_failed_is_said_and_the_rest_is_saved(run: Run, hand: Hand, tmp_path: Path) -> None:
    done = run("generate", "fail this", "a frog", "\u200b", "-o", "{prompt}.png")
    assert done.exit_code == 1
    assert "failed: Values overflowed." in done.stderr
    assert "the prompt must contain a visible character" in done.stderr
    assert done.stdout.startswith("a-frog.png")
    assert (tmp_path / "a-frog.png").exists()
    assert run("generate", "fail this").exit_code == 1


def test_pictures_that_are_not_shown_are_said_and_the_others_are_saved(run: Run, hand: Hand, tmp_path: Path) -> None:
    """Under their own numbers and seeds."""
    done = run("generate", "partly", "-n", "3", "--seed", "5", "-o", "{index}-{number}-{seed}.png")
    assert done.exit_code == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"1-1-6.png", "2-2-7.png"}
    assert "warning: Not shown: picture 0." in done.stderr
    assert "1 of 3 pictures not shown" in done.stderr
    job_id = hand.claims[-1].id
    assert "seed 5, not shown: the safety checker flagged it" in run("jobs", "show", job_id).stdout
    nothing = run("generate", "block this", "-o", "nothing.png")
    assert nothing.exit_code == 1
    assert "failed: NSFW content detected" in nothing.stderr
    assert not (tmp_path / "nothing.png").exists()
    refused = run("jobs", "retry", hand.claims[-1].id)
    assert refused.exit_code == 2
    assert "the same seed would draw the same again" in refused.stderr


def test_a_parameter_that_is_refused_stops_all(run: Run, hand: Hand) -> None:
    done = run("generate", "a", "b", "c", "--scheduler", "magic")
    assert done.exit_code == 2
    assert "--scheduler is unknown" in done.stderr
    assert "2 more were not sent" in done.stderr
    assert hand.claims == []


def test_words_without_quotes_are_said_to_be_prompts_of_their_own(run: Run, hand: Hand) -> None:
    """A shell hands over `generate a frog` as two prompts, and two pictures came without a word."""
    done = run("generate", "a", "frog", "-o", "zoo/")
    assert done.exit_code == 0
    assert 'warning: 2 prompts, each a picture of its own; in quotes it is one: "a frog"' in done.stderr
    assert "in quotes" not in run("generate", "a frog", "panda", "-o", "zoo/").stderr
    assert "in quotes" not in run("generate", "--prompt", "frog", "--prompt", "panda", "-o", "zoo/").stderr


def test_parameters_by_the_names_of_the_api(run: Run, hand: Hand) -> None:
    words = (
        "--num-inference-steps",
        "7",
        "--guidance_scale",
        "3",
        "--negative-prompt",
        "blue",
        "--output-quality",
        "80",
    )
    assert run("generate", "--prompt", "a frog", *words, "-o", "a.webp").exit_code == 0
    [claim] = hand.claims
    spec = claim.spec
    assert spec.prompt == "a frog"
    assert (spec.num_inference_steps, spec.guidance_scale, spec.negative_prompt) == (7, 3, "blue")
    assert [as_spelled_here(name) for name in ("mask_image", "mask-image", "loras")] == ["mask", "mask", "lora"]


def test_a_folder_is_made_with_its_first_picture(run: Run, hand: Hand, tmp_path: Path) -> None:
    """One whose request was refused was left behind, empty."""
    assert run("generate", "a frog", "--width", "1", "-o", "zoo/").exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert run("generate", "a frog", "a lion", "--seed", "5", "-o", "zoo/").exit_code == 0
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == {"a-frog-5.png", "a-lion-5.png"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a prompt, or a file of prompts with --file"),
        (("--file", "nowhere.txt"), "--file nowhere.txt cannot be read"),
        (("--file", "/dev/null"), "/dev/null holds none"),
        (("a", "-o", "out.gif"), "must end in .png, .jpg, .jpeg, .webp"),
        (("a", "-o", "out"), "or a name ending in /"),
        (("a", "-o", "nowhere/out.png"), "the folder nowhere does not exist"),
        (("a", "-o", "nowhere/deeper/"), "cannot be made: No such file or directory"),
        (("a", "-o", "taken/"), "cannot be made: File exists"),
        (("a", "-o", "taken/deeper/"), "cannot be made: Not a directory"),
        (("a", "-o", "a" * 300 + "/"), "cannot be made: File name too long"),
        (("a", "-o", "{colour}.png"), "{colour} in -o means nothing"),
        (("a", "--seed", "-2"), "--seed"),
        (("a", "-n", "many"), "num-images"),
        (("a", "--guidance-rescale", "1.1"), "--guidance-rescale"),
        (("a", "--api-key", "schlüssel"), "the API key has characters"),
        (("a", "--url", "http://[::bad"), "is no URL"),
        (("a", "--url", "http://127.0.0.1:99999"), "is no URL"),
        (("a", "--url", "foo"), "is no URL"),
        (("a", "--seed", str(2**63)), "--seed"),
        (("a\udcff",), "is not UTF-8 text"),
        (("a", "--negative", "\udcff"), "is not UTF-8 text"),
        (("a", "-o", "a" * 300 + ".png"), "is too long for a file name"),
    ],
)
def test_wrong_input_is_named(
    run: Run, worker: ScriptedWorker, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "taken").touch()
    done = run("generate", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert worker.ownership.claim(worker.card.name, "w1") is None


def test_nobody_there(run: Run) -> None:
    with no_service() as url:
        done = run("generate", "a frog", "a lion", "--url", url)
    assert done.exit_code == 3
    assert "start it with `darkroom up`" in done.stderr


def test_more_jobs_than_are_followed_at_once(run: Run, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_module, "FOLLOWED", 2)
    done = run("generate", *(f"number {number}" for number in range(7)), "-o", "{number}.png")
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7


def test_where_there_is_no_room_it_waits(
    run: Run, hand: Hand, gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = gateway.app.state.services.admission
    monkeypatch.setattr(admission, "_settings", admission._settings.model_copy(update={"tenant_limit": 1}))
    refused: list[float] = []

    def refuse(header: str) -> float:
        refused.append(float(header))
        hand.go.set()
        return 0.01

    monkeypatch.setattr(client_module, "_seconds", refuse)
    done = run("generate", "wait for me", "a frog", "-o", "out.png")
    assert done.exit_code == 0, done.stderr
    assert refused, "the second one found no room"
    assert len(hand.claims) == 2


def test_no_room_and_nothing_of_ours_to_wait_for(
    run: Run, hand: Hand, gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [gateway.client.post("/v1/jobs", json={"prompt": f"wait {number}"}).json() for number in range(2)]
    admission = gateway.app.state.services.admission
    monkeypatch.setattr(admission, "_settings", admission._settings.model_copy(update={"tenant_limit": len(held)}))
    done = run("generate", "a frog")
    assert done.exit_code == 3
    assert "are not over yet: wait for some or cancel some" in done.stderr


def test_a_key_is_asked_for(
    valkey_url: str, redis_client: redis.Redis, card: ModelCard, run: Run, tmp_path: Path
) -> None:
    for locked in serve(settings_for(valkey_url, tmp_path, api_keys=f"me:{'k' * 32}")):
        with Hand(ScriptedWorker(redis_client, card, locked.app.state.settings)):
            refused = run("generate", "a frog", "--url", locked.url)
            assert refused.exit_code == 2
            assert "--api-key or DARKROOM_API_KEY; `darkroom keys create` makes one" in refused.stderr
            assert "header" not in refused.stderr
            done = run("generate", "a frog", "--url", locked.url, "--api-key", "k" * 32, "-o", "out.png")
            assert done.exit_code == 0, done.stderr


def test_ctrl_c_cancels_what_it_began(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    requests = ("wait", "wait too", "a frog", "-o", "{prompt}.png")
    with begun(gateway, "generate", *requests, cwd=tmp_path) as process:
        until(lambda: (tmp_path / "a-frog.png").exists())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130, said
    assert "canceled 2 jobs" in said
    assert "Traceback" not in said
    until(lambda: all(job["status"] != "running" for job in gateway.client.get("/v1/jobs").json()["data"]))
    statuses = {job["input"]["prompt"]: job["status"] for job in gateway.client.get("/v1/jobs").json()["data"]}
    assert statuses == {"wait": "canceled", "wait too": "canceled", "a frog": "succeeded"}


@pytest.mark.anyio
@pytest.mark.parametrize("status", [404, 409, 429, 503])
async def test_what_could_not_be_called_off_is_not_said_to_be_over(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Of each refusal it was said that the job had ended, of a key's minute that was used up too."""

    async def refused(self: Service, method: str, url: str, **_: Any) -> httpx2.Response:
        asked = httpx2.Request(method, "http://127.0.0.1:1")
        return httpx2.Response(status, json={"detail": "no"}, request=asked)

    monkeypatch.setattr(Service, "_whole", refused)
    async with Service("http://127.0.0.1:1", None) as service:
        [line] = await call_off(service, [], ["job_" + "0" * 24])
    assert ("had ended already" in line, "may go on" in line) == (status < 429, status >= 429)


def test_what_is_accepted_at_the_moment_of_a_ctrl_c_is_called_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was forgotten: drawn for nobody, and nothing was said."""

    async def accepted(*_: object) -> dict[str, Any]:
        [command] = asyncio.all_tasks() - {asyncio.current_task()}
        command.cancel()
        return JOB_EXAMPLE

    async def canceled(self: Service, job_id: str) -> dict[str, Any]:
        return JOB_EXAMPLE | {"status": "canceled"}

    monkeypatch.setattr(Service, "submit", accepted)
    monkeypatch.setattr(Service, "cancel", canceled)
    done = run("generate", "a frog")
    assert (done.exit_code, "canceled 1 job" in done.stderr) == (130, True), done.stderr


@pytest.mark.anyio
async def test_a_request_without_an_answer_may_be_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_off, "CANCEL_SECONDS", 0.0)
    submission: asyncio.Task[Any] = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    async with Service("http://127.0.0.1:1", None) as service:
        [line] = await call_off(service, [submission], [])
    assert "`darkroom jobs list`" in line


def test_a_disk_that_is_full_keeps_no_half_picture(file_size_limit: int, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    with pytest.raises(CommandError, match="cannot be written"):
        Names(str(output), pictures=1).write(bytes(file_size_limit + 1), {}, {}, number=0)
    assert not output.exists()


def test_requests() -> None:
    assert read_prompts(["a"], None) == ["a"]
    both = requests_of(["a", "b"], [1, 2], {"num_inference_steps": 3, "model": None})
    assert [(parameters["prompt"], parameters["seed"]) for parameters in both] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert both[0] == {"prompt": "a", "seed": 1, "num_inference_steps": 3}
    assert requests_of(["a"], [], {}) == [{"prompt": "a"}]
    assert requests_of(["a"], [], {"negative_prompt": "", "scheduler": ""}) == [{"prompt": "a", "scheduler": ""}]


@pytest.fixture
def takes_pictures(worker: ScriptedWorker) -> None:
    takes = ("image", "mask_image", "strength", "mask_blur")
    tasks = ("text-to-image", "image-to-image", "inpainting")
    worker.card = worker.card.model_copy(update={"takes": takes, "tasks": tasks})
    worker.announce()


@pytest.mark.usefixtures("takes_pictures")
def test_a_picture_to_begin_with_and_a_mask(run: Run, hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(file_of(noise(128, 64), "JPEG"))
    (tmp_path / "mask.png").write_bytes(file_of(noise(128, 64, "L")))
    arguments = ("--image", "in.jpg", "--mask", "mask.png", "--strength", "0.6", "--mask-blur", "2", "--json")
    done = run("generate", "a frog", "a lion", "-o", "zoo/", *arguments)
    assert done.exit_code == 0, done.stderr
    for line in done.stdout.splitlines():
        asked = json.loads(line)["input"]
        assert (asked["image"]["content_type"], asked["mask_image"]["content_type"]) == ("image/jpeg", "image/png")
        assert (asked["width"], asked["height"], asked["strength"], asked["mask_blur"]) == (128, 64, 0.6, 2.0)


@pytest.mark.usefixtures("takes_pictures")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "none.png"], "none.png cannot be read: No such file or directory"),
        (["--image", "."], ". cannot be read: Is a directory"),
        (["--image", "notes.txt"], "notes.txt is no PNG, JPEG or WebP picture"),
        (["--mask", "mask.png"], "--mask goes with image: the picture to begin with"),
        (["--strength", "0.5"], "--strength goes with image"),
        (["--image", "mask.png", "--mask", "tall.png"], "--mask must have the shape of image"),
    ],
)
def test_pictures_that_cannot_be_begun_with(
    run: Run, hand: Hand, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "mask.png").write_bytes(file_of(noise(128, 64, "L")))
    (tmp_path / "tall.png").write_bytes(file_of(noise(64, 128, "L")))
    done = run("generate", "a frog", *arguments)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert hand.claims == []
