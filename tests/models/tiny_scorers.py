"""Folders of tiny scorers with random weights, in every layout that is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

OPEN_CLIP_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 4, "layers": 2}
OPEN_CLIP_VISION = {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 4.3637}


def clip_folder(folder: Path, *, side: int = 32, preparation: dict[str, Any] | None = None) -> Path:
    """A CLIPModel whose processor is written as transformers 5 does it, or as `preparation` says, in the older file."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    words = _byte_words()
    text = tower | {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 512, "eos_token_id": 513}
    config = transformers.CLIPConfig(
        text_config=text | {"pad_token_id": 513},
        vision_config=tower | {"image_size": side, "patch_size": 16},
        projection_dim=24,
    )
    _randomised(transformers.CLIPModel(config)).save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=16)
    if preparation is None:
        square = {"height": side, "width": side}
        images = transformers.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
        transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def siglip_folder(folder: Path, *, tokenizer_class: str = "SiglipTokenizer", lower: bool = True) -> Path:
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.SiglipConfig(
        text_config=tower | {"vocab_size": 64, "max_position_embeddings": 12},
        vision_config=tower | {"image_size": 32, "patch_size": 16},
    )
    model = _randomised(transformers.SiglipModel(config))
    model.logit_scale.data[:], model.logit_bias.data[:] = math.log(20), -3.0
    model.save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    letters = [(letter, -float(k + 3)) for k, letter in enumerate("▁etaoinshrdlucmfwypvbgkjqxz")]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase()] if lower else [])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>", model_max_length=12
    )
    fast.save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def open_clip_folder(folder: Path, *, quick_gelu: bool = False, **preparation: Any) -> Path:
    """As open_clip 3.3.0 writes it, but without a tokenizer. The weights are the same on every machine."""
    config = {"embed_dim": 24, "vision_cfg": OPEN_CLIP_VISION, "text_cfg": OPEN_CLIP_TEXT}
    config |= {"quick_gelu": True} if quick_gelu else {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preparation}))
    save_file(open_clip_tensors(), folder / "open_clip_model.safetensors")
    return folder


def open_clip_tensors() -> dict[str, torch.Tensor]:
    """By the names that open_clip gives them."""
    numbers = np.random.default_rng(11)
    vision, text = OPEN_CLIP_VISION["width"], OPEN_CLIP_TEXT["width"]
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (vision,), "visual.positional_embedding": (17, vision),
        "visual.conv1.weight": (vision, 3, 8, 8), "visual.proj": (vision, 24),
        "token_embedding.weight": (49408, text), "positional_embedding": (16, text), "text_projection": (text, 24),
    }  # fmt: skip
    for norm, width in {"visual.ln_pre": vision, "visual.ln_post": vision, "ln_final": text}.items():
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for block in range(3):
        shapes |= _block(f"visual.transformer.resblocks.{block}", vision, 139)
    for block in range(2):
        shapes |= _block(f"transformer.resblocks.{block}", text, 64)
    drawn = {name: numbers.standard_normal(shape, dtype=np.float32) * 0.2 for name, shape in sorted(shapes.items())}
    return {name: torch.from_numpy(values) for name, values in drawn.items()} | {"logit_scale": torch.tensor(3.0)}


def _block(name: str, width: int, wide: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.ln_1.weight": (width,), f"{name}.ln_1.bias": (width,),
        f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,),
        f"{name}.attn.out_proj.weight": (width, width), f"{name}.attn.out_proj.bias": (width,),
        f"{name}.ln_2.weight": (width,), f"{name}.ln_2.bias": (width,),
        f"{name}.mlp.c_fc.weight": (wide, width), f"{name}.mlp.c_fc.bias": (wide,),
        f"{name}.mlp.c_proj.weight": (width, wide), f"{name}.mlp.c_proj.bias": (width,),
    }  # fmt: skip


def _byte_words() -> dict[str, int]:
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def _randomised(model: Any) -> Any:
    """Fresh networks are nearly linear: a wrong activation would pass."""
    with torch.no_grad():
        for each in model.parameters():
            each += torch.randn_like(each) * 0.2
    return model.eval().requires_grad_(False)


def noise(height: int, width: int) -> np.ndarray:
    """Of coarse grains, uint8 [height, width, 3], the same on every machine."""
    grains = np.random.default_rng(height * width).integers(
        0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8
    )
    return grains.repeat(4, 0).repeat(4, 1)[:height, :width]
