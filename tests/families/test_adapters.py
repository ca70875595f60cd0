"""Which LoRAs are in the bank: as many as fit, the last used ones; who finds no room waits, and nobody overtakes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from app.contract.messages.inputs import Lora
from tests.engine.driving import Recorder, distance, drain, engine_of, final_latents, last_events, stock, wish
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_loras import Factors, factors, is_any, is_attention, merge, save_peft
from tests.engine.tiny_models import SIDE, save_tiny_model
from worker.engine.events import Failed, Finished, Started
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.families.lora_bank import filled_up
from worker.models import adapters
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

NAMES = "abcdef"


@dataclasses.dataclass(frozen=True)
class Files:
    """Folders of a tiny model and of six LoRAs with ranks 5 to 10, the model by itself, and what is in the files."""

    folder: Path
    loras: Path
    plain: Bundle
    factors: dict[str, Factors]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, loras = tmp_path_factory.mktemp("model") / "tiny", tmp_path_factory.mktemp("loras")
    with quiet_libraries():
        plain = load(save_tiny_model(folder, prediction_type="epsilon"))
    all_of_them = {
        name: factors(plain, rank=5 + k, seed=k, chosen=is_any if k % 2 else is_attention)
        for k, name in enumerate(NAMES)
    }
    for name, each in all_of_them.items():
        save_peft(loras / f"{name}.safetensors", each)
    return Files(folder, loras, plain, all_of_them)


@pytest.fixture
def small(made: Files, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The model with room for the four largest of them alone."""
    monkeypatch.setattr(adapters, "WORKING_SET", 0)
    with quiet_libraries():
        return load(made.folder, loras=made.loras)


def asking(id: str, names: str, **changes: Any) -> Request:
    """For those LoRAs, half of each."""
    loras = tuple(Lora(name=name, weight=0.5) for name in names)
    return wish(id, **({"loras": loras, "num_inference_steps": 3, "seed": ord(id)} | changes))


def expected(made: Files, request: Request) -> torch.Tensor:
    merged = copy.deepcopy(made.plain)
    for lora in request.loras:
        merge(merged, made.factors[lora.name], scale=lora.weight)
    latents: torch.Tensor = stock(merged, request, output_type="latent")
    return latents


def test_who_finds_no_room_waits_and_is_not_overtaken(small: Bundle, made: Files) -> None:
    recorder = Recorder(small)
    engine = engine_of(dataclasses.replace(small, vae=recorder), seats=8)
    first, waiting, passing, behind = (
        asking("w", "cdef", num_inference_steps=4),
        asking("x", "ab"),
        asking("y", ""),
        asking("z", "c"),
    )
    for request in (first, waiting, passing, behind):
        engine.submit(request)
    events = drain(engine)
    began = {event.request_id: at for at, event in enumerate(events) if isinstance(event, Started)}
    [first_is_over] = [at for at, event in enumerate(events) if isinstance(event, Finished) and event.request_id == "w"]
    assert began["y"] < first_is_over
    assert min(began["x"], began["z"]) > first_is_over, "the one that waits, or one behind it, had no room yet"
    assert all(isinstance(event, Finished) for event in last_events(events).values())
    for request in (first, waiting, passing, behind):
        wanted = expected(made, request)
        assert min(distance(latents, wanted) for latents in recorder.latents) <= IN_COMPANY, request.id


def test_what_is_brought_in_again_is_what_it_was(small: Bundle, made: Files) -> None:
    """Columns change hands between adapters of other ranks and other layers."""
    recorder = Recorder(small)
    engine = engine_of(dataclasses.replace(small, vae=recorder))
    for k, names in enumerate(("f", "abc", "de", "fa", "bcd", "ef")):
        request = asking("a", names, num_inference_steps=2)
        engine.submit(request)
        drain(engine)
        assert len(recorder.latents) == k + 1
        assert distance(recorder.latents[-1], expected(made, request)) <= IN_COMPANY, names


