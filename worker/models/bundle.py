"""A model in memory: the parts of a Stable Diffusion pipeline, checked, loaded and ready to be called.

Knows diffusers and transformers. Loads each part by itself, from safetensors and local files only, and runs no code
that came with the model. Knows nothing of requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import structlog
import torch

from app.contract.messages.card import Safety
from worker.engine.errors import is_out_of_memory
from worker.models.adapters import embeddings_of, loras_of
from worker.models.configs import outer_channels, prior_dimensions, vae_scale_factor
from worker.models.controlnets import NO_CONTROLNETS, ControlNetFiles, KeptFolder
from worker.models.defaults import Defaults
from worker.models.embedding_file import Word, load_words
from worker.models.errors import ModelError
from worker.models.folder import ModelFolder
from worker.models.judge import Verdict, judge
from worker.models.lora_file import LoraFile
from worker.models.need import no_room
from worker.models.parts import SeldomPart, ready_part, seldom_parts
from worker.models.pipelines import PIPELINES, SAFETY_CHECKER
from worker.models.place import Place, place_of
from worker.models.quiet import quiet_libraries
from worker.models.safety import SafetyChecker
from worker.models.schedulers import configured, for_name
from worker.models.shapes import cannot_be_loaded

__all__ = ["PROMPT_WINDOWS", "Bundle", "ModelError", "load", "stock_pipeline"]

log = structlog.get_logger()

NO_TEXT = 3
"""Tokens of a model that reads no prompt: a card has at least one, beside start and end."""

CHANNELS_LAST = ("cuda", "cpu")
"""Kinds of devices whose convolutions are faster with their channels last. oneDNN's on a CPU want them in blocks, and
take a fifth longer where they have to bring weights and pictures into that order from channels that come first."""

PROMPT_WINDOWS = 3
"""A prompt is read in so many windows of `context_length` tokens at most: 225 tokens of text for CLIP."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What the engine needs of a model. `scheduler` is configured as in the stock pipeline; copy it, never step it.

    `family` is the stock pipeline's class. SDXL has a second tokenizer and text encoder, and may want zeros in the
    place of a missing negative prompt. `left_out` are parts that the folder's index names and nobody here runs.
    `controlnets` and `loras` are files, which are loaded when a request names one. `checker` is the model's safety
    checker, where it was asked for.
    """

    name: str
    family: str
    unet: Any
    scheduler: Any
    device: torch.device
    dtype: torch.dtype
    sha256: str
    vae_scale_factor: int
    defaults: Defaults
    layout: str = "channels_first"
    vae: Any = None
    """None where pixels themselves are denoised."""
    tokenizer: Any = None
    text_encoder: Any = None
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    force_zeros_for_empty_prompt: bool = False
    left_out: tuple[str, ...] = ()
    controlnets: ControlNetFiles = NO_CONTROLNETS
    vae_name: str | None = None
    """Of the VAE's folder, where it is not the model's own."""
    checker: SafetyChecker | None = None
    loras: Mapping[str, LoraFile] = field(default_factory=dict)
    embeddings: Mapping[str, Word] = field(default_factory=dict)
    """Textual inversions, which the text encoders have by now, by the words that name them in a prompt."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Parts that only some families have, by their names."""
    seldom: Mapping[str, SeldomPart] = field(default_factory=dict)
    """Those that are in memory only while a request needs them."""

    def part(self, name: str) -> Any:
        """A part by its name."""
        return self.others[name] if name in self.others else getattr(self, name)

    def place(self, network: Any) -> Any:
        """Put a network that belongs to the UNet where that is, in its layout."""
        layout = torch.channels_last if self.layout == "channels_last" else torch.preserve_format
        return network.to(self.device, memory_format=layout)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words it has learned, if anybody has listed them, those of textual inversions too."""
        listed = self.defaults.vocabulary
        return (*listed, *self.embeddings) if listed else ()

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels if self.vae is None else self.vae.config.latent_channels)

    @property
    def predicts_variance(self) -> bool:
        """Its UNet says something of the variance, in as many channels behind its output."""
        return int(self.unet.config.out_channels) == 2 * self.latent_channels

    @property
    def reads_masks(self) -> bool:
        """Its UNet was trained for inpainting: it has channels for a mask and for the picture without what is
        repainted."""
        return int(self.unet.config.in_channels) != self.latent_channels

    @property
    def tasks(self) -> tuple[str, ...]:
        """What its requests may ask for."""
        if self.reads_masks:
            return ("inpainting",)
        of_texts = ("text-to-image",) if self.reads_text else ()
        edits = ("image-to-image", "inpainting") if "image" in self.takes else ()
        beside = ("image-variation",) * self.sees_pictures + ("embed",) * ("prior_text_encoder" in self.others)
        return (*of_texts, *edits, *beside)

    @property
    def sees_pictures(self) -> bool:
        """It has an image encoder."""
        return "image_encoder" in self.others or "image_encoder" in self.seldom

    @property
    def reads_text(self) -> bool:
        """It can draw from a text alone."""
        pipeline = PIPELINES[self.family]
        return pipeline.prior is not None if pipeline.reads_embeddings else pipeline.reads_text

    @property
    def scheduler_classes(self) -> tuple[str, ...]:
        """That its pipeline can step; empty for all."""
        return PIPELINES[self.family].schedulers

    @property
    def max_clip_skip(self) -> int:
        """Layers of its text encoders that can be left out. Then the context is what their first layer gets, as in
        diffusers' pipelines."""
        layers = min((int(part.config.num_hidden_layers) for part in self._text_encoders), default=0)
        return layers - PIPELINES[self.family].layers_left_out

    @property
    def _text_encoders(self) -> list[Any]:
        return [part for part in (self.text_encoder, self.text_encoder_2) if part is not None]

    @property
    def takes(self) -> tuple[str, ...]:
        """Parameters that not every model takes, and this one does."""
        beside = {"control": self.controlnets.files, "loras": self.loras}
        takes = ("trajectory", *PIPELINES[self.family].takes, *(name for name, files in beside.items() if files))
        return tuple(name for name in takes if name != "cache" or outer_channels(self.unet.config))

    @property
    def embedding_dimensions(self) -> int | None:
        """Numbers of an image embedding that it draws from."""
        if "image_normalizer" in self.others:
            return int(self.others["image_normalizer"].config.embedding_dim)
        if "prior" in self.others:
            return prior_dimensions(self.others["prior"].config)
        return int(self.others["image_encoder"].config.projection_dim) if "image_encoder" in self.others else None

    @property
    def max_noise_level(self) -> int:
        """That an embedding can be given."""
        noising = self.others.get("image_noising_scheduler")
        return int(noising.config.num_train_timesteps) - 1 if noising else 0

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of so many pixels."""
        return self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor

    @property
    def side_multiple(self) -> int:
        """Pixels. The UNet itself copes with latents that do not halve evenly."""
        native = max(self.defaults.width, self.defaults.height)
        return PIPELINES[self.family].side_multiple(scale=self.vae_scale_factor, native=native)

    @property
    def context_length(self) -> int:
        """Tokens the text encoder reads, the two that mark start and end included."""
        if self.tokenizer is None:
            return NO_TEXT
        return min(
            int(self.tokenizer.model_max_length),
            *(int(part.config.max_position_embeddings) for part in self._text_encoders),
        )

    @property
    def weights_bytes(self) -> float:
        """That the model itself takes of memory."""
        parts = (self.unet, self.vae, self.text_encoder, self.text_encoder_2, *self.others.values())
        modules = (part for part in parts if isinstance(part, torch.nn.Module))
        own = float(sum(each.nbytes for module in modules for each in module.parameters()))
        return own + (self.checker.weights_bytes if self.checker else 0.0)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of text that are read of a prompt."""
        if self.tokenizer is None and "prior_tokenizer" in self.others:
            # A prior has no place for a second window.
            return int(self.part("prior").config.num_embeddings) - 2
        return PROMPT_WINDOWS * (self.context_length - 2)


