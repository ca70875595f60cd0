"""LoRA files by their headers: both spellings are found in the model, and what cannot be served is told by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders.lora_conversion_utils import _convert_unet_lora_key, _maybe_map_sgm_blocks_to_diffusers
from safetensors.torch import save_file

from tests.engine.tiny_models import STARTER
from worker.models.adapters import loras_of
from worker.models.errors import ModelError
from worker.models.lora_names import Spellings, _of_stability
from worker.models.shapes import layer_shapes


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """A UNet and a text encoder of Stable Diffusion's layout, without values."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        config = transformers.CLIPTextConfig(hidden_size=32, intermediate_size=37, num_hidden_layers=1)
        return {"unet": unet, "text_encoder": transformers.CLIPTextModel(config)}


ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
PROJECTION = "down_blocks.1.attentions.0.proj_in"
TEXT = "encoder.layers.0.self_attn.q_proj"
CONV = "down_blocks.0.resnets.0.conv1"
Q = {"down": (4, 64), "up": (64, 4)}
TEXT_Q = {"down": (4, 32), "up": (32, 4)}


def pair(name: str, shapes: dict[str, tuple[int, ...]], *, down: str, up: str) -> dict[str, torch.Tensor]:
    return {f"{name}.{down}": torch.zeros(shapes["down"]), f"{name}.{up}": torch.zeros(shapes["up"])}


KOHYA: dict[str, Any] = {"down": "lora_down.weight", "up": "lora_up.weight"}
PEFT: dict[str, Any] = {"down": "lora_A.weight", "up": "lora_B.weight"}
UNDER = ATTENTION.replace(".", "_")

