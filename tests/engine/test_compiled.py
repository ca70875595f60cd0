"""A compiled denoiser: the same pictures, nothing compiled after warm-up, and no job that fails for it.

With the backends `aot_eager` and `eager`, whose graphs are run as they are: bits must be equal. What inductor does is
torch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from app.contract.messages.inputs import Lora
from tests.engine.driving import SIDE, engine_of, run, wish
from tests.engine.pictures import edit, half_mask, picture
from tests.engine.tiny_loras import factors, is_any, save_peft
from tests.engine.tiny_models import save_tiny_inpainting, save_tiny_model
from worker import profiles
from worker.engine import compiled
from worker.engine.compiled import CannotCompile, CompiledDenoiser
from worker.engine.costs import Profile
from worker.engine.events import Finished
from worker.engine.lanes import Lanes
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.errors import ModelError
from worker.models.quiet import quiet_libraries
from worker.settings import WorkerSettings

PROFILE = Profile(rows=2, row_cost=1.0, rows_a_second={2: 1.0}, seconds={2: 1.0}, is_compiled=True)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[torch.Size]]:
    """The shape of the latents of each graph that was compiled, in their order."""
    backend, shapes = torch._dynamo.lookup_backend(getattr(request, "param", "aot_eager")), list[torch.Size]()

    def counting(graph: torch.fx.GraphModule, given: list[Any]) -> Any:
        shapes.append(next(each.shape for each in given if isinstance(each, torch.Tensor) and each.dim() == 4))
        return backend(graph, given)

    monkeypatch.setattr(compiled, "BACKEND", counting)
    yield shapes
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def lora_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of every layer of the UNet: hooks hang at all of them."""
    folder, loras = tmp_path_factory.mktemp("model") / "tiny", tmp_path_factory.mktemp("loras")
    with quiet_libraries():
        plain = load(save_tiny_model(folder, prediction_type="epsilon"))
        save_peft(loras / "ink.safetensors", factors(plain, rank=2, seed=1, chosen=is_any))
        return load(folder, loras=loras)


@pytest.fixture(scope="module")
def inpainting_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with quiet_libraries():
        return load(save_tiny_inpainting(tmp_path_factory.mktemp("models") / "tiny"))


def pictures(engine: Any, *requests: Any) -> dict[str, np.ndarray]:
    last = run(engine, *requests)
    assert all(isinstance(event, Finished) for event in last.values()), last
    return {id: event.pictures[0] for id, event in last.items() if isinstance(event, Finished)}


