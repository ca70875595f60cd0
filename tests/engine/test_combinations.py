"""Two rounds of combinations.py. `make fuzz` plays as many as there is time for, with every family and scheduler."""

from __future__ import annotations

import random

import pytest

from tests.engine.combinations import Model, Round
from tests.engine.rich_models import card_of, rich
from worker.models.schedulers import StepLimits

SCHEDULERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "unipc", "dpmpp_sde", "lcm")


@pytest.fixture(scope="module", params=["sd", "unclip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    bundle = rich(request.param, tmp_path_factory.mktemp("rich"))
    return Model(request.param, bundle, card_of(bundle, dict.fromkeys(SCHEDULERS, StepLimits(1, 50))))


def test_whatever_is_asked_at_once_is_what_it_is_alone(model: Model) -> None:
    played = Round(model, random.Random(2), reproducible=True)
    played.play()
    assert played.counts["drawn"] == played.counts["asked again"] > 1
    assert played.counts["in company"]
