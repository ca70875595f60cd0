"""Priors (Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents", section 2.2): from a
text to the CLIP embedding of a picture that it could be of.

An embedding of D numbers is denoised like any latents, as [D, 1, 1], in a pass of its own; two of them, which draw
from one generator together, as [2 D, 1, 1]. Knows diffusers'
PriorTransformer and the text encoder beside it. Refuses to know what is drawn from an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from worker.engine.errors import EngineError
from worker.engine.guidance import Guidance
from worker.engine.passes import Pass
from worker.engine.request import Request
from worker.engine.rows import LatentShape, Rows
from worker.engine.solver import Schedule, SolverFactory
from worker.families.text import Embedding, PromptReader, Reading, Text, TextEncoder
from worker.models.bundle import Bundle
from worker.models.configs import prior_dimensions
from worker.models.need import prior_row_bytes

STAGE = "prior"
"""What its pass is called where progress is told."""


class PriorNetwork(torch.nn.Module):
    """A Denoiser (worker/engine/rows.py) of latents [n D, 1, 1]. Its row tensors have the names of the transformer's
    arguments: the text as one vector, its tokens' states, and which tokens there are; of n > 1 texts, [n, ...] each."""

    def __init__(self, prior: Any, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.prior = prior
        self.dtype = dtype
        self.device = device

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        vectors = x.reshape(-1, self.prior.config.embedding_dim).to(self.dtype)
        of_each = len(vectors) // len(x)
        if of_each > 1:
            t, rows = t.repeat_interleave(of_each), {name: tensor.flatten(0, 1) for name, tensor in rows.items()}
        predicted: torch.Tensor = self.prior(vectors, t, **rows, return_dict=False)[0]
        return predicted.reshape(len(x), -1, 1, 1)

    def in_float32(self) -> PriorNetwork:
        """Itself, or a copy that takes twice the memory."""
        if self.dtype == torch.float32:
            return self
        return PriorNetwork(copy.deepcopy(self.prior).float(), dtype=torch.float32, device=self.device)

    def row_bytes(self, latent_shape: LatentShape) -> float:
        return prior_row_bytes(self.prior.config, self.dtype.itemsize)


class Prior:
    """The prior of a model, with the text encoder in front of it. Its scheduler is the model's own: what a request asks
    for is the decoder's."""

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.part("prior")
        self._denoiser = PriorNetwork(self._network, dtype=bundle.dtype, device=bundle.device)
        self._scheduler = bundle.part("prior_scheduler")
        usual = bundle.defaults
        assert usual.prior_num_inference_steps is not None, "This is a bug: a model with a prior has defaults of it."
        assert usual.prior_guidance_scale is not None, "This is a bug: a model with a prior has defaults of it."
        self.num_inference_steps, self.guidance_scale = usual.prior_num_inference_steps, usual.prior_guidance_scale
        # Learned words are the other text encoder's, and a prior has no place for a second window.
        plain = replace(bundle, embeddings={})
        self._reader = PromptReader(
            plain, [TextEncoder("prior_text_encoder", bundle)], lambda part, sha256: {}, windows=1
        )

    @property
    def dimensions(self) -> int:
        """Numbers in an embedding."""
        return prior_dimensions(self._network.config)

    def steps_of(self, request: Request) -> int:
        """As asked, else the model's own."""
        said = request.prior.num_inference_steps if request.prior else None
        return self.num_inference_steps if said is None else said

    def scale_of(self, request: Request) -> float:
        """The guidance scale, as asked, else the model's own."""
        said = request.prior.guidance_scale if request.prior else None
        return self.guidance_scale if said is None else said

    def schedule(self, num_inference_steps: int) -> Schedule:
        return Schedule(
            name="of the prior",
            scheduler=self._scheduler,
            num_inference_steps=num_inference_steps,
            options={"eta": 0.0},
            channels=self.dimensions,
        )

    def read(self, requests: Sequence[Sequence[str]], *, alone: Sequence[bool]) -> list[list[Embedding] | EngineError]:
        """For each request its texts as the prior reads them, in their order, or the first error. `alone`: whether a
        request's are encoded by themselves, for reproducible pictures. Raises DeviceLost."""
        return self._reader.read(
            [[Text(text, Reading(alone=own)) for text in texts] for texts, own in zip(requests, alone, strict=True)]
        )

    def pass_for(
        self,
        text: Embedding,
        solver: SolverFactory,
        *,
        guidance_scale: float,
        negative: Embedding | None = None,
        is_guided: bool | None = None,
    ) -> Pass:
        """From noise to the embedding of a picture that the text could be of. With a `negative` text, to that of a
        picture of this one too, behind it and from the same draws, as KandinskyV22PriorPipeline has it; it is also what
        is guided away from, in the place of the empty text. At a scale of 1 or less nothing is, and takes no row,
        unless `is_guided` says so."""
        guided = guidance_scale > 1 if is_guided is None else is_guided
        texts = [text] if negative is None else [text, negative]
        away = [negative or self._reader.empty] * len(texts)
        return Pass(
            denoiser=self._denoiser,
            rows=Rows(self._row(texts), self._row(away) if guided else {}),
            solver=solver,
            latent_shape=(len(texts) * self.dimensions, 1, 1),
            guidance=Guidance(scale=guidance_scale),
            stage=STAGE,
        )

    @property
    def network(self) -> PriorNetwork:
        """As it is asked outside of a pass."""
        return self._denoiser

    def rows(self, texts: Sequence[Embedding], *, guidance_scale: float) -> tuple[dict[str, torch.Tensor], bool]:
        """Of one call for all texts, [B, ...] by the transformer's names; and whether as many unconditional ones are
        behind."""
        own, is_guided = [self.row_of(text) for text in texts], guidance_scale > 1
        every = own + [self.row_of(self._reader.empty)] * (len(own) if is_guided else 0)
        return {name: torch.stack([row[name] for row in every]) for name in every[0]}, is_guided

    def embeddings(self, latents: torch.Tensor) -> torch.Tensor:
        """The image embeddings, float32 [n, D], of the latents [n D, 1, 1] that the pass ended with."""
        found: torch.Tensor = self._network.post_process_latents(latents.reshape(-1, self.dimensions))
        return found.float()

    def _row(self, texts: Sequence[Embedding]) -> dict[str, torch.Tensor]:
        """What a row has of its text, or of its texts."""
        each = [self.row_of(text) for text in texts]
        return each[0] if len(each) == 1 else {name: torch.stack([own[name] for own in each]) for name in each[0]}

    @property
    def empty(self) -> Embedding:
        """The empty text."""
        return self._reader.empty

    def row_of(self, text: Embedding) -> dict[str, torch.Tensor]:
        """What the transformer reads of a text. Beside its tokens, start and end count too; behind them is padding."""
        assert text.pooled is not None, "This is a bug: a prior's text encoder has a projection."
        place = torch.arange(len(text.context), device=text.context.device)
        mask = (place < text.tokens_read + 2).to(text.context.dtype)
        return {"proj_embedding": text.pooled, "encoder_hidden_states": text.context, "attention_mask": mask}
