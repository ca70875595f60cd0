"""A model of the real layout with random weights, small enough for hundreds of steps a second."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.deprecated.unclip.pipeline_unclip import UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import load_file, save_file

EMBEDDING = 32
"""Numbers of an image embedding of the tiny unCLIP models."""

STARTER = Path(__file__).parents[2] / "models" / "starter"

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIDE = 64
"""Native pixels of a tiny model: latents of 16 x 16, for its VAE halves twice."""


SD2: dict[str, Any] = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
"""In what the UNet of Stable Diffusion 2 differs from that of 1: what leads into and out of attention is linear."""


def save_tiny_model(
    folder: Path, *, prediction_type: str, vae: str = "AutoencoderKL", unet: dict[str, Any] | None = None
) -> Path:
    """Write a Stable Diffusion folder with the starter's tokenizer. Scheduler: PNDM, as Stable Diffusion 1.x has it.
    `unet`: options of its UNet, such as SD2."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    pipeline = diffusers.StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        unet=_unet(**(unet or {})),
        vae=_vae() if vae == "AutoencoderKL" else _tiny_vae(),
        # Deliberately without steps_offset and clip_sample: the pipeline's constructor adds them.
        scheduler=diffusers.PNDMScheduler(
            **BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_inpainting(folder: Path, *, unet: dict[str, Any] | None = None) -> Path:
    """Write a Stable Diffusion folder whose UNet was made for inpainting: it reads a mask and a picture as channels.
    `unet`: as above."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        unet=_unet(in_channels=9, **(unet or {})),
        vae=_vae(),
        scheduler=diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_xl(folder: Path, *, zeros: bool = True, in_channels: int = 4) -> Path:
    """Write an SDXL folder with the starter's tokenizer, twice. Scheduler: Euler, as SDXL has it. `zeros`: whether a
    missing negative prompt is read as zeros. With `in_channels` of 9 it is one for inpainting."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = _tokenizer(), _tokenizer()
    # As SDXL's second one: it pads with the token of number 0, not with the end token.
    tokenizer_2.pad_token = tokenizer_2.convert_ids_to_tokens(0)
    cls = diffusers.StableDiffusionXLPipeline if in_channels == 4 else diffusers.StableDiffusionXLInpaintPipeline
    pipeline = cls(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config(tokenizer_2, projection_dim=16)),
        unet=sdxl_unet(context=64, in_channels=in_channels),
        vae=_vae(),
        scheduler=diffusers.EulerDiscreteScheduler(
            **BETAS, interpolation_type="linear", steps_offset=1, timestep_spacing="leading"
        ),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_lcm(folder: Path) -> Path:
    """Write a folder of a latent consistency model with the starter's tokenizer: its UNet reads the guidance."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    pipeline = diffusers.LatentConsistencyModelPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        unet=_unet(time_cond_proj_dim=24),
        vae=_vae(),
        scheduler=diffusers.LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_unclip(folder: Path, *, encoder: bool = True) -> Path:
    """Write a StableUnCLIP folder: a prior behind a text encoder of its own, and a decoder. `encoder`: with the image
    encoder that diffusers' pipeline knows nothing of. The prior clips, as Karlo's does behind a DDPMScheduler."""
    torch.manual_seed(0)
    tokenizer, prior_tokenizer = _tokenizer(), _tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    pipeline = diffusers.StableUnCLIPPipeline(
        prior_tokenizer=prior_tokenizer,
        prior_text_encoder=transformers.CLIPTextModelWithProjection(
            _text_config(prior_tokenizer, projection_dim=EMBEDDING)
        ),
        prior=_prior(),
        prior_scheduler=diffusers.DDPMScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=0.5,
            beta_schedule="squaredcos_cap_v2",
        ),
        **_decoder(tokenizer),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return _add_image_encoder(folder) if encoder else folder


def save_tiny_unclip_of_images(folder: Path) -> Path:
    """Write a StableUnCLIP folder without a prior: it draws from the embedding of a picture."""
    torch.manual_seed(0)
    pipeline = diffusers.StableUnCLIPImg2ImgPipeline(**_decoder(_tokenizer()), **_image_encoder())
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_variation(folder: Path) -> Path:
    """Write a Stable Diffusion folder that reads a picture in the place of a text."""
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionImageVariationPipeline(
        unet=_unet(),
        vae=_vae(),
        scheduler=diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        requires_safety_checker=False,
        **_image_encoder(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _decoder(tokenizer: transformers.CLIPTokenizer) -> dict[str, Any]:
    """The parts of an unCLIP model behind its prior."""
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=EMBEDDING)
    torch.nn.init.normal_(normalizer.mean)
    torch.nn.init.uniform_(normalizer.std, 0.5, 2.0)
    return {
        "image_normalizer": normalizer,
        "image_noising_scheduler": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": tokenizer,
        "text_encoder": transformers.CLIPTextModel(_text_config(tokenizer)),
        "unet": _unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * EMBEDDING),
        "vae": _vae(),
        "scheduler": diffusers.DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
        ),
    }


def _image_encoder() -> dict[str, Any]:
    """And how pictures are prepared for it."""
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=30,
        patch_size=15,
        projection_dim=EMBEDDING,
    )
    encoder = transformers.CLIPVisionModelWithProjection(config)
    # A random net's answers hardly differ from picture to picture.
    torch.nn.init.normal_(encoder.visual_projection.weight)
    size = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    return {"image_encoder": encoder, "feature_extractor": transformers.CLIPImageProcessorPil(**size)}


def _add_image_encoder(folder: Path) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    for name, part in _image_encoder().items():
        part.save_pretrained(folder / name)
        index[name] = ["transformers", type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _tokenizer() -> transformers.CLIPTokenizer:
    return transformers.CLIPTokenizer.from_pretrained(STARTER / "tokenizer", local_files_only=True)


def _text_config(tokenizer: transformers.CLIPTokenizer, **options: int) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def _unet(*, in_channels: int = 4, attention_head_dim: Any = 4, **options: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=attention_head_dim,
        norm_num_groups=8,
        **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
        | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
        | options,
    )


def sdxl_unet(*, context: int = 32, in_channels: int = 4) -> diffusers.UNet2DConditionModel:
    """In the layout of SDXL: pooled text and six numbers about sizes beside the context."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=in_channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    ).eval()


def _vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def _tiny_vae() -> diffusers.AutoencoderTiny:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    )


