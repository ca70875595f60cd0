"""A folder's parts as diffusers and transformers would make them, without their weights: what those would refuse.

Builds each class on the meta device, where tensors have shapes and no values, and compares it with the headers of the
files. Tokenizers and the scheduler are small and really loaded. Needs torch; reads no weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

from app.contract.messages.schedulers import CLASS_NAMES
from worker.engine.stepping import reads_variance
from worker.models.configs import Config
from worker.models.errors import ModelError
from worker.models.folder import SCHEDULERS, ModelFolder
from worker.models.headers import Tensor
from worker.models.pipelines import SAFETY_CHECKER, is_of_transformers
from worker.models.preparation import read_preparation
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import configured, works

AGAIN = "fetch the model again"

OF_PIPELINES = {
    SAFETY_CHECKER: StableDiffusionSafetyChecker,
    "image_normalizer": StableUnCLIPImageNormalizer,
    "text_proj": UnCLIPTextProjModel,
}
"""Parts whose class diffusers keeps in a folder of pipelines."""


def tensor_faults(folder: ModelFolder, component: str, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """One sentence about a part whose class cannot be made from its configuration, or does not fit its `tensors`."""
    path = folder.part(component)
    compare = _of_transformers if is_of_transformers(component) else _of_diffusers
    try:
        found = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
        with quiet_libraries():
            missing, mismatched = compare(folder, component, found)
    except Exception as error:
        yield cannot_be_loaded(path, error)
        return
    yield from difference_faults(path, missing, mismatched)


def difference_faults(path: object, missing: Collection[str], mismatched: Collection[str]) -> Iterator[str]:
    """One sentence for each way in which the weights at `path` differ from what their class wants."""
    if missing:
        yield f"The weights in {path} lack {len(missing)} tensors, e.g. {min(missing)}; {AGAIN}."
    if mismatched:
        yield (
            f"The weights in {path} have {len(mismatched)} tensors of another shape than config.json tells, "
            f"e.g. {min(mismatched)}; fetch both from one model."
        )


def tokenizer_faults(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """One sentence for each tokenizer that cannot be loaded or has more tokens than its text encoder."""
    loaded = {}
    for component in (name for name in folder.components if "tokenizer" in name):
        path = folder.part(component)
        if not path.is_dir():
            continue
        try:
            with quiet_libraries():
                tokenizer = loaded[component] = load_tokenizer(folder, component)
        except Exception as error:
            yield cannot_be_loaded(path, error)
            continue
        encoder = configs.get(component.replace("tokenizer", "text_encoder"))
        known = encoder["vocab_size"] if encoder else len(tokenizer)
        if len(tokenizer) > known:
            yield (
                f"The {component} of {folder.path} has {len(tokenizer)} tokens, its text encoder only "
                f"{known}; fetch both from the same model."
            )
        reads = encoder["max_position_embeddings"] if encoder else 0
        if component == "prior_tokenizer" and tokenizer.model_max_length < reads:
            yield (
                f"The {folder.home(component)[1]} of {folder.path} fills texts up to {tokenizer.model_max_length} "
                f"tokens, and the prior reads {reads}; fetch both from the same model."
            )
    # A prior reads a prompt by itself.
    together = [each for name, each in loaded.items() if name.startswith("tokenizer")]
    if len({frozenset(each.get_vocab().items()) for each in together}) > 1:
        yield f"The two tokenizers of {folder.path} have different vocabularies; {AGAIN}."


def scheduler_faults(folder: ModelFolder, default: str | None) -> Iterator[str]:
    """One sentence about a scheduler that cannot be made, or a `default` one that does not work with the model."""
    for component in (name for name in SCHEDULERS[1:] if name in folder.components):
        try:
            with quiet_libraries():
                load_scheduler(folder, component)
        except Exception as error:
            yield cannot_be_loaded(folder.part(component), error)
    class_name = folder.class_of("scheduler")
    supported = folder.pipeline.schedulers or CLASS_NAMES
    if class_name not in supported:
        yield f"The scheduler of {folder.path} is a {class_name}; supported: {', '.join(supported)}."
        return
    try:
        with quiet_libraries():
            scheduler = configured(load_scheduler(folder, "scheduler"), folder.pipeline)
            fits = default is None or works(
                scheduler, default, folder.pipeline.schedulers, predicts_variance=reads_variance(scheduler)
            )
    except Exception as error:
        yield cannot_be_loaded(folder.part("scheduler"), error)
        return
    if not fits:
        yield f"The default scheduler {default} does not work with {folder.path}; set another in darkroom.json."


def empty_part(folder: ModelFolder, component: str) -> Any:
    """A part without values, on the meta device. Raises what its class raises for a wrong configuration."""
    path = folder.part(component)
    with torch.device("meta"):
        cls = class_of(folder, component)
        if is_of_transformers(component):
            return cls(cls.config_class.from_pretrained(path, local_files_only=True))
        return cls.from_config(cls.load_config(path, local_files_only=True))


def layer_shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the weights of its linear and convolution layers, by path."""
    layers = (each for each in network.named_modules() if isinstance(each[1], torch.nn.Linear | torch.nn.Conv2d))
    return {path: tuple(layer.weight.shape) for path, layer in layers}


