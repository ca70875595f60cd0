"""Karlo (Lee et al. 2022), after DALL-E 2 (Ramesh et al. 2022): prior, decoder in pixels, super-resolution.

The decoder is GLIDE's (Nichol et al. 2022) with an image embedding beside the text. Four passes: the last step of the
super-resolution has a network of its own. Knows how each pass begins with what those before it ended with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from worker.engine.errors import EngineError, GenerationFailed, engine_error
from worker.engine.family import Asked, Autoencoder, Inputs, Prepared
from worker.engine.guidance import Guidance
from worker.engine.passes import Before, Pass
from worker.engine.request import Request
from worker.engine.rows import LaneKey, Rows
from worker.engine.solver import Schedule, SolverFactory
from worker.engine.stepping import Beginning
from worker.families.autoencoder import Pixels
from worker.families.from_points import DECODER, TEXT, unread
from worker.families.inversion import FromLatents
from worker.families.latent_diffusion import UNGUIDED
from worker.families.points import EMBEDDING
from worker.families.prior import Prior
from worker.families.schedulers import NamedSchedulers
from worker.families.super_resolution import SMALL, SuperResolution, enlarged
from worker.families.text import Embedding
from worker.families.unet import UNet
from worker.models.bundle import Bundle

SUPER_RESOLUTION = "super-resolution"
"""What its passes are called where progress is told."""

SUPER_RESOLUTION_STEPS = 7
"""UnCLIPPipeline's default. Each costs ten of the decoder's."""

CONTEXT, LABELS, MASK = "encoder_hidden_states", "class_labels", "attention_mask"
"""What the decoder reads, by its UNet's names: tokens of picture and text, both as one vector, and which tokens count.
"""

NO_NEGATIVE = "The negative prompt had no effect: this model reads none."


@dataclass(frozen=True, slots=True)
class _Scales:
    """Guidance of prior and decoder. As in UnCLIPPipeline both take unconditional rows if either wants them."""

    prior: float
    decoder: float

    @property
    def is_guided(self) -> bool:
        return self.prior > 1 or self.decoder > 1


class Karlo:
    """A Family (worker/engine/family.py)."""

    def __init__(self, bundle: Bundle) -> None:
        self.device = bundle.device
        self.weights_bytes = bundle.weights_bytes
        self.later_bytes = 0.0
        self.autoencoder: Autoencoder = Pixels(bundle.device)
        self._bundle = bundle
        self.prior, self.image_encoder = Prior(bundle), None
        self._text_proj = bundle.part("text_proj")
        place = {"dtype": bundle.dtype, "device": bundle.device}
        self._decoder = UNet(bundle.unet, **place)
        self._enlargers = [
            SuperResolution(bundle.part(name), **place) for name in ("super_res_first", "super_res_last")
        ]
        self._small, self._side = (
            int(network.config.sample_size) for network in (bundle.unet, bundle.part("super_res_last"))
        )
        self._schedulers = NamedSchedulers(bundle.scheduler, channels=3, predicts_variance=bundle.predicts_variance)
        rows = Rows({SMALL: torch.zeros(self._large)})
        self.native = LaneKey(self._enlargers[0], self._large, rows.shapes)

    def schedules(self, request: Request) -> list[Schedule]:
        if (request.width, request.height) != (self._side, self._side):
            raise GenerationFailed(f"Pictures of this model are always {self._side} x {self._side}.")
        enlarging = Schedule(
            name="of the super-resolution",
            scheduler=self._bundle.part("super_res_scheduler"),
            num_inference_steps=SUPER_RESOLUTION_STEPS,
            options={},
            channels=3,
        )
        last = SUPER_RESOLUTION_STEPS - 1
        return [
            self.prior.schedule(self.prior.steps_of(request)),
            self._schedulers.schedule(request.scheduler, request.num_inference_steps),
            *(replace(enlarging, beginning=part) for part in (Beginning(end=last), Beginning(index=last))),
        ]

    def inputs(self, request: Request) -> Inputs:
        return Inputs()

    def bring(self, request: Request) -> Sequence[Future[Any]]:
        return ()

    def close(self, request: Request) -> None:
        pass

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        requests = [each.request for each in asked]
        texts = self.prior.read(
            [[request.prompt] for request in requests], alone=[request.reproducible for request in requests]
        )
        return [self._prepared(*each) for each in zip(asked, texts, strict=True)]

    def _prepared(self, asked: Asked, texts: Sequence[Embedding] | EngineError) -> Prepared | EngineError:
        if isinstance(texts, EngineError):
            return texts
        [text], request = texts, asked.request
        warnings = [*unread(texts), *([NO_NEGATIVE] if request.negative_prompt else [])]
        if request.guidance_rescale and not request.is_guided:
            warnings.append(f"guidance_rescale had no effect: {UNGUIDED}.")
        try:
            scales = self._scales(request)
            prior, decoder, first, last = asked.solvers
            passes = [
                self.prior.pass_for(text, prior, guidance_scale=scales.prior, is_guided=scales.is_guided),
                Pass(
                    denoiser=self._decoder,
                    rows=Rows({}),
                    solver=decoder,
                    latent_shape=(3, self._small, self._small),
                    guidance=Guidance(scale=scales.decoder, rescale=request.guidance_rescale),
                    complete=self._decoding(text, scales),
                    stage=DECODER,
                    is_shown=True,
                ),
                self._enlarging(self._enlargers[0], first, text),
                self._enlarging(self._enlargers[1], last, text),
            ]
        except Exception as error:
            return engine_error(error, stage="prepare")
        return Prepared(passes, warnings)

    def _decoding(self, text: Embedding, scales: _Scales) -> Callable[[Pass, Before], Pass]:
        def complete(of: Pass, before: Before) -> Pass:
            embedding = self.prior.embeddings(before.ended[0])[0]
            conditional, *away = self._read(embedding, text, is_guided=scales.is_guided)
            return replace(of, rows=Rows(conditional, away[0] if away else {}))

        return complete

    def _read(self, embedding: torch.Tensor, text: Embedding, *, is_guided: bool) -> list[dict[str, torch.Tensor]]:
        """What the decoder reads of an image embedding [D] and a text: conditional, then unconditional if it is
        guided. The unconditional row has a learned embedding, and the empty text."""
        texts = [self.prior.empty, text] if is_guided else [text]
        own = [self.prior.row_of(each) for each in texts]
        context, labels = self._text_proj(
            image_embeddings=embedding[None].to(self._bundle.dtype),
            prompt_embeds=torch.stack([each["proj_embedding"] for each in own]),
            text_encoder_hidden_states=torch.stack([each["encoder_hidden_states"] for each in own]),
            do_classifier_free_guidance=is_guided,
        )
        # The picture's tokens come before the text's, and always count.
        more = int(self._text_proj.config.clip_extra_context_tokens)
        masks = [functional.pad(each["attention_mask"], (more, 0), value=1.0) for each in own]
        rows = [{CONTEXT: context[k], LABELS: labels[k], MASK: mask} for k, mask in enumerate(masks)]
        return rows[::-1]

    def _enlarging(self, denoiser: SuperResolution, solver: SolverFactory, text: Embedding) -> Pass:
        """The first part of the way to the large picture; or its last step, where there were three passes before."""
        assert text.pooled is not None, "This is a bug: a prior's text encoder has a projection."
        read = text.pooled.float()

        def complete(of: Pass, before: Before) -> Pass:
            found = {EMBEDDING: self.prior.embeddings(before.ended[0])[0], TEXT: read}
            of = replace(of, rows=Rows({SMALL: enlarged(before.ended[1], side=self._side)}), found=found)
            return replace(of, start=FromLatents(before.ended[2])) if len(before.ended) > 2 else of

        return Pass(
            denoiser=denoiser,
            rows=Rows({}),
            solver=solver,
            latent_shape=self._large,
            complete=complete,
            stage=SUPER_RESOLUTION,
            is_shown=False,
        )

    @property
    def _large(self) -> tuple[int, int, int]:
        return 3, self._side, self._side

    def _scales(self, request: Request) -> _Scales:
        return _Scales(self.prior.scale_of(request), request.guidance_scale)
