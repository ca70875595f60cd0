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
from tests.cli.conftest import Hand, Run, picture

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
    (tmp_path / "steps.gif").write_bytes(b"mine")
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
