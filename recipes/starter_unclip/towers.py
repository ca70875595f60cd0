"""The bundled scorer's two towers as StableUnCLIPPipeline and its variant for pictures want them: with projections, not
normalised.

Knows the layout of a CLIPModel folder; trains nothing. The scorer is never trained here: its vectors are the language
that prior and decoder share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers


def towers(folder: Path) -> tuple[Any, Any]:
    """Text and vision tower of the CLIPModel in `folder`, in float32, frozen. The vectors of both have the width of
    the model's projection, whatever the configuration of a tower says by itself."""
    model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    width = model.config.projection_dim
    model.config.text_config.projection_dim = model.config.vision_config.projection_dim = width
    text = transformers.CLIPTextModelWithProjection(model.config.text_config)
    vision = transformers.CLIPVisionModelWithProjection(model.config.vision_config)
    weights = model.state_dict()
    for tower in (text, vision):
        own = tower.state_dict()
        tower.load_state_dict({name: weights[name] for name in own})
        tower.eval().requires_grad_(False)
    return text, vision


def embed(vision: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Image vectors [B, D] of pictures [B, 3, S, S] in 0..1 of the tower's own size S, as StableUnCLIPImg2ImgPipeline
    gets them from CLIPImageProcessor with a mean and deviation of 0.5."""
    vectors: torch.Tensor = vision(pictures * 2 - 1).image_embeds
    return vectors