def load(
    folder: Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    channels_last: Literal["auto", "on", "off"] = "auto",
    controlnets: KeptFolder | None = None,
    vae: Path | None = None,
    prior: Path | None = None,
    loras: Path | None = None,
    embeddings: Path | None = None,
    safety: Safety = "off",
) -> Bundle:
    """The model in `folder`, on `device`, with all parts of type `dtype`: except SDXL's VAE, which stays in float32
    where its configuration says that float16 is too small for it.

    `device` may be auto: the first GPU if there is one. `dtype` may be a name of torch's, or auto: float16 on a GPU,
    float32 elsewhere. `channels_last` is the memory layout of the convolutions; auto means on CUDA and on a CPU, whose
    convolutions are faster in it. `vae` is a folder whose VAE takes the place of the model's own, `prior` one with the
    parts before it, where a model comes in two. `loras` and `embeddings` are folders of adapters; what of them does not
    fit the model is left out. With a `safety` other than off, the model's safety checker is loaded too. Raises
    ModelError, one sentence with its remedy for each thing about the folder that is not right.
    """
    place = place_of(device, dtype)
    verdict = judge(
        Path(folder),
        dtype=place.dtype_name,
        rooms=place.rooms(),
        controlnets=controlnets,
        vae=vae,
        prior=prior,
        safety=safety,
    )
    last = channels_last == "on" or (channels_last == "auto" and place.device.type in CHANNELS_LAST)
    return _load(verdict, place, name=name, last=last, loras=loras, embeddings=embeddings)


