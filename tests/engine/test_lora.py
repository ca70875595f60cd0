"""LoRAs by row: a sample in a mixed batch = merged weights alone = the stock pipeline, and neighbours lose no bit."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from app.contract.messages.deep_cache import Cache
from app.contract.messages.inputs import Lora
from tests.engine.driving import Recorder, distance, drain, engine_of, final_latents, last_events, run, stock, wish
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_loras import Factors, factors, is_any, is_attention, merge, save_kohya, save_peft
from tests.engine.tiny_models import SD2, save_tiny_model, save_tiny_xl
from tests.waiting import WAIT_SECONDS
from worker.engine.events import Failed, Finished
from worker.engine.request import Request
from worker.models.adapters import bank_values
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

ALPHA = 2.0


@dataclasses.dataclass(frozen=True)
class Kit:
    """A tiny model: `plain` without adapters, `bundle` with those of `folder`; what each of them does to the weights,
    and how much of that."""

    plain: Bundle
    bundle: Bundle
    folder: Path
    made: dict[str, Factors]
    scales: dict[str, float]

    def merged(self, loras: Sequence[Lora]) -> Bundle:
        merged = copy.deepcopy(self.plain)
        for lora in loras:
            merge(merged, self.made[lora.name], scale=lora.weight * self.scales[lora.name])
        return merged


@pytest.fixture(scope="module", params=["sd1", "sd2", "xl"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """`ink` is kohya's, of attention; `full` is diffusers', of every layer of the UNet; `words` changes text encoders
    and nothing else; `both` changes both, with another rank."""
    folder, loras = tmp_path_factory.mktemp("model") / "tiny", tmp_path_factory.mktemp("loras")
    is_xl = request.param == "xl"
    layouts = {"sd1": {"prediction_type": "epsilon"}, "sd2": {"prediction_type": "v_prediction", "unet": SD2}}
    with quiet_libraries():
        plain = load(save_tiny_xl(folder) if is_xl else save_tiny_model(folder, **layouts[request.param]))
    texts = ("text_encoder", "text_encoder_2") if is_xl else ("text_encoder",)
    made = {
        "ink": factors(plain, rank=4, seed=1, chosen=is_attention),
        "full": factors(plain, rank=3, seed=2, chosen=is_any),
        "words": factors(plain, rank=2, seed=3, parts=texts, chosen=is_any),
        "both": factors(plain, rank=17, seed=4, parts=("unet", *texts), chosen=is_attention),
    }
    for name in ("ink", "words", "both"):
        save_kohya(loras / f"{name}.safetensors", made[name], alpha=ALPHA, xl=is_xl)
    save_peft(loras / "full.safetensors", made["full"])
    with quiet_libraries():
        bundle = load(folder, loras=loras)
    scales = {"ink": ALPHA / 4, "full": 1.0, "words": ALPHA / 2, "both": ALPHA / 17}
    return Kit(plain, bundle, loras, made, scales)


def with_loras(id: str, *named: tuple[str, float], **changes: Any) -> Request:
    loras = tuple(Lora(name=name, weight=weight) for name, weight in named)
    return wish(id, loras=loras, num_inference_steps=4, **changes)


def together(bundle: Bundle, *requests: Request) -> list[torch.Tensor]:
    """Latents of requests that take their first step together, in the order in which they were decoded."""
    recorder = Recorder(bundle)
    engine = engine_of(dataclasses.replace(bundle, vae=recorder))
    for request in requests:
        engine.submit(request)
    for job in engine._jobs.all():
        for each in job.awaited:
            each.result(WAIT_SECONDS)
    assert all(isinstance(event, Finished) for event in last_events(drain(engine)).values())
    return recorder.latents


def test_all_of_them_fit(kit: Kit) -> None:
    assert sorted(kit.bundle.loras) == ["both", "full", "ink", "words"]
    assert [name for name, file in kit.bundle.loras.items() if file.reads_text] == ["both", "words"]


def test_what_the_bank_takes_is_known_beforehand(kit: Kit) -> None:
    engine = engine_of(kit.bundle)
    bank = engine._family._adapters.bank
    assert bank.nbytes == bank_values(kit.bundle.loras, kit.bundle.unet) * 4


def test_in_company_a_row_is_drawn_as_with_merged_weights(kit: Kit) -> None:
    """One, none, two, two at once and a weight below zero, guided and not, in one batch with several solvers."""
    requests = [
        with_loras("a", ("ink", 0.8), scheduler="dpmpp_2m"),
        with_loras("b", seed=8),
        with_loras("c", ("full", 0.5), ("ink", 0.4), seed=9, scheduler="euler_a"),
        with_loras("d", ("ink", -0.7), seed=10, guidance_scale=1.0),
        with_loras("e", ("both", 1.0), ("full", 0.3), ("ink", 0.2), ("words", 0.9), seed=11, negative_prompt="a dog"),
        with_loras("f", ("words", 0.5), ("full", 0.1), ("full", 0.2), seed=12),
    ]
    mixed = together(kit.bundle, *requests)
    for request in requests:
        expected = stock(kit.merged(request.loras), request, output_type="latent")
        assert min(distance(latents, expected) for latents in mixed) <= IN_COMPANY, request.id


def test_features_kept_by_seat_are_those_of_the_merged_weights(kit: Kit) -> None:
    """A LoRA of deep layers enters through them, one of outer layers at every evaluation."""
    cache = Cache(interval=2)
    requests = [
        with_loras("a", ("full", 0.2), cache=cache, seed=7),
        with_loras("b", ("both", 0.6), ("ink", 0.3), cache=cache, seed=8, scheduler="euler"),
        with_loras("c", cache=cache, seed=9),
        with_loras("d", ("ink", 0.4), seed=10),
    ]
    mixed = together(kit.bundle, *requests)
    for request in requests:
        merged, plain = kit.merged(request.loras), request.model_copy(update={"loras": ()})
        [expected] = final_latents(merged, plain)
        assert min(distance(latents, expected) for latents in mixed) <= IN_COMPANY, request.id


def test_each_reaches_its_picture(kit: Kit) -> None:
    """The tolerance of the equation is far below what a LoRA changes."""
    [plain] = final_latents(kit.bundle, with_loras("a"))
    for name in kit.bundle.loras:
        [changed] = final_latents(kit.bundle, with_loras("a", (name, 0.3)))
        assert distance(changed, plain) > 25 * IN_COMPANY, name


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_it_is_the_stock_pipelines_load_lora_weights(kit: Kit) -> None:
    own = copy.deepcopy(kit.plain)
    asked = with_loras("a", ("full", 0.4), ("ink", 0.6), ("both", 0.3))
    expected = stock_with_loras(own, asked, kit.folder)
    [latents] = final_latents(kit.bundle, asked)
    # peft adds three products to a layer's answer, one after the other: their rounding is more than that of a batch.
    assert distance(latents, expected) <= 2 * IN_COMPANY


def stock_with_loras(bundle: Bundle, request: Request, folder: Path) -> torch.Tensor:
    from tests.engine import driving

    made = driving.stock_pipeline

    def with_adapters(*arguments: Any) -> Any:
        pipeline = made(*arguments)
        for lora in request.loras:
            pipeline.load_lora_weights(str(folder / f"{lora.name}.safetensors"), adapter_name=lora.name)
        pipeline.set_adapters([each.name for each in request.loras], [each.weight for each in request.loras])
        return pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driving, "stock_pipeline", with_adapters)
        latents: torch.Tensor = stock(bundle, request, output_type="latent")
        return latents


def test_neighbours_lose_no_bit(kit: Kit) -> None:
    """The same neighbours in the same company, once with LoRAs and once without: plain rows are equal bit by bit."""
    neighbours = [with_loras("n", seed=1), with_loras("o", seed=2, guidance_scale=1.0)]
    with_them = together(kit.bundle, *neighbours, with_loras("a", ("full", 1.0)), with_loras("b", ("ink", 1.0)))
    without = together(kit.plain, *neighbours, with_loras("a"), with_loras("b"))
    own_of = {"n": 0, "o": 1}
    for name, place in own_of.items():
        assert torch.equal(with_them[place], without[place]), name
    assert not torch.equal(with_them[2], without[2])


def test_a_weight_of_zero_is_none(kit: Kit) -> None:
    [zero] = final_latents(kit.bundle, with_loras("a", ("full", 0.0)))
    [none] = final_latents(kit.plain, with_loras("a"))
    assert torch.equal(zero, none)


def test_a_lora_that_is_not_there_fails_by_a_sentence(kit: Kit) -> None:
    last = run(engine_of(kit.bundle), with_loras("a", ("nobody", 1.0)), with_loras("b"))
    assert isinstance(last["b"], Finished)
    assert isinstance(last["a"], Failed)
    assert last["a"].error.detail == "There is no LoRA nobody here."


def test_one_that_makes_a_model_draw_in_few_steps(kit: Kit) -> None:
    """As LCM-LoRA: every layer of the UNet, weight 1, its scheduler and no guidance, beside plain pictures."""
    asked = with_loras("a", ("full", 1.0), scheduler="lcm", guidance_scale=1.0)
    mixed = together(kit.bundle, asked, with_loras("b", seed=2))
    expected = stock(kit.merged(asked.loras), asked, output_type="latent")
    assert min(distance(latents, expected) for latents in mixed) <= IN_COMPANY