SPELLED = {
    "kohya": (pair(f"lora_unet_{UNDER}_to_q", Q, **KOHYA), "unet", f"{ATTENTION}.to_q"),
    "kohya, Stability's blocks": (
        pair("lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q", Q, **KOHYA),
        "unet",
        f"{ATTENTION}.to_q",
    ),
    "kohya, 1 x 1": (
        pair(f"lora_unet_{PROJECTION.replace('.', '_')}", {"down": (4, 64, 1, 1), "up": (64, 4, 1, 1)}, **KOHYA),
        "unet",
        PROJECTION,
    ),
    "linear for 1 x 1": (pair(f"unet.{PROJECTION}", Q, **PEFT), "unet", PROJECTION),
    "3 x 3": (
        pair(f"lora_unet_{CONV.replace('.', '_')}", {"down": (4, 32, 3, 3), "up": (32, 4, 1, 1)}, **KOHYA),
        "unet",
        CONV,
    ),
    "kohya, text": (
        pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", TEXT_Q, **KOHYA),
        "text_encoder",
        TEXT,
    ),
    "kohya, first text": (
        pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", TEXT_Q, **KOHYA),
        "text_encoder",
        TEXT,
    ),
    "peft": (pair(f"unet.{ATTENTION}.to_q", Q, **PEFT), "unet", f"{ATTENTION}.to_q"),
    "peft, its own prefix": (pair(f"base_model.model.{ATTENTION}.to_q", Q, **PEFT), "unet", f"{ATTENTION}.to_q"),
    "diffusers, text": (
        pair("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", TEXT_Q, **PEFT),
        "text_encoder",
        TEXT,
    ),
    "diffusers, linear layer": (
        pair(f"unet.{ATTENTION}.to_q.lora_linear_layer", Q, down="down.weight", up="up.weight"),
        "unet",
        f"{ATTENTION}.to_q",
    ),
    "diffusers of 2023, processors": (
        pair(f"unet.{ATTENTION}.processor.to_out_lora", Q, down="down.weight", up="up.weight"),
        "unet",
        f"{ATTENTION}.to_out.0",
    ),
    "diffusers of 2023, text": (
        pair(
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora", TEXT_Q, down="down.weight", up="up.weight"
        ),
        "text_encoder",
        TEXT,
    ),
    "no prefix": (pair(f"{ATTENTION}.to_q", Q, **PEFT), "unet", f"{ATTENTION}.to_q"),
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_layers_are_found_in_every_spelling(spelling: str, parts: dict[str, Any], tmp_path: Path) -> None:
    tensors, part, path = SPELLED[spelling]
    save_file(tensors, tmp_path / "ink.safetensors")
    shelf = loras_of(parts, tmp_path)
    assert shelf.faults == ()
    [layer] = shelf.served["ink"].layers
    assert (layer.part, layer.path.removeprefix("text_model."), layer.rank) == (part, path, 4)


def test_stabilitys_names_of_sdxl_are_diffusers_own() -> None:
    """Every layer of a whole SDXL UNet, there by our table and back by diffusers' conversion."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    shapes = layer_shapes(unet)
    named = {path: _of_stability(path, 2, shapes) for path in shapes}
    assert None not in named.values()
    assert len(set(named.values())) == len(shapes)
    for path, name in named.items():
        key = f"lora_unet_{str(name).replace('.', '_')}.lora_down.weight"
        [mapped] = _maybe_map_sgm_blocks_to_diffusers({key: None}, unet.config)
        back = _convert_unet_lora_key(mapped).replace(".processor", "").removesuffix(".lora.down.weight")
        back = back.removesuffix("_lora.down.weight").replace("to_out", "to_out.0").replace("to_out.0.0", "to_out.0")
        assert back == path
    found = Spellings({"unet": shapes}, layers_per_block=2)
    assert {found.layer(f"lora_unet_{str(name).replace('.', '_')}") for name in named.values()} == {
        ("unet", path) for path in shapes
    }


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "another family": (pair("lora_unet_double_blocks_0_img_attn_qkv", Q, **KOHYA), "made for another kind of model"),
    "another width": (
        pair(f"unet.{ATTENTION}.to_q", {"down": (4, 320), "up": (320, 4)}, **PEFT),
        "is [320, 4] by [4, 320], the layer here is [64, 64]",
    ),
    "half": ({f"unet.{ATTENTION}.to_q.lora_A.weight": torch.zeros(4, 64)}, "has only half of the layer"),
    "two ranks": (pair(f"unet.{ATTENTION}.to_q", {"down": (4, 64), "up": (64, 8)}, **PEFT), "made for another model"),
    "DoRA": (
        pair(f"lora_unet_{UNDER}_to_q", Q, **KOHYA) | {f"lora_unet_{UNDER}_to_q.dora_scale": torch.zeros(64, 1)},
        "is a DoRA, which is no product of two small matrices",
    ),
    "LoHa": ({f"lora_unet_{UNDER}_to_q.hada_w1_a": torch.zeros(64, 4)}, "is a LoHa"),
    "LoKr": ({f"lora_unet_{UNDER}_to_q.lokr_w1": torch.zeros(8, 8)}, "is a LoKr"),
    "Tucker": (
        pair(f"lora_unet_{CONV.replace('.', '_')}", {"down": (4, 32, 1, 1), "up": (32, 4, 1, 1)}, **KOHYA)
        | {f"lora_unet_{CONV.replace('.', '_')}.lora_mid.weight": torch.zeros(4, 4, 3, 3)},
        "is a LoRA with a Tucker core",
    ),
    "differences": ({"diffusion_model.out.2.diff": torch.zeros(4, 32, 3, 3)}, "whole differences of weights"),
    "an embedding": ({"emb_params": torch.zeros(2, 32)}, "it has a tensor emb_params"),
    "nothing": ({}, "has no layers of a LoRA in it"),
    "alpha is no number": (
        pair(f"lora_unet_{UNDER}_to_q", Q, **KOHYA) | {f"lora_unet_{UNDER}_to_q.alpha": torch.zeros(2)},
        "an alpha that is no number",
    ),
    "the same layer twice": (
        pair(f"lora_unet_{UNDER}_to_q", Q, **KOHYA) | pair(f"unet.{ATTENTION}.to_q", Q, **PEFT),
        "twice, in two spellings",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_left_out_by_a_sentence(kind: str, parts: dict[str, Any], tmp_path: Path) -> None:
    tensors, sentence = REFUSED[kind]
    save_file(tensors, tmp_path / "odd.safetensors")
    save_file(SPELLED["peft"][0], tmp_path / "good.safetensors")
    shelf = loras_of(parts, tmp_path)
    assert list(shelf.served) == ["good"]
    [fault] = shelf.faults
    assert fault.startswith(str(tmp_path / "odd.safetensors"))
    assert sentence in fault


ODD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pickle": ("ink.pt", lambda file: file.write_bytes(b"\x80\x02"), "is a pickle, which can run anything"),
    "text": ("README.txt", lambda file: file.write_text("hello"), "is no safetensors file"),
    "folder": ("more.safetensors", lambda file: file.mkdir(), "is no safetensors file"),
    "subfolder": ("more", lambda file: file.mkdir(), "is no safetensors file"),
    "pointer": (
        "ink.safetensors",
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "is a Git LFS pointer",
    ),
    "cut": ("ink.safetensors", lambda file: file.write_bytes(b"\x00" * 7), "is no safetensors file"),
    "dead link": ("ink.safetensors", lambda file: file.symlink_to("nowhere"), "is no safetensors file"),
    "pickle by another name": ("ink.safetensors", lambda file: file.write_bytes(b"PK\x03\x04" * 8), "pickled weights"),
    "unsayable": (
        "<ink:1>.safetensors",
        lambda file: save_file(SPELLED["peft"][0], file),
        "has a name that requests cannot say",
    ),
    "capitals": ("good.safetensors", lambda file: save_file(SPELLED["peft"][0], file), "by capitals alone"),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_other_things_in_the_folder_are_named(kind: str, parts: dict[str, Any], tmp_path: Path) -> None:
    name, write, sentence = ODD_FILES[kind]
    save_file(SPELLED["peft"][0], tmp_path / "Good.safetensors")
    write(tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "Good.preview.png").write_bytes(b"")
    shelf = loras_of(parts, tmp_path)
    assert list(shelf.served) == ["Good"]
    [fault] = shelf.faults
    assert fault.startswith(str(tmp_path / name))
    assert sentence in fault


def test_a_folder_that_is_none_is_an_error(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"DARKROOM_LORAS names .*nowhere, which is no folder"):
        loras_of(parts, tmp_path / "nowhere")
    assert loras_of(parts, None).served == {}


WORDS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "nothing said": ({}, ()),
    "a phrase": ({"modelspec.trigger_phrase": "ink style, monochrome"}, ("ink style", "monochrome")),
    "captions": (
        {"ss_tag_frequency": json.dumps({"10_ink": {"ink": 12, "tree ": 3}, "1_more": {"tree": 20}})},
        ("tree", "ink"),
    ),
    "no JSON": ({"ss_tag_frequency": "{"}, ()),
    "another shape": ({"ss_tag_frequency": json.dumps({"10_ink": ["ink"]})}, ()),
    "too long": ({"modelspec.trigger_phrase": "x" * 61 + ",ink"}, ("ink",)),
}


@pytest.mark.parametrize("kind", WORDS)
def test_trigger_words_are_what_the_trainer_wrote(kind: str, parts: dict[str, Any], tmp_path: Path) -> None:
    said, words = WORDS[kind]
    save_file(SPELLED["peft"][0], tmp_path / "ink.safetensors", said)
    assert loras_of(parts, tmp_path).served["ink"].trigger_words == words


ALPHAS: dict[str, tuple[dict[str, Any], float | None]] = {
    "nothing said": ({}, None),
    "of the part": ({"unet.lora_alpha": 8}, 8.0),
    "of the layer": ({"unet.lora_alpha": 8, "unet.alpha_pattern": {f"{ATTENTION}.to_q": 2}}, 2.0),
    "rank-stabilized": ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 16.0),
}


@pytest.mark.parametrize("kind", ALPHAS)
def test_alpha_of_diffusers_is_in_its_metadata(kind: str, parts: dict[str, Any], tmp_path: Path) -> None:
    said, alpha = ALPHAS[kind]
    save_file(SPELLED["peft"][0], tmp_path / "ink.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    [layer] = loras_of(parts, tmp_path).served["ink"].layers
    assert layer.alpha == alpha


def test_the_bundled_model_has_what_kohya_names() -> None:
    """A layer of the bundled model's own configuration, to see that its kind of UNet is known as well."""
    config = diffusers.UNet2DConditionModel.load_config(STARTER / "unet")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(config)
    shapes = layer_shapes(unet)
    spellings = Spellings({"unet": shapes}, layers_per_block=unet.config.layers_per_block)
    assert {spellings.layer("lora_unet_" + path.replace(".", "_")) for path in shapes} == {
        ("unet", path) for path in shapes
    }
