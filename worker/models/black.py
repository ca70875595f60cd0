"""The image embedding of a black picture: what Kandinsky guides away from where there is no negative prompt.

Knows transformers' CLIPVisionModelWithProjection. Knows no requests.
"""

from __future__ import annotations

from typing import Any

import torch

BLACK = "black_embedding"
"""What it is called among the parts of a model."""


def black_embedding(image_encoder: Any) -> torch.Tensor:
    """Float32 [D] on the encoder's device, as KandinskyV22PriorPipeline.get_zero_embed has it: of zeros where pixels
    are otherwise normalised, which is no black but the mean of all pictures."""
    side = image_encoder.config.image_size
    zeros = torch.zeros(1, 3, side, side, dtype=image_encoder.dtype, device=image_encoder.device)
    with torch.inference_mode():
        embedding: torch.Tensor = image_encoder(zeros).image_embeds[0]
        return embedding.float()
