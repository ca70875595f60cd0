"""Pictures from vectors, by the stock pipelines, for the examination and the sheets.

Knows a whole folder, the prior's call and the decoder's; judges nothing. Ways between vectors are the service's own
(worker/families/points.py), so that what is examined is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from recipes.starter_unclip.towers import embed
from recipes.starter_unclip.train_prior import Texts

Picture = NDArray[np.uint8]


class Drawing:
    """The parts of a whole folder, in float32 on the CPU. `rows` pictures are drawn at a time."""

    def __init__(self, folder: Path, scorer: Path, *, steps: int, guidance: float, rows: int = 8) -> None:
        self.pipe = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(self.pipe.scheduler.config)
        prior = diffusers.PriorTransformer.from_pretrained(folder / "prior", local_files_only=True)
        self.prior = prior.float().requires_grad_(False)
        self.prior_scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "prior_scheduler")
        self.texts = Texts(scorer)
        self.steps, self.guidance, self.rows = steps, guidance, rows

    def vectors_of(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """[B, D] of pictures of the native size."""
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return embed(self.pipe.image_encoder, pixels)

    def text_vectors(self, prompts: Sequence[str]) -> torch.Tensor:
        """[B, D], the scorer's."""
        return self.texts(self.texts.ids(prompts))["proj_embedding"]

    def from_prior(
        self, prompts: Sequence[str], seeds: Sequence[int], *, steps: int = 25, guidance: float = 1.0
    ) -> torch.Tensor:
        """The prior's image vectors [B, D] for texts, as StableUnCLIPPipeline makes them."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(self.texts.dimensions, generator=each) for each in generators])
        ids = self.texts.ids(prompts)
        with_text, without = self.texts(ids), self.texts(self.texts.empty.expand_as(ids))
        self.prior_scheduler.set_timesteps(steps)
        for t in self.prior_scheduler.timesteps:
            found = self.prior(x, t, **with_text).predicted_image_embedding
            if guidance > 1:
                empty = self.prior(x, t, **without).predicted_image_embedding
                found = empty + guidance * (found - empty)
            x = self.prior_scheduler.step(found, t, x, generator=generators).prev_sample
        vectors: torch.Tensor = self.prior.post_process_latents(x)
        return vectors

    def draw(
        self, vectors: torch.Tensor, seeds: Sequence[int], *, prompts: Sequence[str] | None = None, noise_level: int = 0
    ) -> list[Picture]:
        """A picture [H, W, 3] for each vector; `prompts` are for the decoder, none by default."""
        pictures: list[Picture] = []
        said = list(prompts) if prompts else [""] * len(vectors)
        for start in range(0, len(vectors), self.rows):
            part = slice(start, start + self.rows)
            drawn = self.pipe(
                image_embeds=vectors[part],
                prompt=said[part],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                noise_level=noise_level,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                output_type="np",
            ).images
            pictures += list((drawn * 255).round().astype(np.uint8))
        return pictures
