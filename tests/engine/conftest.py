"""Bundles of tiny models, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.engine.tiny_models import SD2, add_tiny_checker, save_tiny_lcm, save_tiny_model, save_tiny_xl
from worker.models import bundle
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Some of diffusers' schedulers hand tensors to numpy in a way that numpy 2 deprecates. Not ours to mend."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning"))


@pytest.fixture(scope="session", autouse=True)
def as_diffusers_loads() -> Iterator[None]:
    """Weights of engine and stock pipelines lie in memory in the same way, so that what their pictures are away from
    each other is the engine's. What the other layout does to them: test_channels_last.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "CHANNELS_LAST", ("cuda",))
        yield


@pytest.fixture(scope="session")
def epsilon_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In the layout of Stable Diffusion 1.x."""
    return _tiny(tmp_path_factory, "epsilon")


@pytest.fixture(scope="session")
def velocity_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In the layout of Stable Diffusion 2.x for 768 pixels."""
    return _tiny(tmp_path_factory, "v_prediction", unet=SD2)


@pytest.fixture(scope="session")
def xl_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In the layout of SDXL."""
    with quiet_libraries():
        return load(save_tiny_xl(tmp_path_factory.mktemp("models") / "tiny-xl"))


@pytest.fixture(scope="session")
def lcm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In the layout of a latent consistency model."""
    with quiet_libraries():
        return load(save_tiny_lcm(tmp_path_factory.mktemp("models") / "tiny-lcm"))


@pytest.fixture(scope="session")
def checked_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In the layout of Stable Diffusion 1.x, with its safety checker."""
    with quiet_libraries():
        folder = save_tiny_model(tmp_path_factory.mktemp("models") / "checked", prediction_type="epsilon")
        return load(add_tiny_checker(folder), safety="flag")


@pytest.fixture(scope="session")
def half_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In bfloat16, which a CPU computes as well."""
    return _tiny(tmp_path_factory, "epsilon", dtype=torch.bfloat16)


def _tiny(
    tmp_path_factory: pytest.TempPathFactory,
    prediction_type: str,
    dtype: torch.dtype = torch.float32,
    unet: dict[str, Any] | None = None,
) -> Bundle:
    with quiet_libraries():
        folder = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", prediction_type=prediction_type, unet=unet)
    return load(folder, dtype=dtype)