def _load(
    verdict: Verdict, place: Place, *, name: str | None, last: bool, loras: Path | None, embeddings: Path | None
) -> Bundle:
    """The model that was judged. `last`: with the channels of its convolutions last. Raises ModelError."""
    source, defaults = verdict.folder, verdict.defaults
    if verdict.faults or source is None or defaults is None:
        raise ModelError(*verdict.faults)
    for note in verdict.notes:
        log.warning("about the model", note=note)
    source.check_hashes()
    with quiet_libraries(), _refusing(verdict):
        # They go before the others come.
        seldom, once = seldom_parts(source, place)
        parts = {name: ready_part(source, name, place, last=last) for name in source.components if name not in seldom}
        zeros = source.pipeline.is_xl and bool(source.index.get("force_zeros_for_empty_prompt", True))
        checker = parts.pop(SAFETY_CHECKER, None)
        _pipeline(source.pipeline.name, parts, zeros=zeros)
        beside = _beside(parts, loras=loras, embeddings=embeddings)
    named = {name: parts.pop(name) for name in Bundle.__dataclass_fields__.keys() & parts.keys()}
    return Bundle(
        **named | {"scheduler": configured(named["scheduler"], source.pipeline)},
        others=parts | once,
        seldom=seldom,
        name=name or source.name,
        family=source.pipeline.name,
        force_zeros_for_empty_prompt=zeros,
        device=place.device,
        dtype=place.dtype,
        sha256=source.sha256,
        vae_scale_factor=vae_scale_factor(named["vae"].config) if "vae" in named else 1,
        defaults=defaults,
        layout="channels_last" if last else "channels_first",
        left_out=_left_out(source),
        controlnets=verdict.controlnets,
        vae_name=source.vae.name if source.vae else None,
        **beside,
        checker=SafetyChecker(checker, parts["feature_extractor"]) if checker else None,
    )


def _beside(parts: Mapping[str, Any], *, loras: Path | None, embeddings: Path | None) -> dict[str, Any]:
    """The adapters of the folders that fit the model with these parts, as a Bundle has them; of the others the log
    says why not."""
    adapters, learned = loras_of(parts, loras), embeddings_of(parts, embeddings)
    for fault in (*adapters.faults, *learned.faults):
        log.warning("an adapter is left out", fault=fault)
    return {"loras": adapters.served, "embeddings": load_words(learned.served, parts)}


def _left_out(source: ModelFolder) -> tuple[str, ...]:
    """Said aloud, since whoever relies on a model's safety checker has to know that there is none."""
    if not source.has_checker or source.checked:
        return ()
    log.warning("a part of the model is not used", part=SAFETY_CHECKER, remedy="set DARKROOM_SAFETY=flag or block")
    return (SAFETY_CHECKER,)


def stock_pipeline(bundle: Bundle, scheduler: str, class_name: str | None = None) -> Any:
    """diffusers' own pipeline around the model, for comparison: the model's own, or one of the class of that name.
    Raises ValueError for an unknown scheduler."""
    pipeline = PIPELINES[bundle.family]
    parts = {name: bundle.part(name) for name in pipeline.components if name not in pipeline.seldom}
    parts["scheduler"] = for_name(bundle.scheduler, scheduler)
    pipeline = _pipeline(class_name or bundle.family, parts, zeros=bundle.force_zeros_for_empty_prompt)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _refusing(verdict: Verdict) -> Iterator[None]:
    """Turn what is raised while the parts are loaded into a sentence: a file changed, or the memory is full."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error) and verdict.need:
            raise ModelError(no_room(verdict.need, verdict.path)) from error
        raise ModelError(cannot_be_loaded(verdict.path, error)) from error


def _pipeline(class_name: str, parts: Mapping[str, Any], *, zeros: bool) -> Any:
    """The stock pipeline around the parts. Its constructor alters the configuration of scheduler and UNet."""
    cls = getattr(diffusers, class_name)
    options = inspect.signature(cls.__init__).parameters
    pipeline = PIPELINES.get(class_name)
    names, seldom = (pipeline.named, pipeline.seldom) if pipeline else ({}, ())
    absent = ("safety_checker", "feature_extractor", "image_encoder", *(names.get(name, name) for name in seldom))
    plain = {"requires_safety_checker": False, "add_watermarker": False, "force_zeros_for_empty_prompt": zeros}
    given = dict.fromkeys(absent) | plain | {names.get(name, name): part for name, part in parts.items()}
    return cls(**{name: value for name, value in given.items() if name in options})
