"""open_clip's checkpoints as a CLIPModel of transformers: the same network under other names.

Knows `open_clip_config.json` and the names of tensors in `open_clip_model.safetensors`, as open_clip 3.3 writes them
(https://github.com/mlfoundations/open_clip, Ilharco et al. 2021; Cherti et al. 2023, arXiv 2212.07143). Knows no files,
and refuses towers that are built otherwise than CLIP's own: those of timm, ResNets, and text models of Hugging Face.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch

from worker.models.errors import ModelError
from worker.models.preparation import OPENAI_MEAN, OPENAI_STD, Preparation, ResizeMode, checked

NAMES = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection", "text_projection.weight"),
    ("logit_scale", "logit_scale"),
    ("logit_bias", "logit_bias"),
)
"""Of tensors, open_clip's and transformers'. What ends with a dot is the beginning of a name."""

IN_LAYERS = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)

PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
"""Matrices that open_clip multiplies from the right, and transformers from the left."""

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
"""In one tensor, in this order, as torch.nn.MultiheadAttention has them."""

TOWERS: Mapping[str, Mapping[str, Any]] = {
    "vision_cfg": {
        "timm_model_name": None, "attentional_pool": False, "no_ln_pre": False, "pos_embed_type": "learnable",
        "final_ln_after_pool": False, "pool_type": "tok", "ls_init_value": None, "act_kwargs": None,
    },
    "text_cfg": {
        "hf_model_name": None, "embed_cls": False, "no_causal_mask": False, "final_ln_after_pool": False,
        "pool_type": "argmax", "proj_bias": False, "proj_type": "linear", "ls_init_value": None, "act_kwargs": None,
    },
}  # fmt: skip
"""What a tower of CLIP's own kind has, where the configuration says anything about it."""

ATTENTION = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
"""Of either tower: blocks that are not CLIP's."""

TRANSFORMERS_LAYOUT = "take the same model in transformers' layout (a CLIPModel or SiglipModel)"


