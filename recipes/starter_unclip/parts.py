"""The parts that a StableUnCLIPPipeline has beside those of a StableDiffusionPipeline, and what noise does to a vector.

Knows diffusers' classes and their sizes; trains nothing. Everything is of stock classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

NOISE_LEVELS = 1000


def prior(dimensions: int, positions: int, *, layers: int = 4, head: int = 32) -> Any:
    """A PriorTransformer over vectors of so many dimensions and texts of so many tokens: 0.91 M parameters with 128
    and 32. It predicts the vector itself ("sample"), normalised by `clip_mean` and `clip_std`."""
    return diffusers.PriorTransformer(
        num_attention_heads=max(1, dimensions // head),
        attention_head_dim=min(head, dimensions),
        num_layers=layers,
        embedding_dim=dimensions,
        num_embeddings=positions,
    )


def prior_scheduler() -> Any:
    """DDPM over vectors, as unCLIP's (Ramesh et al. 2022, arXiv 2204.06125). Nothing is clipped: normalised vectors
    reach 5, and what is clipped is no linear step, which could not share a batch with other solvers."""
    return diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, variance_type="fixed_small_log"
    )


def image_noising_scheduler() -> Any:
    return diffusers.DDPMScheduler(num_train_timesteps=NOISE_LEVELS, beta_schedule="squaredcos_cap_v2")


def image_normalizer(mean: torch.Tensor, std: torch.Tensor) -> Any:
    """`mean` and `std` [1, D] of the vectors."""
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=mean.shape[1])
    normalizer.mean.data.copy_(mean)
    normalizer.std.data.copy_(std)
    return normalizer


def widened(unet: Any, dimensions: int) -> Any:
    """A copy of `unet` that also takes `class_labels` [B, 2 * dimensions]: a noised vector, and how noisy it is. It
    computes what `unet` does, because the new projection ends in zeros."""
    wide = type(unet).from_config(
        {
            **unet.config,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * dimensions,
        }
    )
    missing, _ = wide.load_state_dict(unet.state_dict(), strict=False)
    assert all(name.startswith("class_embedding.") for name in missing), missing
    torch.nn.init.zeros_(wide.class_embedding.linear_2.weight)
    torch.nn.init.zeros_(wide.class_embedding.linear_2.bias)
    return wide


def load_normalizer(folder: Path) -> Any:
    """The one that was saved in `folder`, in float32."""
    return StableUnCLIPImageNormalizer.from_pretrained(folder, local_files_only=True)


class Noiser:
    """`StableUnCLIPPipeline.noise_image_embeddings` for rows of unequal noise."""

    def __init__(self, normalizer: Any) -> None:
        self.normalizer, self.scheduler = normalizer, image_noising_scheduler()

    def __call__(self, vectors: torch.Tensor, levels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Class labels [B, 2 D] of vectors [B, D] with noise [B, D] of levels [B], int64 in 0..NOISE_LEVELS - 1."""
        noised = self.scheduler.add_noise(self.normalizer.scale(vectors), noise, levels)
        level = get_timestep_embedding(levels, vectors.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([self.normalizer.unscale(noised), level], 1)


def changed(unet: Any, than: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of `unet`, in float16, that another UNet's do not have or have otherwise."""
    half = {name: tensor.detach().half().contiguous() for name, tensor in unet.state_dict().items()}
    return {name: tensor for name, tensor in half.items() if name not in than or not torch.equal(tensor, than[name])}
