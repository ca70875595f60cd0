"""What every family around a UNet, an autoencoder and the model's own scheduler has in common (Rombach et al. 2022).

Knows how a request becomes a pass once its rows are known. Refuses to know what the rows are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

import torch

from app.contract.messages.deep_cache import interval_of
from worker.engine.deep import keeps_some
from worker.engine.errors import EngineError, GenerationFailed
from worker.engine.family import Asked, Autoencoder, Inputs, Prepared
from worker.engine.guidance import Guidance
from worker.engine.passes import Pass
from worker.engine.request import Request
from worker.engine.rows import LaneKey, LatentShape, Rows
from worker.engine.solver import Schedule
from worker.families.adapters import Adapters
from worker.families.autoencoder import ScaledAutoencoder
from worker.families.controlnet import ControlNets
from worker.families.inputs import MASK, MASKED, InputPictures, start_of
from worker.families.schedulers import NamedSchedulers
from worker.families.unet import UNet
from worker.models.bundle import Bundle
from worker.models.configs import outer_channels

CONTEXT = "encoder_hidden_states"
"""What the UNet calls the tokens that its rows read, [tokens, width]."""


UNGUIDED = "it needs a guidance_scale above 1"
ENDS_AT_ONCE = "with a guidance_end of {:g}, none of {} evaluations is guided"
ALL_WHOLE = "with {} evaluation{} of the model there is none between two whole ones"


class LatentDiffusion:
    """A Family (worker/engine/family.py) without `prepare`."""

    WITHOUT_EFFECT = UNGUIDED
    """Why a request that takes one row loses what the unconditional one is for."""

    def __init__(self, bundle: Bundle) -> None:
        self.device = bundle.device
        self._adapters = Adapters(bundle.loras, bundle.unet, dtype=bundle.dtype, device=bundle.device)
        self.weights_bytes = bundle.weights_bytes + self._adapters.nbytes
        self.later_bytes = bundle.controlnets.bytes(bundle.dtype.itemsize)
        self.autoencoder: Autoencoder = ScaledAutoencoder(
            bundle.vae, pixels_per_latent=bundle.vae_scale_factor, device=bundle.device
        )
        self._bundle = bundle
        self._denoiser = UNet(bundle.unet, dtype=bundle.dtype, device=bundle.device, bank=self._adapters.bank)
        self._schedulers = NamedSchedulers(
            bundle.scheduler, channels=bundle.latent_channels, predicts_variance=bundle.predicts_variance
        )
        self._controlnets = ControlNets(bundle)
        self._bringing = Lock()
        self._inputs = InputPictures(pixels_per_latent=bundle.vae_scale_factor, reads_masks=bundle.reads_masks)
        usual = usual_request(bundle)
        latent_shape = bundle.latent_shape(usual.height, usual.width)
        with torch.inference_mode():
            rows = self._usual_rows(usual)
            if bundle.reads_masks:
                latents = torch.zeros(latent_shape)
                rows = rows.with_both({MASK: latents[:1], MASKED: latents})
        self.native = LaneKey(self._denoiser, latent_shape, rows.shapes)

    def schedules(self, request: Request) -> list[Schedule]:
        schedule = self._schedulers.schedule(request.scheduler, request.num_inference_steps, strength=request.strength)
        return [schedule]

    def inputs(self, request: Request) -> Inputs:
        return self._inputs.read(request)

    def bring(self, request: Request) -> Sequence[Future[Any]]:
        # Who comes first is first in both queues: two that wait for what the other has would wait for ever.
        with self._bringing:
            brought = self._controlnets.bring(request), self._adapters.bring(request)
        return [each for each in brought if each is not None]

    def close(self, request: Request) -> None:
        self._controlnets.close(request)
        self._adapters.close(request)

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        raise NotImplementedError

    def _usual_rows(self, usual: Request) -> Rows:
        """Those of a picture with the model's usual settings: names and shapes count."""
        raise NotImplementedError

    def _pass(self, asked: Asked, rows: Rows) -> Pass:
        """The request's last pass, with its only solver. Raises GenerationFailed."""
        request, [solver] = asked.request, asked.solvers
        return Pass(
            denoiser=self._denoiser,
            rows=rows,
            solver=solver,
            latent_shape=self._latent_shape(request),
            guidance=Guidance(scale=request.guidance_scale, rescale=request.guidance_rescale, end=request.guidance_end),
            start=start_of(asked, reads_masks=self._bundle.reads_masks),
            sides=self._controlnets.sides(request, solver.evaluations),
            cache_interval=self._cache_interval(request),
        )

    def _is_guided(self, request: Request) -> bool:
        """It takes an unconditional row as well."""
        return request.is_guided

    def _idle(self, asked: Asked) -> list[str]:
        """Warnings of what was asked for and comes to nothing."""
        return self._without_unconditional(asked) + self._without_kept(asked)

    def _without_kept(self, asked: Asked) -> list[str]:
        """A cache whose every evaluation is of the whole network: there are too few of them."""
        request, evaluations = asked.request, asked.solvers[-1].evaluations
        interval, seeds = interval_of(request.cache), map(request.seed_of, range(request.drawn))
        if interval == 1 or keeps_some(evaluations, interval=interval, phases=seeds):
            return []
        return [f"cache had no effect: {ALL_WHOLE.format(evaluations, '' if evaluations == 1 else 's')}."]

    def _without_unconditional(self, asked: Asked) -> list[str]:
        """What was asked for and needs an unconditional row, where none is ever asked."""
        request, evaluations = asked.request, asked.solvers[-1].evaluations
        said = self._of_unconditional(request) | {"guidance_rescale": request.guidance_rescale}
        if not self._is_guided(request):
            said, why = said | {"guidance_end": request.guidance_end < 1}, self.WITHOUT_EFFECT
        elif not Guidance(end=request.guidance_end).is_asked(0, evaluations):
            said, why = said | {"guidance_scale": True}, ENDS_AT_ONCE.format(request.guidance_end, evaluations)
        else:
            return []
        return [f"{what} had no effect: {why}." for what, value in said.items() if value]

    def _of_unconditional(self, request: Request) -> dict[str, Any]:
        """What the unconditional row alone reads, by its name in a sentence."""
        return {}

    def _cache_interval(self, request: Request) -> int:
        interval = interval_of(request.cache)
        if interval > 1 and outer_channels(self._bundle.unet.config) is None:
            raise GenerationFailed("Features of this model cannot be kept between evaluations: take no cache.")
        if interval > 1 and request.control:
            raise GenerationFailed("A cache does not go with ControlNets.")
        return interval

    def _latent_shape(self, request: Request) -> LatentShape:
        multiple = self._bundle.side_multiple
        if request.width % multiple or request.height % multiple:
            raise GenerationFailed(f"Width and height must be multiples of {multiple} for this model.")
        return self._bundle.latent_shape(request.height, request.width)


def usual_request(bundle: Bundle) -> Request:
    """For a picture of the model's own size with its usual settings."""
    defaults = bundle.defaults
    return Request(
        id="usual",
        prompt="",
        negative_prompt=None,
        width=defaults.width,
        height=defaults.height,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        scheduler=defaults.scheduler,
        seed=0,
        num_images=1,
    )
