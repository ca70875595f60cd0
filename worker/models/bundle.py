"""A model in memory: the parts of a Stable Diffusion pipeline, checked, loaded and ready to be called.

Knows diffusers and transformers. Loads each part by itself, from safetensors and local files only, and runs no code
that came with the model. Knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers

from app.contract.card import ModelCard
from worker.models.defaults import Defaults, read_defaults
from worker.models.errors import ModelError
from worker.models.folder import FAMILY, ModelFolder
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import CLASS_NAMES, step_limits

__all__ = ["PROMPT_WINDOWS", "Bundle", "ModelError", "describe", "load"]

PROMPT_WINDOWS = 3
"""A prompt is read in so many windows of `context_length` tokens at most: 225 tokens of text for CLIP."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What the engine needs of a model. `scheduler` is configured as in the stock pipeline; copy it, never step it."""

    name: str
    family: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    device: torch.device
    dtype: torch.dtype
    sha256: str
    vae_scale_factor: int
    defaults: Defaults
    layout: str = "channels_first"

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of so many pixels."""
        return self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor

    @property
    def side_multiple(self) -> int:
        """Pixels. The UNet itself copes with latents that do not halve evenly."""
        return self.vae_scale_factor

    @property
    def context_length(self) -> int:
        """Tokens the text encoder reads, the two that mark start and end included."""
        return min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of text that are read of a prompt."""
        return PROMPT_WINDOWS * (self.context_length - 2)


def load(
    folder: Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    channels_last: Literal["auto", "on", "off"] = "auto",
) -> Bundle:
    """The model in `folder`, on `device`, with all parts of type `dtype`.

    `device` may be auto: the first GPU if there is one. `dtype` may be a name of torch's, or auto: float16 on a GPU,
    float32 elsewhere. `channels_last` is the memory layout of the convolutions; auto means on a GPU, whose convolutions
    are faster in it. Raises ModelError, one sentence with the remedy, if anything about the folder is not right.
    """
    source = ModelFolder(Path(folder))
    place = _device(device)
    precision = _dtype(dtype, place)
    with quiet_libraries():
        tokenizer = _load_tokenizer(source)
        text_encoder = _load_weights(source, "text_encoder", precision)
        unet = _load_weights(source, "unet", precision)
        vae = _load_weights(source, "vae", precision)
        pipeline = _assemble(source, tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, vae=vae)
    _check_fit(source, tokenizer, text_encoder, unet, vae)
    height, width = _native_size(unet, pipeline.vae_scale_factor)
    last = channels_last == "on" or (channels_last == "auto" and place.type == "cuda")
    layout = torch.channels_last if last else torch.preserve_format
    return Bundle(
        name=name or source.name,
        family=FAMILY,
        tokenizer=tokenizer,
        text_encoder=text_encoder.to(place).eval().requires_grad_(False),
        unet=unet.to(place, memory_format=layout).eval().requires_grad_(False),
        vae=vae.to(place, memory_format=layout).eval().requires_grad_(False),
        scheduler=pipeline.scheduler,
        device=place,
        dtype=precision,
        sha256=source.sha256,
        vae_scale_factor=pipeline.vae_scale_factor,
        defaults=read_defaults(
            source,
            width=width,
            height=height,
            side_multiple=pipeline.vae_scale_factor,
            scheduler=type(pipeline.scheduler).__name__,
        ),
        layout="channels_last" if last else "channels_first",
    )


def describe(bundle: Bundle, *, seats: int) -> ModelCard:
    """What the worker announces. Raises ModelError if the default scheduler does not work with the model."""
    most = bundle.defaults.max_steps
    with quiet_libraries():
        limits = step_limits(bundle.scheduler, max_steps=most)
    if bundle.defaults.scheduler not in limits:
        raise ModelError(
            f"The default scheduler {bundle.defaults.scheduler} does not work with {bundle.name}; set another."
        )
    return ModelCard(
        name=bundle.name,
        family=bundle.family,
        sha256=bundle.sha256,
        side_multiple=bundle.side_multiple,
        schedulers=tuple(limits),
        scheduler_min_steps={name: fewest for name, (fewest, _) in limits.items() if fewest > 1},
        scheduler_max_steps={name: steps for name, (_, steps) in limits.items() if steps < most},
        max_prompt_tokens=bundle.max_prompt_tokens,
        seats=seats,
        **bundle.defaults.model_dump(),
    )


def _device(name: str) -> torch.device:
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ModelError(f"The device {name} is unknown; name auto, cpu, cuda, cuda:1 or mps.") from error


def _dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ModelError(f"The dtype {dtype} is unknown; name auto, float32, float16 or bfloat16.")
    return named


def _load_tokenizer(source: ModelFolder) -> Any:
    path = source.path / "tokenizer"
    try:
        return transformers.CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise _damaged(path, error) from error


def _load_weights(source: ModelFolder, component: str, dtype: torch.dtype) -> Any:
    """One part with all of its tensors.

    Without `output_loading_info` a missing tensor would only be logged: transformers fills it with random numbers and
    the pictures are noise.
    """
    path = source.path / component
    library = transformers if component == "text_encoder" else diffusers
    cls = getattr(library, source.class_of(component))
    variant = source.variant_of(component)
    try:
        model, info = cls.from_pretrained(
            path,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _damaged(path, error) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
        raise ModelError(f"The weights in {path} lack {len(wrong)} tensors, e.g. {wrong[0]}; fetch the model again.")
    return model


def _assemble(source: ModelFolder, **parts: Any) -> diffusers.StableDiffusionPipeline:
    """A stock pipeline around the parts, for its constructor alters the configuration of scheduler and UNet."""
    path, class_name = source.path / "scheduler", source.class_of("scheduler")
    if class_name not in CLASS_NAMES:
        raise ModelError(f"The scheduler of {source.path} is a {class_name}; supported: {', '.join(CLASS_NAMES)}.")
    try:
        scheduler = getattr(diffusers, class_name).from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise _damaged(path, error) from error
    absent = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    return diffusers.StableDiffusionPipeline(scheduler=scheduler, requires_safety_checker=False, **absent, **parts)


def _check_fit(source: ModelFolder, tokenizer: Any, text_encoder: Any, unet: Any, vae: Any) -> None:
    """Parts that load, but were not made for each other or need an input that text to image does not have."""
    unsupported = {
        "in_channels": unet.config.in_channels != vae.config.latent_channels,
        "cross_attention_dim": unet.config.cross_attention_dim != text_encoder.config.hidden_size,
        "class_embed_type": unet.config.class_embed_type is not None,
        "num_class_embeds": unet.config.num_class_embeds is not None,
        "addition_embed_type": unet.config.addition_embed_type not in (None, "text"),
        "encoder_hid_dim_type": unet.config.encoder_hid_dim_type is not None,
        "time_cond_proj_dim": unet.config.time_cond_proj_dim is not None,
    }
    for key, wrong in unsupported.items():
        if wrong:
            raise ModelError(
                f"The UNet of {source.path} has {key}={unet.config[key]}, which this engine cannot serve; "
                "take a plain Stable Diffusion 1.x or 2.x model."
            )
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ModelError(
            f"The tokenizer of {source.path} has {len(tokenizer)} tokens, its text encoder only "
            f"{text_encoder.config.vocab_size}; fetch both from the same model."
        )


def _native_size(unet: Any, vae_scale_factor: int) -> tuple[int, int]:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * vae_scale_factor, width * vae_scale_factor


def _damaged(path: Path, error: Exception) -> ModelError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(f"{path} cannot be loaded ({first_line[:200]}); fetch the model again.")
