"""Schedulers are tried once for all starts under the same circumstances."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import pytest

from app.contract.messages.schedulers import SCHEDULERS
from worker import trials
from worker.models import announced, schedulers
from worker.models.announced import describe
from worker.models.bundle import Bundle, load
from worker.models.errors import ModelError
from worker.models.schedulers import StepLimits
from worker.trials import tried_schedulers


@pytest.fixture(scope="module")
def bundle(whole_folder: Path) -> Bundle:
    return load(whole_folder)


@pytest.fixture(autouse=True)
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CLASS_NAMES", ("PNDMScheduler",))
    monkeypatch.setattr(schedulers, "SCHEDULERS", {name: SCHEDULERS[name] for name in ("ddim", "lcm")})


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time."""
    seen: list[None] = []

    def step_limits(*given: Any, **options: Any) -> dict[str, StepLimits]:
        seen.append(None)
        return schedulers.step_limits(*given, **options)

    monkeypatch.setattr(announced, "step_limits", step_limits)
    return seen


def reordered(scheduler: Any) -> Any:
    """diffusers lists a set: its order is another one in each process."""
    copy = type(scheduler).from_config(scheduler.config)
    copy.register_to_config(_use_default_values=[*reversed(scheduler.config["_use_default_values"])])
    return copy


def test_the_next_start_knows_what_the_first_found(bundle: Bundle, tmp_path: Path, tries: list[None]) -> None:
    found = tried_schedulers(bundle, tmp_path)
    assert found == schedulers.step_limits(bundle.scheduler, max_steps=bundle.defaults.max_steps)
    for again in (bundle, replace(bundle, scheduler=reordered(bundle.scheduler))):
        assert tried_schedulers(again, tmp_path) == found
    assert len(tries) == 1
    assert describe(bundle, seats=1, limits=found) == describe(bundle, seats=1)


CHANGES: dict[str, Callable[[Bundle], Bundle]] = {
    "the class": lambda bundle: replace(bundle, scheduler=diffusers.EulerDiscreteScheduler()),
    "its configuration": lambda bundle: replace(
        bundle, scheduler=type(bundle.scheduler).from_config(bundle.scheduler.config, beta_end=0.02)
    ),
    "most steps": lambda bundle: replace(bundle, defaults=bundle.defaults.model_copy(update={"max_steps": 60})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_model_is_tried_by_itself(
    bundle: Bundle, tmp_path: Path, tries: list[None], change: Callable[[Bundle], Bundle]
) -> None:
    tried_schedulers(bundle, tmp_path)
    tried_schedulers(change(bundle), tmp_path)
    assert len(tries) == 2


@pytest.mark.parametrize("name", ["_version", "_code", "__version__"])
def test_other_code_tries_again(
    bundle: Bundle, tmp_path: Path, tries: list[None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tried_schedulers(bundle, tmp_path)
    monkeypatch.setattr(trials, name, "2.0" if name == "__version__" else lambda *_: "another")
    tried_schedulers(bundle, tmp_path)
    assert len(tries) == 2


IMPOSSIBLE: dict[str, Any] = {
    "a name": {"warp_drive": {"fewest": 1, "most": 9, "refused": []}},
    "none at all": {"ddim": {"fewest": 0, "most": 9, "refused": []}},
    "more than the model takes": {"ddim": {"fewest": 1, "most": 10_000, "refused": []}},
    "upside down": {"ddim": {"fewest": 5, "most": 4, "refused": []}},
    "refused outside": {"ddim": {"fewest": 1, "most": 9, "refused": [12]}},
    "half a step": {"ddim": {"fewest": 1, "most": 9.5, "refused": []}},
    "a list": [],
    "nothing": {"ddim": {}},
}


@pytest.mark.parametrize("content", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_tried_again(bundle: Bundle, tmp_path: Path, tries: list[None], content: Any) -> None:
    found = tried_schedulers(bundle, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step_limits": content}))
    assert tried_schedulers(bundle, tmp_path) == found
    assert tried_schedulers(bundle, tmp_path) == found
    assert len(tries) == 2


def test_pipelines_with_one_scheduler_have_verdicts_of_their_own(
    bundle: Bundle, tmp_path: Path, tries: list[None]
) -> None:
    """A pipeline for certain schedulers is offered no others, also where another's verdict is remembered."""
    assert tried_schedulers(bundle, tmp_path).keys() > {"lcm"}
    only_lcm = replace(bundle, family="LatentConsistencyModelPipeline")
    assert tried_schedulers(only_lcm, tmp_path).keys() == {"lcm"}
    assert len(tries) == 2


def test_refusals_are_kept(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"ddim": StepLimits(2, 9, (4, 5)), "lcm": StepLimits(1, 1)}
    monkeypatch.setattr(announced, "step_limits", lambda *_, **__: limits)
    assert tried_schedulers(bundle, tmp_path) == tried_schedulers(bundle, tmp_path) == limits


def test_a_full_memory_is_no_verdict(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any, **__: Any) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", step)
    with pytest.raises(ModelError, match="Memory was full"):
        tried_schedulers(bundle, tmp_path)
    assert [*tmp_path.iterdir()] == []
