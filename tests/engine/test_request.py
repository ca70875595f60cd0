"""What a request says is what is drawn: every parameter that is said to decide the pixels is read by the engine."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.series import SeriesSpec
from app.contract.messages.spec import PictureSpec
from tests.engine.driving import engine_of, run, wish
from tests.engine.pictures import edit, half_mask, picture
from tests.engine.tiny_models import save_tiny_unclip
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries


class Watched(Request):
    """Notes which of its fields are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in READ:
            READ[name] += 1
        return super().__getattribute__(name)


READ = dict.fromkeys(PictureSpec.model_fields, 0)


@pytest.fixture(scope="module")
def unclip_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with quiet_libraries():
        return load(save_tiny_unclip(tmp_path_factory.mktemp("models") / "tiny-unclip"))


def test_every_parameter_of_a_picture_is_read(xl_bundle: Bundle, unclip_bundle: Bundle) -> None:
    """One that nobody reads would stand in the picture's record, and have changed nothing."""
    READ.update(dict.fromkeys(READ, 0))
    for bundle, request in (
        (xl_bundle, edit("watched", picture(), half_mask(), strength=0.5)),
        (unclip_bundle, wish("watched", width=64, height=64)),
    ):
        assert isinstance(run(engine_of(bundle), Watched(**request.model_dump()))["watched"], Finished)
    assert [name for name, times in READ.items() if not times] == []


def test_a_jobs_spec_becomes_a_request(card: ModelCard) -> None:
    asked = {"prompt": "a red circle", "seed": 7, "num_images": 2, "preview_every": 3, "reproducible": True}
    spec = resolve(JobRequest(**asked, output_format="webp", output_quality=50, keep_previews=True), card)
    request = Request.of("token", spec)
    told = request.model_dump(exclude={"id", "pictures", "priority"})
    assert told == {name: getattr(spec, name) for name in told}
    assert told.keys() >= {*PictureSpec.model_fields, *SeriesSpec.model_fields}
    assert (request.id, request.num_images, request.preview_every) == ("token", 2, 3)