@pytest.mark.parametrize(
    ("kind", "compiles"),
    [
        ("epsilon_bundle", "aot_eager"),
        ("lora_bundle", "aot_eager"),
        ("xl_bundle", "eager"),
        ("inpainting_bundle", "eager"),
    ],
    indirect=["compiles"],
)
def test_pictures_are_the_same_and_nothing_is_compiled_after_warm_up(
    kind: str, compiles: list[torch.Size], request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(kind)
    requests = [
        wish("guided", num_inference_steps=2),
        wish("of one row", num_inference_steps=2, guidance_scale=1.0),
        wish("wide", num_inference_steps=1, width=2 * SIDE),
        wish("reproducible", num_inference_steps=1, reproducible=True),
    ]
    if kind == "lora_bundle":
        requests.append(wish("with a lora", num_inference_steps=1, loras=(Lora(name="ink", weight=1.0),)))
    if kind == "inpainting_bundle":
        requests = [edit("edited", picture(), half_mask(), strength=1.0, num_inference_steps=2)]
    eager, faster = engine_of(bundle, seats=1), engine_of(bundle, seats=1, compile="on")
    faster.warm_up(PROFILE)
    assert faster.is_compiled
    assert [shape[0] for shape in compiles] == [2]
    own, others = pictures(faster, *requests), pictures(eager, *requests)
    assert len(compiles) == 1
    for id, drawn in others.items():
        assert np.array_equal(own[id], drawn), id


def test_only_steps_of_the_shapes_that_are_compiled_are_filled_up_to_them(epsilon_bundle: Bundle) -> None:
    family = family_of(epsilon_bundle)
    lanes = Lanes(family.native, family.autoencoder, seats=2, compile="on")
    lanes.__dict__["_graph_memory"] = SimpleNamespace(rooms=0)
    assert lanes.compiled is not None
    lanes.compiled.sizes = [2, 8]
    channels, height, width = family.native.latent_shape
    wide = replace(family.native, latent_shape=(channels, height, 2 * width))
    long = replace(family.native, conditioning=(("encoder_hidden_states", torch.Size((154, 32))),))
    assert [lanes.open(key)._filled_up(3) for key in (family.native, wide, long)] == [8, 4, 4]


class Twice(torch.nn.Module):
    """A denoiser that notes whether it was run by Python."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 2.0), requires_grad=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output = x * self.weight + t.view(-1, 1, 1, 1)
        return output + rows["more"].view(-1, 1, 1, 1) if "more" in rows else output

    def in_float32(self) -> Twice:
        return self

    def row_bytes(self, latent_shape: tuple[int, int, int]) -> float:
        return 7.0


def call(denoiser: Any, rows: int, *, side: int = 4, more: bool = False) -> torch.Tensor:
    given = {"context": torch.zeros(rows, 1)} | ({"more": torch.ones(rows)} if more else {})
    with torch.inference_mode():
        output: torch.Tensor = denoiser(torch.ones(rows, 1, side, side), torch.ones(rows), given)
    return output


def compiled_for(*sizes: int, strict: bool = True) -> CompiledDenoiser:
    denoiser = CompiledDenoiser(Twice(), strict=strict)
    for rows in sizes:
        with denoiser.compiling():
            assert call(denoiser, rows).unique().tolist() == [3.0]
    return denoiser


def test_more_sizes_than_torch_takes_by_itself_in_one_thread_and_called_in_another(compiles: list[torch.Size]) -> None:
    """Its limit is eight; and four rows are as many as the latents' side is long."""
    with ThreadPoolExecutor(1) as warming:
        denoiser = warming.submit(compiled_for, *range(1, 12)).result()
    assert denoiser.sizes == list(range(1, 12))
    assert [shape[0] for shape in compiles] == denoiser.sizes
    for rows in reversed(denoiser.sizes):
        assert call(denoiser, rows).unique().tolist() == [3.0]
    assert len(compiles) == 11


def test_what_was_not_compiled_is_asked_as_it_is(compiles: list[torch.Size]) -> None:
    denoiser = compiled_for(2)
    assert call(denoiser, 3).unique().tolist() == [3.0]
    assert call(denoiser, 2, side=8).unique().tolist() == [3.0]
    assert call(denoiser, 2, more=True).unique().tolist() == [4.0]
    # With gradients torch would compile it anew.
    assert denoiser(torch.ones(2, 1, 4, 4), torch.ones(2), {"context": torch.zeros(2, 1)}).unique().tolist() == [3.0]
    assert len(compiles) == 1


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(graph: torch.fx.GraphModule, given: list[Any]) -> Any:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nand more")

    monkeypatch.setattr(compiled, "BACKEND", missing)
    yield
    torch._dynamo.reset()


def test_a_model_that_cannot_be_compiled_is_served_as_it_is(no_compiler: None) -> None:
    denoiser = compiled_for(2, 4, strict=False)
    assert (denoiser.is_given_up, denoiser.sizes) == (True, [])


def test_where_it_has_to_be_compiled_that_is_an_error_with_a_reason(no_compiler: None) -> None:
    with pytest.raises(CannotCompile, match=r"cannot be compiled \(.*Failed to find C compiler[^\n]*\)$"):
        compiled_for(2)


def test_the_worker_says_which_setting_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Failing:
        def __init__(self, bundle: Any, **options: Any) -> None:
            assert options["compile"] == "on"

        def warm_up(self, known: Profile | None, **options: Any) -> Profile:
            raise CannotCompile("the model cannot be compiled (no gcc)")

    monkeypatch.setattr(profiles, "Engine", Failing)
    monkeypatch.setattr(profiles, "_circumstances", lambda bundle, settings: {})
    monkeypatch.setattr(profiles, "keep_compiled", lambda folder: None)
    bundle: Any = SimpleNamespace(checker=None, device=torch.device("cpu"))
    with pytest.raises(ModelError, match=r"^DARKROOM_COMPILE: the model cannot be compiled \(no gcc\); auto goes on"):
        profiles.start_engine(bundle, bundle, WorkerSettings(profile_folder=tmp_path, compile="on"))


def test_memory_that_is_full_says_nothing_about_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(compiled, "BACKEND", lambda graph, given: full)
    denoiser = CompiledDenoiser(Twice(), strict=False)
    with denoiser.compiling(), pytest.raises(torch.OutOfMemoryError):
        call(denoiser, 2)
    assert not denoiser.is_given_up
    torch._dynamo.reset()


def test_auto_compiles_nothing_on_a_cpu(epsilon_bundle: Bundle) -> None:
    assert engine_of(epsilon_bundle, compile="auto")._lanes.compiled is None
