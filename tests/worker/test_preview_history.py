"""Previews that are kept: which ones, how they become one file, and that they reach the record with their picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.contract.redis.ownership import Claim
from tests.waiting import until
from tests.worker.test_reporter import PIXELS, Recorder, claim, drawn, ownership, pictures, reporter
from worker.engine.events import Finished, Preview, Stopped, Timings
from worker.images import encode_sheet
from worker.preview_history import FRAMES, PreviewHistory
from worker.reporter import Reporter

__all__ = ["claim", "ownership", "pictures", "reporter"]

TIMINGS = Timings(encode=0.1, denoise=0.2, decode=0.3, wall=0.6)


def preview(step: int, steps: int, *, index: int = 0, shade: int | None = None) -> Preview:
    return Preview("r", index, step, steps, np.full((8, 8, 3), step % 256 if shade is None else shade, np.uint8))


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [
        (20, 5, [5, 10, 15]),
        (50, 1, list(range(1, 50))),
        (FRAMES + 1, 1, list(range(1, FRAMES + 1))),
        (100, 1, list(range(2, 100, 2))),
        (199, 1, list(range(4, 199, 4))),
        (1_000, 3, list(range(18, 1_000, 18))),
        (3, 5, []),
    ],
)
def test_as_many_as_a_sheet_holds_and_evenly_spread(steps: int, every: int, kept: list[int]) -> None:
    history = PreviewHistory()
    for step in range(every, steps, every):
        history.keep(preview(step, steps), every=every)
    frames = history.of("r", 0)
    assert [frame.step for frame in frames] == kept
    assert len(frames) <= FRAMES
    history.drop("r")
    assert history.of("r", 0) == []


def test_a_sheet() -> None:
    shades = [0, 30, 60, 90, 120, 150, 180, 210, 240, 255]
    file = encode_sheet([np.full((12, 16, 3), shade, np.uint8) for shade in shades])
    assert (file.width, file.height, file.columns) == (16, 12, 8)
    with Image.open(io.BytesIO(file.data)) as image:
        assert (image.format, image.size) == ("JPEG", (128, 24))
        grey = np.asarray(image.convert("L")).astype(int)
    for number, shade in enumerate(shades):
        row, column = divmod(number, 8)
        assert abs(grey[row * 12 + 6, column * 16 + 8] - shade) <= 3
    large = encode_sheet([np.zeros((600, 300, 3), np.uint8)])
    assert (large.width, large.height, large.columns) == (128, 256, 1)
    with pytest.raises(ValueError, match="needs a frame"):
        encode_sheet([])


@pytest.fixture
def keeping(claim: Claim, reporter: Reporter) -> Claim:
    """The reporter's one attempt keeps its previews."""
    parameters = claim.spec.model_copy(update={"keep_previews": True})
    kept = Claim(claim.id, claim.token, parameters, attempt=1, failures=0, traceparent="")
    reporter._attempts.open(kept)
    return kept


def told(reporter: Reporter, claim: Claim, *, steps: int = 20) -> None:
    for step in range(3, steps, 3):
        for index in range(2):
            reporter.handle(Preview(claim.token, index, step, steps, PIXELS // (index + 1)))


def test_previews_are_stored_with_their_picture(
    ownership: Recorder, reporter: Reporter, keeping: Claim, tmp_path: Path
) -> None:
    told(reporter, keeping)
    reporter.handle(Finished(keeping.token, drawn(PIXELS, PIXELS), 20, TIMINGS, []))
    until(lambda: ownership.told[-1:] and ownership.told[-1][0] == "succeed")
    for index, picture in enumerate(ownership.told[-1][1]):
        sheet = picture.previews
        assert (sheet.steps, sheet.columns, sheet.width, sheet.height) == ((3, 6, 9, 12, 15, 18), 6, 16, 16)
        assert sheet.key.startswith(f"images/{keeping.id}/{keeping.token}/{index}")
        data = (tmp_path / "pictures" / sheet.key).read_bytes()
        assert len(data) == sheet.bytes
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (96, 16)
            assert abs(np.asarray(image).astype(int) - 200 // (index + 1)).max() <= 3
    until(lambda: reporter._history.of(keeping.token, 0) == [])


@pytest.mark.parametrize(
    ("steps", "said"), [(100, ["Of 99 previews, 49 were kept: a sheet has at most 64."]), (65, []), (64, [])]
)
def test_who_asked_for_more_than_a_sheet_takes_is_told(
    ownership: Recorder, reporter: Reporter, claim: Claim, steps: int, said: list[str]
) -> None:
    """As many as are said to be kept are kept."""
    parameters = claim.spec.model_copy(update={"keep_previews": True, "preview_every": 1, "num_images": 1})
    kept = Claim(claim.id, claim.token, parameters, attempt=1, failures=0, traceparent="")
    reporter._attempts.open(kept)
    for step in range(1, steps):
        reporter.handle(Preview(kept.token, 0, step, steps, PIXELS))
    reporter.handle(Finished(kept.token, drawn(PIXELS), steps, TIMINGS, ["its own"]))
    until(lambda: ownership.told[-1:] and ownership.told[-1][0] == "succeed")
    assert ownership.facts["warnings"] == ["its own", *said]
    assert len(ownership.told[-1][1][0].previews.steps) == (49 if said else steps - 1)


def test_nothing_is_kept_of_others(ownership: Recorder, reporter: Reporter, claim: Claim) -> None:
    told(reporter, claim)
    assert reporter._history.of(claim.token, 0) == []
    reporter.handle(Finished(claim.token, drawn(PIXELS, PIXELS), 20, TIMINGS, []))
    until(lambda: ownership.told[-1:] and ownership.told[-1][0] == "succeed")
    assert [picture.previews for picture in ownership.told[-1][1]] == [None, None]


def test_nothing_is_held_of_a_job_that_stopped(reporter: Reporter, keeping: Claim) -> None:
    told(reporter, keeping)
    assert len(reporter._history.of(keeping.token, 1)) == 6
    reporter.handle(Stopped(keeping.token))
    until(lambda: not reporter._history.of(keeping.token, 1))
    reporter.handle(Preview(keeping.token, 0, 19, 20, PIXELS))
    assert reporter._history.of(keeping.token, 0) == [], "what arrives late finds no attempt"
