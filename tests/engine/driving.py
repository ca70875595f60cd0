"""Ways to drive an engine by hand, and models that misbehave on cue."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import VQModel
from PIL import Image

from tests.engine.tiny_models import SIDE
from worker.engine.engine import Engine
from worker.engine.errors import EngineError
from worker.engine.events import EngineEvent, Failed, Finished, Stopped
from worker.engine.family import Asked, Prepared
from worker.engine.lanes import Lanes
from worker.engine.request import Request
from worker.engine.solvers import Solvers
from worker.families.choose import family_of
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.pipelines import SIZES
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import FEW, step_limits, step_options


def wish(id: str = "a", **changes: Any) -> Request:
    """A request that a tiny model finishes in six steps."""
    plain: dict[str, Any] = {
        "id": id,
        "prompt": "a red circle",
        "negative_prompt": None,
        "width": SIDE,
        "height": SIDE,
        "num_inference_steps": 6,
        "guidance_scale": 4.0,
        "scheduler": "ddim",
        "seed": 7,
        "num_images": 1,
    }
    return Request(**(plain | changes))


def names_for(model_scheduler: Any) -> tuple[str, ...]:
    """The short names and class names that work with a model of this scheduler."""
    return tuple(step_limits(model_scheduler, max_steps=max(FEW)))


def ends_in_numbers(scheduler: Any, steps: int, **options: float) -> bool:
    """Does the stock scheduler come to its end? Where it takes roots of what rounding left of nothing, that differs
    from one processor to another."""
    scheduler.set_timesteps(steps)
    x = torch.ones(1, 4, 4, 4)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(x), timestep, x, **options).prev_sample
    return bool(x.isfinite().all())


def engine_of(bundle: Bundle, **options: Any) -> Engine:
    return Engine(family_of(bundle), **options)


def lanes_of(bundle: Bundle, *, seats: int) -> Lanes:
    family = family_of(bundle)
    return Lanes(family.native, family.autoencoder, seats=seats)


def prepared(bundle: Bundle, *requests: Request) -> Sequence[Prepared | EngineError]:
    """What the family makes of requests that come at the same time."""
    family, solvers = family_of(bundle), Solvers()
    own = [[solvers.factory(schedule).result() for schedule in family.schedules(each)] for each in requests]
    with torch.inference_mode():
        return family.prepare([Asked(request, each) for request, each in zip(requests, own, strict=True)])


def drain(engine: Engine, *, most: int = 2_000) -> list[EngineEvent]:
    """Step until nothing is open. Fails where a request would wait for ever."""
    events: list[EngineEvent] = []
    for _ in range(most):
        if engine.idle:
            return events
        engine.wait_for_work(0.2)
        events += engine.step()
    raise AssertionError(f"still busy after {most} steps")


def run(engine: Engine, *requests: Request) -> dict[str, EngineEvent]:
    """Submit all at once and drain. The last event of each request."""
    for request in requests:
        engine.submit(request)
    return last_events(drain(engine))


def last_events(events: list[EngineEvent]) -> dict[str, EngineEvent]:
    last = [event for event in events if isinstance(event, Finished | Failed | Stopped)]
    assert len({event.request_id for event in last}) == len(last), "a request ended twice"
    return {event.request_id: event for event in last}


class Recorder:
    """A VAE that keeps the latents it was asked to decode, [C, h, w] each, in the order of decoding.

    Not those that it has encoded just before, if it is asked for the same: they are the previewer's, which learns from
    them.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._vae = bundle.vae
        self.config = bundle.vae.config
        # A MoVQ's latents are not scaled, whatever its configuration says.
        self._scale = 1.0 if isinstance(bundle.vae, VQModel) else self.config.scaling_factor
        self.latents: list[torch.Tensor] = []
        self._encoded = torch.zeros(0)

    def encode(self, images: torch.Tensor) -> Any:
        encoded = self._vae.encode(images)
        self._encoded = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, z: torch.Tensor, **options: Any) -> Any:
        if z.shape != self._encoded.shape or not torch.allclose(z, self._encoded, atol=1e-5):
            self.latents += list((z * self._scale).clone())
        return self._vae.decode(z, **options)


