"""Decoding with little memory: fewer together, then tiles, and a word about it; as before where there is enough."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.driving import drain, engine_of, run, scripted, wish
from tests.engine.tiny_models import SIDE
from tests.waiting import WAIT_SECONDS
from worker.engine.costs import SPARE, Memory, Profile
from worker.engine.decode import Decoded
from worker.engine.engine import Engine
from worker.engine.errors import engine_error
from worker.engine.events import Failed, Finished
from worker.engine.tiles import in_tiles
from worker.models.bundle import Bundle

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class Vae:
    """The bundle's VAE, which notes the shapes it decodes, and refuses those that `fits` does not like."""

    def __init__(self, bundle: Bundle, fits: Callable[[torch.Size], bool] = lambda shape: True) -> None:
        self._vae, self._fits = bundle.vae, fits
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, z: torch.Tensor, **options: Any) -> Any:
        if not self._fits(z.shape):
            raise RuntimeError(ALLOCATOR)
        self.shapes.append(tuple(z.shape))
        return self._vae.decode(z, **options)


def engine_with(
    bundle: Bundle, memory: Memory | None = None, fits: Callable[[torch.Size], bool] = lambda shape: True
) -> tuple[Engine, Vae]:
    vae = Vae(bundle, fits)
    engine = engine_of(dataclasses.replace(bundle, vae=vae))
    engine.costs.memory = memory
    return engine, vae


def room_for(pictures: float) -> Memory:
    """Native ones in a decode, and any number of rows."""
    return Memory(free=1e9, step=0.0, row=1.0, picture=1.0, free_now=lambda: 1.001 * pictures / (1 - SPARE))


def pictures_of(event: object) -> list[np.ndarray]:
    assert isinstance(event, Finished), event
    return event.pictures


@pytest.mark.parametrize(("room", "batches"), [(9.0, [4, 2]), (4.0, [4, 2]), (3.5, [3, 3]), (1.0, [1] * 6)])
def test_so_many_are_decoded_together_as_there_is_memory_for(
    epsilon_bundle: Bundle, room: float, batches: list[int]
) -> None:
    engine, vae = engine_with(epsilon_bundle, room_for(room))
    [last] = run(engine, wish(num_images=6, num_inference_steps=1)).values()
    assert [shape[0] for shape in vae.shapes] == batches
    assert pictures_of(last)
    assert last.warnings == []


class InOrder:
    """A VAE that notes in `log`, as d3 for three pictures, what it decodes, where a UNet notes its steps."""

    def __init__(self, bundle: Bundle, log: list[str]) -> None:
        self._vae, self._log = bundle.vae, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, z: torch.Tensor, **options: Any) -> Any:
        self._log.append(f"d{len(z)}")
        return self._vae.decode(z, **options)


@pytest.mark.parametrize(
    ("decode_seconds", "order"),
    [
        (3.9, "s7 d2 s1 d1 s1 d1 s1 d1 s1 d1 s1 d1"),
        (0.5, "s7 d4 s1 d2 s1 s1 s1 s1 d1"),
        (99.0, "s7 d1 s1 d1 s1 d1 s1 d1 s1 d1 s1 d2"),
    ],
)
def test_nobodys_next_step_is_later_by_more_than_a_step(
    epsilon_bundle: Bundle, decode_seconds: float, order: str
) -> None:
    """Six pictures of one step, and one of more, which waits for no more decodes than a step takes: eight seconds for
    seven rows, one for a row alone. One picture is decoded in any case; all that fit are, where nobody waits."""
    log: list[str] = []
    bundle, _ = scripted(epsilon_bundle, lambda call, rows: log.append(f"s{len(rows)}"))
    engine = engine_of(dataclasses.replace(bundle, vae=InOrder(bundle, log)))
    engine.costs.profile = Profile(
        None, engine.costs.row(engine.costs.native), {}, seconds={7: 8.0}, decode_seconds=decode_seconds
    )
    run(
        engine,
        wish("short", guidance_scale=1.0, num_images=6, num_inference_steps=1),
        wish("long", guidance_scale=1.0),
    )
    assert " ".join(log) == order


def test_what_is_free_is_asked_each_time(epsilon_bundle: Bundle) -> None:
    rooms = iter([1.0, 4.0])
    memory = dataclasses.replace(room_for(1.0), free_now=lambda: 1.001 * next(rooms) / (1 - SPARE))
    engine, vae = engine_with(epsilon_bundle, memory)
    run(engine, wish(num_images=4, num_inference_steps=1))
    assert [shape[0] for shape in vae.shapes] == [1, 3]


def test_large_pictures_are_decoded_one_by_one(epsilon_bundle: Bundle) -> None:
    """Four of native size fit, and so does one of four times that."""
    engine, vae = engine_with(epsilon_bundle, room_for(4.0))
    run(engine, wish("large", width=2 * SIDE, height=2 * SIDE, num_images=3, num_inference_steps=1))
    assert [shape[0] for shape in vae.shapes] == [1, 1, 1]


def test_a_picture_too_large_for_memory_comes_in_tiles_and_says_so(epsilon_bundle: Bundle) -> None:
    """Memory for the native size alone, and a picture of 64 x 48 latents."""
    large = wish(width=4 * SIDE, height=3 * SIDE, num_inference_steps=2)
    plenty, whole = engine_with(epsilon_bundle, room_for(12.0))
    scarce, tiled = engine_with(epsilon_bundle, room_for(4.0))
    [expected], [found] = (pictures_of(run(engine, large)["a"]) for engine in (plenty, scarce))
    assert whole.shapes == [(1, 4, 48, 64)]
    assert len(tiled.shapes) > 1
    assert all(max(shape[-2:]) <= 32 for shape in tiled.shapes)
    assert found.shape == expected.shape == (3 * SIDE, 4 * SIDE, 3)
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.mean() < 0.25 * expected.std(), "the same picture"


