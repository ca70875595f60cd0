"""Deep features kept between evaluations: outer layers around features of the same evaluation are the whole network, a
sample in company is the same sample alone, and is what DeepCache written out by hand draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from app.contract.messages.deep_cache import Cache
from tests.engine.driving import distance, drain, engine_of, final_latents, lanes_of, last_events, prepared, run, wish
from tests.engine.pictures import edit, half_mask, picture
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_models import save_tiny_inpainting, save_tiny_kandinsky, save_tiny_model, save_tiny_unclip
from worker.engine.costs import Costs, Memory
from worker.engine.deep import Depth, deep_shape, depth_at
from worker.engine.errors import GenerationFailed
from worker.engine.events import Failed, Finished, Started, Stopped
from worker.engine.noise import normal_noise
from worker.engine.request import Request
from worker.engine.rows import LaneKey, Rows
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load, stock_pipeline
from worker.models.quiet import quiet_libraries

STARTER = Path(__file__).parents[2] / "models" / "starter"


def cached(id: str = "a", interval: int = 3, **changes: Any) -> Request:
    return wish(id, cache=Cache(interval=interval), **changes)


AS_SD: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""The last up block reads the prompt, as in Stable Diffusion; in the other tiny models, SDXL and the starter it does
not."""


@pytest.fixture(scope="module")
def reading_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Whose outermost layers read the prompt."""
    folder = tmp_path_factory.mktemp("models") / "tiny-reading"
    with quiet_libraries():
        return load(save_tiny_model(folder, prediction_type="epsilon", unet=AS_SD), dtype=torch.float32)


@pytest.fixture(scope="module")
def inpainting_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of nine channels."""
    with quiet_libraries():
        return load(save_tiny_inpainting(tmp_path_factory.mktemp("models") / "tiny-inpainting"))