class ScriptedUnet:
    """A UNet that obeys `script(call, rows)` before it answers. `call` counts from 1, `rows` are [B, C, h, w]."""

    def __init__(self, bundle: Bundle, script: Callable[[int, torch.Tensor], None]) -> None:
        self._unet = bundle.unet
        self.config = bundle.unet.config
        self._script = script
        self.batches: list[int] = []

    def __call__(self, rows: torch.Tensor, *args: Any, **options: Any) -> Any:
        self.batches.append(len(rows))
        self._script(len(self.batches), rows)
        return self._unet(rows, *args, **options)


def scripted(bundle: Bundle, script: Callable[[int, torch.Tensor], None]) -> tuple[Bundle, ScriptedUnet]:
    unet = ScriptedUnet(bundle, script)
    return dataclasses.replace(bundle, unet=unet), unet


def final_latents(bundle: Bundle, *requests: Request, seats: int = 16) -> list[torch.Tensor]:
    """Latents of each picture when all requests run at once, in the order in which they were decoded."""
    recorder = Recorder(bundle)
    last = run(engine_of(dataclasses.replace(bundle, vae=recorder), seats=seats), *requests)
    assert all(isinstance(event, Finished) for event in last.values()), last
    return recorder.latents


FROM_A_PICTURE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "LatentConsistencyModelPipeline": "LatentConsistencyModelImg2ImgPipeline",
}
REPAINTING = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline": "StableDiffusionInpaintPipeline",
}
"""diffusers' pipelines by that for text alone."""


def stock(bundle: Bundle, request: Request, *, output_type: str) -> Any:
    """What diffusers' own pipeline makes of the same request: latents [C, h, w], or a picture as a PIL image."""
    return stock_call(bundle, request, output_type=output_type).images[0]


def stock_call(bundle: Bundle, request: Request, **options: Any) -> Any:
    """Diffusers' own pipeline called with the same request."""
    of = {} if request.image is None else FROM_A_PICTURE if request.mask_image is None else REPAINTING
    with quiet_libraries():
        pipeline = stock_pipeline(bundle, request.scheduler, of.get(bundle.family))
        sizes = {name: getattr(request, name) for name in SIZES if getattr(request, name) is not None}
        given = (
            inputs_of(pipeline, request)
            | sizes
            | {
                "prompt": request.prompt,
                "negative_prompt": request.negative_prompt,
                "width": request.width,
                "height": request.height,
                "num_inference_steps": request.num_inference_steps,
                "guidance_scale": request.guidance_scale,
                "guidance_rescale": request.guidance_rescale,
                "clip_skip": request.clip_skip,
                "generator": torch.Generator().manual_seed(request.seed),
                "eta": step_options(request.scheduler)["eta"],
            }
            | options
        )
        takes = inspect.signature(pipeline.__call__).parameters
        return pipeline(**{name: value for name, value in given.items() if name in takes})


def inputs_of(pipeline: Any, request: Request) -> dict[str, Any]:
    """The request's pictures as whoever calls the pipeline has them."""
    if request.image is None:
        return {}
    # Pipelines without a mask draw in the picture's own size.
    picture = Image.fromarray(request.pictures[request.image.sha256]).resize(
        (request.width, request.height), Image.Resampling.LANCZOS
    )
    given = {"image": picture, "strength": request.strength}
    if request.mask_image is not None:
        mask = Image.fromarray(request.pictures[request.mask_image.sha256]).convert("L")
        given["mask_image"] = pipeline.mask_processor.blur(mask, request.mask_blur) if request.mask_blur else mask
    return given


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Greatest difference, in standard deviations of b."""
    return float((a - b).abs().max() / b.std())


class StoppedClock:
    """A clock that only goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
