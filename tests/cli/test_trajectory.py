"""`darkroom trajectory`: from a sheet of previews to a picture that moves, or a clear reason why not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from app.contract.messages.trajectory import FRAME_MS, LAST_MS, durations
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_kept_previews import KEPT, succeed_with_sheet
from tests.app.test_trajectory import EVERY, succeed_with_steps
from tests.cli.conftest import Hand, Run, picture
from tests.cli.terminal import STOOD, in_a_terminal

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def sheet() -> bytes:
    """Two columns and two rows, the last place empty."""
    image, file = Image.new("RGB", (16, 16)), io.BytesIO()
    for number, colour in enumerate(COLOURS):
        image.paste(colour, (number % 2 * 8, number // 2 * 8, number % 2 * 8 + 8, number // 2 * 8 + 8))
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def drawn(gateway: Running, worker: ScriptedWorker, **parameters: object) -> str:
    job_id = gateway.client.post("/v1/jobs", json=KEPT | parameters).json()["id"]
    succeed_with_sheet(worker, worker.claim(), sheet=sheet(), data=picture("white", side=128), columns=2)
    return str(job_id)


def near(image: Image.Image, colour: tuple[int, ...]) -> bool:
    middle = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    return all(abs(a - b) < 12 for a, b in zip(middle, colour, strict=True))


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_steps_one_after_the_other(
    run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path, kind: str
) -> None:
    job_id = drawn(gateway, worker)
    done = run("trajectory", job_id, "-o", f"steps.{kind}")
    assert (done.exit_code, done.stdout) == (0, f"steps.{kind}  3 previews and the picture\n"), done.stderr
    with Image.open(tmp_path / f"steps.{kind}") as moving:
        assert (moving.format, moving.size, moving.n_frames) == (kind.upper(), (256, 256), 4)
        for number, colour in enumerate((*COLOURS, (255, 255, 255))):
            moving.seek(number)
            assert near(moving, colour), number
            assert kind == "webp" or moving.info["duration"] == durations(4)[number]
        assert moving.info["loop"] == 0


def test_a_sheet_and_json(run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    job_id = drawn(gateway, worker, num_images=2)
    done = run("trajectory", job_id, "--index", "1", "-o", "steps.png", "--json")
    told = json.loads(done.stdout)
    assert told == {"file": "steps.png", "job_id": job_id, "index": 1, "steps": [5, 10, 15]}
    with Image.open(tmp_path / "steps.png") as image:
        assert image.size == (516, 516)
        assert near(image.crop((0, 260, 256, 516)), COLOURS[2])


def test_what_cannot_be_shown(run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    job_id = drawn(gateway, worker)
    plain = gateway.client.post("/v1/jobs", json={"prompt": "a frog"}).json()["id"]
    cases = {
        (plain,): (1, "jobs watch"),
        (job_id, "-o", "steps.mp4"): (2, "must end in .gif or .webp"),
        (job_id, "--index", "1"): (2, "--index is 0 to 0"),
        (job_id, "-o", "nowhere/steps.gif"): (2, "the folder nowhere does not exist"),
        ("nonsense",): (2, "is not a job's id"),
        ("job_" + "0" * 24,): (2, "No job of yours has this id"),
    }
    for arguments, (code, words) in cases.items():
        done = run("trajectory", *arguments)
        assert (done.exit_code, done.stdout) == (code, ""), arguments
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    worker.succeed(worker.claim())
    assert "--preview-every" in run("trajectory", plain).stderr
    late = gateway.client.post("/v1/jobs", json=KEPT | {"preview_every": 50}).json()["id"]
    worker.succeed(worker.claim())
    assert "comes too late; lower --preview-every" in run("trajectory", late).stderr
    (tmp_path / f"{job_id}-steps.gif").write_bytes(b"mine")
    assert run("trajectory", job_id).exit_code == 2
    assert run("trajectory", job_id, "--overwrite").exit_code == 0


def test_generate_asks_for_them(run: Run, hand: Hand) -> None:
    assert run("generate", "a frog", "--preview-every", "3").exit_code == 0
    assert run("generate", "a frog").exit_code == 0
    asked = [(claim.spec.preview_every, claim.spec.keep_previews) for claim in hand.claims]
    assert asked == [(3, True), (0, False)]


def test_durations() -> None:
    for frames in (1, 2, 10, 40, 65, 500):
        times = durations(frames)
        assert len(times) == frames
        assert times[-1] == LAST_MS
        assert all(FRAME_MS[0] <= each <= FRAME_MS[1] and each % 10 == 0 for each in times[:-1])


def step(number: int, timestep: float | None, sigma: float | None, **boxes: list[int]) -> dict[str, object]:
    return {"step": number, "timestep": timestep, "sigma": sigma, "norms": {}, "boxes": boxes}


STEPS = {
    "show": ["noisy", "estimate"],
    "steps": [
        step(0, 999.0, 14.6, noisy=[0, 0, 8, 8]),
        step(1, 500.0, None, noisy=[8, 0, 8, 8], estimate=[0, 8, 8, 8]),
        step(2, None, 0.0, noisy=[0, 0, 8, 8], estimate=[8, 8, 8, 8]),
    ],
}


def looked_at(gateway: Running, worker: ScriptedWorker, said: object = STEPS, **files: bytes) -> str:
    worker.card = worker.card.model_copy(update={"takes": ("trajectory",)})
    worker.announce()
    job_id = gateway.client.post("/v1/jobs", json=EVERY).json()["id"]
    kept = {"json": json.dumps(said).encode(), "safetensors": b"numbers", "webp": b"a film", "jpg": sheet()} | files
    succeed_with_steps(worker, worker.claim(), files=kept, data=picture("white", side=128))
    return str(job_id)


def test_the_files_of_a_trajectory_as_they_are(
    run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path
) -> None:
    job_id = looked_at(gateway, worker)
    for suffix, data in {"safetensors": b"numbers", "webp": b"a film", "json": json.dumps(STEPS).encode()}.items():
        done = run("trajectory", job_id, "-o", f"steps.{suffix}")
        assert (done.exit_code, done.stdout) == (0, f"steps.{suffix}  3 steps\n"), done.stderr
        assert (tmp_path / f"steps.{suffix}").read_bytes() == data
    assert "21 steps kept" in run("jobs", "show", job_id).stdout


def test_noisy_and_estimate_beside_each_other(
    run: Run, gateway: Running, worker: ScriptedWorker, tmp_path: Path
) -> None:
    job_id = looked_at(gateway, worker)
    done = run("trajectory", job_id, "--json")
    told = json.loads(done.stdout)
    assert (told["file"], told["steps"]) == (f"{job_id}-steps.gif", [0, 1, 2]), "each has a file of its own"
    with Image.open(tmp_path / told["file"]) as moving:
        assert (moving.size, moving.n_frames) == ((512, 256), 4)
        for number, (left, right) in enumerate([(0, None), (1, 2), (0, None), (3, 3)]):
            moving.seek(number)
            halves = [moving.convert("RGB").crop((x, 0, x + 256, 256)) for x in (0, 256)]
            colours = [(*COLOURS, (255, 255, 255))[each] if each is not None else None for each in (left, right)]
            for half, colour in zip(halves, colours, strict=True):
                assert colour is None or near(half, colour), number


def test_it_plays_in_a_terminal(gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    """In one place, with what each step is below, and the finished picture stays."""
    job_id = looked_at(gateway, worker)
    with in_a_terminal(gateway, "trajectory", job_id, cwd=tmp_path) as term:
        assert term.end() == 0
    assert [word in term.raw.decode() for word in ("timestep 999  sigma 14.6", "step 1 of 20", "\x1b[?25h")] == [
        True
    ] * 3
    assert term.lines[: len(STOOD)] == STOOD
    shown = [line for line in term.lines if "▀" in line]
    assert len(shown) == 20, "39 pixels in each pane, two in a cell"
    assert all(line.count("▀") == 2 * 39 for line in shown)
    assert term.screen[-1] == "the picture"
    assert not list(tmp_path.glob("steps.*"))


def test_steps_that_are_not_as_services_describe_them(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    outside = {"show": ["noisy"], "steps": [step(0, 1.0, 1.0, noisy=[9, 9, 8, 8])]}
    for said in ({"show": [], "steps": []}, {"show": ["noisy"], "steps": [{"step": "1"}]}, outside):
        done = run("trajectory", looked_at(gateway, worker, said), "-o", "steps.gif", "--overwrite")
        assert done.exit_code == 1
        assert "as the service describes it" in done.stderr or "as a service describes them" in done.stderr


def test_latents_of_who_kept_previews_only(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    done = run("trajectory", drawn(gateway, worker), "-o", "steps.safetensors")
    assert (done.exit_code, "--trajectory 1" in done.stderr) == (1, True)


def test_generate_asks_for_steps(run: Run, hand: Hand, worker: ScriptedWorker) -> None:
    worker.card = worker.card.model_copy(update={"takes": ("trajectory",)})
    worker.announce()
    assert run("generate", "a frog", "--trajectory", "2").exit_code == 0
    assert run("generate", "a frog", "--trajectory-decode", "vae").exit_code == 0
    asked = [(claim.spec.trajectory.every, claim.spec.trajectory.decode) for claim in hand.claims]  # type: ignore[union-attr]
    assert asked == [(2, "linear"), (1, "vae")]
    wrong = run("generate", "a frog", "--trajectory-decode", "taesd")
    assert wrong.exit_code == 2
    assert "--trajectory" in wrong.stderr