@pytest.fixture(scope="module")
def unclip_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With class labels."""
    with quiet_libraries():
        return load(save_tiny_unclip(tmp_path_factory.mktemp("models") / "tiny-unclip"))


@pytest.fixture(scope="module")
def starter_bundle() -> Bundle:
    with quiet_libraries():
        return load(STARTER, device="cpu", dtype=torch.float32)


BUNDLES = [
    f"{name}_bundle"
    for name in ("epsilon", "reading", "velocity", "xl", "inpainting", "unclip", "starter", "lcm", "half")
]


@pytest.mark.parametrize("name", BUNDLES)
def test_around_features_of_the_same_evaluation_it_is_the_whole_network(
    name: str, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    native, generator = family_of(bundle).native, torch.Generator().manual_seed(0)
    denoiser: Any = native.denoiser
    x, t = torch.randn(3, *native.latent_shape, generator=generator), torch.tensor([900.0, 500.0, 1.0])
    rows = {name: torch.randn(3, *shape, generator=generator).to(denoiser.dtype) for name, shape in native.conditioning}
    with torch.inference_mode():
        expected = denoiser(x, t, rows)
        whole, deep = denoiser.keeping(x, t, rows)
        outer = denoiser.outer(x, t, rows, deep.clone())
        other = denoiser.outer(x, t, rows, torch.zeros_like(deep))
        [alone] = denoiser.outer(x[1:2], t[1:2], {name: each[1:2] for name, each in rows.items()}, deep[1:2].clone())
    assert tuple(deep.shape) == (3, *deep_shape(denoiser, native.latent_shape))
    assert torch.equal(whole, expected)
    assert torch.equal(outer, expected)
    assert not torch.allclose(other, expected, rtol=0.1), "the features count"
    if denoiser.dtype == torch.float32:
        assert distance(alone, outer[1]) <= IN_COMPANY


def test_every_so_many_evaluations_are_whole_and_phases_are_spread() -> None:
    for interval in (2, 3, 5, 10):
        for phase in range(3 * interval):
            depths = [depth_at(i, interval=interval, phase=phase) for i in range(40)]
            assert depths[0] is Depth.KEEPING
            assert Depth.WHOLE not in depths
            gaps = [i for i, depth in enumerate(depths) if depth is Depth.KEEPING]
            assert all(b - a <= interval for a, b in pairwise(gaps))
            assert 40 / interval <= len(gaps) <= 40 / interval + 2
        for i in range(1, 40):
            at_once = [depth_at(i, interval=interval, phase=seed) for seed in range(interval)]
            assert at_once.count(Depth.KEEPING) == 1
    assert {depth_at(i, interval=1, phase=i) for i in range(9)} == {Depth.WHOLE}


def by_hand(bundle: Bundle, request: Request) -> torch.Tensor:
    """Latents [C, h, w] by diffusers' scheduler and the UNet's blocks one by one, of a request that draws no noise on
    the way."""
    unet, interval = bundle.unet, request.cache.interval if request.cache else 1
    with quiet_libraries():
        pipeline = stock_pipeline(bundle, request.scheduler)
    with torch.inference_mode():
        prompt, negative = pipeline.encode_prompt(request.prompt, "cpu", 1, True, negative_prompt="")
        context, scheduler, last = torch.cat([negative, prompt]), pipeline.scheduler, unet.up_blocks[-1]
        scheduler.set_timesteps(request.num_inference_steps)
        shape = bundle.latent_shape(request.height, request.width)
        x = normal_noise(shape, torch.Generator().manual_seed(request.seed))[None] * scheduler.init_noise_sigma
        kept = torch.zeros(0)
        for i, t in enumerate(scheduler.timesteps):
            entering = scheduler.scale_model_input(torch.cat([x, x]), t)
            if i == 0 or (i + request.seed) % interval == 0:
                seen: list[torch.Tensor] = []
                with last.resnets[-1].register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0])):
                    m = unet(entering, t, encoder_hidden_states=context).sample
                kept = seen[0][:, : -unet.config.block_out_channels[0]]
            else:
                time = unet.time_embedding(unet.time_proj(t.expand(2)).to(x.dtype))
                h = last.resnets[-1](torch.cat([kept, unet.conv_in(entering)], 1), time)
                if hasattr(last, "attentions"):
                    [h] = last.attentions[-1](h, encoder_hidden_states=context, return_dict=False)
                m = unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
            u, c = m.chunk(2)
            x = scheduler.step(u + request.guidance_scale * (c - u), t, x).prev_sample
    return x[0]


IN_PHASES = [
    cached("a", 3, seed=7),
    cached("b", 2, seed=8, scheduler="dpmpp_2m", num_inference_steps=7),
    cached("c", 3, seed=9, scheduler="euler", num_inference_steps=5, guidance_scale=2.0),
    cached("d", 10, seed=10, num_inference_steps=4),
]
COMPANY = [wish("e", seed=3, scheduler="euler_a"), wish("f", seed=4, guidance_scale=1.0), wish("g", guidance_end=0.5)]


@pytest.mark.parametrize("name", ["reading_bundle", "velocity_bundle"])
def test_in_company_it_is_what_is_written_out_by_hand(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    together = final_latents(bundle, *IN_PHASES, *COMPANY, seats=5)
    for asked in IN_PHASES:
        assert min(distance(latents, by_hand(bundle, asked)) for latents in together) <= IN_COMPANY, asked.id
    for asked in COMPANY:
        [alone] = final_latents(bundle, asked)
        assert min(distance(latents, alone) for latents in together) <= IN_COMPANY, asked.id


def test_it_reaches_the_picture_and_an_interval_of_one_does_not(epsilon_bundle: Bundle) -> None:
    [plain] = final_latents(epsilon_bundle, wish(reproducible=True))
    [one] = final_latents(epsilon_bundle, cached(interval=1, reproducible=True))
    [two] = final_latents(epsilon_bundle, cached(interval=2, reproducible=True))
    assert torch.equal(plain, one)
    assert distance(two, plain) > 25 * IN_COMPANY


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [
        ({"num_inference_steps": 1}, 1),
        ({"num_inference_steps": 1, "num_images": 2}, 1),
        ({"num_inference_steps": 2, "interval": 2, "seed": 7}, 2),
        ({"num_inference_steps": 2, "interval": 2, "seed": 8}, None),
        ({"num_inference_steps": 2, "interval": 2, "seed": 7, "num_images": 2}, None),
        ({"num_inference_steps": 2, "seed": 7}, None),
        ({"num_inference_steps": 1, "interval": 1}, None),
    ],
)
def test_where_every_evaluation_is_of_the_whole_network_it_is_said(
    epsilon_bundle: Bundle, changes: dict[str, Any], evaluations: int | None
) -> None:
    """And there only: the picture is the same as without."""
    asked = cached(scheduler="ddim", **changes)
    [told] = prepared(epsilon_bundle, asked)
    warning = f"cache had no effect: with {evaluations} evaluation{'s' * (evaluations == 2)} of the model there is none"
    assert [each.startswith(warning) for each in told.warnings] == [True] * bool(evaluations)  # type: ignore[union-attr]
    plain = asked.model_copy(update={"cache": None})
    pairs = zip(final_latents(epsilon_bundle, asked), final_latents(epsilon_bundle, plain), strict=True)
    idle = evaluations is not None or asked.cache == Cache(interval=1)
    assert all(distance(one, other) <= IN_COMPANY for one, other in pairs) == idle


def test_reproducible_bits_are_the_same_in_company(epsilon_bundle: Bundle) -> None:
    asked = cached(reproducible=True, guidance_end=0.7)
    [alone] = final_latents(epsilon_bundle, asked)
    assert any(torch.equal(alone, latents) for latents in final_latents(epsilon_bundle, asked, *IN_PHASES[1:]))


@pytest.mark.parametrize("name", ["xl_bundle", "inpainting_bundle", "unclip_bundle"])
def test_other_families_and_edits(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    assert "cache" in bundle.takes
    is_unclip = name == "unclip_bundle"
    plain = wish("a", width=64, height=64) if is_unclip else edit("a", picture(), half_mask(), strength=0.8)
    saved = plain.model_copy(update={"cache": Cache(interval=2)})
    others = [
        plain.model_copy(update={"id": "b", "seed": 8, "cache": Cache(interval=3)}),
        plain.model_copy(update={"id": "c", "seed": 1}),
    ]
    [drawn], [unlike] = final_latents(bundle, saved), final_latents(bundle, plain)
    assert min(distance(latents, drawn) for latents in final_latents(bundle, saved, *others)) <= IN_COMPANY
    assert distance(drawn, unlike) > 10 * IN_COMPANY


@contextmanager
def rows_of(bundle: Bundle) -> Iterator[list[tuple[int, int]]]:
    """Of each launch, the rows that the middle block and the last convolution saw."""
    seen: list[tuple[int, int]] = []
    whole: list[int] = []

    def middle(module: Any, given: Any) -> None:
        whole.append(len(given[0]))

    def last(module: Any, given: Any) -> None:
        seen.append((whole.pop() if whole else 0, len(given[0])))

    with (
        bundle.unet.mid_block.register_forward_pre_hook(middle),
        bundle.unet.conv_out.register_forward_pre_hook(last),
    ):
        yield seen


def test_each_step_after_the_first_holds_a_third_of_whole_rows(epsilon_bundle: Bundle) -> None:
    with rows_of(epsilon_bundle) as rows:
        assert isinstance(run(engine_of(epsilon_bundle), cached(num_images=6, num_inference_steps=4))["a"], Finished)
    assert rows == [(12, 12)] + [(4, 4), (0, 8)] * 3


def test_who_keeps_features_shares_the_whole_networks_step_with_who_does_not(epsilon_bundle: Bundle) -> None:
    with rows_of(epsilon_bundle) as rows:
        run(engine_of(epsilon_bundle), cached("a", 2, num_inference_steps=3, seed=0), wish("b", num_inference_steps=3))
    assert rows == [(4, 4), (2, 2), (0, 2), (4, 4)]


def test_a_seat_begins_anew_with_the_whole_network(epsilon_bundle: Bundle) -> None:
    """One after a canceled sample, and for another size, whose features have another shape."""
    engine = engine_of(epsilon_bundle, seats=1)
    following = [cached("next", seed=2), cached("wide", seed=2, width=2 * wish().width)]
    for asked in (cached("gone", num_inference_steps=9, seed=2), *following):
        engine.submit(asked)
    events = [event for _ in range(3) for event in engine.step()]
    engine.cancel("gone")
    last = last_events(events + drain(engine))
    assert isinstance(last["gone"], Stopped)
    for asked in following:
        ours, alone = last[asked.id], run(engine_of(epsilon_bundle), asked)[asked.id]
        assert isinstance(ours, Finished)
        assert isinstance(alone, Finished)
        assert (ours.images[0].pixels == alone.images[0].pixels).all()


@contextmanager
def once(module: torch.nn.Module, spoil: Callable[[torch.Tensor], torch.Tensor], *, call: int) -> Iterator[None]:
    """The output of one call of a module is another."""
    calls = 0

    def hook(_: Any, given: Any, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal calls
        calls += 1
        return spoil(output) if calls == call else None

    with module.register_forward_hook(hook):
        yield


def test_a_rescued_sample_begins_anew_with_the_whole_network(epsilon_bundle: Bundle) -> None:
    [plain] = final_latents(epsilon_bundle, cached())
    with once(epsilon_bundle.unet.conv_out, lambda output: output * torch.nan, call=4):
        [again] = final_latents(epsilon_bundle, cached())
    assert distance(again, plain) <= IN_COMPANY


def test_what_the_outer_layers_have_no_memory_for_does_not_repeat_the_others(epsilon_bundle: Bundle) -> None:
    """They are launched after the whole network's rows have taken their step."""

    def full(output: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    asked = [cached("a", 3, seed=0), cached("b", 3, seed=1), cached("c", 3, seed=2)]
    alone = [final_latents(epsilon_bundle, each)[0] for each in asked]
    with once(epsilon_bundle.unet.conv_out, full, call=3):
        together = final_latents(epsilon_bundle, *asked)
    for latents in alone:
        assert min(distance(each, latents) for each in together) <= IN_COMPANY


def test_features_take_memory_once_somebody_keeps_them_and_all_of_it_is_counted(epsilon_bundle: Bundle) -> None:
    lanes, [plain] = lanes_of(epsilon_bundle, seats=3), prepared(epsilon_bundle, wish())
    lane = lanes.open(lanes.native)
    rows: Rows = plain.passes[0].rows  # type: ignore[union-attr]
    lane.take_seat(rows)
    assert lane.step.deep is None
    lane.take_seat(rows, keeps_deep=True)
    assert lane.step.deep is not None
    assert lane.deep_bytes == lane.step.deep.nbytes == 8 * 32 * lanes.native.latent_shape[1] ** 2 * 4


def test_features_for_which_there_is_no_memory_cost_one_request_and_no_process(epsilon_bundle: Bundle) -> None:
    """A CPU's allocator takes whatever it is asked for: what is free is asked before. Lanes in which nobody sits make
    place."""
    free, engine = list[float](), engine_of(epsilon_bundle, seats=3)
    engine.costs.memory = Memory(1e12, step=0.0, row=1.0, free_now=lambda: free.pop(0) if free else 1e12)
    needed = engine._lanes.open(engine._lanes.native).deep_bytes
    free[:] = [needed - 1.0, 1.1 * needed]
    engine.submit(cached())
    assert engine.step()[0] == Started("a")
    assert free == []
    [ended] = last_events(drain(engine)).values()
    assert isinstance(ended, Finished)
    engine._lanes.drop_idle()
    free[:] = [needed - 1.0] * 2
    ended = run(engine, cached("b"))["b"]
    assert isinstance(ended, Failed)
    assert ended.error.slug == "out-of-memory"
    assert engine.free_seats == 3
    assert isinstance(run(engine, wish("c"))["c"], Finished)


def test_a_row_of_the_outer_layers_costs_what_they_do(epsilon_bundle: Bundle) -> None:
    key: LaneKey = family_of(epsilon_bundle).native
    costs = Costs(key)
    assert 0 < costs.row(key, Depth.OUTER) < 0.5 * costs.row(key) == 0.5 * costs.row(key, Depth.KEEPING)


def test_models_without_such_layers_take_no_cache(tmp_path: Path, epsilon_bundle: Bundle) -> None:
    with quiet_libraries():
        kandinsky = load(save_tiny_kandinsky(tmp_path / "tiny-kandinsky"))
    assert "cache" not in kandinsky.takes
    asked = cached(width=64, height=64, scheduler=kandinsky.defaults.scheduler)
    assert isinstance((refused := run(engine_of(kandinsky), asked)["a"]), Failed)
    assert isinstance(refused.error, GenerationFailed)
    assert "take no cache" in str(refused.error)
    assert "cache" in epsilon_bundle.takes


def test_a_copy_has_outer_layers_of_its_own(half_bundle: Bundle) -> None:
    """One in float32, as a rescue makes it, and one without values, of which operations are counted."""
    denoiser: Any = family_of(half_bundle).native.denoiser
    assert denoiser._outer_layers._shell.conv_in is denoiser.unet.conv_in
    for copied in (denoiser.in_float32(), copy.deepcopy(denoiser)):
        assert copied._outer_layers._shell.conv_in is copied.unet.conv_in is not denoiser.unet.conv_in