def preparation_faults(folder: ModelFolder, component: str) -> Iterator[str]:
    """One sentence about a feature_extractor that makes pictures of another size than the part sees that it is for."""
    try:
        side = read_preparation(folder.part("feature_extractor")).side
        config = class_of(folder, component).config_class.from_pretrained(folder.part(component), local_files_only=True)
    except ModelError as error:
        yield from error.faults
        return
    except Exception as error:
        yield cannot_be_loaded(folder.part(component), error)
        return
    seen = getattr(config, "vision_config", config).image_size
    if side != seen:
        yield (
            f"The feature_extractor of {folder.path} makes pictures of {side} pixels, its "
            f"{component.replace('_', ' ')} sees {seen}; fetch both from the same model."
        )


def class_of(folder: ModelFolder, component: str) -> Any:
    """The class of a part that has weights."""
    if component in OF_PIPELINES:
        return OF_PIPELINES[component]
    return getattr(transformers if is_of_transformers(component) else diffusers, folder.class_of(component))


def load_tokenizer(folder: ModelFolder, component: str) -> Any:
    return transformers.CLIPTokenizer.from_pretrained(folder.part(component), local_files_only=True)


def load_scheduler(folder: ModelFolder, component: str) -> Any:
    cls = getattr(diffusers, folder.class_of(component))
    return cls.from_pretrained(folder.part(component), local_files_only=True)


def cannot_be_loaded(path: object, error: Exception) -> str:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{path} cannot be loaded ({first_line[:200].rstrip('.')}); {AGAIN}."


def _of_transformers(
    folder: ModelFolder, component: str, found: dict[str, torch.Tensor]
) -> tuple[list[str], list[str]]:
    """Names of missing and of mismatched tensors, by transformers' own loading: it renames some."""
    cls = class_of(folder, component)
    return compared(cls, cls.config_class.from_pretrained(folder.part(component), local_files_only=True), found)


def compared(cls: Any, config: Any, found: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Names of missing and of mismatched tensors among those `found`, all on the meta device, for a class of
    transformers."""
    _, info = cls.from_pretrained(
        None,
        config=config,
        state_dict=found,
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return [str(name) for name in info["missing_keys"]], [str(name) for name, *_ in info["mismatched_keys"]]


def _of_diffusers(folder: ModelFolder, component: str, found: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """The same for diffusers, which would read the weights."""
    model = empty_part(folder, component)
    if folder.weights(component).index is None:
        # Attention layers of 2022 had other names; diffusers renames them where there is one file.
        model._fix_state_dict_keys_on_load(found)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in found]
    return missing, [name for name, tensor in wanted.items() if name in found and found[name].shape != tensor.shape]
