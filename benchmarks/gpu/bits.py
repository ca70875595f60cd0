"""The reproducible contract (docs/decisions/0011): do a reproducible job's bits depend on its company?"""

from __future__ import annotations

import random

import torch

from benchmarks.gpu.models import finish, full_size, request
from benchmarks.gpu.run import Run, distance
from worker.engine.decodes import Launched
from worker.engine.engine import Engine
from worker.engine.lanes import Graphs
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle

TRIALS = 4


def bits(run: Run) -> None:
    for dtype in run.halves:
        run.section("places", 10, places, dtype)
        run.section("company", 30, in_company, dtype)


def places(run: Run, dtype: torch.dtype) -> None:
    """The UNet alone: does a row's place in a batch of one size change its bits, or even a repetition?"""
    unet = full_size(run, "sd", dtype).unet
    side = unet.config.sample_size
    x = torch.randn(8, 4, side, side, device=run.device, dtype=dtype)
    context = torch.randn(8, 77, 768, device=run.device, dtype=dtype)
    timestep = torch.full((8,), 500.0, device=run.device)

    def rolled(by: int) -> torch.Tensor:
        output: torch.Tensor = unet(x.roll(by, 0), timestep, context.roll(by, 0), return_dict=False)[0]
        return output.roll(-by, 0)

    with torch.inference_mode():
        first = rolled(0)
        same = [torch.equal(first, rolled(by)) for by in (1, 3, 6)]
        run.note(f"place in a batch of 8, {dtype}", same=same, repeat=torch.equal(first, rolled(0)))


def in_company(run: Run, dtype: torch.dtype) -> None:
    """The same reproducible job alone and in three random companies; then with graphs beside without."""
    bundle, alone = full_size(run, "sd", dtype), {}
    ways: tuple[Graphs, ...] = ("off", "auto")
    for graphs in ways:
        latents = _last_latents(bundle, graphs)
        alone[graphs] = latents[0]
        run.note(
            f"bits in company, {dtype}, graphs {graphs}",
            same=[torch.equal(latents[0], other) for other in latents[1:]],
            off_by=max(distance(other, latents[0]) for other in latents[1:]),
        )
    run.note(f"eager equals graphs, {dtype}", bits=torch.equal(alone["off"], alone["auto"]))


class Watched(Engine):
    """Keeps the last latents of each request, as they went into the decoder."""

    def __init__(self, bundle: Bundle, *, graphs: Graphs) -> None:
        super().__init__(family_of(bundle), seats=16, graphs=graphs)
        self.latents: dict[str, torch.Tensor] = {}

    def _take_pictures(self, decoding: list[Launched]) -> None:
        self.latents |= {sample.job.request.id: sample.latents.clone() for sample, _, _ in decoding}
        super()._take_pictures(decoding)


def _last_latents(bundle: Bundle, graphs: Graphs) -> list[torch.Tensor]:
    chance, last = random.Random(1), []
    for trial in range(TRIALS):
        engine = Watched(bundle, graphs=graphs)
        engine.submit(request(bundle, "one", reproducible=True, num_inference_steps=8, scheduler="euler_a"))
        for k in range(0 if trial == 0 else 6):
            for _ in range(chance.randrange(3)):
                engine.step()
            engine.submit(_neighbour(bundle, str(k), chance))
        finish(engine)
        last.append(engine.latents["one"])
    return last


def _neighbour(bundle: Bundle, id: str, chance: random.Random) -> Request:
    return request(
        bundle,
        id,
        reproducible=chance.random() < 0.7,
        seed=chance.randrange(99),
        guidance_scale=chance.choice((1.0, 5.0)),
        num_inference_steps=chance.randrange(2, 9),
    )