@pytest.mark.parametrize("how", ["finished", "canceled", "failed"])
def test_room_is_given_back_however_a_job_ends(small: Bundle, how: str) -> None:
    engine = engine_of(small)
    changes = {"clip_skip": 9} if how == "failed" else {}
    engine.submit(asking("a", "cdef", num_inference_steps=50, **changes))
    engine.step()
    if how == "canceled":
        engine.cancel("a")
    engine.submit(asking("b", "ab"))
    last = last_events(drain(engine, most=100))
    assert isinstance(last.get("b"), Finished)


def test_one_that_waits_can_be_canceled(small: Bundle) -> None:
    engine = engine_of(small)
    for request in (asking("a", "cdef"), asking("b", "ab"), asking("c", "a")):
        engine.submit(request)
    engine.step()
    engine.cancel("b")
    assert {name: type(event).__name__ for name, event in last_events(drain(engine)).items()} == {
        "b": "Stopped",
        "a": "Finished",
        "c": "Finished",
    }


def test_a_file_that_is_changed_or_gone_ends_the_job_by_a_sentence(made: Files, tmp_path: Path) -> None:
    for name in "ab":
        save_peft(tmp_path / f"{name}.safetensors", made.factors[name])
    with quiet_libraries():
        engine = engine_of(load(made.folder, loras=tmp_path))
    save_peft(tmp_path / "a.safetensors", made.factors["b"])
    (tmp_path / "b.safetensors").unlink()
    for request in (asking("x", "a"), asking("y", "b"), asking("z", "")):
        engine.submit(request)
    last = last_events(drain(engine))
    assert isinstance(last["z"], Finished)
    sentences = {name: event.error.detail for name, event in last.items() if isinstance(event, Failed)}
    assert sentences == {
        name: f"The LoRA {lora} cannot be read; the worker's log says why." for name, lora in (("x", "a"), ("y", "b"))
    }


def test_the_record_says_which_files_these_were(made: Files, small: Bundle) -> None:
    engine = engine_of(small)
    engine.submit(asking("a", "ca"))
    engine.submit(asking("b", ""))
    last = last_events(drain(engine))
    assert isinstance(last["a"], Finished)
    assert isinstance(last["b"], Finished)
    digest = {name: hashlib.sha256((made.loras / f"{name}.safetensors").read_bytes()).hexdigest() for name in "ac"}
    assert last["a"].drawn_with == {"lora_files": {"c": digest["c"], "a": digest["a"]}}
    assert last["b"].drawn_with == {}


def test_reproducible_pictures_do_not_depend_on_where_their_adapter_lies(small: Bundle) -> None:
    asked = asking("a", "e", reproducible=True)
    [alone] = final_latents(small, asked)
    recorder = Recorder(small)
    engine = engine_of(dataclasses.replace(small, vae=recorder))
    for request in (asking("b", "abc"), asking("c", "df"), asked):
        engine.submit(request)
    drain(engine)
    assert any(torch.equal(latents, alone) for latents in recorder.latents)


def test_a_rescue_in_float32_draws_with_what_is_in_the_bank_now(
    made: Files,
) -> None:
    """The copy of the network is older than the adapter."""
    with quiet_libraries():
        family = family_of(load(made.folder, loras=made.loras, dtype=torch.bfloat16))
    denoiser = family.native.denoiser
    copied = denoiser.in_float32()
    asked = asking("a", "f")
    for future in family.bring(asked):
        future.result()
    chosen = family._adapters.chosen(asked)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 4, SIDE // 4, SIDE // 4, generator=generator), torch.tensor([3.0, 500.0])
    context = torch.randn(2, 32, 32, generator=generator)
    rows = {name: some.values[: some.used].expand(2, -1) for name, some in chosen.some.items()}
    with torch.inference_mode():
        plain, changed = (copied(x, t, {"encoder_hidden_states": context, **more}) for more in ({}, rows))
        half = denoiser(x, t, {"encoder_hidden_states": context.bfloat16(), **rows})
    assert changed.dtype == torch.float32
    assert distance(changed, plain) > 0.1
    assert distance(half.float(), changed) < 0.1


def test_rows_are_filled_up_to_few_sizes() -> None:
    assert [filled_up(n) for n in (1, 16, 17, 64, 100, 128, 129, 300)] == [16, 16, 32, 64, 128, 128, 256, 384]