def test_a_tiled_picture_carries_a_warning(epsilon_bundle: Bundle) -> None:
    engine, _ = engine_with(epsilon_bundle, room_for(3.0))
    last = run(engine, wish("a", width=4 * SIDE, num_inference_steps=1), wish("b", num_inference_steps=1))
    assert isinstance(last["a"], Finished)
    assert isinstance(last["b"], Finished)
    assert len(last["a"].warnings) == 1
    assert "tiles" in last["a"].warnings[0]
    assert last["b"].warnings == []


def test_an_allocator_that_refuses_is_out_of_memory(epsilon_bundle: Bundle) -> None:
    """Nothing was known beforehand: halves first, then tiles, and the native size at its side notices nothing."""
    engine, _ = engine_with(epsilon_bundle, None, fits=lambda shape: shape.numel() <= 4 * 16 * 40)
    last = run(
        engine,
        wish("wide", width=4 * SIDE, num_images=2, num_inference_steps=1),
        wish("native", num_images=3, num_inference_steps=1),
    )
    assert len(pictures_of(last["wide"])) == 2
    assert "tiles" in last["wide"].warnings[0]
    assert last["native"].warnings == []


def test_room_is_made_before_a_picture_comes_in_tiles(epsilon_bundle: Bundle) -> None:
    """What an empty lane keeps is let go, and the whole picture is tried once more."""
    tried: list[torch.Size] = []

    def fits(shape: torch.Size) -> bool:
        tried.append(shape)
        return shape[-1] < 64 or len(engine._lanes._lanes) == 1

    engine, _ = engine_with(epsilon_bundle, None, fits=fits)
    run(engine, wish("before", num_inference_steps=1))
    last = run(engine, wish("wide", width=4 * SIDE, num_inference_steps=1))["wide"]
    assert pictures_of(last)
    assert last.warnings == []
    assert [shape[-1] for shape in tried] == [16, 64, 64]


def test_fewer_are_decoded_together_once_there_was_no_memory_for_more(epsilon_bundle: Bundle) -> None:
    tried: list[int] = []

    def fits(shape: torch.Size) -> bool:
        tried.append(shape[0])
        return shape[0] <= 2

    engine, _ = engine_with(epsilon_bundle, None, fits=fits)
    assert len(pictures_of(run(engine, wish(num_images=8, num_inference_steps=1))["a"])) == 8
    assert tried == [4, 2, 2, 2, 2]


def test_pictures_that_do_not_come_to_the_host_whole_come_in_tiles(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device may be full when they are made into bytes as well."""
    refused = iter([True])

    class Full(Decoded):
        def __init__(self, images: torch.Tensor, *others: Any) -> None:
            if next(refused, False):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().__init__(images, *others)

    monkeypatch.setattr("worker.engine.decode.Decoded", Full)
    last = run(engine_with(epsilon_bundle)[0], wish("wide", width=4 * SIDE, num_inference_steps=1))["wide"]
    assert pictures_of(last)
    assert "tiles" in last.warnings[0]


def test_where_not_even_tiles_fit_that_job_fails_alone(epsilon_bundle: Bundle) -> None:
    engine, _ = engine_with(epsilon_bundle, None, fits=lambda shape: shape[-1] <= 16)
    last = run(engine, wish("wide", width=4 * SIDE, num_inference_steps=1), wish("native", num_inference_steps=1))
    assert isinstance(last["wide"], Failed)
    assert last["wide"].error.slug == "out-of-memory"
    assert isinstance(last["native"], Finished)


def test_other_errors_of_a_decode_are_not_repeated_in_tiles(epsilon_bundle: Bundle) -> None:
    calls = []

    def broken(shape: torch.Size) -> bool:
        calls.append(shape)
        raise ValueError("no")

    engine, _ = engine_with(epsilon_bundle, None, fits=broken)
    engine.submit(wish(num_inference_steps=1))
    [last] = [event for event in drain(engine) if isinstance(event, Failed)]
    assert last.error.slug == "generation-failed"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ALLOCATOR),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=lambda error: str(error)[:12],
)
def test_whatever_says_that_memory_is_full_is_recognised(error: Exception) -> None:
    assert engine_error(error, stage="decode").slug == "out-of-memory"


REAL = """
import resource, torch
from worker.engine.errors import engine_error
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
try:
    torch.zeros(2**30)
except Exception as error:
    print(type(error).__name__, engine_error(error, stage="decode").slug)
"""


def test_torchs_own_allocator_is_recognised() -> None:
    """In a process that may have no more memory than it has: what it says there is torch's own word."""
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, check=True, timeout=WAIT_SECONDS
    )
    assert done.stdout.split() == ["RuntimeError", "out-of-memory"]


@pytest.mark.parametrize(("height", "width", "tile"), [(32, 32, 32), (33, 32, 32), (80, 50, 32), (64, 200, 40)])
def test_tiles_of_a_decoder_that_sees_no_further_than_a_pixel_are_seamless(height: int, width: int, tile: int) -> None:
    """Nearest-neighbour enlargement knows no neighbours: the tiles must give what the whole gives."""
    latents = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    sizes: list[tuple[int, ...]] = []

    def enlarge(z: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(z.shape[-2:]))
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)

    found = in_tiles(enlarge, latents, tile=tile, leaves=2)
    whole = latents.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(found, whole, atol=1e-5)
    assert all(size <= (tile, tile) and max(size) <= tile for size in sizes)