def clip_config(said: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the CLIPModel that a `model_cfg` describes. Raises ModelError for another network, and
    KeyError, TypeError or ValueError for what is none."""
    for tower, usual in TOWERS.items():
        for key, value in (dict(usual) | dict.fromkeys(ATTENTION, False)).items():
            if said[tower].get(key, value) != value:
                raise ModelError(
                    f"its {tower} has {key}={said[tower][key]!r:.60}, which is no tower of CLIP's own kind; "
                    f"{TRANSFORMERS_LAYOUT}"
                )
    if said.get("multimodal_cfg"):
        raise ModelError(f"it is a CoCa, which is more than two towers; {TRANSFORMERS_LAYOUT}")
    vision, text = _vision_tower(said["vision_cfg"]), _text_tower(said["text_cfg"])
    activation = {"hidden_act": "quick_gelu" if said.get("quick_gelu") else "gelu"}
    return {
        "projection_dim": said["embed_dim"],
        "vision_config": vision | activation,
        "text_config": text | activation,
    }


def _vision_tower(said: Mapping[str, Any]) -> dict[str, Any]:
    width, layers = said.get("width", 768), said.get("layers", 12)
    if not isinstance(layers, int):
        raise ModelError(f"its vision tower is a ResNet; {TRANSFORMERS_LAYOUT}")
    return _tower(said, width) | {
        "num_hidden_layers": layers,
        "num_attention_heads": width // said.get("head_width", 64),
        "patch_size": said.get("patch_size", 16),
        "image_size": _side(said.get("image_size", 224)),
    }


def _text_tower(said: Mapping[str, Any]) -> dict[str, Any]:
    return _tower(said, said.get("width", 512)) | {
        "num_hidden_layers": said.get("layers", 12),
        "num_attention_heads": said.get("heads", 8),
        "max_position_embeddings": said.get("context_length", 77),
        "vocab_size": said.get("vocab_size", 49408),
        # In CLIPTextModel this number means: the vector is read where the token with the highest number stands, as
        # open_clip does.
        "eos_token_id": 2,
    }


def _tower(said: Mapping[str, Any], width: int) -> dict[str, Any]:
    norm = dict(said.get("norm_kwargs") or {})
    eps = norm.pop("eps", 1e-5)
    if norm:
        raise ModelError(f"its layer norms have {min(norm)}; {TRANSFORMERS_LAYOUT}")
    wide = int(width * said.get("mlp_ratio", 4.0))
    return {"hidden_size": width, "intermediate_size": wide, "layer_norm_eps": eps}


def _side(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, list) else [size])}
    if len(sides) != 1:
        raise ModelError(f"its vision tower sees {size} pixels, and only squares are known")
    return sides.pop()


def preparation_of(said: Mapping[str, Any]) -> Preparation:
    """As open_clip's image_transform does it, of a whole `open_clip_config.json`. Raises as `clip_config`."""
    prepared = said.get("preprocess_cfg") or {}
    side = _side(said["model_cfg"]["vision_cfg"].get("image_size", 224))
    mean, std = prepared.get("mean") or OPENAI_MEAN, prepared.get("std") or OPENAI_STD
    mode, interpolation = prepared.get("resize_mode") or "shortest", prepared.get("interpolation") or "bicubic"
    if mode not in ("shortest", "longest", "squash") or interpolation not in ("bicubic", "bilinear", "random"):
        raise ValueError(f"{mode!r:.60}, {interpolation!r:.60}")
    return checked(
        Preparation(
            side=side,
            edge=side,
            mode=cast(ResizeMode, mode),
            resampling="bilinear" if interpolation == "bilinear" else "bicubic",
            mean=_of_colours(mean),
            std=_of_colours(std),
            fill=int(prepared.get("fill_color") or 0),
            rounds_to_even=True,
        )
    )


def _of_colours(said: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (said if isinstance(said, list | tuple) else [said] * 3))


def to_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of open_clip by transformers' names. What has no name there keeps its own.

    A model with `custom_text` has its text tower under a name of its own, and older ones their causal mask in the file.
    """
    own = {name.removeprefix("text."): tensor for name, tensor in tensors.items() if not name.endswith("attn_mask")}
    return {name: part for each in own.items() for name, part in _taken_apart(*each)}


def from_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same the other way round, of a CLIPModel's tensors."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name in PROJECTIONS:
            found[PROJECTIONS[name]] = tensor.T.contiguous()
        elif match := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [tensors[f"{match[1]}.self_attn.{part}.{match[2]}"] for part in QUERY_KEY_VALUE]
            found[_renamed(f"{match[1]}.attn.in_proj_{match[2]}", back=True)] = torch.cat(parts)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            found[_renamed(name, back=True)] = tensor
    return found


def _taken_apart(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    theirs = _renamed(name)
    if theirs in PROJECTIONS and tensor.ndim == 2:
        yield theirs, tensor.T.contiguous()
    elif theirs.startswith("logit_") and tensor.numel() == 1:
        yield theirs, tensor.reshape(())
    elif match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", theirs):
        for part, values in zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=False):
            yield f"{match[1]}.self_attn.{part}.{match[2]}", values.contiguous()
    else:
        yield theirs, tensor


def name_of(theirs: str) -> str:
    """Of one of transformers' tensors, the name of the one in the checkpoint that it comes from."""
    joined = re.sub(r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_", theirs)
    return PROJECTIONS.get(joined) or _renamed(joined, back=True)


def _renamed(name: str, *, back: bool = False) -> str:
    for before, after in (pair[::-1] if back else pair for pair in NAMES):
        if name == before or (before.endswith(".") and name.startswith(before)):
            name = after + name.removeprefix(before)
            break
    for before, after in (pair[::-1] if back else pair for pair in IN_LAYERS):
        name = name.replace(before, after)
    return name