@torch.no_grad()
def add_tiny_checker(folder: Path, *, thresholds: float = 2.0) -> Path:
    """Give a model's folder a safety checker of the real layout, with random weights and the names that its tensors had
    in 2022. It flags what is nearer to a concept than `thresholds`, a cosine: nothing at 2, everything at -2."""
    torch.manual_seed(1)
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**vision, "vocab_size": 49408, "projection_dim": 12},
        vision_config={**vision, "image_size": 32, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    checker = StableDiffusionSafetyChecker(config)
    # A random net's answers hardly differ from picture to picture.
    for layer in checker.vision_model.encoder.layers:
        for part in (layer.mlp.fc1, layer.mlp.fc2, layer.self_attn.out_proj):
            part.weight.mul_(20)
    checker.concept_embeds.normal_()
    checker.special_care_embeds.normal_()
    checker.concept_embeds_weights.fill_(thresholds)
    checker.special_care_embeds_weights.fill_(thresholds)
    checker.save_pretrained(folder / "safety_checker")
    weights = folder / "safety_checker/model.safetensors"
    old = {
        re.sub(r"^vision_model\.", "vision_model.vision_model.", name): each
        for name, each in load_file(weights).items()
    }
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(old, weights, {"format": "pt"})
    size = {"shortest_edge": 32}
    transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "feature_extractor"
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def save_tiny_kandinsky(folder: Path, *, clips: bool = True, in_two: bool = False) -> Path:
    """Write a Kandinsky 2.2 folder: a prior, and a decoder that reads an image embedding. `clips`: its decoder's
    scheduler does, as the published one. `in_two`: as it is published, the decoder there and the prior beside it, in a
    folder of the same name and `-prior`."""
    torch.manual_seed(0)
    prior = {
        "prior": _prior(),
        **{name.replace("feature_extractor", "image_processor"): each for name, each in _image_encoder().items()},
        **_prior_text(),
        "scheduler": _unclip_scheduler(prediction_type="sample", clip_sample_range=0.5),
    }
    decoder = {
        "unet": _kandinsky_unet(),
        "movq": _movq(),
        "scheduler": diffusers.DDPMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=clips,
            clip_sample_range=2.0,
            variance_type="learned_range",
        ),
    }
    if in_two:
        diffusers.KandinskyV22PriorPipeline(**prior).save_pretrained(folder.with_name(f"{folder.name}-prior"))
        pipeline = diffusers.KandinskyV22Pipeline(**decoder)
    else:
        before = {f"prior_{name}": part for name, part in prior.items()}
        pipeline = diffusers.KandinskyV22CombinedPipeline(**before, **decoder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _prior() -> diffusers.PriorTransformer:
    prior = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=EMBEDDING,
        num_embeddings=32,
        additional_embeddings=4,
    )
    torch.nn.init.normal_(prior.clip_mean)
    torch.nn.init.uniform_(prior.clip_std, 0.5, 2.0)
    return prior


def _prior_text() -> dict[str, Any]:
    tokenizer = _tokenizer()
    config = _text_config(tokenizer, projection_dim=EMBEDDING)
    return {"tokenizer": tokenizer, "text_encoder": transformers.CLIPTextModelWithProjection(config)}


def _unclip_scheduler(*, variance_type: str = "fixed_small_log", **options: Any) -> diffusers.UnCLIPScheduler:
    return diffusers.UnCLIPScheduler(variance_type=variance_type, **options)


def _kandinsky_unet() -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        layers_per_block=1,
        encoder_hid_dim=EMBEDDING,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )


def _movq() -> diffusers.VQModel:
    return diffusers.VQModel(
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=8,
        norm_type="spatial",
    )


def save_tiny_karlo(folder: Path) -> Path:
    """Write a Karlo folder, with the index that the published one has: it names a library that is none any more."""
    torch.manual_seed(0)
    pipeline = UnCLIPPipeline(
        prior=_prior(),
        **_prior_text(),
        text_proj=_text_proj(),
        decoder=_karlo_decoder(),
        super_res_first=_super_resolution(),
        super_res_last=_super_resolution(),
        prior_scheduler=_unclip_scheduler(prediction_type="sample", clip_sample_range=0.5),
        decoder_scheduler=_unclip_scheduler(variance_type="learned_range"),
        super_res_scheduler=_unclip_scheduler(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    index["text_proj"] = ["unclip", "UnCLIPTextProjModel"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _text_proj() -> UnCLIPTextProjModel:
    text_proj = UnCLIPTextProjModel(clip_embeddings_dim=EMBEDDING, time_embed_dim=128, cross_attention_dim=32)
    torch.nn.init.normal_(text_proj.learned_classifier_free_guidance_embeddings)
    return text_proj


def _karlo_decoder() -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )


def _super_resolution() -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        sample_size=SIDE,
        in_channels=6,
        out_channels=3,
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
    )
